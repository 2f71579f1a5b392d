// A task is a block of rows times a strip of COLUMNS panels of the weight. The strip's part for DEPTH inputs
// stays in a near cache while the rows go by, which meanwhile ask for the part that comes next. The
// values of a row depend on nothing but that row: the order of its sums is the same whatever the number of rows
// and threads.
#include "linear.h"

#include "activation.h"
#include "dot.h"
#include "parallel.h"
#include "product.h"

namespace ISA {
namespace {

constexpr int DEPTH = 4096 / LANES;  // inputs of a step: weights of 48 KiB

constexpr int BLOCK_ROWS = Linear::block_rows(LANES);
static_assert(BLOCK_ROWS % ROWS == 0);

// Calls multiply_block for a number of rows and of panels that the compiler does not know.
template <int HEIGHT, int COUNT>
inline void multiply_some(int rows, int panels, const float* a, ptrdiff_t a_stride, const float* const* b,
                          int depth, float* out, ptrdiff_t out_stride, bool add, Ahead ahead) {
  if constexpr (COUNT > 1)
    if (panels < COUNT)
      return multiply_some<HEIGHT, COUNT - 1>(rows, panels, a, a_stride, b, depth, out, out_stride, add, ahead);
  if constexpr (HEIGHT > 1)
    if (rows < HEIGHT)
      return multiply_some<HEIGHT - 1, COUNT>(rows, panels, a, a_stride, b, depth, out, out_stride, add, ahead);
  multiply_block<HEIGHT, COUNT>(a, a_stride, b, depth, out, out_stride, add, ahead);
}

// Multiplies rows first .. end - 1 by panels of the weight, and calls done(row, rows) for those that are
// complete. step: panels to those that come next; out: of row `first`; `add` keeps what is there.
template <typename Done>
inline void multiply_panels(const Linear& a, int first, int end, int panel, int count, int step, float* out,
                            ptrdiff_t out_stride, bool add, Done done) {
  const Panels weight{a.weight, a.depth, (a.gated ? 2 : 1) * a.width / LANES};
  for (int d = 0; d < a.depth; d += DEPTH) {
    const int depth = a.depth - d < DEPTH ? a.depth - d : DEPTH;
    const float* panels[COLUMNS];
    for (int n = 0; n < COLUMNS; n++) panels[n] = weight.at(panel + n) + d * LANES;
    const int next_depth = d + DEPTH < a.depth ? d + DEPTH : 0;
    const int next_panel = next_depth ? panel : panel + step;
    const Turns turns(COLUMNS, (end - first + ROWS - 1) / ROWS);
    for (int row = first, group = 0; row < end; row += ROWS, group++) {
      const int rows = end - row < ROWS ? end - row : ROWS, own = turns.panel(group);
      Ahead ahead{panels[0]};
      if (own < COLUMNS)
        ahead = {weight.at(next_panel + own) + (next_depth + turns.line(group, depth)) * LANES, turns.shift};
      multiply_some<ROWS, COLUMNS>(rows, count, a.x + row * a.x_stride + d, a.x_stride, panels, depth,
                                   out + (row - first) * out_stride, out_stride, add || d > 0, ahead);
      if (d + depth == a.depth) done(row, rows);
    }
  }
}

// Copies what is added to the product of rows first .. end - 1 for some outputs to where the product goes.
inline void begin_with(const Linear& a, int first, int end, int output, int count, float* out,
                       ptrdiff_t out_stride) {
  const float* const from = a.onto + first * a.onto_stride + output;
  if (from == out) return;
  for (int row = 0; row < end - first; row++)
    for (int n = 0; n < count; n += LANES)
      store(out + row * out_stride + n, load(from + row * a.onto_stride + n));
}

// Does rows first .. end - 1 of the panels from `panel` on: product, bias, activation, gate, residual.
void map_panels(const Linear& a, int first, int end, int panel, int count, int step) {
  constexpr int STRIDE = COLUMNS * LANES;
  float gates[BLOCK_ROWS * STRIDE];
  const int column = panel * LANES, gate_panel = a.width / LANES + panel;
  if (a.gated) {
    if (a.onto) begin_with(a, first, end, a.width + column, count * LANES, gates, STRIDE);
    multiply_panels(a, first, end, gate_panel, count, step, gates, STRIDE, a.onto, [](int, int) {});
  }
  float* const out = a.out + first * a.out_stride + column;
  if (a.onto) begin_with(a, first, end, column, count * LANES, out, a.out_stride);
  multiply_panels(a, first, end, panel, count, step, out, a.out_stride, a.onto, [&](int row, int rows) {
    for (int r = row; r < row + rows; r++)
      for (int n = 0; n < count * LANES; n += LANES) {
        float* const to = a.out + r * a.out_stride + column + n;
        Vector value = load(to);
        if (a.bias) value += load(a.bias + column + n);
        value = activated(a.activation, value);
        if (a.gated) {
          const Vector gate = load(gates + (r - first) * STRIDE + n);
          value *= a.bias ? gate + load(a.bias + a.width + column + n) : gate;
        }
        if (a.residual) value += load(a.residual + ptrdiff_t(r) * a.width + column + n);
        store(to, value);
      }
  });
}

// Does the last columns, which do not fill a vector.
void map_rest(const Linear& a, int first, int end) {
  for (int column = a.width / LANES * LANES; column < a.width; column++)
    for (int row = first; row < end; row++) {
      float* const to = a.out + row * a.out_stride + column;
      float value = dot(a.x + row * a.x_stride, a.weight + ptrdiff_t(column) * a.depth, a.depth);
      if (a.onto) value += a.onto[row * a.onto_stride + column];
      value = activated(a.activation, a.bias ? value + a.bias[column] : value);
      *to = a.residual ? a.residual[ptrdiff_t(row) * a.width + column] + value : value;
    }
}

}  // namespace

void linear(const Linear& a) {
  const int panels = a.width / LANES;
  const int strips = (panels + COLUMNS - 1) / COLUMNS + (a.width % LANES != 0);
  const int threads = double(a.rows) * a.depth * a.width < Linear::SMALL ? 1 : a.threads;
  share_parts(a.rows, strips, threads, 2 * ROWS, BLOCK_ROWS, [=, &a](int first, int end, int strip, int step) {
    const int panel = strip * COLUMNS;
    if (panel < panels)
      map_panels(a, first, end, panel, panels - panel < COLUMNS ? panels - panel : COLUMNS, step * COLUMNS);
    else
      map_rest(a, first, end);
  });
}

}  // namespace ISA
