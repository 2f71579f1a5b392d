// First every row is rounded, with its norm. Then a task is a block of rows times a strip of panels of the
// weight: the sums of ROWS rows and of all panels of the strip are registers from the first input to the last,
// and are scaled, activated and added to the residual there. The first rows ask for the strip that comes next.
#include "int8.h"

#include "activation.h"
#include "attention.h"
#include "int8_product.h"
#include "parallel.h"

namespace ISA {
namespace {

constexpr int SMALL = 1 << 19;    // So many multiplications take less time than a second thread to wake up.
constexpr int ROUNDED = 1 << 14;  // values of a task that rounds rows
constexpr float STEPS = 254;      // The ends of a row's range are rounded apart: 255 could become 256.

// Finds the parts of the packed weight.
struct Weight {
  int fours;  // The depth is so many times four.
  const float* scales;
  const int32_t* sums;
  const int8_t* weights;

  explicit Weight(const Int8Linear& a)
      : fours((a.depth + FOUR - 1) / FOUR),
        scales(reinterpret_cast<const float*>(a.weight)),
        sums(reinterpret_cast<const int32_t*>(scales + a.width)),
        weights(reinterpret_cast<const int8_t*>(sums + a.width)) {}

  // Gives the panel that begins with an output.
  const Words* panel(int output) const { return reinterpret_cast<const Words*>(alone(output)); }

  // Gives the weights of an output that is in no panel.
  const int8_t* alone(int output) const { return weights + ptrdiff_t(output) * fours * FOUR; }
};

inline int value_stride(const Int8Linear& a) { return round_up(a.depth, LANES); }

inline uint8_t* values_of(const Int8Linear& a, int row) { return a.values + ptrdiff_t(row) * value_stride(a); }

// Norms a row, and rounds it to steps of the range that it and 0 fill. `copy` has room for the row.
void round_row(const Int8Linear& a, int row, float* copy) {
  const float* const x = a.x + row * a.x_stride;
  const int padded = value_stride(a);
  for (int d = 0; d < a.depth; d++) copy[d] = x[d];
  for (int d = a.depth; d < padded; d++) copy[d] = 0;
  float factor = 1;
  if (a.norm == Int8Linear::LAYER) {
    Vector sums{};
    for (int d = 0; d < padded; d += LANES) sums += load(copy + d);
    const float mean = sum_of(sums) / a.depth;
    for (int d = 0; d < padded; d += LANES) store(copy + d, load(copy + d) - mean);
    for (int d = a.depth; d < padded; d++) copy[d] = 0;
  }
  if (a.norm != Int8Linear::NONE) {
    Vector squares{};
    for (int d = 0; d < padded; d += LANES) squares += load(copy + d) * load(copy + d);
    factor = 1 / __builtin_sqrtf(sum_of(squares) / a.depth + a.eps);
  }
  Vector above{}, below{};  // the largest values of both signs
  for (int d = 0; d < padded; d += LANES) {
    const Vector value = load(copy + d);
    above = (above > value) | (above != above) ? above : value;  // It is NaN if one of them is.
    below = larger(-value, below);
  }
  const float lowest = largest_of(below);
  float step = largest_of(above) / STEPS + lowest / STEPS;
  if (step < TINY) step = TINY;            // as it is in a row of zeros
  constexpr float ROUNDING = 12582912.0f;  // It is 1.5 * 2^23: the sum has no bits for fractions.
  constexpr int32_t BITS = 0x4B400000;     // These are its bits.
  const float inverse = 1 / step;
  const auto rounded = [inverse](Vector values) { return (Integers)(values * inverse + ROUNDING) - BITS; };
  const int32_t zero = rounded(splat(lowest))[0] & 255;  // Rows with NaN or infinity may have any.
  a.ranges[row] = {step * factor, zero};
  uint8_t* const to = values_of(a, row);
  for (int d = 0; d < padded; d += LANES) store_values(to + d, rounded(load(copy + d)) + zero);
}

// Gives the outputs of the sums, which belong to the outputs from `column` on.
inline Vector scaled(const Int8Linear& a, const Weight& weight, Integers sums, float step, int column) {
  const Vector value = __builtin_convertvector(sums, Vector) * step * load(weight.scales + column);
  return a.bias ? value + load(a.bias + column) : value;
}

// Writes what becomes of the sums of `rows` rows and of the panels that begin at these outputs, which in gated
// maps are the value and the gate.
void write_block(const Int8Linear& a, const Weight& weight, int row, int rows, const int (&columns)[COLUMNS],
                 int count, const Sums& sums) {
  const int width = a.gated ? a.width / 2 : a.width;
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < (a.gated ? 1 : count); n++) {
      const float step = a.ranges[row + r].step;
      Vector value = activated(a.activation, scaled(a, weight, sums[r][n], step, columns[n]));
      if (a.gated) value *= scaled(a, weight, sums[r][1], step, columns[1]);
      const ptrdiff_t at = ptrdiff_t(row + r) * width + columns[n];
      store(a.out + at, a.residual ? load(a.residual + at) + value : value);
    }
}

// Does rows first .. end - 1 of a strip, whose panels begin at these outputs, and those of the next `step`
// later.
void map_strip(const Int8Linear& a, const Weight& weight, int first, int end, const int (&columns)[COLUMNS],
               int count, int step) {
  const Words *panels[COLUMNS], *next[COLUMNS];
  for (int n = 0; n < count; n++) {
    panels[n] = weight.panel(columns[n]);
    next[n] = columns[n] + step + LANES <= a.width ? weight.panel(columns[n] + step) : panels[n];
  }
  for (int row = first, group = 0; row < end; row += ROWS, group++) {
    const int rows = end - row < ROWS ? end - row : ROWS;
    Sums sums;
    for (int r = 0; r < rows; r++)
      for (int n = 0; n < count; n++)
        sums[r][n] = *reinterpret_cast<const Words*>(weight.sums + columns[n]) * -a.ranges[row + r].zero;
    multiply_some(rows, count, values_of(a, row), value_stride(a), panels, weight.fours,
                  group < count ? next[group] : panels[0], sums);
    write_block(a, weight, row, rows, columns, count, sums);
  }
}

// Does the last outputs, which do not fill a vector.
void map_rest(const Int8Linear& a, const Weight& weight, int first, int end) {
  for (int column = a.width / LANES * LANES; column < a.width; column++)
    for (int row = first; row < end; row++) {
      const auto [step, zero] = a.ranges[row];
      int32_t sum = 0;
      for (int d = 0; d < a.depth; d++) sum += (values_of(a, row)[d] - zero) * weight.alone(column)[d];
      const ptrdiff_t at = ptrdiff_t(row) * a.width + column;
      float value = float(sum) * step * weight.scales[column];
      value = activated(a.activation, a.bias ? value + a.bias[column] : value);
      a.out[at] = a.residual ? a.residual[at] + value : value;
    }
}

}  // namespace

