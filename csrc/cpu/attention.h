// Attention over packed sequences on a CPU, float32; the contracts stand in kernels/attention.py and
// kernels/disentangled_attention.py. One kernel serves both: distance tables, rotary positions, a window and a
// bias are there or not.
#pragma once

#include <cstddef>
#include <cstdint>

struct Attention {
  const float *q, *k, *v;         // [R, heads, width] and twice [T, heads, width]; their rows are
  ptrdiff_t q_stride, kv_stride;  // so many values apart
  float* out;                     // [R, heads, width]
  const int32_t* tiles;  // [1 + W, 4]: (count, 128, 0, 0), then (first row, end, first key, end of keys)
  int heads, width;
  float scale;
  int window;                            // largest |i - j|, or -1
  const float *cosines, *sines;          // [positions, width / 2], or null
  const float* bias;                     // [heads, 2 * reach + 1], or null
  int reach;                             // of the bias
  const float *key_table, *query_table;  // [heads, table_panels, width, lanes], or null
  int table_panels;
  int threads;
};

// An instruction set the kernel was compiled for.
struct InstructionSet {
  const char* name;
  int lanes;  // floats of a vector, and of a row of a table's panels
  bool (*runs_here)();
  void (*attend)(const Attention&);
};

extern const InstructionSet INSTRUCTION_SETS[];  // the fastest first
extern const int INSTRUCTION_SET_COUNT;

// Memory of the calling thread that lasts until it ends, aligned to cache lines.
float* workspace(size_t floats);
