// AMX has eight registers of up to 16 rows of 64 bytes each, the tiles, and multiplies two of them in one
// instruction. GCC's functions for them do not say which memory they read; these do. Files that are compiled
// for AMX define WITH_TILES. Where EMULATED_TILES is defined as well, tiles are there on any processor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ISA {

constexpr int TILE_ROWS = 16, TILE_BYTES = 64;  // of a tile at most

// How many rows every tile has, and bytes a row; tiles that are not used have neither.
struct alignas(64) TileShapes {
  static constexpr int TILES = 8;

  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  explicit TileShapes(const int (&counts)[TILES]) {
    for (int n = 0; n < TILES; n++) rows[n] = counts[n], bytes[n] = counts[n] ? TILE_BYTES : 0;
  }
};

}  // namespace ISA

#ifdef EMULATED_TILES
#include "../emulator/tiles.h"
#else

namespace ISA {

// Fills all tiles with zeros.
inline void use_tiles(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }

// Threads that use no tiles have less to keep when they are interrupted.
inline void release_tiles() { asm volatile("tilerelease"); }

// Rows lie `stride` bytes apart.
template <int TILE>
inline void load_tile(const void* from, ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE) : "memory");
}

template <int TILE>
inline void store_tile(void* to, ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
}

// sums [rows, 16] of int32 += inputs [rows, 16 words] of unsigned bytes times weights [16 words, 16] of signed
// ones; a word has four of them.
template <int SUMS, int INPUTS, int WEIGHTS>
inline void add_tiles_of_bytes() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(INPUTS), "i"(WEIGHTS));
}

// sums [rows, 16] of float32 += inputs [rows, 16 words] times weights [16 words, 16]; a word has two bfloat16.
template <int SUMS, int INPUTS, int WEIGHTS>
inline void add_tiles_of_bfloat16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(INPUTS), "i"(WEIGHTS));
}

}  // namespace ISA
#endif
