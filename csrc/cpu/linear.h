// Linear maps on a CPU, in float32: the contract stands in kernels/linear.py. Nothing is kept from one call to
// the next, so that the memory of a process does not depend on the numbers of rows that it has seen.
#pragma once

#include <cstddef>

struct Linear {
  // Returns how many rows threads take at a time. The longer vectors are, the sooner more weights are due: with
  // AVX-512, maps of cold weights were faster by 128 rows than by 64. With AVX2, 128 was not measured.
  static constexpr int block_rows(int lanes) { return lanes == 16 ? 128 : 64; }
  static constexpr int SMALL = 1 << 17;  // So many multiplications take less time than to wake up a thread.
  enum Activation { NONE, GELU, RELU, SILU, GELU_TANH };

  const float* x = nullptr;  // [rows, depth]
  ptrdiff_t x_stride = 0;    // Its rows are so many values apart.
  // First [width / lanes, depth, lanes], the weights of whole vectors of outputs, then [width % lanes, depth].
  // A gated map has 2 * width outputs: its values, then its gates; width is a multiple of lanes there.
  const float* weight = nullptr;
  const float* bias = nullptr;      // one per output, or null
  const float* residual = nullptr;  // [rows, width], or null
  float* out = nullptr;             // [rows, width]
  ptrdiff_t out_stride = 0;         // Its rows are so many values apart.
  // [rows, outputs], or null; it is added before the activation, and may be out where the map is not gated.
  const float* onto = nullptr;
  ptrdiff_t onto_stride = 0;  // Its rows are so many values apart.
  int rows = 0, depth = 0, width = 0;
  int activation = NONE;
  bool gated = false;  // Activated values are multiplied with their gates.
  int threads = 1;
};
