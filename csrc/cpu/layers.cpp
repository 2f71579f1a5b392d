#include "layers.h"

#include <algorithm>

namespace {

size_t attended_floats(const Layer& layer, int rows) { return size_t(rows) * layer.feed_forward->out.depth; }

}  // namespace

size_t layers_scratch(const Layers& layers, int rows) {
  size_t most = 0;
  for (const Layer& layer : layers)
    most = std::max(most, attended_floats(layer, rows) + self_attention_scratch(*layer.qkv, rows));
  return most;
}

void run_layers(const InstructionSet& set, const Layers& layers, const std::vector<Rotary>& rotaries,
                const float* x, const float* normed, int rows, const int32_t* tiles, float* sum, float* last,
                float* memory, int threads) {
  const Runs unchanged{{0, rows, Updates{}}};
  for (size_t n = 0; n < rotaries.size(); n++) {
    const Layer& layer = layers[n];
    float *const attended = memory, *const scratch = memory + attended_floats(layer, rows);
    self_attention(set, *layer.qkv, *layer.attention, normed, rows, tiles, rotaries[n].cosines,
                   rotaries[n].sines, attended, scratch, threads);
    feed_forward(set, *layer.feed_forward, unchanged, x, attended, sum, last, threads);
    x = sum, normed = last;
  }
}
