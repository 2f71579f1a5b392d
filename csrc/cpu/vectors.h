// Vectors of floats are as wide as the instruction set has them. Files that include this are compiled once per
// instruction set (ISA), each into a namespace of its own, and use nothing of the standard library that the
// linker could take from another set's build.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace ISA {

#if defined(__AVX512F__) || defined(WITH_TILES)  // A row of a tile is a vector.
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

constexpr float TINY = 1.17549435e-38f;  // It is the smallest that has all its bits.

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef Vector Anywhere __attribute__((aligned(4), may_alias));  // It lies in memory, at any address.

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
inline Integers load(const int32_t* from) {
  typedef Integers AnywhereIntegers __attribute__((aligned(4), may_alias));
  return *reinterpret_cast<const AnywhereIntegers*>(from);
}
inline void store(float* to, Vector values) { *reinterpret_cast<Anywhere*>(to) = values; }
inline Vector splat(float value) { return value - Vector{}; }  // It takes no instruction; value + 0 would.

// Returns the larger values, and those of b where one is NaN: with AVX-512, GCC makes two instructions of it.
inline Vector larger(Vector a, Vector b) {
#if defined(__AVX512F__)
  return (Vector)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

// Asks for a line of memory that will be read soon, while there is other work. A panel's step is a whole line
// with AVX-512 alone. There it makes models faster; with AVX2 it was tried and made them slower.
inline void fetch_line(const void* from) {
  if constexpr (LANES == 16) __builtin_prefetch(from, 0, 2);
}

inline constexpr int round_up(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

// 0, 1, 2 ... LANES - 1
inline Integers lane_numbers() {
  Integers numbers;
  for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
  return numbers;
}

// Combines all lanes: each round combines those that are half as far apart.
template <typename Combine>
inline float reduced(Vector values, Combine combine) {
#pragma GCC unroll 4
  for (int apart = LANES / 2; apart; apart /= 2)
    values = combine(values, __builtin_shuffle(values, lane_numbers() ^ apart));
  return values[0];
}

inline float sum_of(Vector values) {
  return reduced(values, [](Vector a, Vector b) { return a + b; });
}

// Returns the largest value of all lanes, or NaN if one of them is.
inline float largest_of(Vector values) {
  return reduced(values, [](Vector a, Vector b) { return (a > b) | (a != a) ? a : b; });
}

// Returns 2^x for x <= 0 or NaN, and 0 below -126.5: products of 2^-126 would lack bits, which takes some
// processors many times as long. The rest of x after its whole part is within +-1/2, where the polynomial has
// the smallest largest error of its degree, 2e-9 of 2^(rest); 2^0 is 1.
inline Vector power_of_two(Vector x) {
  constexpr float ROUNDING = 12582912.0f;  // It is 1.5 * 2^23: the sum has no bits for fractions.
  x = larger(splat(-127.0f), x);
  const Vector shifted = x + ROUNDING;
  const Vector rest = x - (shifted - ROUNDING);
  Vector power = splat(1.53494577e-4f);
  power = power * rest + 1.33987993e-3f;
  power = power * rest + 9.61845182e-3f;
  power = power * rest + 5.55033274e-2f;
  power = power * rest + 2.40226477e-1f;
  power = power * rest + 6.93147182e-1f;
  power = power * rest + 1.0f;
  constexpr int ONE = 127 << 23;  // These are the bits of 1.
  return power * (Vector)(((Integers)shifted << 23) + ONE);
}

// Returns a[0], b[0], a[1], b[1] ... from the first or the second halves of a and b.
inline Vector interleave(Vector a, Vector b, bool second) {
  Integers order;
  for (int lane = 0; lane < LANES; lane++) order[lane] = lane / 2 + (lane % 2) * LANES + second * (LANES / 2);
  return __builtin_shuffle(a, b, order);
}

// Turns the rows into columns: each of log2(LANES) rounds interleaves rows that are half the square apart.
inline void transpose(Vector (&square)[LANES]) {
  for (int round = 1; round < LANES; round *= 2) {
    Vector next[LANES];
    for (int row = 0; row < LANES / 2; row++) {
      next[2 * row] = interleave(square[row], square[row + LANES / 2], false);
      next[2 * row + 1] = interleave(square[row], square[row + LANES / 2], true);
    }
    for (int row = 0; row < LANES; row++) square[row] = next[row];
  }
}

}  // namespace ISA
