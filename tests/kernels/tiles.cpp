// The functions of the set "amx", compiled for emulated tiles, as a library that needs no processor with AMX.
#include "tiles.h"

#include "rounded_linear.h"

namespace amx {
void linear_int8(const RoundedLinear&);
void linear_bfloat16(const RoundedLinear&);
extern const bool adds_pairs;
}  // namespace amx

extern "C" {
extern const int size_of_arguments = sizeof(RoundedLinear);
bool adds_pairs() { return amx::adds_pairs; }
bool has_tiles() {  // whether the calling thread still has some
  for (const amx::EmulatedTile& tile : amx::emulated_tiles)
    if (tile.rows) return true;
  return false;
}
void linear_int8(const RoundedLinear* a) { amx::linear_int8(*a); }
void linear_bfloat16(const RoundedLinear* a) { amx::linear_bfloat16(*a); }
}
