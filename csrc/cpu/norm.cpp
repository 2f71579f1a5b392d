// A row is summed up where its norm goes to, and stays in the first cache until it is done. Its values depend
// on nothing but that row.
#include "norm.h"

#include "parallel.h"
#include "vectors.h"

namespace ISA {
namespace {

// Returns the sum of f(x) over a row; `f` takes a Vector.
template <typename F>
inline float total(const float* x, int width, F f) {
  constexpr int CHAINS = 4;
  Vector sums[CHAINS] = {};
  int n = 0;
  for (; n + CHAINS * LANES <= width; n += CHAINS * LANES)
    for (int chain = 0; chain < CHAINS; chain++) sums[chain] += f(load(x + n + chain * LANES));
  for (; n + LANES <= width; n += LANES) sums[0] += f(load(x + n));
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; n < width; n++) sum += f(splat(x[n]))[0];
  return sum;
}

void add_up(const Norm& a, int row, float* out) {
  for (int source = 0; source < Norm::SOURCES && a.tables[source]; source++) {
    const int32_t* const places = a.places[source];
    const float* const x = a.tables[source] + ptrdiff_t(places ? places[row] : row) * a.width;
    for (int n = 0; n < a.width; n++) out[n] = source ? out[n] + x[n] : x[n];
  }
}

void normalise(const Norm& a, int row) {
  float* const out = a.out + ptrdiff_t(row) * a.width;
  add_up(a, row, out);
  const float mean = a.rms ? 0 : total(out, a.width, [](Vector x) { return x; }) / a.width;
  const float square = total(out, a.width, [mean](Vector x) { return (x - mean) * (x - mean); }) / a.width;
  const float factor = 1 / __builtin_sqrtf(square + a.eps);
  for (int n = 0; n < a.width; n++) {
    float value = (out[n] - mean) * factor;
    if (a.weight) value *= a.weight[n];
    out[n] = a.bias ? value + a.bias[n] : value;
  }
}

// Turns the two halves of a head by the angles of its row.
void turn(const HeadNorm& a, int row, int head) {
  const int half = a.width / 2;
  const float* const x = a.x + row * a.stride + head * a.width;
  const float* const weight = a.weight + head * a.width;
  const float* const cosines = a.cosines + ptrdiff_t(row) * half;
  const float* const sines = a.sines + ptrdiff_t(row) * half;
  float* const out = a.out + (ptrdiff_t(row) * a.heads + head) * a.width;
  const float square = total(x, a.width, [](Vector x) { return x * x; }) / a.width;
  const float factor = 1 / __builtin_sqrtf(square + a.eps);
  int n = 0;
  for (; n + LANES <= half; n += LANES) {
    const Vector first = load(x + n) * factor * load(weight + n);
    const Vector second = load(x + half + n) * factor * load(weight + half + n);
    const Vector cosine = load(cosines + n), sine = load(sines + n);
    store(out + n, first * cosine - second * sine);
    store(out + half + n, second * cosine + first * sine);
  }
  for (; n < half; n++) {
    const float first = x[n] * factor * weight[n], second = x[half + n] * factor * weight[half + n];
    out[n] = first * cosines[n] - second * sines[n];
    out[half + n] = second * cosines[n] + first * sines[n];
  }
}

}  // namespace

void norm(const Norm& a) {
  for_rows(a.rows, a.width, a.threads, [&a](int row) { normalise(a, row); });
}

void head_norm(const HeadNorm& a) {
  for_rows(a.rows, a.heads * a.width, a.threads, [&a](int row) {
    for (int head = 0; head < a.heads; head++) turn(a, row, head);
  });
}

}  // namespace ISA
