// This file lists what the kernels were compiled for, and holds the memory its threads work in. It is compiled
// for any processor. VNNI is for int8 alone, and AVX512_BF16 for bfloat16: a kernel that uses neither has no
// build for them.
#include "instruction_sets.h"

#include <cstdlib>
#include <memory>
#include <new>

#define DECLARE(name)                    \
  namespace name {                       \
  extern const int lanes;                \
  void linear(const Linear&);            \
  void norm(const Norm&);                \
  void head_norm(const HeadNorm&);       \
  void pair_add(const Pairs&);           \
  void pair_dot(const Pairs&);           \
  void change_table(const TableChange&); \
  }                                      \
  DECLARE_INT8(name)                     \
  DECLARE_BFLOAT16(name)
#define DECLARE_INT8(name)                \
  namespace name {                        \
  void linear_int8(const RoundedLinear&); \
  extern const bool adds_pairs;           \
  }
#define DECLARE_BFLOAT16(name)                \
  namespace name {                            \
  void attend(const Attention&);              \
  void linear_bfloat16(const RoundedLinear&); \
  extern const bool multiplies_bfloat16;      \
  }

DECLARE(portable)
static bool anywhere() { return true; }
#ifdef __x86_64__
DECLARE(avx2)
DECLARE_INT8(avxvnni)
DECLARE(avx512)
DECLARE_INT8(avx512vnni)
DECLARE_BFLOAT16(avx512bf16)

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#ifdef WITH_avxvnni
static bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
#endif
static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
static bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#ifdef WITH_avx512bf16
static bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif

// The kernels of a set, and its own or a better build of those that round.
#define SET(name, runs_here, kernels, int8, bfloat16) \
  {                                                   \
      name,                                           \
      kernels::lanes,                                 \
      runs_here,                                      \
      bfloat16::attend,                               \
      kernels::linear,                                \
      kernels::norm,                                  \
      kernels::head_norm,                             \
      kernels::pair_add,                              \
      kernels::pair_dot,                              \
      kernels::change_table,                          \
      int8::linear_int8,                              \
      int8::adds_pairs,                               \
      bfloat16::linear_bfloat16,                      \
      bfloat16::multiplies_bfloat16,                  \
  }

const InstructionSet INSTRUCTION_SETS[] = {
#ifdef __x86_64__
#ifdef WITH_avx512bf16
    SET("avx512bf16", has_avx512bf16, avx512, avx512vnni, avx512bf16),
#endif
    SET("avx512vnni", has_avx512vnni, avx512, avx512vnni, avx512),
    SET("avx512", has_avx512, avx512, avx512, avx512),
#ifdef WITH_avxvnni
    SET("avxvnni", has_avxvnni, avx2, avxvnni, avx2),
#endif
    SET("avx2", has_avx2, avx2, avx2, avx2),
#endif
    SET("portable", anywhere, portable, portable, portable),
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
