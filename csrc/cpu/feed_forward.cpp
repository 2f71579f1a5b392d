#include "feed_forward.h"

#include <algorithm>

#include "instruction_sets.h"
#include "parallel.h"

namespace {

constexpr int SHARED = 512;  // rows at most, of which all threads share every map

// How many floats each part of a block's memory has; one follows the other.
struct Parts {
  size_t first, inner, reduced, normed = 0, changed = 0, scratch;

  Parts(const FeedForward& layer, const Updates& updates, int rows)
      : first(size_t(rows) * layer.out.width),
        inner(size_t(rows) * layer.down.depth),
        reduced(size_t(rows) * updates.most()),
        scratch(std::max({layer.out.scratch(rows), layer.up.scratch(rows), layer.down.scratch(rows)})) {
    if (layer.up.norm != Int8Linear::NONE && updates.up.rank) normed = first;
    if (layer.up.gated && updates.up.rank) changed = 2 * inner;
  }

  size_t total() const { return first + inner + reduced + normed + changed + scratch; }
};

class Block {
 public:
  Block(const InstructionSet& set, const FeedForward& layer, const Updates& updates, int rows, int threads)
      : set(set), layer(layer), updates(updates), rows(rows), threads(threads) {
    const Parts parts(layer, updates, rows);
    first = workspace(parts.total(), true), inner = first + parts.first, reduced = inner + parts.inner;
    normed = reduced + parts.reduced, changed = normed + parts.normed, scratch = changed + parts.changed;
  }

  void run(const float* x, const float* attended, float* sum, float* last) const {
    map(layer.out, attended, first, x, updates.out);
    if (layer.first_weight) norm(layer.first_weight, layer.first_bias, false, first, first);
    go_up();
    map(layer.down, inner, sum, first, updates.down);
    if (layer.last_weight) norm(layer.last_weight, layer.last_bias, layer.rms, sum, last);
  }

 private:
  void go_up() const {
    const PackedMap& up = layer.up;
    if (!updates.up.rank) return up.run(set, first, rows, nullptr, inner, scratch, threads);
    PackedMap plain = up;  // What comes after the map comes after its update.
    plain.width = up.gated ? 2 * up.width : up.width, plain.gated = false, plain.activation = Linear::NONE;
    float* const onto = up.gated ? changed : inner;
    plain.run(set, first, rows, nullptr, onto, scratch, threads);
    const float* x = first;
    if (up.norm != Int8Linear::NONE) {
      norm(layer.up_norm_weight, layer.up_norm_bias, up.norm == Int8Linear::RMS, first, normed);
      x = normed;
    }
    add(updates.up, x, up, onto, plain.width, inner);
  }

  void map(const PackedMap& map, const float* x, float* out, const float* residual,
           const LowRank& update) const {
    map.run(set, x, rows, residual, out, scratch, threads);
    if (update.rank) add(update, x, map, out, map.width, out);
  }

  // Adds a map's update to its outputs `onto`, and then does what comes after the map.
  void add(const LowRank& update, const float* x, const PackedMap& map, const float* onto, int outputs,
           float* out) const {
    Linear a;
    a.x = x, a.x_stride = map.depth, a.weight = update.a, a.out = reduced, a.out_stride = update.rank;
    a.rows = rows, a.depth = map.depth, a.width = update.rank, a.threads = threads;
    set.linear(a);
    a.x = reduced, a.x_stride = update.rank, a.weight = update.b, a.out = out, a.out_stride = map.width;
    a.onto = onto, a.onto_stride = outputs;
    a.depth = update.rank, a.width = map.width, a.activation = map.activation, a.gated = map.gated;
    set.linear(a);
  }

  void norm(const float* weight, const float* bias, bool rms, const float* x, float* out) const {
    Norm a;
    a.tables[0] = x, a.weight = weight, a.bias = bias, a.out = out;
    a.rows = rows, a.width = layer.out.width, a.eps = layer.eps, a.rms = rms, a.threads = threads;
    set.norm(a);
  }

  const InstructionSet& set;
  const FeedForward& layer;
  const Updates& updates;
  const int rows, threads;
  float *first, *inner, *reduced;
  float* normed;   // with the norm's weights, for the update of the map up
  float* changed;  // values and gates that an update is added to
  float* scratch;  // of a map
};

}  // namespace

int Updates::most() const { return std::max({out.rank, up.rank, down.rank}); }

void feed_forward(const InstructionSet& set, const FeedForward& layer, const Updates& updates, const float* x,
                  const float* attended, int rows, float* sum, float* last, int threads) {
  const auto run = [&](int first, int end, int own_threads) {
    const ptrdiff_t at = ptrdiff_t(first) * layer.out.width;
    const Block block(set, layer, updates, end - first, own_threads);
    block.run(x + at, attended + ptrdiff_t(first) * layer.out.depth, sum + at, last + at);
  };
  const int most = layer.out.int8 ? Int8Linear::BLOCK_ROWS : Linear::block_rows(set.lanes);
  if (RowBlocks::suit(rows, threads, most)) {
    const RowBlocks blocks(rows, threads, most);
    return parallel_for(blocks.count, threads, [&](int n) { run(blocks.start(n), blocks.start(n + 1), 1); });
  }
  for (int row = 0; row < rows; row += SHARED) run(row, std::min(rows, row + SHARED), threads);
}
