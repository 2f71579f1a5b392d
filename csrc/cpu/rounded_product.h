// The sums of products of rounded numbers, of any `Kind`:
//
//   Kind::Sum                       a vector of sums
//   Kind::add(sum, inputs, weights) adds to every lane the products of what a word of each holds
#pragma once

#include "vectors.h"

namespace ISA {

typedef Integers Words __attribute__((aligned(1), may_alias));  // They lie in memory, at any address.

// Rows of inputs, so many bytes apart, and panels of weights, with so many words each. While they are
// multiplied, the product asks for `ahead`, a panel that will be read soon, or one that is near already.
struct Operands {
  const uint8_t* inputs;
  ptrdiff_t stride;
  const Words* const* panels;
  int words;
  const Words* ahead;
};

// Writes LANES rounded inputs, each of the type T, as the product reads them.
template <typename T>
inline void store_values(void* to, Integers values) {
  typedef T Narrow __attribute__((vector_size(sizeof(T) * LANES)));
  typedef Narrow AnywhereNarrow __attribute__((aligned(1), may_alias));
  *reinterpret_cast<AnywhereNarrow*>(to) = __builtin_convertvector(values, Narrow);
}

// A block has up to so many rows and panels: its sums and factors fill the registers.
template <class Kind, int WIDEST = LANES == 16 ? 3 : 2>
struct VectorProduct {
  static constexpr int ROWS = LANES == 16 ? 8 : 6, COLUMNS = WIDEST;
  typedef typename Kind::Sum Sums[COLUMNS];  // of a row

  // sums [rows, count] += inputs [rows, words] times `count` panels
  template <int HEIGHT = ROWS, int COUNT = COLUMNS>
  static void multiply(int rows, int count, const Operands& of, Sums* sums) {
    if constexpr (COUNT > 1)
      if (count < COUNT) return multiply<HEIGHT, COUNT - 1>(rows, count, of, sums);
    if constexpr (HEIGHT > 1)
      if (rows < HEIGHT) return multiply<HEIGHT - 1, COUNT>(rows, count, of, sums);
    multiply_block<HEIGHT, COUNT>(of, sums);
  }

 private:
  template <int HEIGHT, int COUNT>
  static void multiply_block(const Operands& of, Sums* sums) {
    typedef int32_t Word __attribute__((aligned(1), may_alias));
    typename Kind::Sum own[HEIGHT][COUNT];
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) own[row][n] = sums[row][n];
    for (int word = 0; word < of.words; word++) {
      fetch_line(of.ahead + word);
      Integers weights[COUNT];
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) weights[n] = of.panels[n][word];
#pragma GCC unroll 8
      for (int row = 0; row < HEIGHT; row++) {
        const Word input = reinterpret_cast<const Word*>(of.inputs + row * of.stride)[word];
#pragma GCC unroll 8
        for (int n = 0; n < COUNT; n++) own[row][n] = Kind::add(own[row][n], input - Integers{}, weights[n]);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) sums[row][n] = own[row][n];
  }
};

}  // namespace ISA
