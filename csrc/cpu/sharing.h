// A task of attention takes several parts of the work, which read the same keys and values: these are laid out
// once for all of them.
#pragma once

#include "attention.h"

namespace ISA {

// Tells whether the rows of a tile follow those of the one before it, and their keys begin with the same one.
inline bool continues(const int32_t* tiles, int tile) {
  const int32_t* const t = tiles + 4 * tile;
  return tile > 0 && t[0] == t[-3] && t[2] == t[-2];
}

// Says how many heads take their keys together, and how many tiles that follow each other.
struct Sharing {
  // So many parts at most take their keys together: each adds to what they keep.
  static constexpr int MOST = 4;

  const int32_t* tiles;
  int count, heads, together;

  bool begins(int tile) const { return tile % together == 0 || !continues(tiles, tile); }

  int end(int tile) const {
    while (++tile < count && !begins(tile)) continue;
    return tile;
  }

  // Tells whether every thread has some tasks.
  bool suits(const Attention& a) const {
    int groups = 0;
    for (int tile = 0; tile < count; tile++) groups += begins(tile);
    return groups * (a.heads / heads) >= 4 * a.threads;
  }

  explicit Sharing(const Attention& a)
      : tiles(a.tiles + 4), count(a.tiles[0]), heads(a.group < MOST ? a.group : MOST), together(1) {
    while (a.group % heads || (heads > 1 && !suits(a))) heads--;
    if (a.window < 0) together = MOST / heads;  // The steps of a window begin where it does.
    while (together > 1 && !suits(a)) together--;
  }
};

}  // namespace ISA
