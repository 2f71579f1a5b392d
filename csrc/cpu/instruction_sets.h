// The kernels are compiled once per instruction set, of which a caller chooses one by its number.
#pragma once

#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "pairs.h"
#include "rounded_linear.h"
#include "tables.h"

struct InstructionSet {
  const char* name;
  int lanes;  // A vector, and a row of a panel, has so many floats.
  bool (*runs_here)();
  void (*attend)(const Attention&);
  void (*linear)(const Linear&);
  void (*norm)(const Norm&);
  void (*head_norm)(const HeadNorm&);
  void (*pair_add)(const Pairs&);
  void (*pair_dot)(const Pairs&);
  void (*change_table)(const TableChange&);
  void (*linear_int8)(const RoundedLinear&);
  bool int8_adds_pairs;  // It adds two neighbouring products up in 16 bits.
  void (*linear_bfloat16)(const RoundedLinear&);
  bool multiplies_bfloat16;  // It has instructions for that.
};

extern const InstructionSet INSTRUCTION_SETS[];  // The fastest comes first.
extern const int INSTRUCTION_SET_COUNT;
