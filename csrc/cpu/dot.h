// The sum of the products of two rows, by vectors.
#pragma once

#include "vectors.h"

namespace ISA {

inline float dot(const float* a, const float* b, int depth) {
  constexpr int CHAINS = 4;
  Vector sums[CHAINS] = {};
  int d = 0;
  for (; d + CHAINS * LANES <= depth; d += CHAINS * LANES)
    for (int n = 0; n < CHAINS; n++) sums[n] += load(a + d + n * LANES) * load(b + d + n * LANES);
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; d < depth; d++) sum += a[d] * b[d];
  return sum;
}

}  // namespace ISA
