// What Python sees: functions over addresses, sizes and a CUDA stream as an integer. Neither torch nor its
// headers are needed, so one build serves every version of it.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

extern "C" int gliclass_disentangled_attention(const void* qkv, const void* key_table, const void* query_table,
                                               const void* tiles, void* out, int heads, int reach, float scale,
                                               int bf16, int rows, void* stream);

extern "C" int gliclass_shared_bytes(int rows);
extern "C" int gliclass_usable();

namespace {

void check(int error) {
  if (error) throw std::runtime_error(cudaGetErrorString(static_cast<cudaError_t>(error)));
}

void disentangled_attention(uintptr_t qkv, uintptr_t key_table, uintptr_t query_table, uintptr_t tiles,
                            uintptr_t out, int heads, int reach, float scale, bool bf16, int rows,
                            uintptr_t stream) {
  check(gliclass_disentangled_attention(
      reinterpret_cast<const void*>(qkv), reinterpret_cast<const void*>(key_table),
      reinterpret_cast<const void*>(query_table), reinterpret_cast<const void*>(tiles),
      reinterpret_cast<void*>(out), heads, reach, scale, bf16, rows, reinterpret_cast<void*>(stream)));
}

}  // namespace

PYBIND11_MODULE(_compiled, module) {
  module.doc() = "Compiled kernels; their contracts stand in the files of the operations.";
  module.attr("cuda_version") = CUDART_VERSION;
  module.attr("cuda_architectures") = CUDA_ARCHITECTURES;
  module.def("disentangled_attention", &disentangled_attention);
  module.def(
      "check_device", [] { check(gliclass_usable()); },
      "Raises RuntimeError where the current device or its driver does not take these kernels.");
  module.def("shared_bytes", &gliclass_shared_bytes, "Shared memory of a block of 64 or 128 queries.");
}
