// A caller of the CUDA kernels sees this file. It names nothing of CUDA's, so that any C++ compiler reads it.
#pragma once

#include <cstdint>

namespace disentangled {

// A kernel reads these fields.
struct Arguments {
  const uint16_t* qkv = nullptr;          // [T, 3, heads, 64]
  const uint16_t* key_table = nullptr;    // [1 + held, heads, 2 * reach + 1, 64], or null
  const uint16_t* query_table = nullptr;  // [1 + held, heads, 2 * reach + 1, 64], or null
  const int* tiles = nullptr;             // [1 + W, 4], the work list of kernels/_tiles.py
  const int* slots = nullptr;             // [T], or null: row r sees table 1 + slots[r], or 0 if there is none
  uint16_t* out = nullptr;                // [T, heads, 64]
  int heads = 0, reach = 0, held = 0;
  int parts = 0;  // A tile has so many parts of `rows` queries.
  float scale = 0;
};

// These fields choose the kernel and where it runs.
struct Launch : Arguments {
  bool bf16 = false;
  int rows = 128;          // queries per block: 16, 64 or 128
  int shares = 1;          // with 64 queries, 2 share out a block's keys where it may have the shared memory
  void* stream = nullptr;  // a cudaStream_t
};

}  // namespace disentangled

extern "C" {
int gliclass_disentangled_attention(const disentangled::Launch& launch);  // It returns a cudaError_t.
int gliclass_usable();  // It returns a cudaError_t where the device or its driver does not take these kernels.
int gliclass_shared_bytes(int rows, int shares);
int gliclass_cuda_version();
const char* gliclass_cuda_error(int error);
}
