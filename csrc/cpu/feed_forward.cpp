#include "feed_forward.h"

#include <algorithm>

#include "instruction_sets.h"
#include "parallel.h"

namespace {

constexpr int SHARED = 512;      // rows at most, of which all threads share every map
constexpr int PADDING = 64 / 4;  // Rounded values of a row end where a vector of any set may.

// How many floats each part of a block's memory has; one follows the other.
struct Parts {
  size_t first, inner, reduced, normed = 0, changed = 0, ranges = 0, values = 0;

  Parts(const FeedForward& layer, const Updates& updates, size_t rows)
      : first(rows * layer.width), inner(rows * layer.inner), reduced(rows * updates.most()) {
    const int deepest = std::max({layer.depth, layer.width, layer.inner});
    if (layer.int8) ranges = rows * sizeof(Int8Range) / sizeof(float), values = rows * (deepest / 4 + PADDING);
    if (layer.norm != Int8Linear::NONE && (updates.up.rank || !layer.int8)) normed = first;
    if (updates.up.rank && layer.gated) changed = 2 * inner;
  }

  size_t total() const { return first + inner + reduced + normed + changed + ranges + values; }
};

// What a map does with its outputs.
struct After {
  int activation = Linear::NONE;
  bool gated = false;
};

class Block {
 public:
  Block(const InstructionSet& set, const FeedForward& layer, const Updates& updates, int rows, int threads)
      : set(set), layer(layer), updates(updates), rows(rows), threads(threads) {
    const Parts parts(layer, updates, rows);
    first = workspace(parts.total(), true), inner = first + parts.first, reduced = inner + parts.inner;
    normed = reduced + parts.reduced, changed = normed + parts.normed;
    ranges = reinterpret_cast<Int8Range*>(changed + parts.changed);
    values = reinterpret_cast<uint8_t*>(changed + parts.changed + parts.ranges);
  }

  void run(const float* x, const float* attended, float* sum, float* last) const {
    map(layer.out, layer.out_bias, attended, layer.depth, layer.width, first, x, updates.out);
    if (layer.first_weight) norm(layer.first_weight, layer.first_bias, false, first, first);
    go_up();
    map(layer.down, layer.down_bias, inner, layer.inner, layer.width, sum, first, updates.down);
    if (layer.last_weight) norm(layer.last_weight, layer.last_bias, layer.rms, sum, last);
  }

 private:
  void go_up() const {
    const bool behind_norm = layer.norm != Int8Linear::NONE, rms = layer.norm == Int8Linear::RMS;
    const bool apart = behind_norm && !layer.int8;  // The int8 map norms its rows itself.
    if (apart) norm(nullptr, nullptr, rms, first, normed);
    const float* const x = apart ? normed : first;
    const After after{layer.activation, layer.gated};
    if (!updates.up.rank)
      return map_base(layer.up, layer.up_bias, x, layer.width, layer.inner, inner, nullptr, after, layer.norm);
    const int outputs = layer.gated ? 2 * layer.inner : layer.inner;
    float* const onto = layer.gated ? changed : inner;
    map_base(layer.up, layer.up_bias, x, layer.width, outputs, onto, nullptr, {}, layer.norm);
    if (behind_norm) norm(layer.up_norm_weight, layer.up_norm_bias, rms, first, normed);
    add(updates.up, behind_norm ? normed : first, layer.width, onto, outputs, inner, layer.inner, after);
  }

  void map(const void* weight, const float* bias, const float* x, int depth, int width, float* out,
           const float* residual, const LowRank& update) const {
    map_base(weight, bias, x, depth, width, out, residual);
    if (update.rank) add(update, x, depth, out, width, out, width);
  }

  // norm: what an int8 map does to its rows first.
  void map_base(const void* weight, const float* bias, const float* x, int depth, int width, float* out,
                const float* residual, After after = {}, int norm = Int8Linear::NONE) const {
    if (layer.int8) {
      Int8Linear a;
      a.x = x, a.x_stride = depth, a.weight = static_cast<const uint8_t*>(weight);
      a.bias = bias, a.residual = residual, a.out = out;
      a.values = values, a.ranges = ranges;
      a.rows = rows, a.depth = depth, a.width = after.gated ? 2 * width : width, a.threads = threads;
      a.norm = norm, a.eps = layer.eps, a.activation = after.activation, a.gated = after.gated;
      return set.linear_int8(a);
    }
    Linear a;
    a.x = x, a.x_stride = depth, a.weight = static_cast<const float*>(weight), a.bias = bias;
    a.residual = residual, a.out = out, a.out_stride = width;
    a.rows = rows, a.depth = depth, a.width = width, a.threads = threads;
    a.activation = after.activation, a.gated = after.gated;
    set.linear(a);
  }

  // Adds an update to the outputs of its map, and then does what comes after the map.
  void add(const LowRank& update, const float* x, int depth, const float* onto, int outputs, float* out,
           int width, After after = {}) const {
    Linear a;
    a.x = x, a.x_stride = depth, a.weight = update.a, a.out = reduced, a.out_stride = update.rank;
    a.rows = rows, a.depth = depth, a.width = update.rank, a.threads = threads;
    set.linear(a);
    a.x = reduced, a.x_stride = update.rank, a.weight = update.b, a.out = out, a.out_stride = width;
    a.onto = onto, a.onto_stride = outputs;
    a.depth = update.rank, a.width = width, a.activation = after.activation, a.gated = after.gated;
    set.linear(a);
  }

  void norm(const float* weight, const float* bias, bool rms, const float* x, float* out) const {
    Norm a;
    a.tables[0] = x, a.weight = weight, a.bias = bias, a.out = out;
    a.rows = rows, a.width = layer.width, a.eps = layer.eps, a.rms = rms, a.threads = threads;
    set.norm(a);
  }

  const InstructionSet& set;
  const FeedForward& layer;
  const Updates& updates;
  const int rows, threads;
  float *first, *inner, *reduced;
  float* normed;   // without the norm's weights for the map up, and then with them for its update
  float* changed;  // values and gates that an update is added to
  Int8Range* ranges;
  uint8_t* values;  // rounded inputs
};

}  // namespace

int Updates::most() const { return std::max({out.rank, up.rank, down.rank}); }

void feed_forward(const InstructionSet& set, const FeedForward& layer, const Updates& updates, const float* x,
                  const float* attended, int rows, float* sum, float* last, int threads) {
  const auto run = [&](int first, int end, int own_threads) {
    const ptrdiff_t at = ptrdiff_t(first) * layer.width;
    const Block block(set, layer, updates, end - first, own_threads);
    block.run(x + at, attended + ptrdiff_t(first) * layer.depth, sum + at, last + at);
  };
  const int most = layer.int8 ? Int8Linear::BLOCK_ROWS : Linear::block_rows(set.lanes);
  if (RowBlocks::suit(rows, threads, most)) {
    const RowBlocks blocks(rows, threads, most);
    return parallel_for(blocks.count, threads, [&](int n) { run(blocks.start(n), blocks.start(n + 1), 1); });
  }
  for (int row = 0; row < rows; row += SHARED) run(row, std::min(rows, row + SHARED), threads);
}
