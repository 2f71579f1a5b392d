#include "workspace.h"

#include <cstdlib>
#include <memory>
#include <new>

float* workspace(size_t floats, bool of_layer) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  struct Kept {
    std::unique_ptr<float, Free> memory;
    size_t size = 0;
  };
  static thread_local Kept all[2];
  Kept& kept = all[of_layer];
  if (floats > kept.size) {
    constexpr size_t LINE = 64;
    kept.size = 0;
    kept.memory.reset();
    kept.memory.reset(
        static_cast<float*>(std::aligned_alloc(LINE, (floats * sizeof(float) + LINE - 1) / LINE * LINE)));
    if (!kept.memory) throw std::bad_alloc();
    kept.size = floats;
  }
  return kept.memory.get();
}
