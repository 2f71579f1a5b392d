// What comes after the product of a linear map, in registers.
#pragma once

#include "linear.h"
#include "vectors.h"

namespace ISA {

// x times the normal distribution, as max(x, 0) - |x| Q(|x|). Q is the distribution's upper tail, 2^polynomial;
// the polynomial makes the largest error of |x| Q(|x|) as small as its degree allows, which is 1e-8. It is NaN
// of -infinity, as x times the distribution is.
inline Vector gelu(Vector x) {
  Vector size = larger(x, -x);
  size = size > 16.0f ? splat(16.0f) : size;
  Vector power = size * -1.9919934e-06f + 2.9273104e-05f;
  power = power * size - 1.3809335e-04f;
  power = power * size - 2.5342445e-04f;
  power = power * size + 7.2163743e-03f;
  power = power * size - 5.2603039e-02f;
  power = power * size - 4.5917222e-01f;
  power = power * size - 1.1511097f;
  power = power * size - 1.0f;
  const Vector value = larger(x, Vector{}) - size * power_of_two(power);
  return x < -16.0f ? x - x : value;
}

// Column is a Vector, or a float for single columns.
template <typename Column>
inline Column activated(int activation, Column value) {
  Vector x = value - Vector{};
  if (activation == Linear::GELU) x = gelu(x);
  if (activation == Linear::RELU) x = larger(x, Vector{});
  if constexpr (sizeof(Column) == sizeof(float))
    return x[0];
  else
    return x;
}

}  // namespace ISA
