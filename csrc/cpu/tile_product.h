// The sums of products of rounded numbers in tiles, of any `Kind` that has what rounded_product.h asks for, and
//
//   Kind::add_tiles<sums, inputs, weights>() adds to a tile of sums the products of a tile of each
#pragma once

#include "rounded_product.h"
#include "tiles.h"

namespace ISA {

// A block has two tiles of rows and two panels: its sums are four tiles, and two of inputs and two of weights
// fill the others.
template <class Kind>
class TileProduct {
  typedef VectorProduct<Kind, 2> Rest;  // It multiplies the words that fill no tile.

 public:
  static constexpr int ROWS = 2 * TILE_ROWS, COLUMNS = Rest::COLUMNS;
  typedef typename Rest::Sums Sums;

  static_assert(sizeof(Words) == TILE_BYTES, "a row of a tile is a line of a panel");

  TileProduct() = default;
  TileProduct(const TileProduct&) = delete;
  ~TileProduct() { release_tiles(); }

  // sums [rows, count] += inputs [rows, words] times `count` panels
  void multiply(int rows, int count, const Operands& of, Sums* sums) {
    shape(rows);
    if (rows > TILE_ROWS)
      count > 1 ? multiply_tiles<true, true>(of, sums) : multiply_tiles<true, false>(of, sums);
    else
      count > 1 ? multiply_tiles<false, true>(of, sums) : multiply_tiles<false, false>(of, sums);
    const int whole = of.words / TILE_ROWS * TILE_ROWS;
    if (whole == of.words) return;
    const Words* const panels[] = {of.panels[0] + whole, of.panels[count - 1] + whole};
    for (int row = 0; row < rows; row += Rest::ROWS) {
      const uint8_t* const inputs = of.inputs + row * of.stride + whole * sizeof(int32_t);
      Rest::multiply(rows - row < Rest::ROWS ? rows - row : Rest::ROWS, count,
                     {inputs, of.stride, panels, of.words - whole, of.ahead + whole}, sums + row);
    }
  }

 private:
  int shaped = 0;  // Tiles have shapes for so many rows.

  void shape(int rows) {
    if (rows == shaped) return;
    const int above = rows < TILE_ROWS ? rows : TILE_ROWS, below = rows - above;
    use_tiles(TileShapes({above, above, below, below, above, below, TILE_ROWS, TILE_ROWS}));
    shaped = rows;
  }

  // Tiles 0 to 3 are the sums, 4 and 5 inputs and 6 and 7 weights. BELOW: there are rows beyond the first
  // tile's. BESIDE: there is a second panel.
  template <bool BELOW, bool BESIDE>
  static void multiply_tiles(const Operands& of, Sums* sums) {
    Sums* const below = sums + TILE_ROWS;
    load_tile<0>(&sums[0][0], sizeof(Sums));
    if constexpr (BESIDE) load_tile<1>(&sums[0][1], sizeof(Sums));
    if constexpr (BELOW) load_tile<2>(&below[0][0], sizeof(Sums));
    if constexpr (BELOW && BESIDE) load_tile<3>(&below[0][1], sizeof(Sums));
    for (int word = 0; word + TILE_ROWS <= of.words; word += TILE_ROWS) {
      for (int line = 0; line < TILE_ROWS; line++) fetch_line(of.ahead + word + line);
      const uint8_t* const inputs = of.inputs + word * sizeof(int32_t);
      load_tile<6>(of.panels[0] + word, TILE_BYTES);
      load_tile<4>(inputs, of.stride);
      Kind::template add_tiles<0, 4, 6>();
      if constexpr (BESIDE) {
        load_tile<7>(of.panels[1] + word, TILE_BYTES);
        Kind::template add_tiles<1, 4, 7>();
      }
      if constexpr (BELOW) {
        load_tile<5>(inputs + TILE_ROWS * of.stride, of.stride);
        Kind::template add_tiles<2, 5, 6>();
        if constexpr (BESIDE) Kind::template add_tiles<3, 5, 7>();
      }
    }
    store_tile<0>(&sums[0][0], sizeof(Sums));
    if constexpr (BESIDE) store_tile<1>(&sums[0][1], sizeof(Sums));
    if constexpr (BELOW) store_tile<2>(&below[0][0], sizeof(Sums));
    if constexpr (BELOW && BESIDE) store_tile<3>(&below[0][1], sizeof(Sums));
  }
};

}  // namespace ISA
