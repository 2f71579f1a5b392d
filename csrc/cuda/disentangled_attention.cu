// This file launches disentangled attention. It needs no torch, so that one build serves every version of it.
#include "disentangled_attention.cuh"

using disentangled::Arguments;
using disentangled::Launch;
using disentangled::Layout;

static_assert(Layout<128>::BYTES <= 99 * 1024, "the shared memory of compute capability 8.6 and 8.9");

#ifdef GLICLASS_EMULATE
using Stream = void*;
extern "C" {
int gliclass_emulated_blocks = 3;  // fewer than items, as for large batches, unless a test sets it
}

bool may_share(int) { return true; }

template <bool BF16, int ROWS, int SHARES, bool C2P, bool P2C>
int start(const Arguments& arguments, float scale_log2, Stream) {
  emulator::launch(gliclass_emulated_blocks, SHARES * Layout<ROWS>::THREADS, SHARES * Layout<ROWS>::BYTES,
                   [=] { disentangled::attend<BF16, ROWS, SHARES, C2P, P2C>(arguments, scale_log2); });
  return 0;
}
#else
using Stream = cudaStream_t;

// Returns whether a block of this device may have so many bytes of shared memory.
bool may_share(int bytes) {
  int device = 0, most = 0;
  return !cudaGetDevice(&device) &&
         !cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) && bytes <= most;
}

template <bool BF16, int ROWS, int SHARES, bool C2P, bool P2C>
int start(const Arguments& arguments, float scale_log2, Stream stream) {
  const auto kernel = disentangled::attend<BF16, ROWS, SHARES, C2P, P2C>;
  constexpr int bytes = SHARES * Layout<ROWS>::BYTES, threads = SHARES * Layout<ROWS>::THREADS;
  int device = 0, processors = 0, resident = 0;
  if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes))
    return error;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device))
    return error;
  if (cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, bytes))
    return error;
  kernel<<<processors * resident, threads, bytes, stream>>>(arguments, scale_log2);
  return cudaGetLastError();
}
#endif

template <bool BF16, int ROWS, int SHARES>
int start(const Arguments& arguments, Stream stream) {
  const float scale_log2 = arguments.scale * 1.4426950408889634f;  // log2(e)
  if (arguments.key_table && arguments.query_table)
    return start<BF16, ROWS, SHARES, true, true>(arguments, scale_log2, stream);
  if (arguments.key_table) return start<BF16, ROWS, SHARES, true, false>(arguments, scale_log2, stream);
  if (arguments.query_table) return start<BF16, ROWS, SHARES, false, true>(arguments, scale_log2, stream);
  return start<BF16, ROWS, SHARES, false, false>(arguments, scale_log2, stream);
}

#ifndef GLICLASS_EMULATE
extern "C" int gliclass_usable() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, disentangled::attend<false, 64, 1, true, true>);
}

extern "C" int gliclass_cuda_version() { return CUDART_VERSION; }
extern "C" const char* gliclass_cuda_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
#endif

extern "C" int gliclass_shared_bytes(int rows, int shares) {
  return shares * (rows == 16 ? Layout<16>::BYTES : rows == 64 ? Layout<64>::BYTES : Layout<128>::BYTES);
}

template <int ROWS, int SHARES = 1>
int start(const Launch& launch) {
  const auto stream = static_cast<Stream>(launch.stream);
  return launch.bf16 ? start<true, ROWS, SHARES>(launch, stream) : start<false, ROWS, SHARES>(launch, stream);
}

extern "C" int gliclass_disentangled_attention(const Launch& launch) {
  if (launch.rows == 16) return start<16>(launch);
  if (launch.rows == 128) return start<128>(launch);
  return launch.shares == 2 && may_share(2 * Layout<64>::BYTES) ? start<64, 2>(launch) : start<64>(launch);
}
