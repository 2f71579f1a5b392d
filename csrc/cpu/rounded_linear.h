// Linear maps on a CPU whose inputs and weights are rounded: the contracts stand in kernels/int8.py and
// kernels/bfloat16.py. Nothing is kept from one call to the next but the memory in which a thread copies rows.
#pragma once

#include <cstddef>
#include <cstdint>

// A row's rounded input u stands for step * (u - zero).
struct RoundedRange {
  float step;
  int32_t zero;
};

struct RoundedLinear {
  static constexpr int BLOCK_ROWS = 64;  // that threads take at a time
  enum Norm { NONE, LAYER, RMS };

  const float* x = nullptr;  // [rows, depth]
  ptrdiff_t x_stride = 0;    // Its rows are so many values apart.
  // A word holds four bytes or two bfloat16, and `words` fill the depth, the last one with zeros. These lie one
  // after the other:
  //   for int8: scales, float32 [width], and sums, int32 [width], of every output's weights
  //   words [width / lanes, words, lanes], the weights of whole vectors of outputs
  //   words [width % lanes, words], those of the other outputs
  const uint8_t* weight = nullptr;
  const float* bias = nullptr;      // [width], or null
  const float* residual = nullptr;  // [rows, width], or null; it is added after the activation
  float* out = nullptr;             // [rows, width], or [rows, width / 2] where gated
  uint8_t* values = nullptr;        // It has room for [rows, depth rounded up to lanes] rounded inputs,
  RoundedRange* ranges = nullptr;   // and for [rows] of what they mean.
  int rows = 0, depth = 0, width = 0;
  int norm = NONE;  // what is done to a row before it is rounded
  float eps = 0;
  int activation = 0;  // as in linear.h
  bool gated = false;  // out = activation(first half of the outputs) * second half, which whole vectors fill
  int threads = 1;
};
