// What a product asks for while it multiplies: the panels that come next, so that they are near when they are
// due. Groups of rows ask for them evenly, each for a part of a panel: if they asked for all at once, memory
// would not follow, and the product would wait.
#pragma once

#include "vectors.h"

namespace ISA {

// Lines of a panel, which are as long as a vector, from one on.
struct Ahead {
  const void* from;
  int shift = 0;  // It asks for a line at 1 << shift steps, and then for the next one.

  void ask(int step) const {
    fetch_line(static_cast<const char*>(from) + size_t(step >> shift) * sizeof(Vector));
  }
};

// How groups share panels: 1 << shift groups ask for each.
struct Turns {
  int shift = 0;

  Turns(int panels, int groups) {
    while (panels << (shift + 1) <= groups) shift++;
  }

  // Returns the panel of a group; there is none of that number where the others ask for everything.
  int panel(int group) const { return group >> shift; }

  // Returns the first line of a group, of so many lines of its panel.
  int line(int group, int lines) const { return (group & ((1 << shift) - 1)) * (lines >> shift); }
};

}  // namespace ISA
