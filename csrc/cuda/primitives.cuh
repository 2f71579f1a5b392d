// The kernels are written in these hardware operations. With GLICLASS_EMULATE the same names run on a CPU.
#pragma once

#ifdef GLICLASS_EMULATE
#include "../emulator/emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#define KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define DEVICE __device__ __forceinline__

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_index() { return blockIdx.x; }
DEVICE int block_count() { return gridDim.x; }
DEVICE void block_sync() { __syncthreads(); }

// Waits for all `threads` of a share, 0 or 1, of the block's warps.
DEVICE void share_sync(int share, int threads) {
  // With its number unknown, a barrier would take all 16 that a block can have.
  if (share)
    asm volatile("bar.sync 2, %0;" ::"r"(threads) : "memory");
  else
    asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

DEVICE uint16_t* shared_memory() {
  extern __shared__ __align__(128) uint16_t memory[];
  return memory;
}

DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Loads four 8 x 8 matrices of 16 bit values; lane l names row l % 8 of matrix l / 8.
DEVICE void load_matrices(uint32_t (&out)[4], const uint16_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

DEVICE void load_matrices_transposed(uint32_t (&out)[4], const uint16_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// acc [16, 8] += a [16, 16] b [16, 8], float32 accumulators.
template <bool BF16>
DEVICE void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (BF16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes to shared memory in the background; they are zeros unless `valid`.
DEVICE void copy_async(uint16_t* to, const uint16_t* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

// The copies so far that are in no group yet become one.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies but those of the last PENDING groups.
template <int PENDING>
DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

DEVICE uint32_t pack_half(float low, float high) {
  uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

template <bool BF16>
DEVICE uint32_t pack(float low, float high) {
  if constexpr (!BF16) return pack_half(low, high);
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

DEVICE float low_half(uint32_t pair) { return __half2float(__ushort_as_half(pair & 0xffff)); }
DEVICE float high_half(uint32_t pair) { return __half2float(__ushort_as_half(pair >> 16)); }

DEVICE uint32_t add_halves(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

// Returns the `value` of a lane, 0 to 3, of these four lanes.
DEVICE uint32_t taken_from(uint32_t value, int lane) { return __shfl_sync(0xffffffffu, value, lane, 4); }

// Returns four of the eight bytes of `low` (0 to 3) and `high` (4 to 7); a digit of `chosen` names each.
DEVICE uint32_t bytes_of(uint32_t low, uint32_t high, uint32_t chosen) {
  return __byte_perm(low, high, chosen);
}

DEVICE float exchange(float value, int lanes_apart) { return __shfl_xor_sync(0xffffffffu, value, lanes_apart); }

// Returns the same value, but the compiler no longer knows that it is the same.
DEVICE int forgotten(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

DEVICE float power_of_two(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

#endif
