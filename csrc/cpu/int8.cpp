// int8: a row's inputs are rounded to steps of the range that they and 0 fill. Sums are exact on every
// processor.
//
// VNNI's dpbusd multiplies four unsigned bytes by four signed ones in every lane and adds the products up. So
// inputs are kept with the zero of their row added, and sums do not start at 0 but at minus that zero times the
// sum of the output's weights, which takes the difference away again. Without VNNI, maddubs adds two
// neighbouring products up to an int16, and madd two of these to an int32. There neighbouring weights are at
// most 128 together, and an input at most 255, so that no int16 saturates. An int32 holds the sums of 2^16
// inputs.
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "rounded_kernel.h"

namespace ISA {
namespace {

typedef int16_t Halves __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
constexpr bool ADDS_PAIRS = false;
#else
constexpr bool ADDS_PAIRS = true;  // Two neighbouring products are added up in 16 bits.
#endif

struct Int8 {
  typedef Integers Sum;
  static constexpr int PER_WORD = 4;
  static constexpr float STEPS = 254;  // The ends of a row's range are rounded apart: 255 could become 256.

  int depth, words;
  const float* scales;
  const int32_t* sums;
  const int8_t* weights;

  explicit Int8(const RoundedLinear& a)
      : depth(a.depth),
        words((a.depth + PER_WORD - 1) / PER_WORD),
        scales(reinterpret_cast<const float*>(a.weight)),
        sums(reinterpret_cast<const int32_t*>(scales + a.width)),
        weights(reinterpret_cast<const int8_t*>(sums + a.width)) {}

  const int8_t* of(int output) const { return weights + ptrdiff_t(output) * words * PER_WORD; }

  const Words* panel(int output) const { return reinterpret_cast<const Words*>(of(output)); }

  static Integers add(Integers sums, Integers inputs, Integers weights) {
#if defined(__AVX512VNNI__)
    return (Integers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)inputs, (__m512i)weights);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
    return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)inputs, (__m256i)weights);
#elif defined(__AVX512BW__)
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)inputs, (__m512i)weights);
    return sums + (Integers)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)inputs, (__m256i)weights);
    return sums + (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else  // what these do
    const Halves even = ((Halves)inputs & 255) * ((Halves)weights << 8 >> 8);
    const Halves odd = ((Halves)inputs >> 8 & 255) * ((Halves)weights >> 8);
    const Integers pairs = (Integers)(even + odd);
    return sums + (pairs << 16 >> 16) + (pairs >> 16);
#endif
  }

#ifdef WITH_TILES
  template <int SUMS, int INPUTS, int WEIGHTS>
  static void add_tiles() {
    add_tiles_of_bytes<SUMS, INPUTS, WEIGHTS>();
  }
#endif

  static RoundedRange round(const float* row, int count, float factor, uint8_t* to) {
    Vector above{}, below{};  // the largest values of both signs
    for (int d = 0; d < count; d += LANES) {
      const Vector value = load(row + d);
      above = (above > value) | (above != above) ? above : value;  // It is NaN if one of them is.
      below = larger(-value, below);
    }
    const float lowest = largest_of(below);
    float step = largest_of(above) / STEPS + lowest / STEPS;
    if (step < TINY) step = TINY;            // as it is in a row of zeros
    constexpr float ROUNDING = 12582912.0f;  // It is 1.5 * 2^23: the sum has no bits for fractions.
    constexpr int32_t BITS = 0x4B400000;     // These are its bits.
    const float inverse = 1 / step;
    const auto rounded = [inverse](Vector values) { return (Integers)(values * inverse + ROUNDING) - BITS; };
    const int32_t zero = rounded(splat(lowest))[0] & 255;  // Rows with NaN or infinity may have any.
    for (int d = 0; d < count; d += LANES) store_values<uint8_t>(to + d, rounded(load(row + d)) + zero);
    return {step * factor, zero};
  }

  Integers first(int output, int32_t zero) const {
    return *reinterpret_cast<const Words*>(sums + output) * -zero;
  }

  Vector scaled(Integers found, int output, float step) const {
    return __builtin_convertvector(found, Vector) * step * load(scales + output);
  }

  float alone(const uint8_t* values, RoundedRange range, int output) const {
    int32_t sum = 0;
    for (int d = 0; d < depth; d++) sum += (values[d] - range.zero) * of(output)[d];
    return float(sum) * range.step * scales[output];
  }
};

}  // namespace

void linear_int8(const RoundedLinear& a) { RoundedMap<Int8>(a).run(); }

extern const bool adds_pairs = ADDS_PAIRS;

}  // namespace ISA
