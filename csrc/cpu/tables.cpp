#include "tables.h"

#include "parallel.h"
#include "vectors.h"

namespace ISA {

void change_table(const TableChange& a) {
  const ptrdiff_t size = ptrdiff_t(a.width) * LANES, stride = ptrdiff_t(a.panels) * LANES;
  parallel_for(a.heads * a.panels, a.threads, [&, size, stride](int task) {
    const int head = task / a.panels, panel = task % a.panels;
    const float* const table = a.table + head * a.head_stride + panel * size;
    const float* const inner = a.inner + ptrdiff_t(panel) * LANES;
    float* const out = a.out + task * size;
    for (int row = 0; row < a.width; row++) {
      const float* const b = a.b + (ptrdiff_t(head) * a.width + row) * a.rank;
      Vector sum = load(table + ptrdiff_t(row) * LANES);
      for (int r = 0; r < a.rank; r++) sum += splat(b[r]) * load(inner + r * stride);
      store(out + ptrdiff_t(row) * LANES, sum);
    }
  });
}

}  // namespace ISA
