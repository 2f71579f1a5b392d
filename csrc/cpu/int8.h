// Linear maps on a CPU, in int8: the contract stands in kernels/int8.py. Nothing is kept from one call to the
// next but the memory in which a thread copies rows.
#pragma once

#include <cstddef>
#include <cstdint>

// A row's rounded input u stands for step * (u - zero).
struct Int8Range {
  float step;
  int32_t zero;
};

struct Int8Linear {
  static constexpr int BLOCK_ROWS = 64;  // that threads take at a time
  enum Norm { NONE, LAYER, RMS };

  const float* x = nullptr;  // [rows, depth]
  ptrdiff_t x_stride = 0;    // Its rows are so many values apart.
  // With `padded`, the depth rounded up to fours, these lie one after the other:
  //   scales, float32 [width]
  //   sums, int32 [width], of every output's weights
  //   [width / lanes, padded / 4, lanes, 4], the weights of whole vectors of outputs
  //   [width % lanes, padded], those of the other outputs
  const uint8_t* weight = nullptr;
  const float* bias = nullptr;      // [width], or null
  const float* residual = nullptr;  // [rows, width], or null; it is added after the activation
  float* out = nullptr;             // [rows, width], or [rows, width / 2] where gated
  uint8_t* values = nullptr;        // It has room for [rows, depth rounded up to lanes] rounded inputs,
  Int8Range* ranges = nullptr;      // and for [rows] of what they mean.
  int rows = 0, depth = 0, width = 0;
  int norm = NONE;  // what is done to a row before it is rounded
  float eps = 0;
  int activation = 0;  // as in linear.h
  bool gated = false;  // out = activation(first half of the outputs) * second half, which whole vectors fill
  int threads = 1;
};
