// bfloat16 has the upper half of float32's bits, rounded to even. Two numbers are a word, the first one in the
// lower half: processors with AVX512_BF16 multiply the pairs of two words and add both products up in one
// instruction, which takes numbers below 2^-126 for 0. The others multiply the halves as the float32 that they
// begin.
#pragma once

#include "vectors.h"

namespace ISA {

constexpr int HALF = 16;  // bits

// Returns words whose upper halves are the values in bfloat16.
inline Integers rounded_halves(Vector value) {
  const Integers bits = (Integers)value;
  constexpr int32_t NOT_A_NUMBER = 0x7FC00000;  // To round it could make another number of it.
  return value == value ? bits + 0x7FFF + ((bits >> HALF) & 1) : NOT_A_NUMBER - Integers{};
}

// Returns the first and the second numbers of words.
inline Vector first_of(Integers words) { return (Vector)(words << HALF); }
inline Vector second_of(Integers words) { return (Vector)(words >> HALF << HALF); }

// Adds to every lane the products of the first and of the second numbers of words.
inline Vector add_pairs(Vector sums, Integers a, Integers b) {
#if defined(__AVX512BF16__)
  return (Vector)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
  return sums + second_of(a) * second_of(b) + first_of(a) * first_of(b);
#endif
}

// Returns words that have the lanes of `first` and of `second` as their numbers.
inline Integers paired(Vector first, Vector second) {
  constexpr int32_t LOWER = (1 << HALF) - 1;
  return (rounded_halves(second) & ~LOWER) | ((rounded_halves(first) >> HALF) & LOWER);
}

// Returns words of neighbours: the lanes of a, and then those of b.
inline Integers neighbours(Vector a, Vector b) {
#if defined(__AVX512BF16__)
  return (Integers)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#else
  const Integers even = 2 * lane_numbers();
  return paired(__builtin_shuffle(a, b, even), __builtin_shuffle(a, b, even + 1));
#endif
}

}  // namespace ISA
