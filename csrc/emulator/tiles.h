// The functions of csrc/cpu/tiles.h for any processor, as Intel's manual describes the instructions. A use of a
// tile that has no shape, or of tiles whose shapes do not fit each other, ends the program as it would there.
#pragma once

#include <cstdlib>
#include <cstring>

namespace ISA {

struct EmulatedTile {
  int rows = 0, bytes = 0;
  uint8_t values[TILE_ROWS][TILE_BYTES];
};

inline thread_local EmulatedTile emulated_tiles[8];

inline void expect(bool fits) {
  if (!fits) std::abort();
}

inline void release_tiles() {
  for (EmulatedTile& tile : emulated_tiles) tile = EmulatedTile{};
}

inline void use_tiles(const TileShapes& shapes) {
  expect(shapes.palette == 1 && shapes.start_row == 0);
  release_tiles();
  for (int n = 0; n < 16; n++) {
    const int rows = shapes.rows[n], bytes = shapes.bytes[n];
    expect(rows <= TILE_ROWS && bytes <= TILE_BYTES && !rows == !bytes && (n < 8 || !rows));
    if (n < 8) emulated_tiles[n].rows = rows, emulated_tiles[n].bytes = bytes;
  }
}

template <int TILE>
inline void load_tile(const void* from, ptrdiff_t stride) {
  EmulatedTile& tile = emulated_tiles[TILE];
  expect(tile.rows > 0);
  std::memset(tile.values, 0, sizeof tile.values);
  for (int row = 0; row < tile.rows; row++)
    std::memcpy(tile.values[row], static_cast<const char*>(from) + row * stride, tile.bytes);
}

template <int TILE>
inline void store_tile(void* to, ptrdiff_t stride) {
  const EmulatedTile& tile = emulated_tiles[TILE];
  expect(tile.rows > 0);
  for (int row = 0; row < tile.rows; row++)
    std::memcpy(static_cast<char*>(to) + row * stride, tile.values[row], tile.bytes);
}

// Adds to each sum of type Sum what `add` makes of it and of every word of its row and of its column.
template <int SUMS, int INPUTS, int WEIGHTS, typename Sum, typename Add>
inline void add_emulated_tiles(Add add) {
  EmulatedTile &sums = emulated_tiles[SUMS], &inputs = emulated_tiles[INPUTS],
               &weights = emulated_tiles[WEIGHTS];
  constexpr int WORD = 4;  // bytes, which a sum has as well
  expect(sums.rows > 0 && sums.rows == inputs.rows && sums.bytes == weights.bytes);
  expect(inputs.bytes == weights.rows * WORD);
  for (int row = 0; row < sums.rows; row++)
    for (int word = 0; word < weights.rows; word++)
      for (int column = 0; column < sums.bytes; column += WORD) {
        Sum sum;
        std::memcpy(&sum, &sums.values[row][column], sizeof sum);
        sum = add(sum, &inputs.values[row][word * WORD], &weights.values[word][column]);
        std::memcpy(&sums.values[row][column], &sum, sizeof sum);
      }
}

template <int SUMS, int INPUTS, int WEIGHTS>
inline void add_tiles_of_bytes() {
  add_emulated_tiles<SUMS, INPUTS, WEIGHTS, int32_t>(
      [](int32_t sum, const uint8_t* input, const uint8_t* weight) {
        for (int n = 0; n < 4; n++) sum += int32_t(input[n]) * int8_t(weight[n]);
        return sum;
      });
}

template <int SUMS, int INPUTS, int WEIGHTS>
inline void add_tiles_of_bfloat16() {
  const auto number = [](const uint8_t* from) {
    const uint32_t bits = uint32_t(from[0]) << 16 | uint32_t(from[1]) << 24;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  add_emulated_tiles<SUMS, INPUTS, WEIGHTS, float>(
      [number](float sum, const uint8_t* input, const uint8_t* weight) {
        for (int n = 0; n < 4; n += 2) sum += number(input + n) * number(weight + n);
        return sum;
      });
}

}  // namespace ISA
