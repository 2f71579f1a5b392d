// What adapters add to the outputs of a linear map on a CPU: the contract stands in kernels/lora.py.
#pragma once

#include <cstddef>
#include <vector>

struct InstructionSet;

// Rows of one adapter. Matrices are packed as in linear.h.
struct AdaptedRows {
  // What it adds to some of the outputs.
  struct Piece {
    const float* b;  // [outputs, ranks]
    int output, outputs;
    int rank, ranks;  // Its ranks are so many of a, from this one on.
  };

  int first, end;
  const float* a;  // [rank, depth]
  int rank;
  int activation;  // as in linear.h, of the outputs of every piece
  std::vector<Piece> pieces;
};

struct LoraAdd {
  const float* x = nullptr;  // [rows, depth]
  float* y = nullptr;        // [rows, width], which is added to
  ptrdiff_t y_stride = 0;    // Its rows are so many values apart.
  int depth = 0, width = 0;
  int threads = 1;
};

void lora_add(const InstructionSet& set, const std::vector<AdaptedRows>& runs, const LoraAdd& given);
