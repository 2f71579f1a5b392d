// Runs of rows, such as those with one adapter, are shared among threads in parts: one call serves all runs.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel.h"

namespace {

struct RowPart {
  int first, end;
  int run = 0;  // the number of the run that it is of
};

// Returns about `count` parts of runs that have so many rows together. A Run has `first` and `end`.
template <typename Run>
inline std::vector<RowPart> row_parts(const std::vector<Run>& runs, int rows, int count) {
  std::vector<RowPart> parts;
  for (size_t n = 0; n < runs.size(); n++) {
    const int first = runs[n].first, own = runs[n].end - first;
    const RowBlocks blocks(own, int((int64_t(own) * count + rows - 1) / rows));
    for (int block = 0; block < blocks.count; block++)
      parts.push_back({first + blocks.start(block), first + blocks.start(block + 1), int(n)});
  }
  return parts;
}

}  // namespace
