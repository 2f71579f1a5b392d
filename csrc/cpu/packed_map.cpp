#include "packed_map.h"

#include "instruction_sets.h"

namespace {

constexpr int PADDING = 64 / 4;  // Rounded values of a row end where a vector of any set may.

size_t range_floats(int rows) { return size_t(rows) * sizeof(Int8Range) / sizeof(float); }

}  // namespace

size_t PackedMap::scratch(int rows) const {
  if (int8) return range_floats(rows) + size_t(rows) * (depth / 4 + PADDING);
  return norm == Int8Linear::NONE ? 0 : size_t(rows) * depth;
}

void PackedMap::run(const InstructionSet& set, const float* x, int rows, const float* residual, float* out,
                    float* memory, int threads) const {
  if (int8) {
    Int8Linear a;
    a.x = x, a.x_stride = depth, a.weight = static_cast<const uint8_t*>(weight);
    a.bias = bias, a.residual = residual, a.out = out;
    a.ranges = reinterpret_cast<Int8Range*>(memory);
    a.values = reinterpret_cast<uint8_t*>(memory + range_floats(rows));
    a.rows = rows, a.depth = depth, a.width = gated ? 2 * width : width, a.threads = threads;
    a.norm = norm, a.eps = eps, a.activation = activation, a.gated = gated;
    return set.linear_int8(a);
  }
  if (norm != Int8Linear::NONE) {
    Norm a;
    a.tables[0] = x, a.out = memory;
    a.rows = rows, a.width = depth, a.eps = eps, a.rms = norm == Int8Linear::RMS, a.threads = threads;
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
