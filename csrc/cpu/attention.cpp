// Attention takes a tile of up to 128 rows at a time, of one head or of a few that share their keys, over steps
// of 128 keys with an online softmax (Milakov and Gimelshein, arXiv:1805.02867). Everything but the softmax is
// `multiply`, for the columns that one of ROWS neighbouring rows sees.
//
// The position terms of disentangled attention are products with a table whose columns are the distances
// (lane's place) - (row's place). ROWS neighbouring rows need little more of them than the step is wide:
//
//   q_i . key_table[j - i]    rows i, lanes j, goes to scores[i][j]
//   k_j . query_table[i - j]  rows j, lanes i, goes to by_key[j][i], which is transposed onto the scores
//
// Element (row, distance) belongs in column distance + row: written with a row stride of STRIDE + 1, it lands
// there by its address alone, and elements that only neighbouring rows need land in the margins.
#include "attention.h"

#include "parallel.h"
#include "product.h"

namespace ISA {
namespace {

constexpr int TILE = Attention::TILE_ROWS;
constexpr int KEYS = 128;   // per step
constexpr int MARGIN = 32;  // So many columns lie on each side of a step's.
constexpr int STRIDE = MARGIN + KEYS + MARGIN;
constexpr int TOGETHER = 4;  // So many heads at most take their keys together: each adds to what they keep.
constexpr float LOWEST = -1e30f;
constexpr float LOG2_E = 1.4426950408889634f;

static_assert(MARGIN >= ROWS + LANES - 2 && TILE == KEYS && LANES % ROWS == 0);

struct Buffers {
  float* keys;          // [KEYS, padded]
  float* key_panels;    // [KEYS / LANES, padded, LANES]
  float* value_panels;  // [padded / LANES, KEYS, LANES]
  float* scores;        // [TILE, STRIDE]: they become the weights.
  float* by_key;        // [KEYS, STRIDE]
  float* bias;          // Its index is j - i + TILE - 1.
  float* heads;         // what each head of the tile keeps from step to step

  static constexpr int SQUARE = TILE * STRIDE, LINE = TILE + KEYS + LANES;

  static int of_head(int padded) { return 2 * TILE * (padded + 1); }

  Buffers(int padded, int heads) {
    const int rows = TILE * padded;
    keys = workspace(3 * rows + 2 * SQUARE + LINE + heads * of_head(padded));
    key_panels = keys + rows, value_panels = key_panels + rows, scores = value_panels + rows;
    by_key = scores + SQUARE, bias = by_key + SQUARE, this->heads = bias + LINE;
  }
};

// What a head keeps from step to step.
struct Head {
  int number;
  float* queries;  // [TILE, padded]
  float* out;      // [TILE, padded]
  float* highest;  // [TILE]: these are the highest scores so far.
  float* total;    // [TILE]: these are the sums of the weights so far.
};

// A Tile is the work on one tile of heads that share their keys.
class Tile {
 public:
  Tile(const Attention& a, int first_head, int heads, const int32_t* tile)
      : a(a),
        first_head(first_head),
        heads(heads),
        first(tile[0]),
        rows(tile[1] - tile[0]),
        first_key(tile[2]),
        end_key(tile[3]),
        key_head(first_head / a.group),
        padded(round_up(a.width, LANES)),
        copies_keys(a.cosines || a.query_table || padded != a.width),
        exponents((a.bias ? 1 : a.scale) * LOG2_E),
        buffers(padded, heads) {}

  void attend() {
    for (int n = 0; n < heads; n++) begin(head_at(n));
    int low = first_key, high = end_key;
    if (a.window >= 0) {
      if (low < first - a.window) low = first - a.window;
      if (high > first + rows + a.window) high = first + rows + a.window;
    }
    for (int key = low; key < high; key += KEYS) step(key, high - key < KEYS ? high - key : KEYS);
    for (int n = 0; n < heads; n++) write(head_at(n));
  }

 private:
  const Attention& a;
  const int first_head, heads, first, rows, first_key, end_key, key_head, padded;
  const bool copies_keys;  // Otherwise they are read where they are.
  const float exponents;   // Differences of scores times this are exponents of two.
  const Buffers buffers;

  Head head_at(int n) const {
    float* const queries = buffers.heads + n * Buffers::of_head(padded);
    float *const out = queries + TILE * padded, *const highest = out + TILE * padded;
    return {first_head + n, queries, out, highest, highest + TILE};
  }

  void begin(const Head& head) const {
    if (first_key < end_key)
      load_rows(first, rows, head.queries,
                [&](int row) { return a.q + row * a.q_stride + head.number * a.width; });
    for (int n = 0; n < rows * padded; n++) head.out[n] = 0;
    for (int row = 0; row < rows; row++) head.highest[row] = LOWEST, head.total[row] = 0;
  }

  // Returns where the values of a key start in a row of k or v.
  ptrdiff_t place(int key) const {
    const ptrdiff_t row =
        a.pages ? ptrdiff_t(a.pages[key / a.page_rows]) * a.page_rows + key % a.page_rows : key;
    return row * a.kv_stride + key_head * a.width;
  }

