// This file lists what the kernels were compiled for. It is compiled for any processor. VNNI is for int8 alone,
// AVX512_BF16 for bfloat16, and AMX for linear maps that round: a kernel that uses none of them has no build
// for them.
#include "instruction_sets.h"

#ifdef WITH_amx
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
DECLARE_INT8(amx)
DECLARE_BFLOAT16(amx)

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
#ifdef WITH_amx
// A process has to ask Linux for tiles, and has them then in all its threads.
static bool has_amx() {
  constexpr int ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = has_avx512bf16() && __builtin_cpu_supports("amx-int8") &&
                              __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return granted;
}
#endif
#endif

// The kernels of a set, and its own or a better build of those that round.
#define SET(name, runs_here, kernels, attention, int8, bfloat16) \
  {                                                              \
      name,                                                      \
      kernels::lanes,                                            \
      runs_here,                                                 \
      attention::attend,                                         \
      kernels::linear,                                           \
      kernels::norm,                                             \
      kernels::head_norm,                                        \
      kernels::pair_add,                                         \
      kernels::pair_dot,                                         \
      kernels::change_table,                                     \
      int8::linear_int8,                                         \
      int8::adds_pairs,                                          \
      bfloat16::linear_bfloat16,                                 \
      bfloat16::multiplies_bfloat16,                             \
  }

const InstructionSet INSTRUCTION_SETS[] = {
#ifdef __x86_64__
#ifdef WITH_amx
    SET("amx", has_amx, avx512, avx512bf16, amx, amx),
#endif
#ifdef WITH_avx512bf16
    SET("avx512bf16", has_avx512bf16, avx512, avx512bf16, avx512vnni, avx512bf16),
#endif
    SET("avx512vnni", has_avx512vnni, avx512, avx512, avx512vnni, avx512),
    SET("avx512", has_avx512, avx512, avx512, avx512, avx512),
#ifdef WITH_avxvnni
    SET("avxvnni", has_avxvnni, avx2, avx2, avxvnni, avx2),
#endif
    SET("avx2", has_avx2, avx2, avx2, avx2, avx2),
#endif
    SET("portable", anywhere, portable, portable, portable, portable),
};
const int INSTRUCTION_SET_COUNT = sizeof(INSTRUCTION_SETS) / sizeof(InstructionSet);
