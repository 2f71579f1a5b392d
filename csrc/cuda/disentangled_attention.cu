// This file launches disentangled attention. It needs no torch, so that one build serves every version of it.
#include "disentangled_attention.cuh"

using disentangled::Arguments;
using disentangled::Launch;
using disentangled::Layout;

static_assert(Layout<128>::BYTES <= 99 * 1024, "the shared memory of compute capability 8.6 and 8.9");

#ifdef GLICLASS_EMULATE
using Stream = void*;
constexpr int BLOCKS = 3;  // There are fewer blocks than items, as on a GPU.

template <bool BF16, int ROWS, bool C2P, bool P2C>
int start(const Arguments& arguments, float scale_log2, Stream) {
  emulator::launch(BLOCKS, Layout<ROWS>::THREADS, Layout<ROWS>::BYTES,
                   [=] { disentangled::attend<BF16, ROWS, C2P, P2C>(arguments, scale_log2); });
  return 0;
}
#else
using Stream = cudaStream_t;

template <bool BF16, int ROWS, bool C2P, bool P2C>
int start(const Arguments& arguments, float scale_log2, Stream stream) {
  const auto kernel = disentangled::attend<BF16, ROWS, C2P, P2C>;
  constexpr int bytes = Layout<ROWS>::BYTES;
  int device = 0, processors = 0, resident = 0;
  if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes))
    return error;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device))
    return error;
  if (cudaError_t error =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, Layout<ROWS>::THREADS, bytes))
    return error;
  kernel<<<processors * resident, Layout<ROWS>::THREADS, bytes, stream>>>(arguments, scale_log2);
  return cudaGetLastError();
}
#endif

template <bool BF16, int ROWS>
int start(const Arguments& arguments, Stream stream) {
  const float scale_log2 = arguments.scale * 1.4426950408889634f;  // log2(e)
  if (arguments.key_table && arguments.query_table)
    return start<BF16, ROWS, true, true>(arguments, scale_log2, stream);
  if (arguments.key_table) return start<BF16, ROWS, true, false>(arguments, scale_log2, stream);
  if (arguments.query_table) return start<BF16, ROWS, false, true>(arguments, scale_log2, stream);
  return start<BF16, ROWS, false, false>(arguments, scale_log2, stream);
}

#ifndef GLICLASS_EMULATE
extern "C" int gliclass_usable() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, disentangled::attend<false, 64, true, true>);
}

extern "C" int gliclass_cuda_version() { return CUDART_VERSION; }
extern "C" const char* gliclass_cuda_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
#endif

extern "C" int gliclass_shared_bytes(int rows) {
  return rows == 16 ? Layout<16>::BYTES : rows == 64 ? Layout<64>::BYTES : Layout<128>::BYTES;
}

template <int ROWS>
int start(const Launch& launch) {
  const auto stream = static_cast<Stream>(launch.stream);
  return launch.bf16 ? start<true, ROWS>(launch, stream) : start<false, ROWS>(launch, stream);
}

extern "C" int gliclass_disentangled_attention(const Launch& launch) {
  if (launch.rows == 16) return start<16>(launch);
  if (launch.rows == 64) return start<64>(launch);
  return start<128>(launch);
}
