#include "packed_map.h"

#include "instruction_sets.h"

namespace {

constexpr int PADDING = 16;  // Rounded values of a row end where a vector of any set may.

size_t range_floats(int rows) { return size_t(rows) * sizeof(RoundedRange) / sizeof(float); }

}  // namespace

size_t PackedMap::scratch(int rows) const {
  if (rounding != NONE)
    return range_floats(rows) + size_t(rows) * (depth / (rounding == INT8 ? 4 : 2) + PADDING);
  return norm == RoundedLinear::NONE ? 0 : size_t(rows) * depth;
}

void PackedMap::run(const InstructionSet& set, const float* x, int rows, const float* residual, float* out,
                    float* memory, int threads) const {
  if (rounding != NONE) {
    RoundedLinear a;
    a.x = x, a.x_stride = depth, a.weight = static_cast<const uint8_t*>(weight);
    a.bias = bias, a.residual = residual, a.out = out;
    a.ranges = reinterpret_cast<RoundedRange*>(memory);
    a.values = reinterpret_cast<uint8_t*>(memory + range_floats(rows));
    a.rows = rows, a.depth = depth, a.width = gated ? 2 * width : width, a.threads = threads;
    a.norm = norm, a.eps = eps, a.activation = activation, a.gated = gated;
    return rounding == INT8 ? set.linear_int8(a) : set.linear_bfloat16(a);
  }
  if (norm != RoundedLinear::NONE) {
    Norm a;
    a.tables[0] = x, a.out = memory;
    a.rows = rows, a.width = depth, a.eps = eps, a.rms = norm == RoundedLinear::RMS, a.threads = threads;
    set.norm(a);
    x = memory;
  }
  Linear a;
  a.x = x, a.x_stride = depth, a.weight = static_cast<const float*>(weight), a.bias = bias;
  a.residual = residual, a.out = out, a.out_stride = width;
  a.rows = rows, a.depth = depth, a.width = width, a.threads = threads;
  a.activation = activation, a.gated = gated;
  set.linear(a);
}
