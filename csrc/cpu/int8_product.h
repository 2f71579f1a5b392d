// The sums of products of int8 linear maps, exact on every processor.
//
// VNNI's dpbusd multiplies four unsigned bytes by four signed ones in every lane and adds the products up. So
// an input q in -127 .. 127 is kept as q + 128, and sums do not start at 0 but at -128 times the sum of the
// output's weights, which takes the difference away again. Without VNNI a lane multiplies pairs of int16, to
// which a thread widens the weights of its task. Neither can saturate, and an int32 holds the sums of 2^16
// inputs.
#pragma once

#include "vectors.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace ISA {

#if defined(__AVX2__) && !defined(__AVX512VNNI__) && (!defined(__AVXVNNI__) || defined(__AVX512F__))
#define INT8_IN_PAIRS
#endif

typedef int16_t Halves __attribute__((vector_size(4 * LANES)));
typedef Integers Words __attribute__((aligned(1), may_alias));  // They lie in memory, at any address.

#ifdef INT8_IN_PAIRS
typedef int16_t Value;
#else
typedef uint8_t Value;
#endif

// Inputs lie in this order, that of the pairs which `widen` makes.
inline constexpr int place_of(int input) {
#ifdef INT8_IN_PAIRS
  return (input & ~3) + ((input & 1) << 1) + ((input & 2) >> 1);
#else
  return input;
#endif
}

constexpr int FOUR = 4;               // Weights of so many inputs lie together.
constexpr int WORDS = sizeof(Value);  // Four inputs are so many 32-bit words.

// A block of the product has so many rows and panels that its sums and factors fill the registers.
constexpr int ROWS = LANES == 16 ? 8 : 6;
constexpr int COLUMNS = LANES == 16 ? 3 : 2;
typedef Integers Sums[ROWS][COLUMNS];

// Adds to every lane the product of its inputs and its weights, which fill a word each.
inline Integers add_products(Integers sums, Integers inputs, Integers weights) {
#if defined(__AVX512VNNI__)
  return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)inputs, (__m512i)weights);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)inputs, (__m256i)weights);
#elif defined(__AVX512BW__)
  return sums + (Integers)_mm512_madd_epi16((__m512i)inputs, (__m512i)weights);
#elif defined(__AVX2__)
  return sums + (Integers)_mm256_madd_epi16((__m256i)inputs, (__m256i)weights);
#else  // what dpbusd does
  const Halves even = ((Halves)inputs & 255) * ((Halves)weights << 8 >> 8);
  const Halves odd = ((Halves)inputs >> 8 & 255) * ((Halves)weights >> 8);
  return sums + ((Integers)even << 16 >> 16) + ((Integers)even >> 16) + ((Integers)odd << 16 >> 16) +
         ((Integers)odd >> 16);
#endif
}

// Writes LANES rounded inputs as the product reads them.
inline void store_values(Value* to, Integers values) {
  Integers order;
  for (int lane = 0; lane < LANES; lane++) order[lane] = place_of(lane);
  values = __builtin_shuffle(values, order);
  typedef Value Narrow __attribute__((vector_size(LANES * sizeof(Value))));
  typedef Narrow AnywhereNarrow __attribute__((aligned(1), may_alias));
  *reinterpret_cast<AnywhereNarrow*>(to) = __builtin_convertvector(values, Narrow);
}

#ifdef INT8_IN_PAIRS
// Widens `fours` of a panel's vectors to two vectors each, of weights 0 and 2 and of weights 1 and 3.
inline const Words* widen(const Words* panel, int fours, float* memory) {
  Words* const to = reinterpret_cast<Words*>(memory);
  for (int n = 0; n < fours; n++) {
    const Halves weights = (Halves)panel[n];
    to[2 * n] = (Integers)(weights << 8 >> 8);
    to[2 * n + 1] = (Integers)(weights >> 8);
  }
  return to;
}
#endif

// sums [HEIGHT, COUNT] += inputs [HEIGHT, words] times COUNT panels
template <int HEIGHT, int COUNT>
inline void multiply_block(const Value* inputs, ptrdiff_t stride, const Words* const* panels, int words,
                           Sums& sums) {
  typedef int32_t Word __attribute__((aligned(1), may_alias));
  Integers own[HEIGHT][COUNT];
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) own[row][n] = sums[row][n];
  for (int word = 0; word < words; word++) {
    Integers weights[COUNT];
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) weights[n] = panels[n][word];
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++) {
      const Word input = reinterpret_cast<const Word*>(inputs + row * stride)[word];
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) own[row][n] = add_products(own[row][n], input - Integers{}, weights[n]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) sums[row][n] = own[row][n];
}

// Calls multiply_block for a number of rows and of panels that the compiler does not know.
template <int HEIGHT = ROWS, int COUNT = COLUMNS>
inline void multiply_some(int rows, int count, const Value* inputs, ptrdiff_t stride,
                          const Words* const* panels, int words, Sums& sums) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return multiply_some<HEIGHT, COUNT - 1>(rows, count, inputs, stride, panels, words, sums);
  if constexpr (HEIGHT > 1)
    if (rows < HEIGHT)
      return multiply_some<HEIGHT - 1, COUNT>(rows, count, inputs, stride, panels, words, sums);
  multiply_block<HEIGHT, COUNT>(inputs, stride, panels, words, sums);
}

}  // namespace ISA
