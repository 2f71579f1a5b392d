// A task takes up to four parts that share their keys, each a tile of up to 128 rows of a head, over steps of
// 128 keys with an online softmax (Milakov and Gimelshein, arXiv:1805.02867). Everything but the softmax is
// `multiply`, for the columns that one of ROWS neighbouring rows sees.
#include "attention.h"

#include "distances.h"
#include "parallel.h"
#include "product.h"
#include "sharing.h"
#include "workspace.h"

namespace ISA {
namespace {

constexpr int TILE = Attention::TILE_ROWS;
constexpr int KEYS = 128;          // per step
constexpr int STRIDE = KEYS + 16;  // A power of two would put all rows into few sets of the cache.
constexpr float LOWEST = -1e30f;
constexpr float HIDDEN = -__builtin_inff();  // It is the score of what a row does not see, whose weight is 0.
constexpr float LOG2_E = 1.4426950408889634f;

static_assert(TILE == KEYS && LANES % ROWS == 0);

// A row has room for `padded` numbers. Where it is of words of Factor, these are at its start.
struct Buffers {
  float* keys;          // [KEYS, padded], words
  float* key_panels;    // [KEYS / LANES, padded / PER_WORD, LANES], words
  float* value_panels;  // [padded / LANES, KEYS / PER_WORD, LANES], words
  float* scores;        // [TILE, STRIDE]; they become the weights, which are words.
  float* by_key;        // [KEYS, STRIDE]
  float* bias;          // Its index is j - i + TILE - 1.
  float* parts;         // what each part keeps from step to step

  static constexpr int SQUARE = TILE * STRIDE, LINE = TILE + KEYS + LANES;

  static int of_part(int padded) { return 2 * TILE * (padded + 1); }

  Buffers(int padded, int parts) {
    const int rows = TILE * padded;
    keys = workspace(3 * rows + 2 * SQUARE + LINE + parts * of_part(padded));
    key_panels = keys + rows, value_panels = key_panels + rows, scores = value_panels + rows;
    by_key = scores + SQUARE, bias = by_key + SQUARE, this->parts = bias + LINE;
  }
};

// A Part is a tile of rows of one head, with what it keeps from step to step.
struct Part {
  int head, first, rows;
  int end_key;     // It sees no keys from here on.
  float* queries;  // [TILE, padded], words
  float* out;      // [TILE, padded]
  float* highest;  // [TILE]: these are the highest scores so far.
  float* total;    // [TILE]: these are the sums of the weights so far.
};

// A Task is the work on the parts that a few heads and a few tiles make, whose keys begin with the same one.
template <class Factor>
class Task {
 public:
  Task(const Attention& a, int first_head, int heads, const int32_t* tiles, int tile_count)
      : a(a),
        part_count(heads * tile_count),
        first_key(tiles[2]),
        key_head(first_head / a.group),
        padded(round_up(a.width, LANES * PER_WORD)),
        copies_keys(PER_WORD > 1 || a.cosines || a.query_table.panels || padded != a.width),
        exponents((a.bias ? 1 : positive(a.scale)) * LOG2_E),
        buffers(padded, part_count) {
    for (int n = 0; n < part_count; n++) {
      const int32_t* const tile = tiles + 4 * (n % tile_count);
      float* const queries = buffers.parts + n * Buffers::of_part(padded);
      float *const out = queries + TILE * padded, *const highest = out + TILE * padded;
      const int head = first_head + n / tile_count;
      parts[n] = {head, tile[0], tile[1] - tile[0], tile[3], queries, out, highest, highest + TILE};
      if (tile[3] > end_key) end_key = tile[3];
    }
  }

  void attend() const {
    for (int n = 0; n < part_count; n++) begin(parts[n]);
    int low = first_key, high = end_key;
    if (a.window >= 0) {
      const Part& part = parts[0];  // With a window, all parts are of one tile.
      if (low < part.first - a.window) low = part.first - a.window;
      if (high > part.first + part.rows + a.window) high = part.first + part.rows + a.window;
    }
    for (int key = low; key < high; key += KEYS) step(key, high - key < KEYS ? high - key : KEYS);
    for (int n = 0; n < part_count; n++) write(parts[n]);
  }

