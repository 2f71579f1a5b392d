#include "feed_forward.h"

#include <algorithm>

#include "instruction_sets.h"
#include "runs.h"
#include "workspace.h"

namespace {

constexpr int SHARED = 512;  // rows at most, of which all threads share every map

// How many floats each part of a block's memory has; one follows the other.
struct Parts {
  size_t first, inner, reduced, normed = 0, changed = 0, scratch;

  Parts(const FeedForward& layer, int rows, int most_ranks, bool changes_up)
      : first(size_t(rows) * layer.out.width),
        inner(size_t(rows) * layer.down.depth),
        reduced(size_t(rows) * most_ranks),
        scratch(std::max({layer.out.scratch(rows), layer.up.scratch(rows), layer.down.scratch(rows)})) {
    if (layer.up.norm != RoundedLinear::NONE && changes_up) normed = first;
    if (layer.up.gated && changes_up) changed = 2 * inner;
  }

  size_t total() const { return first + inner + reduced + normed + changed + scratch; }
};

// Rows that go through whole maps together, whatever their adapters. Either all of them have an update of the
// map up, or none: what comes after the map comes after its update.
class Block {
 public:
  Block(const InstructionSet& set, const FeedForward& layer, const Runs& runs, const RowPart& part, int threads)
      : set(set), layer(layer), runs(runs), start(part.first), rows(part.end - part.first), threads(threads) {
    int most_ranks = 0;
    for_runs([&](const Updates& updates, int, int) {
      most_ranks = std::max({most_ranks, updates.out.rank, updates.up.rank, updates.down.rank});
      changes_up = updates.up.rank;
    });
    const Parts parts(layer, rows, most_ranks, changes_up);
    first = workspace(parts.total(), true), inner = first + parts.first, reduced = inner + parts.inner;
    normed = reduced + parts.reduced, changed = normed + parts.normed, scratch = changed + parts.changed;
  }

  void run(const float* x, const float* attended, float* sum, float* last) const {
    map(layer.out, attended, first, x, &Updates::out);
    if (layer.first_weight) norm(layer.first_weight, layer.first_bias, false, first, first);
    go_up();
    map(layer.down, inner, sum, first, &Updates::down);
    if (layer.last_weight) norm(layer.last_weight, layer.last_bias, layer.rms, sum, last);
  }

 private:
  // Calls work(updates, first, end) for the rows of the block that every run has.
  template <typename Work>
  void for_runs(const Work& work) const {
    for (const FeedForwardRows& run : runs) {
      const int from = std::max(run.first - start, 0), end = std::min(run.end - start, rows);
      if (from < end) work(run.updates, from, end);
    }
  }

  void go_up() const {
    const PackedMap& up = layer.up;
    if (!changes_up) return up.run(set, first, rows, nullptr, inner, scratch, threads);
    PackedMap plain = up;
    plain.width = up.gated ? 2 * up.width : up.width, plain.gated = false, plain.activation = Linear::NONE;
    float* const onto = up.gated ? changed : inner;
    plain.run(set, first, rows, nullptr, onto, scratch, threads);
    const float* x = first;
    if (up.norm != RoundedLinear::NONE) {
      norm(layer.up_norm_weight, layer.up_norm_bias, up.norm == RoundedLinear::RMS, first, normed);
      x = normed;
    }
    add(&Updates::up, x, up, onto, plain.width, inner);
  }

  void map(const PackedMap& map, const float* x, float* out, const float* residual,
           LowRank Updates::* update) const {
    map.run(set, x, rows, residual, out, scratch, threads);
    add(update, x, map, out, map.width, out);
  }

  // Adds the updates of a map to its outputs `onto`, and then does what comes after the map.
  void add(LowRank Updates::* which, const float* x, const PackedMap& map, const float* onto, int outputs,
           float* out) const {
    for_runs([&](const Updates& updates, int from, int end) {
      const LowRank& update = updates.*which;
      if (!update.rank) return;
      Linear a;
      a.x = x + ptrdiff_t(from) * map.depth, a.x_stride = map.depth, a.weight = update.a;
      a.out = reduced, a.out_stride = update.rank;
      a.rows = end - from, a.depth = map.depth, a.width = update.rank, a.threads = threads;
      set.linear(a);
      a.x = reduced, a.x_stride = update.rank, a.weight = update.b;
      a.out = out + ptrdiff_t(from) * map.width, a.out_stride = map.width;
      a.onto = onto + ptrdiff_t(from) * outputs, a.onto_stride = outputs;
      a.depth = update.rank, a.width = map.width, a.activation = map.activation, a.gated = map.gated;
      set.linear(a);
    });
  }

  void norm(const float* weight, const float* bias, bool rms, const float* x, float* out) const {
    Norm a;
    a.tables[0] = x, a.weight = weight, a.bias = bias, a.out = out;
    a.rows = rows, a.width = layer.out.width, a.eps = layer.eps, a.rms = rms, a.threads = threads;
    set.norm(a);
  }

  const InstructionSet& set;
  const FeedForward& layer;
  const Runs& runs;
  const int start, rows, threads;
  bool changes_up = false;
  float *first, *inner, *reduced;
  float* normed;   // with the norm's weights, for the updates of the map up
  float* changed;  // values and gates that an update is added to
  float* scratch;  // of a map
};

// Returns neighbours as one, of which all have an update of the map up, or none.
std::vector<RowPart> alike(const Runs& runs) {
  std::vector<RowPart> found;
  bool before = false;
  for (const FeedForwardRows& run : runs) {
    const bool changes_up = run.updates.up.rank;
    if (found.empty() || changes_up != before) found.push_back({run.first, run.end});
    found.back().end = run.end, before = changes_up;
  }
  return found;
}

}  // namespace

void feed_forward(const InstructionSet& set, const FeedForward& layer, const Runs& runs, const float* x,
                  const float* attended, float* sum, float* last, int threads) {
  const int rows = runs.empty() ? 0 : runs.back().end;
  if (!rows) return;
  const int most =
      layer.out.rounding != PackedMap::NONE ? RoundedLinear::BLOCK_ROWS : Linear::block_rows(set.lanes);
  const bool alone = RowBlocks::suit(rows, threads, most);  // A thread takes a part through all maps.
  const std::vector<RowPart> parts =
      row_parts(alike(runs), rows, alone ? RowBlocks(rows, threads, most).count : (rows + SHARED - 1) / SHARED);
  const auto run = [&](const RowPart& part, int own_threads) {
    const ptrdiff_t at = ptrdiff_t(part.first) * layer.out.width;
    const Block block(set, layer, runs, part, own_threads);
    block.run(x + at, attended + ptrdiff_t(part.first) * layer.out.depth, sum + at, last + at);
  };
  if (alone) return parallel_for(int(parts.size()), threads, [&](int n) { run(parts[n], 1); });
  for (const RowPart& part : parts) run(part, threads);
}
