// What the products of attention multiply: float32, or bfloat16 in pairs. Either is a word as long as a float,
// and lies in memory of floats. TOGETHER numbers that follow each other are a word.
#pragma once

#include "bfloat16.h"

namespace ISA {

struct Float32 {
  static constexpr int TOGETHER = 1;

  // Returns the word in every lane.
  static Vector spread(const float* word) { return splat(*word); }

  static Vector add(Vector sums, Vector a, Vector b) { return sums + a * b; }

  // Returns words that have, in every lane, these numbers of TOGETHER vectors.
  static Vector word(const Vector (&numbers)[TOGETHER]) { return numbers[0]; }

  // Makes words of the numbers of a row, whose count is a multiple of TOGETHER * LANES.
  static void narrow(float*, int) {}
};

struct Bfloat16Pairs {
  static constexpr int TOGETHER = 2;

  static Vector spread(const float* word) {
    typedef int32_t Bits __attribute__((may_alias));
    return (Vector)(*reinterpret_cast<const Bits*>(word) - Integers{});
  }

  static Vector add(Vector sums, Vector a, Vector b) { return add_pairs(sums, (Integers)a, (Integers)b); }

  static Vector word(const Vector (&numbers)[TOGETHER]) { return (Vector)paired(numbers[0], numbers[1]); }

  static void narrow(float* row, int count) {
    for (int d = 0; d < count; d += TOGETHER * LANES)
      store(row + d / TOGETHER, (Vector)neighbours(load(row + d), load(row + d + LANES)));
  }
};

}  // namespace ISA
