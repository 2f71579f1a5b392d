// The sums of products of int8 linear maps, exact on every processor.
//
// VNNI's dpbusd multiplies four unsigned bytes by four signed ones in every lane and adds the products up. So
// inputs are kept with the zero of their row added, and sums do not start at 0 but at minus that zero times the
// sum of the output's weights, which takes the difference away again. Without VNNI, maddubs adds two
// neighbouring products up to an int16, and madd two of these to an int32. There neighbouring weights are at
// most 128 together, and an input at most 255, so that no int16 saturates. An int32 holds the sums of 2^16
// inputs.
#pragma once

#include "vectors.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace ISA {

typedef int16_t Halves __attribute__((vector_size(4 * LANES)));
typedef Integers Words __attribute__((aligned(1), may_alias));  // They lie in memory, at any address.

constexpr int FOUR = 4;  // Weights of so many inputs lie together.

// A block of the product has so many rows and panels that its sums and factors fill the registers.
constexpr int ROWS = LANES == 16 ? 8 : 6;
constexpr int COLUMNS = LANES == 16 ? 3 : 2;
typedef Integers Sums[ROWS][COLUMNS];

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
constexpr bool ADDS_PAIRS = false;
#else
constexpr bool ADDS_PAIRS = true;  // Two neighbouring products are added up in 16 bits.
#endif

// Adds to every lane the product of its inputs and its weights, which fill a word each.
inline Integers add_products(Integers sums, Integers inputs, Integers weights) {
#if defined(__AVX512VNNI__)
  return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)inputs, (__m512i)weights);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)inputs, (__m256i)weights);
#elif defined(__AVX512BW__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)inputs, (__m512i)weights);
  return sums + (Integers)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)inputs, (__m256i)weights);
  return sums + (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else  // what these do
  const Halves even = ((Halves)inputs & 255) * ((Halves)weights << 8 >> 8);
  const Halves odd = ((Halves)inputs >> 8 & 255) * ((Halves)weights >> 8);
  const Integers pairs = (Integers)(even + odd);
  return sums + (pairs << 16 >> 16) + (pairs >> 16);
#endif
}

// Writes LANES rounded inputs as the product reads them.
inline void store_values(uint8_t* to, Integers values) {
  typedef uint8_t Narrow __attribute__((vector_size(LANES)));
  typedef Narrow AnywhereNarrow __attribute__((aligned(1), may_alias));
  *reinterpret_cast<AnywhereNarrow*>(to) = __builtin_convertvector(values, Narrow);
}

// sums [HEIGHT, COUNT] += inputs [HEIGHT, 4 * fours] times COUNT panels. Meanwhile it asks for `ahead`, a panel
// that will be read soon, or one that is near already.
template <int HEIGHT, int COUNT>
inline void multiply_block(const uint8_t* inputs, ptrdiff_t stride, const Words* const* panels, int fours,
                           const Words* ahead, Sums& sums) {
  typedef int32_t Word __attribute__((aligned(1), may_alias));
  Integers own[HEIGHT][COUNT];
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) own[row][n] = sums[row][n];
  for (int four = 0; four < fours; four++) {
    fetch_line(ahead + four);
    Integers weights[COUNT];
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) weights[n] = panels[n][four];
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++) {
      const Word input = reinterpret_cast<const Word*>(inputs + row * stride)[four];
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
inline void multiply_some(int rows, int count, const uint8_t* inputs, ptrdiff_t stride,
                          const Words* const* panels, int fours, const Words* ahead, Sums& sums) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return multiply_some<HEIGHT, COUNT - 1>(rows, count, inputs, stride, panels, fours, ahead, sums);
  if constexpr (HEIGHT > 1)
    if (rows < HEIGHT)
      return multiply_some<HEIGHT - 1, COUNT>(rows, count, inputs, stride, panels, fours, ahead, sums);
  multiply_block<HEIGHT, COUNT>(inputs, stride, panels, fours, ahead, sums);
}

}  // namespace ISA