void linear_int8(const Int8Linear& a) {
  const Weight weight(a);
  const int panels = a.width / LANES, strips = a.gated ? panels / 2 : (panels + COLUMNS - 1) / COLUMNS;
  const int parts = strips + (a.width % LANES != 0);
  const int threads = double(a.rows) * a.depth * a.width < SMALL ? 1 : a.threads;
  const int rows = ROUNDED / a.depth + 1;
  parallel_for((a.rows + rows - 1) / rows, threads, [=, &a](int task) {
    float* const copy = workspace(value_stride(a));
    for (int row = task * rows; row < a.rows && row < (task + 1) * rows; row++) round_row(a, row, copy);
  });
  share_parts(a.rows, parts, threads, 2 * ROWS, Int8Linear::BLOCK_ROWS,
              [=, &a, &weight](int first, int end, int part, int step) {
                if (part == strips) return map_rest(a, weight, first, end);
                const int left = a.gated ? 2 : panels - part * COLUMNS, count = left < COLUMNS ? left : COLUMNS;
                int columns[COLUMNS];
                for (int n = 0; n < count; n++)
                  columns[n] = (a.gated ? part + n * strips : part * COLUMNS + n) * LANES;
                map_strip(a, weight, first, end, columns, count, step * (a.gated ? 1 : COLUMNS) * LANES);
              });
}

extern const bool adds_pairs = ADDS_PAIRS;

}  // namespace ISA
