#include "self_attention.h"

#include "instruction_sets.h"

void self_attention(const InstructionSet& set, const PackedMap& qkv, const Attention& attention, const float* x,
                    int rows, const int32_t* tiles, const float* cosines, const float* sines, float* out,
                    float* memory, int threads) {
  qkv.run(set, x, rows, nullptr, memory, memory + size_t(rows) * qkv.width, threads);
  Attention a = attention;
  const int of_queries = a.heads * a.width;
  a.q = memory, a.k = a.q + of_queries, a.v = a.k + of_queries / a.group;
  a.q_stride = a.kv_stride = qkv.width;
  a.tiles = tiles, a.cosines = cosines, a.sines = sines, a.out = out, a.threads = threads;
  set.attend(a);
}
