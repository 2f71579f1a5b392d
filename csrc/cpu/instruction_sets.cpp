// This file lists what the kernels were compiled for, and holds the memory its threads work in. It is compiled
// for any processor. VNNI is for int8 alone: the other kernels have no build of their own for it.
#include "instruction_sets.h"

#include <cstdlib>
#include <memory>
#include <new>

#define DECLARE(name)                    \
  namespace name {                       \
  extern const int lanes;                \
  void attend(const Attention&);         \
  void linear(const Linear&);            \
  void norm(const Norm&);                \
  void head_norm(const HeadNorm&);       \
  void pair_add(const PairAdd&);         \
  void change_table(const TableChange&); \
  }                                      \
  DECLARE_INT8(name)
#define DECLARE_INT8(name)             \
  namespace name {                     \
  void linear_int8(const Int8Linear&); \
  extern const bool adds_pairs;        \
  }

DECLARE(portable)
#ifdef __x86_64__
DECLARE(avx2)
DECLARE_INT8(avxvnni)
DECLARE(avx512)
DECLARE_INT8(avx512vnni)

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#ifdef WITH_avxvnni
static bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
#endif
static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
static bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

const InstructionSet INSTRUCTION_SETS[] = {
#ifdef __x86_64__
    {"avx512vnni", avx512::lanes, has_avx512vnni, avx512::attend, avx512::linear, avx512::norm,
     avx512::head_norm, avx512::pair_add, avx512::change_table, avx512vnni::linear_int8,
     avx512vnni::adds_pairs},
    {"avx512", avx512::lanes, has_avx512, avx512::attend, avx512::linear, avx512::norm, avx512::head_norm,
     avx512::pair_add, avx512::change_table, avx512::linear_int8, avx512::adds_pairs},
#ifdef WITH_avxvnni
    {"avxvnni", avx2::lanes, has_avxvnni, avx2::attend, avx2::linear, avx2::norm, avx2::head_norm,
     avx2::pair_add, avx2::change_table, avxvnni::linear_int8, avxvnni::adds_pairs},
#endif
    {"avx2", avx2::lanes, has_avx2, avx2::attend, avx2::linear, avx2::norm, avx2::head_norm, avx2::pair_add,
     avx2::change_table, avx2::linear_int8, avx2::adds_pairs},
#endif
    {"portable", portable::lanes, [] { return true; }, portable::attend, portable::linear, portable::norm,
     portable::head_norm, portable::pair_add, portable::change_table, portable::linear_int8,
     portable::adds_pairs},
};
const int INSTRUCTION_SET_COUNT = sizeof(INSTRUCTION_SETS) / sizeof(InstructionSet);

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
