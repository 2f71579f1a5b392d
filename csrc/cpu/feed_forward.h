// What a layer does to every row alone, in one call: the contract stands in kernels/feed_forward.py. It is made
// of the other kernels. Rows go through it in blocks, so that what lies between two maps stays in the caches.
#pragma once

#include <cstddef>

struct InstructionSet;

struct FeedForward {
  bool int8 = false;                    // Weights are packed as in int8.h, or else as in linear.h.
  int depth = 0, width = 0, inner = 0;  // of rows that were attended, of x, and of those that go down
  const void *out = nullptr, *up = nullptr, *down = nullptr;                  // the weights of three maps
  const float *out_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;  // or null
  int activation = 0;                                                         // as in linear.h
  bool gated = false;  // The map up has 2 * inner outputs.
  int norm = 0;        // what is done to rows before they go up, as in int8.h; its weights are part of the map
  const float *up_norm_weight = nullptr, *up_norm_bias = nullptr;  // That norm's, for updates alone.
  const float *first_weight = nullptr, *first_bias = nullptr;      // the first sum's norm, or null
  const float *last_weight = nullptr, *last_bias = nullptr;        // the second sum's norm, or null
  bool rms = false;                                                // The last one is an RMSNorm.
  float eps = 0;
};

// What an adapter adds to a map: (x a^T) b^T, before its activation; nothing where the rank is 0. Both are
// packed as in linear.h. Where the map up is behind a norm, x is the normed row with the norm's weights.
struct LowRank {
  const float *a = nullptr, *b = nullptr;  // [rank, inputs], [outputs, rank]
  int rank = 0;
};

struct Updates {
  LowRank out, up, down;

  int most() const;  // the largest rank
};

// x [rows, width], attended [rows, depth]; sum and, where there is a last norm, last [rows, width], which may
// be the same memory.
void feed_forward(const InstructionSet& set, const FeedForward& layer, const Updates& updates, const float* x,
                  const float* attended, int rows, float* sum, float* last, int threads);
