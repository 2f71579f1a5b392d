// The attention half of a layer in one call: the contract stands in kernels/self_attention.py. It is made of
// the other kernels.
#pragma once

#include "attention.h"
#include "packed_map.h"

// Returns how many floats of memory a call with so many rows works in.
inline size_t self_attention_scratch(const PackedMap& qkv, int rows) {
  return size_t(rows) * qkv.width + qkv.scratch(rows);
}

// x [rows, depth]; out [rows, heads * width]; tiles, cosines and sines as in attention.h. `attention` holds
// what does not change from one call to the next.
void self_attention(const InstructionSet& set, const PackedMap& qkv, const Attention& attention, const float* x,
                    int rows, const int32_t* tiles, const float* cosines, const float* sines, float* out,
                    float* memory, int threads);
