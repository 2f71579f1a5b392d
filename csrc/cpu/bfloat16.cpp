// bfloat16: inputs and weights keep the upper half of their bits, rounded to even; sums are float32. Processors
// with AVX512_BF16 multiply two pairs in every lane in one instruction. The others multiply the halves as the
// float32 that they begin, which takes float32's time, and more with AVX2.
#include "rounded_kernel.h"

namespace ISA {
namespace {

struct Bfloat16 {
  typedef Vector Sum;
  static constexpr int TOGETHER = 2;
  static constexpr int BITS = 16;  // of a number

  int depth, words;
  const int32_t* weights;

  explicit Bfloat16(const RoundedLinear& a)
      : depth(a.depth),
        words((a.depth + TOGETHER - 1) / TOGETHER),
        weights(reinterpret_cast<const int32_t*>(a.weight)) {}

  const int32_t* of(int output) const { return weights + ptrdiff_t(output) * words; }

  const Words* panel(int output) const { return reinterpret_cast<const Words*>(of(output)); }

  // Returns the first and the second numbers of words.
  static Vector even(Integers words) { return (Vector)(words << BITS); }
  static Vector odd(Integers words) { return (Vector)(words >> BITS << BITS); }

  static Vector add(Vector sums, Integers inputs, Integers weights) {
#if defined(__AVX512BF16__)
    return (Vector)_mm512_dpbf16_ps((__m512)sums, (__m512bh)inputs, (__m512bh)weights);
#else
    return sums + odd(inputs) * odd(weights) + even(inputs) * even(weights);
#endif
  }

  static RoundedRange round(const float* row, int count, float factor, uint8_t* to) {
    for (int d = 0; d < count; d += LANES) {
      const Vector value = load(row + d);
      const Integers bits = (Integers)value;
      const Integers rounded = bits + 0x7FFF + ((bits >> BITS) & 1);
      constexpr int32_t NOT_A_NUMBER = 0x7FC00000;  // To round it could make another number of it.
      store_values<uint16_t>(to + d * 2, (value == value ? rounded : NOT_A_NUMBER - Integers{}) >> BITS);
    }
    return {factor, 0};
  }

  Vector first(int, int32_t) const { return Vector{}; }

  Vector scaled(Vector sums, int, float step) const { return sums * step; }

  float alone(const uint8_t* values, RoundedRange range, int output) const {
    typedef uint16_t Half __attribute__((may_alias));
    const auto* const inputs = reinterpret_cast<const Half*>(values);
    const auto* const weights = reinterpret_cast<const Half*>(of(output));
    float sum = 0;
    for (int d = 0; d < depth; d++) sum += even(inputs[d] - Integers{})[0] * even(weights[d] - Integers{})[0];
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
