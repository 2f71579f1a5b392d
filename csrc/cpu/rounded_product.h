// The sums of products of rounded numbers, of any `Kind`:
//
//   Kind::Sum                       a vector of sums
//   Kind::add(sum, inputs, weights) adds to every lane the products of what a word of each holds
#pragma once

#include "vectors.h"

namespace ISA {

typedef Integers Words __attribute__((aligned(1), may_alias));  // They lie in memory, at any address.

// A block of the product has so many rows and panels that its sums and factors fill the registers.
constexpr int ROWS = LANES == 16 ? 8 : 6;
constexpr int COLUMNS = LANES == 16 ? 3 : 2;
template <class Kind>
using Sums = typename Kind::Sum[ROWS][COLUMNS];

// Writes LANES rounded inputs, each of the type T, as the product reads them.
template <typename T>
inline void store_values(void* to, Integers values) {
  typedef T Narrow __attribute__((vector_size(sizeof(T) * LANES)));
  typedef Narrow AnywhereNarrow __attribute__((aligned(1), may_alias));
  *reinterpret_cast<AnywhereNarrow*>(to) = __builtin_convertvector(values, Narrow);
}

// sums [HEIGHT, COUNT] += inputs [HEIGHT, words] times COUNT panels. Meanwhile it asks for `ahead`, a panel
// that will be read soon, or one that is near already.
template <class Kind, int HEIGHT, int COUNT>
inline void multiply_block(const uint8_t* inputs, ptrdiff_t stride, const Words* const* panels, int words,
                           const Words* ahead, Sums<Kind>& sums) {
  typedef int32_t Word __attribute__((aligned(1), may_alias));
  typename Kind::Sum own[HEIGHT][COUNT];
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) own[row][n] = sums[row][n];
  for (int word = 0; word < words; word++) {
    fetch_line(ahead + word);
    Integers weights[COUNT];
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) weights[n] = panels[n][word];
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++) {
      const Word input = reinterpret_cast<const Word*>(inputs + row * stride)[word];
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) own[row][n] = Kind::add(own[row][n], input - Integers{}, weights[n]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) sums[row][n] = own[row][n];
}

// Calls multiply_block for a number of rows and of panels that the compiler does not know.
template <class Kind, int HEIGHT = ROWS, int COUNT = COLUMNS>
inline void multiply_some(int rows, int count, const uint8_t* inputs, ptrdiff_t stride,
                          const Words* const* panels, int words, const Words* ahead, Sums<Kind>& sums) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return multiply_some<Kind, HEIGHT, COUNT - 1>(rows, count, inputs, stride, panels, words, ahead, sums);
  if constexpr (HEIGHT > 1)
    if (rows < HEIGHT)
      return multiply_some<Kind, HEIGHT - 1, COUNT>(rows, count, inputs, stride, panels, words, ahead, sums);
  multiply_block<Kind, HEIGHT, COUNT>(inputs, stride, panels, words, ahead, sums);
}

}  // namespace ISA
