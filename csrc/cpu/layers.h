// Whole layers, one behind the other, in one call: the contract stands in kernels/whole_layers.py. They are
// made of both halves of a layer.
#pragma once

#include <vector>

#include "feed_forward.h"
#include "self_attention.h"

struct Layer {
  const PackedMap* qkv;
  const Attention* attention;
  const FeedForward* feed_forward;
};

struct Layers : std::vector<Layer> {};

struct Rotary {
  const float *cosines, *sines;  // as in attention.h
};

// Returns how many floats of memory a call with so many rows works in.
size_t layers_scratch(const Layers& layers, int rows);

// Runs as many layers as there are rotaries. x and normed [rows, C], which may be the same; sum and last as x.
// These are the same memory where nothing reads one of them, and no others'.
void run_layers(const InstructionSet& set, const Layers& layers, const std::vector<Rotary>& rotaries,
                const float* x, const float* normed, int rows, const int32_t* tiles, float* sum, float* last,
                float* memory, int threads);
