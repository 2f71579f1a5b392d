// A linear map of any kind, as layers have them that run in one call: behind a norm or not, in float32 or
// rounded.
#pragma once

#include <cstddef>

struct InstructionSet;

struct PackedMap {
  enum Rounding { NONE, INT8, BFLOAT16 };

  int rounding = NONE;           // The weight is packed as in rounded_linear.h, or else as in linear.h.
  const void* weight = nullptr;  // of `width` outputs, or twice as many where gated
  const float* bias = nullptr;   // one per output, or null
  int depth = 0, width = 0;
  int norm = 0;  // what is done to rows first, as in rounded_linear.h; its weights are part of the map
  float eps = 0;
  int activation = 0;  // as in linear.h
  bool gated = false;  // Activated values are multiplied with their gates.

  // Returns how many floats of memory a call with so many rows works in.
  size_t scratch(int rows) const;

  // x [rows, depth]; out [rows, width]; residual [rows, width], or null.
  void run(const InstructionSet& set, const float* x, int rows, const float* residual, float* out,
           float* memory, int threads) const;
};