 private:
  static constexpr int PER_WORD = Factor::PER_WORD;

  const Attention& a;
  const int part_count, first_key, key_head, padded;
  const bool copies_keys;  // Otherwise they are read where they are.
  const float exponents;   // Differences of scores times this are exponents of two.
  const Buffers buffers;
  Part parts[Sharing::MOST];
  int end_key = 0;

  // A scale of 0 is the smallest one: 0 times the difference to a hidden score would be NaN.
  static float positive(float scale) { return scale > TINY ? scale : TINY; }

  void begin(const Part& part) const {
    if (first_key < part.end_key)
      load_rows(part.first, part.rows, part.queries,
                [&](int row) { return a.q + row * a.q_stride + part.head * a.width; });
    for (int n = 0; n < part.rows * padded; n++) part.out[n] = 0;
    for (int row = 0; row < TILE; row++) part.highest[row] = LOWEST, part.total[row] = 0;
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

  // Returns the words of so many numbers.
  static int words(int numbers) { return (numbers + PER_WORD - 1) / PER_WORD; }

  // Loads rows, turned to their positions, and zeros up to full vectors of rows, as words.
  template <typename RowAt>
  void load_rows(int start, int count, float* to, RowAt row_at) const {
    const int half = a.width / 2;
    for (int row = 0; row < round_up(count, LANES); row++, to += padded) {
      const int used = row < count ? a.width : 0;
      const float* const x = used ? row_at(start + row) : nullptr;
      for (int d = used; d < padded; d++) to[d] = 0;
      if (a.cosines) {
        const ptrdiff_t angle = ptrdiff_t(start + row - first_key) * half;
        for (int d = 0; d < used / 2; d++) {
          const float cosine = a.cosines[angle + d], sine = a.sines[angle + d];
          to[d] = x[d] * cosine - x[half + d] * sine;
          to[half + d] = x[half + d] * cosine + x[d] * sine;
        }
      } else {
        for (int d = 0; d < used; d++) to[d] = x[d];
      }
      Factor::narrow(to, padded);
    }
  }

  void pack_keys(int key, int count) const {
    for (int row = 0; row < count; row += LANES) {
      const float* rows[LANES];
      for (int n = 0; n < LANES; n++) {
        const int used = row + n < count ? row + n : count - 1;  // Nobody reads what becomes of the others.
        rows[n] = copies_keys ? buffers.keys + used * padded : a.k + place(key + used);
      }
      for (int d = 0; d < words(padded); d += LANES) {
        Vector square[LANES];
        for (int n = 0; n < LANES; n++) square[n] = load(rows[n] + d);
        transpose(square);
        for (int n = 0; n < LANES; n++)
          store(buffers.key_panels + row * words(padded) + (d + n) * LANES, square[n]);
      }
    }
  }

  void pack_values(int key, int count) const {
    for (int n = 0; n < count; n += PER_WORD) {
      const int used = count - n < PER_WORD ? count - n : PER_WORD;
      const float* rows[PER_WORD];
      for (int m = 0; m < used; m++) rows[m] = a.v + place(key + n + m);
      for (int d = 0; d < a.width; d += LANES) {
        Vector values[PER_WORD] = {};
        for (int m = 0; m < used; m++)
          if (d + LANES <= a.width)
            values[m] = load(rows[m] + d);
          else
            for (int lane = 0; d + lane < a.width; lane++) values[m][lane] = rows[m][d + lane];
        store(buffers.value_panels + d * words(KEYS) + words(n) * LANES, Factor::word(values));
      }
    }
  }

  void add_by_key(int rows, int count) const {
    for (int row = 0; row < rows; row += LANES)
      for (int key = 0; key < count; key += LANES) {
        Vector square[LANES];
        for (int n = 0; n < LANES; n++) square[n] = load(buffers.by_key + (key + n) * STRIDE + row);
        transpose(square);
        for (int n = 0; n < LANES; n++) {
          float* const to = buffers.scores + (row + n) * STRIDE + key;
          store(to, load(to) + square[n]);
        }
      }
  }

  void load_bias(const Part& part, int key) const {
    const float* const biases = a.bias + size_t(part.head) * (2 * a.reach + 1) + a.reach;
    for (int n = 0; n < TILE + KEYS; n++) {
      const int distance = part.first - key - (n - (TILE - 1));
      const int known = distance < -a.reach ? -a.reach : distance > a.reach ? a.reach : distance;
      buffers.bias[n] = biases[known];
    }
  }

  struct Columns {
    int from, to;  // the first one, and the one behind the last; they are the same where there is none

    int first_lane() const { return from / LANES * LANES; }
  };

  // Returns the columns of a step that a row sees; later rows see later ones.
  Columns seen_by(const Part& part, int row, int key, int keys) const {
    const int own = part.first + row - key;  // The row's own token has this column.
    const int from = a.window >= 0 && own > a.window ? own - a.window : 0;
    int to = part.end_key - key;
    if (a.causal) to -= part.rows - 1 - row;
    if (a.window >= 0 && to > own + a.window + 1) to = own + a.window + 1;
    if (to > keys) to = keys;
    return {from, to < from ? from : to};
  }

  // Adds the bias to the scores of a row, and hides those that it does not see in vectors with others.
  void finish_scores(int row, Columns seen) const {
    float* const scores = buffers.scores + row * STRIDE;
    if (a.bias)
      for (int n = seen.first_lane(); n < seen.to; n += LANES)
        store(scores + n, load(scores + n) * a.scale + load(buffers.bias + TILE - 1 - row + n));
    for (int n = seen.first_lane(); n < seen.from; n++) scores[n] = HIDDEN;
    for (int n = seen.to; n < round_up(seen.to, LANES); n++) scores[n] = HIDDEN;
  }

  // Returns the highest score of every lane.
  Vector highest_of(int row, Columns seen) const {
    Vector top = splat(LOWEST);
    for (int n = seen.first_lane(); n < seen.to; n += LANES)
      top = larger(load(buffers.scores + row * STRIDE + n), top);
    return top;
  }

  // Turns the scores of a row into weights, and returns the sums of every lane.
  Vector weigh(int row, int keys, Columns seen, float highest) const {
    float* const scores = buffers.scores + row * STRIDE;
    Vector sum{};
    for (int n = seen.first_lane(); n < seen.to; n += LANES) {
      const Vector weight = power_of_two((load(scores + n) - highest) * exponents);  // NaN where a score is
      store(scores + n, weight);
      sum += weight;
    }
    const int known = round_up(keys, LANES * PER_WORD);
    // Neighbouring rows may see what this one does not, and a word may have a key that no row of them sees.
    for (int n = 0; n < known; n += LANES)
      if (n < seen.first_lane() || n >= seen.to) store(scores + n, Vector{});
    Factor::narrow(scores, known);
    return sum;
  }

  // Turns the scores of up to LANES rows into weights; what was summed up before fades if they rise above it.
  // What is combined over all lanes of a row is transposed first, and then combined for all rows at once.
  void soften(const Part& part, int start, int key, int keys) const {
    const int rows = part.rows - start < LANES ? part.rows - start : LANES;
    Columns seen[LANES];
    Vector tops[LANES], sums[LANES];
    for (int r = 0; r < LANES; r++) {
      tops[r] = splat(LOWEST);
      if (r >= rows) continue;
      seen[r] = seen_by(part, start + r, key, keys);
      finish_scores(start + r, seen[r]);
      tops[r] = highest_of(start + r, seen[r]);
    }
    transpose(tops);
    const Vector before = load(part.highest + start);
    Vector highest = before;
    for (int n = 0; n < LANES; n++) highest = larger(tops[n], highest);
    store(part.highest + start, highest);
    for (int r = 0; r < LANES; r++)
      sums[r] = r < rows ? weigh(start + r, keys, seen[r], part.highest[start + r]) : Vector{};
    transpose(sums);
    const Vector fade = power_of_two((before - highest) * exponents);
    Vector total = load(part.total + start) * fade;
    for (int n = 0; n < LANES; n++) total += sums[n];
    store(part.total + start, total);
    for (int r = 0; r < rows; r++) {
      if (fade[r] == 1) continue;
      float* const faded = part.out + (start + r) * padded;
      for (int d = 0; d < padded; d += LANES) store(faded + d, load(faded + d) * fade[r]);
    }
  }

  void step(int key, int keys) const {
    if (copies_keys) load_rows(key, keys, buffers.keys, [this](int row) { return a.k + place(row); });
    pack_keys(key, keys);
    pack_values(key, keys);
    for (int n = 0; n < part_count; n++)
      if (key < parts[n].end_key) step_of_part(n, key, keys);
  }

  void step_of_part(int number, int key, int keys) const {
    const Part& part = parts[number];
    const int first = part.first, rows = part.rows;
    if (a.query_table.panels)
      Distances<Factor>(a.query_table, part.head, words(a.width))
          .template multiply_band<TILE>(buffers.keys, padded, keys, key, first, rows, buffers.by_key, STRIDE);
    if (a.key_table.panels)
      Distances<Factor>(a.key_table, part.head, words(a.width))
          .template multiply_band<KEYS>(part.queries, padded, rows, first, key, keys, buffers.scores, STRIDE);
    for_seen_rows(part, key, keys, [&](int row, int from, int to) {
      const Panels panels{buffers.key_panels, words(padded), KEYS / LANES};
      const int panel = from / LANES, seen = round_up(to, LANES) / LANES - panel;
      multiply<Factor>(part.queries + row * padded, padded, panels, words(a.width), panel, seen,
                       buffers.scores + row * STRIDE + panel * LANES, STRIDE, a.key_table.panels);
    });
    if (a.query_table.panels) add_by_key(rows, keys);
    if (a.bias) load_bias(part, key);
    for (int row = 0; row < rows; row += LANES) {
      soften(part, row, key, keys);
      fetch_next(number * rows + row, part_count * rows, key);
    }
    for_seen_rows(part, key, keys, [&](int row, int from, int to) {
      const int panels = round_up(a.width, LANES) / LANES, first = from / PER_WORD;
      const Panels values{buffers.value_panels + first * LANES, words(KEYS), panels};
      multiply<Factor>(buffers.scores + row * STRIDE + first, STRIDE, values, words(to) - first, 0, panels,
                       part.out + row * padded, padded, true);
    });
  }

  // Asks for some keys of the next step, which are far apart: between them lie those of other heads. The
  // calls of a step ask for all of them together.
  void fetch_next(int turn, int turns, int key) const {
    const int start = key + KEYS, end = start + (turn + LANES) * KEYS / turns;
    for (int next = start + turn * KEYS / turns; next < end && next < end_key; next++) {
      fetch(a.k + place(next), a.width);
      fetch(a.v + place(next), a.width);
    }
  }

  // Calls work(row, from, to) for every ROWS rows and the columns that one of them sees.
  template <typename Work>
  void for_seen_rows(const Part& part, int key, int keys, Work work) const {
    for (int row = 0; row < part.rows; row += ROWS) {
      const int last = row + ROWS < part.rows ? row + ROWS - 1 : part.rows - 1;
      const int from = seen_by(part, row, key, keys).from, to = seen_by(part, last, key, keys).to;
      if (from < to) work(row, from, to);
    }
  }

  void write(const Part& part) const {
    for (int row = 0; row < part.rows; row++) {
      const Columns seen = seen_by(part, row, first_key, part.end_key - first_key);
      const float factor =
          seen.from < seen.to ? 1 / part.total[row] : 0;  // It is NaN where all scores are -infinity.
      float* const to = a.out + (size_t(part.first + row) * a.heads + part.head) * a.width;
      for (int d = 0; d < a.width; d++) to[d] = part.out[row * padded + d] * factor;
    }
  }
};

template <class Factor>
void attend_with(const Attention& a) {
  const Sharing sharing(a);
  parallel_for(sharing.count * (a.heads / sharing.heads), a.threads, [&](int item) {
    const int tile = item % sharing.count, head = item / sharing.count * sharing.heads;
    if (sharing.begins(tile))
      Task<Factor>(a, head, sharing.heads, sharing.tiles + 4 * tile, sharing.end(tile) - tile).attend();
  });
}

}  // namespace

void attend(const Attention& a) { a.bfloat16 ? attend_with<Bfloat16Pairs>(a) : attend_with<Float32>(a); }

extern const int lanes = LANES;

}  // namespace ISA
