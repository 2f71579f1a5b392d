// Every label with the text of its prompt, on a CPU, in float32: the contract stands in kernels/pairs.py.
#pragma once

#include <cstdint>

struct PairAdd {
  const float* text = nullptr;     // [*, width]
  const float* labels = nullptr;   // [rows, width]
  const int32_t* owner = nullptr;  // [rows]
  float* out = nullptr;            // [rows, width]
  int rows = 0, width = 0;
  int activation = 0;  // one of linear.h
  int threads = 1;
};
