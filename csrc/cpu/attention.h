// Attention over packed sequences on a CPU: the contracts stand in kernels/attention.py,
// kernels/causal_attention.py and kernels/disentangled_attention.py. One kernel serves them all: distance
// tables, rotary positions, a window, a bias and pages are there or not. A caller names the fields it needs and
// leaves the others as they are here.
#pragma once

#include <cstddef>
#include <cstdint>

// A table of disentangled attention, which has columns for the distances -reach .. reach; those further out
// have the first or the last one. From one distance to the next, the column stays or is the next one.
struct DistanceTable {
  const float* panels = nullptr;  // [heads, count, width, lanes], or null; in bfloat16, `width` is of words
  const int32_t* column_of = nullptr;  // [lanes + 2 * reach + 1 + lanes]: the ends are there lanes times more.
  int count = 0, reach = 0;
};

struct Attention {
  static constexpr int TILE_ROWS = 128;  // A tile has at most so many rows.

  const float *q = nullptr, *k = nullptr,
              *v = nullptr;               // [R, heads, width], and twice [T, heads / group, width]
  ptrdiff_t q_stride = 0, kv_stride = 0;  // Their rows are so many values apart.
  float* out = nullptr;                   // [R, heads, width]
  const int32_t* tiles = nullptr;         // [1 + W, 4], the work list of kernels/_tiles.py
  int heads = 0, width = 0;
  int group = 1;                   // So many heads of queries share one of keys and values.
  bool causal = false;             // A tile's last row sees all of its keys, and each row before it one fewer.
  const int32_t* pages = nullptr;  // Key j is in row pages[j / page_rows] * page_rows + j % page_rows; or null.
  int page_rows = 1;
  float scale = 0;        // not negative
  bool bfloat16 = false;  // The factors of all products are rounded to it, also those in distance tables.
  int window = -1;        // It is the largest |i - j|, of rows among the keys; -1 means any.
  const float *cosines = nullptr, *sines = nullptr;  // [positions, width / 2], or null
  const float* bias = nullptr;                       // [heads, 2 * reach + 1], or null
  int reach = 0;                                     // It is the largest distance in the bias.
  DistanceTable key_table, query_table;
  int threads = 1;
};
