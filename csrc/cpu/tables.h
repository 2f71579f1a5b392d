// What an adapter adds to a table of disentangled attention, on a CPU, in float32: the contract stands in
// kernels/adapted_attention.py.
#pragma once

#include <cstddef>

// Panels are as those of the tables in attention.h. out = table + b * inner
struct TableChange {
  const float* table = nullptr;  // [heads, panels, width, lanes]
  ptrdiff_t head_stride = 0;     // Its heads are so many values apart.
  const float* b = nullptr;      // [heads * width, rank]
  const float* inner = nullptr;  // [rank, panels * lanes]
  float* out = nullptr;          // [heads, panels, width, lanes]
  int heads = 0, panels = 0, width = 0, rank = 0;
  int threads = 1;
};
