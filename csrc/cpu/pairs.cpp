#include "pairs.h"

#include <cstddef>

#include "activation.h"
#include "dot.h"
#include "parallel.h"

namespace ISA {

void pair_add(const Pairs& a) {
  for_rows(a.rows, a.width, a.threads, [&a](int row) {
    const float* const text = a.text + ptrdiff_t(a.owner[row]) * a.width;
    const float* const label = a.labels + ptrdiff_t(row) * a.width;
    float* const out = a.out + ptrdiff_t(row) * a.width;
    int n = 0;
    for (; n + LANES <= a.width; n += LANES)
      store(out + n, activated(a.activation, load(text + n) + load(label + n)));
    for (; n < a.width; n++) out[n] = activated(a.activation, text[n] + label[n]);
  });
}

void pair_dot(const Pairs& a) {
  for_rows(a.rows, a.width, a.threads, [&a](int row) {
    const float* const text = a.text + ptrdiff_t(a.owner[row]) * a.width;
    a.out[row] = dot(text, a.labels + ptrdiff_t(row) * a.width, a.width);
  });
}

}  // namespace ISA
