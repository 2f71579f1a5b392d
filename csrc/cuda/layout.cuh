// These tell what a block of disentangled attention keeps where in shared memory, in 16 bit values.
#pragma once

#include "primitives.cuh"

namespace disentangled {

constexpr int HEAD = 64;  // A head has so many values.
constexpr int CHUNK = 8;  // A 16 byte copy has so many values.
constexpr int CHUNKS = HEAD / CHUNK;
constexpr int MARGIN = 16;  // So many columns before a staged band take elements outside the step.

// Blocks of 128 or 64 queries have four warps; blocks of 16 queries, for short sequences, have one.
template <int ROWS>
struct Layout {                                     // It divides shared memory, in 16 bit values.
  static constexpr int WARPS = ROWS == 16 ? 1 : 4;  // Each takes an equal part of the queries.
  static constexpr int KEYS = 16 * WARPS;           // Each warp takes 16 keys of a step for the second band.
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int LOADED = THREADS / CHUNKS;  // All threads copy so many rows at a time.
  static constexpr int RESIDENT = ROWS == 128 ? 1 : ROWS == 64 ? 2 : 12;  // blocks per multiprocessor, at least
  static constexpr int TILES = ROWS / (16 * WARPS);                       // A warp has so many, of 16 queries.
  static constexpr int RING = ROWS + KEYS;
  // Rows of the staged band are an odd multiple of 16 bytes long, so that reads have no bank conflicts.
  static constexpr int BAND = MARGIN + ROWS + 24;
  static constexpr int K = 0;
  static constexpr int V = K + KEYS * HEAD;
  static constexpr int KEY_TABLE = V + KEYS * HEAD;
  static constexpr int QUERY_TABLE = KEY_TABLE + RING * HEAD;
  static constexpr int STAGE = QUERY_TABLE + RING * HEAD;  // It holds the queries at first, then the band.
  static constexpr int SIZE = STAGE + (KEYS * BAND > ROWS * HEAD ? KEYS * BAND : ROWS * HEAD);
  static constexpr int BYTES = SIZE * int(sizeof(uint16_t));  // A share needs so many.
};

// Returns the place of a 16 byte chunk of 64 values; they are exchanged so that a column meets every bank.
DEVICE int swizzled(int row, int chunk) { return row * HEAD + ((chunk ^ (row & 7)) * CHUNK); }

// For each quarter of the width of 16 swizzled rows, where a lane's chunk of it is, if `first` is that of the
// first quarter.
struct Quarters {
  int at[4];

  DEVICE explicit Quarters(int first) {
    for (int quarter = 0; quarter < 4; quarter++) at[quarter] = first ^ (2 * CHUNK * quarter);
  }
  DEVICE int operator[](int quarter) const { return at[quarter]; }
};

}  // namespace disentangled
