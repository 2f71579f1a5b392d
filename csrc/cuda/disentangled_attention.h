// What a caller of the CUDA kernels sees; no CUDA, so that any C++ compiler reads it.
#pragma once

#include <cstdint>

namespace disentangled {

struct Arguments {
  const uint16_t* qkv = nullptr;          // [T, 3, heads, 64]
  const uint16_t* key_table = nullptr;    // [heads, 2 * reach + 1, 64], or null
  const uint16_t* query_table = nullptr;  // [heads, 2 * reach + 1, 64], or null
  const int* tiles = nullptr;  // [1 + W, 4]: (count, 128, 0, 0), then (first row, end, first key, end of keys)
  uint16_t* out = nullptr;     // [T, heads, 64]
  int heads = 0, reach = 0;
  int parts = 0;  // of `rows` queries, in a tile
  float scale = 0;
};

struct Launch : Arguments {
  bool bf16 = false;
  int rows = 128;          // queries per block: 16, 64 or 128
  void* stream = nullptr;  // a cudaStream_t
};

}  // namespace disentangled

extern "C" {
// Both return a cudaError_t. The second says whether the current device and its driver take these kernels.
int gliclass_disentangled_attention(const disentangled::Launch& launch);
int gliclass_usable();
int gliclass_shared_bytes(int rows);
int gliclass_cuda_version();
const char* gliclass_cuda_error(int error);
}
