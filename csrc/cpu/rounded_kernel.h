// The kernel of linear maps whose inputs and weights are rounded. A `Kind` of rounding, made of the arguments,
// has what its product asks for, and
//
//   PER_WORD, words               so many inputs are a word, and so many words the inputs of a row
//   panel(output)                 the words of the panel that begins with an output
//   round(row, count, factor, to) rounds a row, which stands for `factor` times itself, and returns its range
//   first(output, zero)           what the sums of LANES outputs begin with, for inputs with this zero
//   scaled(sums, output, step)    what the sums of LANES outputs stand for
//   alone(values, range, output)  an output that is in no panel
//
// First every row is rounded, with its norm. Then a task is a block of rows times a strip of panels of the
// weight: the sums of a few rows and of all panels of the strip are registers from the first input to the last,
// and are scaled, activated and added to the residual there. The first rows ask for the strip that comes next.
#pragma once

#include "activation.h"
#include "parallel.h"
#include "rounded_linear.h"
#include "workspace.h"
#ifdef WITH_TILES
#include "tile_product.h"
#else
#include "rounded_product.h"
#endif

namespace ISA {
namespace {

#ifdef WITH_TILES
template <class Kind>
using Product = TileProduct<Kind>;
#else
template <class Kind>
using Product = VectorProduct<Kind>;
#endif

template <class Kind>
class RoundedMap {
  static constexpr int ROWS = Product<Kind>::ROWS, COLUMNS = Product<Kind>::COLUMNS;
  typedef typename Product<Kind>::Sums Sums;  // of a row

 public:
  explicit RoundedMap(const RoundedLinear& a) : a(a), kind(a), padded(round_up(a.depth, LANES)) {}

  void run() const {
    const int panels = a.width / LANES, strips = a.gated ? panels / 2 : (panels + COLUMNS - 1) / COLUMNS;
    const int parts = strips + (a.width % LANES != 0);
    const int threads = double(a.rows) * a.depth * a.width < SMALL ? 1 : a.threads;
    const int rows = ROUNDED / a.depth + 1;
    parallel_for((a.rows + rows - 1) / rows, threads, [=](int task) {
      float* const copy = workspace(padded);
      for (int row = task * rows; row < a.rows && row < (task + 1) * rows; row++) round_row(row, copy);
    });
    share_parts(a.rows, parts, threads, 2 * ROWS, RoundedLinear::BLOCK_ROWS,
                [=](int first, int end, int part, int step) {
                  if (part == strips) return map_rest(first, end);
                  const int left = a.gated ? 2 : panels - part * COLUMNS;
                  const int count = left < COLUMNS ? left : COLUMNS;
                  int columns[COLUMNS];
                  for (int n = 0; n < count; n++)
                    columns[n] = (a.gated ? part + n * strips : part * COLUMNS + n) * LANES;
                  map_strip(first, end, columns, count, step * (a.gated ? 1 : COLUMNS) * LANES);
                });
  }

 private:
  static constexpr int SMALL =
      1 << 19;  // So many multiplications take less time than a second thread to wake up.
  static constexpr int ROUNDED = 1 << 14;  // values of a task that rounds rows

  const RoundedLinear& a;
  const Kind kind;
  const int padded;

  ptrdiff_t stride() const { return padded * int(sizeof(int32_t)) / Kind::PER_WORD; }

  uint8_t* values_of(int row) const { return a.values + row * stride(); }

  // Norms a row and rounds it. `copy` has room for the row.
  void round_row(int row, float* copy) const {
    const float* const x = a.x + row * a.x_stride;
    for (int d = 0; d < a.depth; d++) copy[d] = x[d];
    for (int d = a.depth; d < padded; d++) copy[d] = 0;
    float factor = 1;
    if (a.norm == RoundedLinear::LAYER) {
      Vector sums{};
      for (int d = 0; d < padded; d += LANES) sums += load(copy + d);
      const float mean = sum_of(sums) / a.depth;
      for (int d = 0; d < padded; d += LANES) store(copy + d, load(copy + d) - mean);
      for (int d = a.depth; d < padded; d++) copy[d] = 0;
    }
    if (a.norm != RoundedLinear::NONE) {
      Vector squares{};
      for (int d = 0; d < padded; d += LANES) squares += load(copy + d) * load(copy + d);
      factor = 1 / __builtin_sqrtf(sum_of(squares) / a.depth + a.eps);
    }
    a.ranges[row] = Kind::round(copy, padded, factor, values_of(row));
  }

  // Gives the outputs of the sums, which belong to the outputs from `column` on.
  Vector biased(typename Kind::Sum sums, float step, int column) const {
    const Vector value = kind.scaled(sums, column, step);
    return a.bias ? value + load(a.bias + column) : value;
  }

  // Writes what becomes of the sums of `rows` rows and of the panels that begin at these outputs, which in
  // gated maps are the value and the gate.
  void write_block(int row, int rows, const int (&columns)[COLUMNS], int count, const Sums* sums) const {
    const int width = a.gated ? a.width / 2 : a.width;
    for (int r = 0; r < rows; r++)
      for (int n = 0; n < (a.gated ? 1 : count); n++) {
        const float step = a.ranges[row + r].step;
        Vector value = activated(a.activation, biased(sums[r][n], step, columns[n]));
        if (a.gated) value *= biased(sums[r][1], step, columns[1]);
        const ptrdiff_t at = ptrdiff_t(row + r) * width + columns[n];
        store(a.out + at, a.residual ? load(a.residual + at) + value : value);
      }
  }

  // Does rows first .. end - 1 of a strip, whose panels begin at these outputs, and those of the next `step`
  // later.
  void map_strip(int first, int end, const int (&columns)[COLUMNS], int count, int step) const {
    const Words *panels[COLUMNS], *next[COLUMNS];
    for (int n = 0; n < count; n++) {
      panels[n] = kind.panel(columns[n]);
      next[n] = columns[n] + step + LANES <= a.width ? kind.panel(columns[n] + step) : panels[n];
    }
    Product<Kind> product;
    for (int row = first, group = 0; row < end; row += ROWS, group++) {
      const int rows = end - row < ROWS ? end - row : ROWS;
      Sums sums[ROWS];
      for (int r = 0; r < rows; r++)
        for (int n = 0; n < count; n++) sums[r][n] = kind.first(columns[n], a.ranges[row + r].zero);
      const Words* const ahead = group < count ? next[group] : panels[0];
      product.multiply(rows, count, {values_of(row), stride(), panels, kind.words, ahead}, sums);
      write_block(row, rows, columns, count, sums);
    }
  }

  // Does the last outputs, which do not fill a vector.
  void map_rest(int first, int end) const {
    for (int column = a.width / LANES * LANES; column < a.width; column++)
      for (int row = first; row < end; row++) {
        const ptrdiff_t at = ptrdiff_t(row) * a.width + column;
        float value = kind.alone(values_of(row), a.ranges[row], column);
        value = activated(a.activation, a.bias ? value + a.bias[column] : value);
        a.out[at] = a.residual ? a.residual[at] + value : value;
      }
  }
};

}  // namespace
}  // namespace ISA
