// The norms on a CPU, in float32: their contracts stand in kernels/norm.py.
#pragma once

#include <cstddef>
#include <cstdint>

struct Norm {
  static constexpr int SOURCES = 3;

  // The norm is that of a sum: row n of it is the sum of rows places[n] of the tables [*, width], or of
  // rows n where there are no places. A table that is null ends the list.
  const float* tables[SOURCES] = {};
  const int32_t* places[SOURCES] = {};
  const float* weight = nullptr;  // [width], or null for ones
  const float* bias = nullptr;    // [width], or null for zeros
  float* out = nullptr;           // [rows, width]
  int rows = 0, width = 0;
  float eps = 0;
  bool rms = false;
  int threads = 1;
};

struct HeadNorm {
  const float* x = nullptr;  // [rows, heads, width], whose rows are `stride` apart
  ptrdiff_t stride = 0;
  const float* weight = nullptr;   // [heads, width]
  const float* cosines = nullptr;  // [rows, width / 2]
  const float* sines = nullptr;    // the same
  float* out = nullptr;            // [rows, heads, width]
  int rows = 0, heads = 0, width = 0;
  float eps = 0;
  int threads = 1;
};
