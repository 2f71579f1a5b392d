// The position terms of disentangled attention are products with tables whose columns belong to distances
// (lane's place) - (row's place):
//
//   q_i . key_table[j - i]    rows i, lanes j
//   k_j . query_table[i - j]  rows j, lanes i
//
// Far distances share their columns. ROWS neighbouring rows see few more distances than there are lanes, and
// these have neighbouring columns. They are multiplied once, each column with all of the rows, and then every
// row picks what its lanes need: LANES neighbouring distances have at most as many columns, so that this is a
// permutation of one vector.
#pragma once

#include "attention.h"
#include "product.h"

namespace ISA {

// The table of one head, of words of Factor.
template <class Factor>
class Distances {
 public:
  Distances(const DistanceTable& table, int head, int depth)
      : panels{table.panels + size_t(head) * table.count * depth * LANES, depth, table.count},
        column_of(table.column_of + LANES + table.reach),
        reach(table.reach) {}

  // Multiplies x [rows, panels.depth], at places from `row` on in their sequence, for `lanes` <= MOST_LANES
  // places from `lane` on. Rows go on to a multiple of ROWS, and lanes to one of LANES.
  template <int MOST_LANES>
  void multiply_band(const float* x, ptrdiff_t x_stride, int rows, int row, int lane, int lanes, float* out,
                     ptrdiff_t out_stride) const {
    constexpr int BAND = round_up(MOST_LANES + ROWS, LANES) + 2 * LANES;  // columns, and LANES behind the last
    float products[ROWS * BAND];
    for (int r = 0; r < rows; r += ROWS) {
      const int nearest = lane - (row + r + ROWS - 1), farthest = lane + round_up(lanes, LANES) - 1 - (row + r);
      const int from = *columns(nearest) / LANES, end = *columns(farthest) / LANES + 1;
      fetch(panels.at(from - 1) + r % LANES * panels.depth);  // Later rows need that panel.
      multiply<Factor>(x + r * x_stride, x_stride, panels, panels.depth, from, end - from, products, BAND,
                       false);
      const float* const first = products + *columns(nearest) - from * LANES;
      const bool all_differ = *columns(farthest) - *columns(nearest) == farthest - nearest;
      for (int n = 0; n < ROWS; n++)
        for (int done = 0; done < lanes; done += LANES) {
          const int distance = lane + done - (row + r + n);
          store(out + (r + n) * out_stride + done, all_differ ? load(first + n * BAND + distance - nearest)
                                                              : pick(products + n * BAND, from, distance));
        }
    }
  }

 private:
  // Returns the products of LANES distances from one on, of a row whose products begin with those of a panel.
  Vector pick(const float* products, int panel, int distance) const {
    const int32_t* const wanted = columns(distance);
    return __builtin_shuffle(load(products + *wanted - panel * LANES), load(wanted) - *wanted);
  }

  const Panels panels;
  const int32_t* const column_of;  // Its index is a distance.
  const int reach;

  // Returns where the columns of LANES distances from one on are.
  const int32_t* columns(int distance) const {
    return column_of + (distance < -reach - LANES ? -reach - LANES : distance > reach ? reach : distance);
  }

  void fetch(const float* panel) const {
    for (int n = 0; n < ROWS * panels.depth; n += 64 / sizeof(float)) __builtin_prefetch(panel + n);
  }
};

}  // namespace ISA