  // Asks for values that will be read soon.
  static void fetch(const float* values, int count) {
    constexpr int LINE = 64 / sizeof(float);
    for (int n = 0; n < count; n += LINE) __builtin_prefetch(values + n);
  }

  // Loads rows, turned to their positions, and zeros up to full vectors of rows.
  template <typename RowAt>
  void load_rows(int start, int count, float* to, RowAt row_at) const {
    const int half = a.width / 2;
    for (int row = 0; row < round_up(count, LANES); row++, to += padded) {
      const int used = row < count ? a.width : 0;
      const float* const x = used ? row_at(start + row) : nullptr;
      for (int d = used; d < padded; d++) to[d] = 0;
      if (!a.cosines) {
        for (int d = 0; d < used; d++) to[d] = x[d];
        continue;
      }
      const ptrdiff_t angle = ptrdiff_t(start + row - first_key) * half;
      for (int d = 0; d < used / 2; d++) {
        const float cosine = a.cosines[angle + d], sine = a.sines[angle + d];
        to[d] = x[d] * cosine - x[half + d] * sine;
        to[half + d] = x[half + d] * cosine + x[d] * sine;
      }
    }
  }

  void pack_keys(int key, int count) const {
    for (int row = 0; row < count; row += LANES) {
      const float* rows[LANES];
      for (int n = 0; n < LANES; n++) {
        const int used = row + n < count ? row + n : count - 1;  // Nobody reads what becomes of the others.
        rows[n] = copies_keys ? buffers.keys + used * padded : a.k + place(key + used);
      }
      for (int d = 0; d < padded; d += LANES) {
        Vector square[LANES];
        for (int n = 0; n < LANES; n++) square[n] = load(rows[n] + d);
        transpose(square);
        for (int n = 0; n < LANES; n++) store(buffers.key_panels + row * padded + (d + n) * LANES, square[n]);
      }
    }
  }

  void pack_values(int key, int count) const {
    for (int n = 0; n < count; n++) {
      const float* const x = a.v + place(key + n);
      for (int d = 0; d < padded; d += LANES) {
        float* const to = buffers.value_panels + d * KEYS + n * LANES;
        if (d + LANES <= a.width)
          store(to, load(x + d));
        else
          for (int lane = 0; lane < LANES; lane++) to[lane] = d + lane < a.width ? x[d + lane] : 0;
      }
    }
  }

  // Multiplies x [count, width], at places from `row` on in their sequence, by the distances to `lanes` places
  // from `lane` on, of a head's table.
  void multiply_distances(int head, const float* x, int count, int row, int lane, int lanes, const float* table,
                          float* square) const {
    const Panels distances{table + size_t(head) * a.table_panels * a.width * LANES, a.width, a.table_panels};
    const int zero = a.table_panels / 2;  // This panel starts at distance 0.
    for (int r = 0; r < count; r += ROWS) {
      const int nearest = zero * LANES + lane - (row + r + ROWS - 1);
      const int farthest = zero * LANES + lane + lanes - 1 - (row + r);
      const int from = floor_panel(nearest), panels = floor_panel(farthest) - from + 1;
      fetch(distances.at(from - 1) + r % LANES * a.width, ROWS * a.width);  // Later rows need that panel.
      float* const to = square + r * STRIDE + MARGIN + (from - zero) * LANES + row + r - lane;
      multiply(x + r * padded, padded, distances, a.width, from, panels, to, STRIDE + 1, false);
    }
  }

  static int floor_panel(int column) { return (column - (column < 0 ? LANES - 1 : 0)) / LANES; }

  void add_by_key(int count) const {
    for (int row = 0; row < rows; row += LANES)
      for (int key = 0; key < count; key += LANES) {
        Vector square[LANES];
        for (int n = 0; n < LANES; n++) square[n] = load(buffers.by_key + (key + n) * STRIDE + MARGIN + row);
        transpose(square);
        for (int n = 0; n < LANES; n++) {
          float* const to = buffers.scores + (row + n) * STRIDE + MARGIN + key;
          store(to, load(to) + square[n]);
        }
      }
  }

  void load_bias(int head, int key) const {
    const float* const biases = a.bias + size_t(head) * (2 * a.reach + 1) + a.reach;
    for (int n = 0; n < TILE + KEYS; n++) {
      const int distance = first - key - (n - (TILE - 1));
      const int known = distance < -a.reach ? -a.reach : distance > a.reach ? a.reach : distance;
      buffers.bias[n] = biases[known];
    }
  }

  struct Columns {
    int from, to;  // the first one, and the one behind the last
  };

  // Returns the columns of a step that a row sees; later rows see later ones.
  Columns seen_by(int row, int key, int count) const {
    const int own = first + row - key;  // The row's own token has this column.
    const int end = a.causal ? end_key - key - (rows - 1 - row) : own + a.window + 1;
    const int from = a.window >= 0 && own > a.window ? own - a.window : 0;
    return {from, (a.causal || a.window >= 0) && end < count ? end : count};
  }

