// A task is a block of rows times a strip of COLUMNS panels of the weight. The strip's part for DEPTH inputs
// stays in the first cache while the rows go by. The values of a row depend on nothing but that row: the order
// of its sums is the same whatever the number of rows and threads.
#include "linear.h"

#include "product.h"

namespace ISA {
namespace {

constexpr int DEPTH = 512;      // inputs of a step
constexpr int BLOCK = 64;       // rows of a task, or fewer where there are more threads than tasks
constexpr int SMALL = 1 << 17;  // So many multiplications take less time than a second thread to wake up.

static_assert(BLOCK % ROWS == 0);

// Calls multiply_block for a number of rows and of panels that the compiler does not know.
template <int HEIGHT, int COUNT>
inline void multiply_some(int rows, int panels, const float* a, ptrdiff_t a_stride, const float* const* b,
                          int depth, float* out, ptrdiff_t out_stride, bool add) {
  if constexpr (COUNT > 1)
    if (panels < COUNT)
      return multiply_some<HEIGHT, COUNT - 1>(rows, panels, a, a_stride, b, depth, out, out_stride, add);
  if constexpr (HEIGHT > 1)
    if (rows < HEIGHT)
      return multiply_some<HEIGHT - 1, COUNT>(rows, panels, a, a_stride, b, depth, out, out_stride, add);
  multiply_block<HEIGHT, COUNT>(a, a_stride, b, depth, out, out_stride, add);
}

inline float dot(const float* a, const float* b, int depth) {
  constexpr int CHAINS = 4;
  Vector sums[CHAINS] = {};
  int d = 0;
  for (; d + CHAINS * LANES <= depth; d += CHAINS * LANES)
    for (int n = 0; n < CHAINS; n++) sums[n] += load(a + d + n * LANES) * load(b + d + n * LANES);
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; d < depth; d++) sum += a[d] * b[d];
  return sum;
}

// x times the normal distribution, as max(x, 0) - |x| Q(|x|). Q is the distribution's upper tail, 2^polynomial;
// the polynomial makes the largest error of |x| Q(|x|) as small as its degree allows, which is 1e-8. It is NaN
// of -infinity, as x times the distribution is.
inline Vector gelu(Vector x) {
  Vector size = larger(x, -x);
  size = size > 16.0f ? splat(16.0f) : size;
  Vector power = size * -1.9919934e-06f + 2.9273104e-05f;
  power = power * size - 1.3809335e-04f;
  power = power * size - 2.5342445e-04f;
  power = power * size + 7.2163743e-03f;
  power = power * size - 5.2603039e-02f;
  power = power * size - 4.5917222e-01f;
  power = power * size - 1.1511097f;
  power = power * size - 1.0f;
  const Vector value = larger(x, Vector{}) - size * power_of_two(power);
  return x < -16.0f ? x - x : value;
}

// Adds the bias, applies the activation and adds the residual: COLUMN is a Vector, or a float for single
// columns.
template <typename Column>
inline Column activated(const Linear& a, Column value) {
  Vector x = value - Vector{};
  if (a.activation == Linear::GELU) x = gelu(x);
  if (a.activation == Linear::RELU) x = larger(x, Vector{});
  if constexpr (sizeof(Column) == sizeof(float))
    return x[0];
  else
    return x;
}

// Does rows first .. end - 1 of the panels from `panel` on.
void map_panels(const Linear& a, int first, int end, int panel, int count) {
  const Panels weight{a.weight, a.depth, a.width / LANES};
  for (int d = 0; d < a.depth; d += DEPTH) {
    const int depth = a.depth - d < DEPTH ? a.depth - d : DEPTH;
    const float* panels[COLUMNS];
    for (int n = 0; n < COLUMNS; n++) panels[n] = weight.at(panel + n) + d * LANES;
    for (int row = first; row < end; row += ROWS) {
      const int rows = end - row < ROWS ? end - row : ROWS;
      const ptrdiff_t place = row * a.out_stride + panel * LANES;
      multiply_some<ROWS, COLUMNS>(rows, count, a.x + row * a.x_stride + d, a.x_stride, panels, depth,
                                   a.out + place, a.out_stride, d > 0 || a.accumulate);
      if (d + depth < a.depth) continue;
      for (int r = 0; r < rows; r++)
        for (int n = 0; n < count * LANES; n += LANES) {
          float* const to = a.out + place + r * a.out_stride + n;
          Vector value = load(to);
          if (a.bias) value += load(a.bias + panel * LANES + n);
          value = activated(a, value);
          if (a.residual) value += load(a.residual + ptrdiff_t(row + r) * a.width + panel * LANES + n);
          store(to, value);
        }
    }
  }
}

// Does the last columns, which do not fill a vector.
void map_rest(const Linear& a, int first, int end) {
  for (int column = a.width / LANES * LANES; column < a.width; column++)
    for (int row = first; row < end; row++) {
      float* const to = a.out + row * a.out_stride + column;
      float value = dot(a.x + row * a.x_stride, a.weight + ptrdiff_t(column) * a.depth, a.depth);
      if (a.accumulate) value += *to;
      value = activated(a, a.bias ? value + a.bias[column] : value);
      *to = a.residual ? a.residual[ptrdiff_t(row) * a.width + column] + value : value;
    }
}

}  // namespace

void linear(const Linear& a) {
  const int panels = a.width / LANES;
  const int strips = (panels + COLUMNS - 1) / COLUMNS + (a.width % LANES != 0);
  const int threads = double(a.rows) * a.depth * a.width < SMALL ? 1 : a.threads;
  int block = BLOCK;
  while (block > 2 * ROWS && (a.rows + block - 1) / block * strips < 4 * threads) block /= 2;
  const int tasks = (a.rows + block - 1) / block * strips;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int task = 0; task < tasks; task++) {
    const int first = task / strips * block, panel = task % strips * COLUMNS;
    const int end = first + block < a.rows ? first + block : a.rows;
    if (panel < panels)
      map_panels(a, first, end, panel, panels - panel < COLUMNS ? panels - panel : COLUMNS);
    else
      map_rest(a, first, end);
  }
}

}  // namespace ISA
