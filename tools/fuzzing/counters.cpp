// GCC calls __sanitizer_cov_trace_pc wherever code branches. libFuzzer counts in bytes that it is told of, and
// knows each by a number. The other functions are called where floats are compared, which tells it nothing.
#include <cstdint>

namespace {

constexpr int COUNT = 1 << 16;
uint8_t counters[COUNT];
uintptr_t places[2 * COUNT];

}  // namespace

extern "C" void __sanitizer_cov_8bit_counters_init(uint8_t*, uint8_t*);
extern "C" void __sanitizer_cov_pcs_init(const uintptr_t*, const uintptr_t*);

#pragma GCC visibility push(hidden)
extern "C" void __sanitizer_cov_trace_pc() {
  counters[(uintptr_t(__builtin_return_address(0)) * 0x9E3779B97F4A7C15u) >> 48]++;
}
extern "C" void __sanitizer_cov_trace_cmpf(float, float) {}
extern "C" void __sanitizer_cov_trace_cmpd(double, double) {}
#pragma GCC visibility pop

__attribute__((constructor)) static void tell() {
  for (int n = 0; n < COUNT; n++) places[2 * n] = n + 1;
  __sanitizer_cov_8bit_counters_init(counters, counters + COUNT);
  __sanitizer_cov_pcs_init(places, places + 2 * COUNT);
}
