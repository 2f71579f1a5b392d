// What a product multiplies: float32, or in attention also pairs of bfloat16. Either is a word as long as a
// float, and lies in memory of floats. PER_WORD numbers that follow each other are a word.
#pragma once

#include "bfloat16.h"

namespace ISA {

struct Float32 {
  static constexpr int PER_WORD = 1;

  // Returns the word in every lane.
  static Vector spread(const float* word) { return splat(*word); }

  static Vector add(Vector sums, Vector a, Vector b) { return sums + a * b; }

  // Returns words that have, in every lane, these numbers of PER_WORD vectors.
  static Vector word(const Vector (&numbers)[PER_WORD]) { return numbers[0]; }

  // Makes words of the numbers of a row, whose count is a multiple of PER_WORD * LANES.
  static void narrow(float*, int) {}
};

struct Bfloat16Pairs {
  static constexpr int PER_WORD = 2;

  static Vector spread(const float* word) {
    typedef int32_t Bits __attribute__((may_alias));
    return (Vector)(*reinterpret_cast<const Bits*>(word) - Integers{});
  }

  static Vector add(Vector sums, Vector a, Vector b) { return add_pairs(sums, (Integers)a, (Integers)b); }

  static Vector word(const Vector (&numbers)[PER_WORD]) { return (Vector)paired(numbers[0], numbers[1]); }

  static void narrow(float* row, int count) {
    for (int d = 0; d < count; d += PER_WORD * LANES)
      store(row + d / PER_WORD, (Vector)neighbours(load(row + d), load(row + d + LANES)));
  }
};

}  // namespace ISA
