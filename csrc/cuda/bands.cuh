// A band is the product of 16 rows, of queries or of keys, with consecutive rows of a distance table. It is
// computed on tensor cores, 16 table rows (a unit) at a time. Row r of the band holds the same distances as row
// r - 1, one place further on; what is here takes that skew away without gathering anything.
//
// Results are pairs of float16 of an accumulator's layout: lane `group * 4 + within` holds rows `group` and
// `group + 8` (its sides), columns 2 * `within` and the next, of every 8 columns. A row so lies in the four
// lanes of a group, and values change places between these alone.
#pragma once

#include "layout.cuh"

namespace disentangled {

// Bands are kept in float16, at a sixteenth of their size: q . table may exceed float16's range.
constexpr float STAGED = 1.0f / 16;

// acc[0] and acc[2] = rows `group` and `group + 8` of a [16, 64] times a table row that is there eight times.
template <bool BF16>
DEVICE void product_of(float (&acc)[4], const uint32_t (&a)[4][4], const uint16_t* table,
                       const Quarters& b_at) {
  for (int e = 0; e < 4; e++) acc[e] = 0;
  for (int k = 0; k < 4; k++) {
    uint32_t b[4];
    load_matrices(b, table + b_at[k]);
    multiply<BF16>(acc, a[k], b[0], b[1]);
  }
}

// A unit of the bands of COUNT tiles a of [16, 64]: tile m takes the unit that tile m - 1 took before, so that
// units are loaded once for all. `wanted` says which tiles take this one.
template <bool BF16, int COUNT, class Wanted>
DEVICE void multiply_unit(uint32_t (&pairs)[COUNT][2][2], const uint32_t (&a)[COUNT][4][4],
                          const uint16_t* unit, const Quarters& b_at, Wanted wanted) {
  float acc[COUNT][2][4] = {};
  for (int k = 0; k < 4; k++) {
    uint32_t b[4];
    load_matrices(b, unit + b_at[k]);
#pragma unroll
    for (int m = 0; m < COUNT; m++)
      if (wanted(m)) {
        multiply<BF16>(acc[m][0], a[m][k], b[0], b[1]);
        multiply<BF16>(acc[m][1], a[m][k], b[2], b[3]);
      }
  }
#pragma unroll
  for (int m = 0; m < COUNT; m++)
    for (int x = 0; x < 2; x++)
      for (int side = 0; side < 2; side++)
        pairs[m][x][side] = pack_half(acc[m][x][2 * side] * STAGED, acc[m][x][2 * side + 1] * STAGED);
}

struct Quad {  // It names a lane among the four that hold a row.
  int group, within;

  // Returns columns of which the first is u = 7 - 2 * within + group, and the one before it: row `group` of a
  // band, read backwards from u = 7 + group on. `tile` holds u < 8, `next` the eight columns after them.
  DEVICE uint32_t backwards(uint32_t tile, uint32_t next) const {
    const int turn = group / 2, first = 3 - within + turn;  // in pairs
    const uint32_t low = taken_from(within < turn ? next : tile, first % 4);
    const uint32_t high = taken_from(within < turn + 1 ? next : tile, (first + 1) % 4);
    return bytes_of(low, high, group % 2 ? 0x3254 : 0x1032);
  }

  // Returns columns u = 2 * within and the next for an odd row, and those one further on for an even row.
  DEVICE uint32_t forwards(uint32_t tile, uint32_t next) const {
    const uint32_t further = taken_from(within == 0 ? next : tile, (within + 1) % 4);
    return bytes_of(tile, further, group % 2 ? 0x3210 : 0x5432);
  }
};

// Computes q_r . table[r - c + KEYS - 1] for TILES times 16 queries r of a warp and KEYS keys c of a step:
// by_query[m][n] holds columns 8 * n + 2 * within and the next. `unit_at(t)` gives the table's unit t.
template <bool BF16, int TILES, int KEYS, class UnitAt>
DEVICE void multiply_queries(uint32_t (&by_query)[TILES][KEYS / 8][2], const uint32_t (&q)[TILES][4][4],
                             UnitAt unit_at, const Quarters& b_at, Quad quad) {
  constexpr int UNITS = KEYS / 16 + 1;  // A tile of 16 queries takes so many.
  uint32_t before[TILES][2] = {};
#pragma unroll
  for (int t = 0; t < UNITS + TILES - 1; t++) {
    uint32_t pairs[TILES][2][2];
    const auto wanted = [t](int m) { return m <= t && t - m < UNITS; };
    multiply_unit<BF16>(pairs, q, unit_at(t), b_at, wanted);
#pragma unroll
    for (int m = 0; m < TILES; m++) {
      if (!wanted(m)) continue;
#pragma unroll
      for (int side = 0; side < 2; side++) {
        // Rows of the second side stand eight columns further on. Columns of keys go down as those of u go up.
        const int n = KEYS / 8 - 2 * (t - m) + side;
        if (n < KEYS / 8) by_query[m][n][side] = quad.backwards(before[m][side], pairs[m][0][side]);
        if (0 < n && n <= KEYS / 8)
          by_query[m][n - 1][side] = quad.backwards(pairs[m][0][side], pairs[m][1][side]);
        before[m][side] = pairs[m][1][side];
      }
    }
  }
}

// Writes k_c . table[u] for 16 keys c of a warp and u < 16 * UNITS to row c, column u + c - 15 of a staged
// band.
template <bool BF16, int UNITS, int STRIDE, class UnitAt>
DEVICE void multiply_keys(uint16_t* band, const uint32_t (&k)[1][4][4], UnitAt unit_at, const Quarters& b_at,
                          Quad quad) {
  const int row = quad.group, first = 2 * quad.within + (row % 2 ? 0 : 1);
  band += row * STRIDE + first + row - 15;
  const auto store = [&](int tile, int side, uint32_t pair, uint32_t next) {
    *reinterpret_cast<uint32_t*>(band + 8 * tile + side * 8 * (STRIDE + 1)) = quad.forwards(pair, next);
  };
  uint32_t before[2] = {};
  for (int t = 0; t < UNITS; t++) {
    uint32_t pairs[1][2][2];
    multiply_unit<BF16>(pairs, k, unit_at(t), b_at, [](int) { return true; });
    for (int side = 0; side < 2; side++) {
      if (t) store(2 * t - 1, side, before[side], pairs[0][0][side]);
      store(2 * t, side, pairs[0][0][side], pairs[0][1][side]);
      before[side] = pairs[0][1][side];
    }
  }
  // The last value of all belongs to the margin, so it may be any.
  for (int side = 0; side < 2; side++) store(2 * UNITS - 1, side, before[side], before[side]);
}

}  // namespace disentangled
