// What Python sees: functions over addresses, sizes and a CUDA stream as an integer. Neither torch nor its
// headers are needed, so one build serves every version of it.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "cpu/attention.h"
#ifdef WITH_CUDA
extern "C" int gliclass_disentangled_attention(const void* qkv, const void* key_table, const void* query_table,
                                               const void* tiles, void* out, int heads, int reach, float scale,
                                               int bf16, int rows, int longest, void* stream);
extern "C" int gliclass_shared_bytes(int rows);
extern "C" int gliclass_usable();
extern "C" int gliclass_cuda_version();
extern "C" const char* gliclass_cuda_error(int error);
#endif

namespace py = pybind11;

namespace {

template <typename T = float>
const T* at(uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

// (name, lanes) of every instruction set this processor has, by its number for `attention_cpu`; fastest first.
py::dict instruction_sets() {
  py::dict found;
  for (int n = 0; n < INSTRUCTION_SET_COUNT; n++)
    if (const auto& set = INSTRUCTION_SETS[n]; set.runs_here())
      found[py::int_(n)] = py::make_tuple(set.name, set.lanes);
  return found;
}

void attention_cpu(int instruction_set, uintptr_t q, uintptr_t k, uintptr_t v, ptrdiff_t q_stride,
                   ptrdiff_t kv_stride, uintptr_t out, uintptr_t tiles, int heads, int width, float scale,
                   int window, uintptr_t cosines, uintptr_t sines, uintptr_t bias, int reach,
                   uintptr_t key_table, uintptr_t query_table, int table_panels, int threads) {
  const Attention arguments{at(q),
                            at(k),
                            at(v),
                            q_stride,
                            kv_stride,
                            const_cast<float*>(at(out)),
                            at<int32_t>(tiles),
                            heads,
                            width,
                            scale,
                            window,
                            at(cosines),
                            at(sines),
                            at(bias),
                            reach,
                            at(key_table),
                            at(query_table),
                            table_panels,
                            threads};
  py::gil_scoped_release others_may_run;
  INSTRUCTION_SETS[instruction_set].attend(arguments);
}

#ifdef WITH_CUDA
void check(int error) {
  if (error) throw std::runtime_error(gliclass_cuda_error(error));
}

void disentangled_attention_cuda(uintptr_t qkv, uintptr_t key_table, uintptr_t query_table, uintptr_t tiles,
                                 uintptr_t out, int heads, int reach, float scale, bool bf16, int rows,
                                 int longest, uintptr_t stream) {
  check(gliclass_disentangled_attention(at<void>(qkv), at<void>(key_table), at<void>(query_table),
                                        at<void>(tiles), const_cast<void*>(at<void>(out)), heads, reach, scale,
                                        bf16, rows, longest, const_cast<void*>(at<void>(stream))));
}
#endif

}  // namespace

PYBIND11_MODULE(_compiled, module) {
  module.doc() = "Compiled kernels; their contracts stand in the files of the operations.";
  module.def("instruction_sets", &instruction_sets);
  module.def("attention_cpu", &attention_cpu);
#ifdef WITH_CUDA
  module.attr("cuda_version") = gliclass_cuda_version();
  module.attr("cuda_architectures") = CUDA_ARCHITECTURES;
  module.def("disentangled_attention_cuda", &disentangled_attention_cuda);
  module.def(
      "check_device", [] { check(gliclass_usable()); },
      "Raises RuntimeError where the current device or its driver does not take these kernels.");
  module.def("shared_bytes", &gliclass_shared_bytes, "Shared memory of a block of 16, 64 or 128 queries.");
#endif
}
