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
  const Vector value = larger(Vector{}, x) - size * power_of_two(power);
  return x < -16.0f ? x - x : value;
}

// Returns 1 / (1 + exp(-x)).
inline Vector sigmoid(Vector x) {
  const Vector size = larger(x, -x);
  const Vector power = size < 87.0f ? power_of_two(size * -1.442695041f) : Vector{};
  return (x < 0.0f ? power : splat(1)) / (power + 1.0f);
}

// x (1 + tanh(y)) / 2 = x / (1 + exp(-2 y)),  y = sqrt(2 / pi) (x + 0.044715 x^3)
inline Vector gelu_tanh(Vector x) {
  return x * sigmoid(x * (x * x * (2 * 0.7978845608f * 0.044715f) + 2 * 0.7978845608f));
}

inline Vector activated(int activation, Vector x) {
  if (activation == Linear::GELU) return gelu(x);
  if (activation == Linear::RELU) return larger(Vector{}, x);
  if (activation == Linear::SILU) return x * sigmoid(x);
  if (activation == Linear::GELU_TANH) return gelu_tanh(x);
  return x;
}

inline float activated(int activation, float x) { return activated(activation, splat(x))[0]; }

}  // namespace ISA
