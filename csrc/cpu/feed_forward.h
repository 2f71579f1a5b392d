// What a layer does to every row alone, in one call: the contract stands in kernels/feed_forward.py. It is made
// of the other kernels. Rows go through it in blocks, so that what lies between two maps stays in the caches.
#pragma once

#include <vector>

#include "packed_map.h"

struct FeedForward {
  PackedMap out, up, down;
  const float *up_norm_weight = nullptr, *up_norm_bias = nullptr;  // of the map up, for updates alone
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
};

// Rows whose maps are changed alike; runs follow each other from row 0 on.
struct FeedForwardRows {
  int first, end;
  Updates updates;
};

using Runs = std::vector<FeedForwardRows>;

// x [rows, width of out], attended [rows, depth of out]; sum and, where there is a last norm, last as x, which
// may be the same memory.
void feed_forward(const InstructionSet& set, const FeedForward& layer, const Runs& runs, const float* x,
                  const float* attended, float* sum, float* last, int threads);