  // Turns the scores of a row into weights; what was summed up before fades if they rise above it.
  void soften(const Head& head, int row, int key, int count) const {
    const auto [from, to] = seen_by(row, key, count);
    const Integers lane = lane_numbers();
    float* const scores = buffers.scores + row * STRIDE + MARGIN;
    const auto seen = [&, from = from, to = to](int n, Vector value, float other) {
      if (n >= from && n + LANES <= to) return value;
      return (lane + n >= from) & (lane + n < to) ? value : splat(other);
    };
    const int low = from / LANES * LANES;
    Vector top = splat(head.highest[row]);
    for (int n = low; n < to; n += LANES) {
      if (a.bias) store(scores + n, load(scores + n) * a.scale + load(buffers.bias + TILE - 1 - row + n));
      top = larger(seen(n, load(scores + n), LOWEST), top);
    }
    const float highest = largest_of(top);
    const float fade = power_of_two(splat((head.highest[row] - highest) * exponents))[0];
    head.highest[row] = highest;
    Vector sum{};
    for (int n = low; n < to; n += LANES) {
      const Vector weight =
          seen(n, power_of_two((load(scores + n) - highest) * exponents), 0);  // NaN where a score is NaN
      store(scores + n, weight);
      sum += weight;
    }
    for (int n = 0; n < count; n += LANES)
      if (n < low || n >= to) store(scores + n, Vector{});  // Neighbouring rows may see these.
    head.total[row] = head.total[row] * fade + sum_of(sum);
    if (fade == 1) return;
    for (int d = 0; d < padded; d += LANES) {
      float* const faded = head.out + row * padded + d;
      store(faded, load(faded) * fade);
    }
  }

  void step(int key, int count) const {
    if (copies_keys) load_rows(key, count, buffers.keys, [this](int row) { return a.k + place(row); });
    pack_keys(key, count);
    pack_values(key, count);
    for (int n = 0; n < heads; n++) step_of(head_at(n), key, count);
  }

  void step_of(const Head& head, int key, int count) const {
    if (a.query_table)
      multiply_distances(head.number, buffers.keys, count, key, first, rows, a.query_table, buffers.by_key);
    if (a.key_table)
      multiply_distances(head.number, head.queries, rows, first, key, count, a.key_table, buffers.scores);
    for_seen_rows(key, count, [&](int row, int from, int to) {
      const Panels keys{buffers.key_panels, padded, KEYS / LANES};
      const int panel = from / LANES, panels = round_up(to, LANES) / LANES - panel;
      multiply(head.queries + row * padded, padded, keys, a.width, panel, panels,
               buffers.scores + row * STRIDE + MARGIN + panel * LANES, STRIDE, a.key_table);
    });
    if (a.query_table) add_by_key(count);
    if (a.bias) load_bias(head.number, key);
    // Each row of each head asks for a part of the next step's keys, which are far apart: between them lie
    // those of other heads.
    const int turns = heads * rows, first_turn = (head.number - first_head) * rows;
    int next = key + KEYS + first_turn * KEYS / turns;
    for (int row = 0; row < rows; row++) {
      soften(head, row, key, count);
      for (const int end = key + KEYS + (first_turn + row + 1) * KEYS / turns; next < end; next++) {
        if (next >= end_key) break;
        fetch(a.k + place(next), a.width);
        fetch(a.v + place(next), a.width);
      }
    }
    for_seen_rows(key, count, [&](int row, int from, int to) {
      const Panels values{buffers.value_panels + from * LANES, KEYS, padded / LANES};
      multiply(buffers.scores + row * STRIDE + MARGIN + from, STRIDE, values, to - from, 0, padded / LANES,
               head.out + row * padded, padded, true);
    });
  }

  // Calls work(row, from, to) for every ROWS rows and the columns that one of them sees.
  template <typename Work>
  void for_seen_rows(int key, int count, Work work) const {
    for (int row = 0; row < rows; row += ROWS) {
      const int last = row + ROWS < rows ? row + ROWS - 1 : rows - 1;
      const int from = seen_by(row, key, count).from, to = seen_by(last, key, count).to;
      if (from < to) work(row, from, to);
    }
  }

  void write(const Head& head) const {
    for (int row = 0; row < rows; row++) {
      const Columns seen = seen_by(row, first_key, end_key - first_key);
      const float factor =
          seen.from < seen.to ? 1 / head.total[row] : 0;  // It is NaN where all scores are -infinity.
      float* const to = a.out + (size_t(first + row) * a.heads + head.number) * a.width;
      for (int d = 0; d < a.width; d++) to[d] = head.out[row * padded + d] * factor;
    }
  }
};

}  // namespace

void attend(const Attention& a) {
  const int tiles = a.tiles[0];
  // Heads with the same keys take them together, but for calls that would leave threads without work.
  int together = a.group < TOGETHER ? a.group : TOGETHER;
  while (a.group % together || (together > 1 && tiles * a.heads / together < 4 * a.threads)) together--;
  parallel_for(tiles * a.heads / together, a.threads, [=, &a](int item) {
    Tile(a, item / tiles * together, together, a.tiles + 4 * (1 + item % tiles)).attend();
  });
}

extern const int lanes = LANES;

}  // namespace ISA
