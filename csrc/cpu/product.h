// Attention and linear maps are made of this one matrix product.
#pragma once

#include "ahead.h"
#include "factors.h"

namespace ISA {

// A block of the product has as many rows as leave its sums in registers beside COLUMNS vectors of panels.
constexpr int ROWS = LANES == 16 ? 8 : 4;
constexpr int COLUMNS = 3;

// A matrix [depth, columns] lies in panels of LANES columns each, [depth, LANES]. Beyond its ends it goes on
// with its first and its last panel.
struct Panels {
  const float* data;
  int depth;
  int count;

  const float* at(int panel) const {
    const int inside = panel < 0 ? 0 : panel < count ? panel : count - 1;
    return data + size_t(inside) * depth * LANES;
  }
};

// out [HEIGHT, COUNT * LANES] = or += a [HEIGHT, depth] times COUNT panels. `depth` counts words of Factor.
template <int HEIGHT, int COUNT, class Factor = Float32>
inline void multiply_block(const float* a, ptrdiff_t a_stride, const float* const* panels, int depth,
                           float* out, ptrdiff_t out_stride, bool add, Ahead ahead) {
  Vector sums[HEIGHT][COUNT] = {};
  for (int d = 0; d < depth; d++) {
    ahead.ask(d);
    Vector b[COUNT];
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) b[n] = load(panels[n] + d * LANES);
#pragma GCC unroll 8
    for (int row = 0; row < HEIGHT; row++) {
      const Vector value = Factor::spread(a + row * a_stride + d);
#pragma GCC unroll 8
      for (int n = 0; n < COUNT; n++) sums[row][n] = Factor::add(sums[row][n], value, b[n]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < HEIGHT; row++)
#pragma GCC unroll 8
    for (int n = 0; n < COUNT; n++) {
      float* const to = out + row * out_stride + n * LANES;
      store(to, add ? load(to) + sums[row][n] : sums[row][n]);
    }
}

// out [ROWS, count * LANES] = or += a [ROWS, depth] times the panels first .. first + count - 1
template <class Factor>
inline void multiply(const float* a, ptrdiff_t a_stride, const Panels& b, int depth, int first, int count,
                     float* out, ptrdiff_t out_stride, bool add) {
  for (int done = 0; done < count;) {
    const int left = count - done;
    const int now = left == 4 ? 2 : left < COLUMNS ? left : COLUMNS;  // 2 + 2 is faster than 3 + 1.
    const float* panels[COLUMNS];
    for (int n = 0; n < now; n++) panels[n] = b.at(first + done + n);
    float* const to = out + done * LANES;
    if (now == 3)
      multiply_block<ROWS, 3, Factor>(a, a_stride, panels, depth, to, out_stride, add, {panels[0]});
    else if (now == 2)
      multiply_block<ROWS, 2, Factor>(a, a_stride, panels, depth, to, out_stride, add, {panels[0]});
    else
      multiply_block<ROWS, 1, Factor>(a, a_stride, panels, depth, to, out_stride, add, {panels[0]});
    done += now;
  }
}

}  // namespace ISA
