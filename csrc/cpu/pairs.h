// Every label with the text of its prompt, on a CPU, in float32: the contract stands in kernels/pairs.py.
#pragma once

#include <cstdint>

struct Pairs {
  const float* text = nullptr;     // [*, width]
  const float* labels = nullptr;   // [rows, width]
  const int32_t* owner = nullptr;  // [rows]
  float* out = nullptr;            // sums [rows, width], or products [rows]
  int rows = 0, width = 0;
  int activation = 0;  // of sums, one of linear.h
  int threads = 1;
};
