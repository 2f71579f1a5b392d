// Linear maps in bfloat16, whose sums are float32. Without AVX512_BF16 they take float32's time, and more with
// AVX2.
#include "bfloat16.h"

#include "rounded_kernel.h"

namespace ISA {
namespace {

struct Bfloat16 {
  typedef Vector Sum;
  static constexpr int PER_WORD = 2;

  int depth, words;
  const int32_t* weights;

  explicit Bfloat16(const RoundedLinear& a)
      : depth(a.depth),
        words((a.depth + PER_WORD - 1) / PER_WORD),
        weights(reinterpret_cast<const int32_t*>(a.weight)) {}

  const int32_t* of(int output) const { return weights + ptrdiff_t(output) * words; }

  const Words* panel(int output) const { return reinterpret_cast<const Words*>(of(output)); }

  static Vector add(Vector sums, Integers inputs, Integers weights) { return add_pairs(sums, inputs, weights); }

#ifdef WITH_TILES
  template <int SUMS, int INPUTS, int WEIGHTS>
  static void add_tiles() {
    add_tiles_of_bfloat16<SUMS, INPUTS, WEIGHTS>();
  }
#endif

  static RoundedRange round(const float* row, int count, float factor, uint8_t* to) {
    for (int d = 0; d < count; d += LANES)
      store_values<uint16_t>(to + d * 2, rounded_halves(load(row + d)) >> HALF);
    return {factor, 0};
  }

  Vector first(int, int32_t) const { return Vector{}; }

  Vector scaled(Vector sums, int, float step) const { return sums * step; }

  float alone(const uint8_t* values, RoundedRange range, int output) const {
    typedef uint16_t Half __attribute__((may_alias));
    const auto* const inputs = reinterpret_cast<const Half*>(values);
    const auto* const weights = reinterpret_cast<const Half*>(of(output));
    float sum = 0;
    for (int d = 0; d < depth; d++)
      sum += first_of(inputs[d] - Integers{})[0] * first_of(weights[d] - Integers{})[0];
    return sum * range.step;
  }
};

}  // namespace

void linear_bfloat16(const RoundedLinear& a) { RoundedMap<Bfloat16>(a).run(); }

#if defined(__AVX512BF16__)
extern const bool multiplies_bfloat16 = true;
#else
extern const bool multiplies_bfloat16 = false;
#endif

}  // namespace ISA
