// This is CUDA on a CPU, for tests without a GPU: a thread is a fiber, and one block runs at a time.
//
// It is strict about this: shared memory starts as NaN; copies in the background land when waited for, or,
// drawn at random, at a barrier before, and their destination is NaN until then; one warp, drawn at random
// (EMULATOR_SEED), runs as far as it can before another moves, so that a missing barrier shows. It does not
// model bank conflicts, speed, and the order of memory operations within a warp.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#define KERNEL(threads, blocks) void
#define DEVICE inline

using std::max;
using std::min;

namespace emulator {

constexpr int LANES = 32;
constexpr size_t STACK_BYTES = 64 << 10;
constexpr uint16_t NOT_A_NUMBER = 0x7fff;  // It is NaN in float16 and in bfloat16.

struct Copy {
  uint16_t* to;
  const uint16_t* from;
  bool valid;
  int group;
};

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Lane {  // The lanes of a warp show this to each other.
  const uint16_t* row;
  uint32_t registers[6];
  float value;
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(STACK_BYTES);
  std::vector<Copy> copies;
  int groups = 0;  // So many groups of copies are complete.
  bool done = false;
  const Barrier* waits_at = nullptr;  // a barrier of several warps
};

inline std::vector<Thread> threads;
inline std::vector<Barrier> warp_barriers;
inline Barrier block_barrier;
inline std::vector<Barrier> share_barriers;
inline std::vector<std::vector<Lane>> lanes;
inline std::vector<uint16_t> memory;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline int current, block, blocks;

inline std::mt19937 random_bits(std::getenv("EMULATOR_SEED") ? std::atoi(std::getenv("EMULATOR_SEED")) : 0);

template <class Lands>
void land(Lands lands) {
  std::vector<Copy>& copies = threads[current].copies;
  const auto landed = [&](const Copy& copy) {
    if (!lands(copy)) return false;
    for (int i = 0; i < 8; i++) copy.to[i] = copy.valid ? copy.from[i] : 0;
    return true;
  };
  copies.erase(std::remove_if(copies.begin(), copies.end(), landed), copies.end());
}

inline void give_way() { swapcontext(&threads[current].context, &scheduler); }

inline void wait(Barrier& barrier, int expected) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    barrier.generation++;
    for (Thread& thread : threads)
      if (thread.waits_at == &barrier) thread.waits_at = nullptr;
    return;
  }
  if (expected > LANES) threads[current].waits_at = &barrier;
  while (barrier.generation == generation) give_way();
}

inline void wait_at(Barrier& barrier, int expected) {
  land([](const Copy&) { return random_bits() % 4 == 0; });
  wait(barrier, expected);
}

inline void wait_for_warp() { wait(warp_barriers[current / LANES], LANES); }

inline Lane& own() { return lanes[current / LANES][current % LANES]; }
inline const Lane& lane(int number) { return lanes[current / LANES][number]; }

inline void run_thread() {
  body();
  threads[current].done = true;
  give_way();
}

inline void run_warp(int warp) {
  for (bool moved = true; moved;) {
    moved = false;
    for (int t = warp * LANES; t < (warp + 1) * LANES; t++) {
      if (threads[t].done || threads[t].waits_at) continue;
      current = t;
      swapcontext(&scheduler, &threads[t].context);
      moved = true;
    }
  }
}

inline void run_block(int count, size_t shared_bytes) {
  threads = std::vector<Thread>(count);
  warp_barriers.assign(count / LANES, {});
  block_barrier = {};
  share_barriers.assign(count / LANES, {});
  lanes.assign(count / LANES, std::vector<Lane>(LANES));
  memory.assign(shared_bytes / sizeof(uint16_t), NOT_A_NUMBER);
  for (Thread& thread : threads) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.context, run_thread, 0);
  }
  std::vector<int> order(count / LANES);
  for (int warp = 0; warp < count / LANES; warp++) order[warp] = warp;
  const auto done = [](const Thread& thread) { return thread.done; };
  while (!std::all_of(threads.begin(), threads.end(), done)) {
    std::shuffle(order.begin(), order.end(), random_bits);
    for (int warp : order) run_warp(warp);
  }
}

inline void launch(int grid, int count, size_t shared_bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  blocks = grid;
  for (block = 0; block < grid; block++) run_block(count, shared_bytes);
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return NOT_A_NUMBER;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float from_half(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return float(half);
}

inline uint16_t to_half(float value) {
  const _Float16 half = _Float16(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline void check_aligned(const void* address) {  // A GPU faults unless it is aligned to 16 bytes.
  if (reinterpret_cast<uintptr_t>(address) % 16) std::abort();
}

inline uint32_t pair(uint16_t low, uint16_t high) { return low | uint32_t(high) << 16; }

}  // namespace emulator

inline int thread_index() { return emulator::current; }
inline int block_index() { return emulator::block; }
inline int block_count() { return emulator::blocks; }
inline uint16_t* shared_memory() { return emulator::memory.data(); }
inline void block_sync() { emulator::wait_at(emulator::block_barrier, int(emulator::threads.size())); }
inline void share_sync(int share, int threads) { emulator::wait_at(emulator::share_barriers[share], threads); }

template <class Pair>
void load_matrices_by(uint32_t (&out)[4], const uint16_t* row, Pair pair_of) {
  emulator::check_aligned(row);
  emulator::own().row = row;
  emulator::wait_for_warp();
  for (int matrix = 0; matrix < 4; matrix++) out[matrix] = pair_of(matrix, emulator::current % emulator::LANES);
  emulator::wait_for_warp();
}

inline void load_matrices(uint32_t (&out)[4], const uint16_t* row) {
  load_matrices_by(out, row, [](int matrix, int lane) {
    const uint16_t* from = emulator::lane(matrix * 8 + lane / 4).row + 2 * (lane % 4);
    return emulator::pair(from[0], from[1]);
  });
}

inline void load_matrices_transposed(uint32_t (&out)[4], const uint16_t* row) {
  load_matrices_by(out, row, [](int matrix, int lane) {
    const int first = matrix * 8 + 2 * (lane % 4);
    return emulator::pair(emulator::lane(first).row[lane / 4], emulator::lane(first + 1).row[lane / 4]);
  });
}

template <bool BF16>
void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const int lane = emulator::current % emulator::LANES, row_of_lane = lane / 4, column_of_lane = lane % 4;
  std::copy(a, a + 4, emulator::own().registers);
  emulator::own().registers[4] = b0;
  emulator::own().registers[5] = b1;
  emulator::wait_for_warp();
  const auto value = [](int from, int number, int odd) {
    const uint16_t bits = emulator::lane(from).registers[number] >> (16 * odd);
    return BF16 ? emulator::from_bfloat16(bits) : emulator::from_half(bits);
  };
  for (int e = 0; e < 4; e++) {
    const int row = row_of_lane + 8 * (e / 2), column = 2 * column_of_lane + e % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const int within = (k % 8) / 2;
      sum += value((row % 8) * 4 + within, 2 * (k / 8) + row / 8, k % 2) *
             value(column * 4 + within, 4 + k / 8, k % 2);
    }
    acc[e] += sum;
  }
  emulator::wait_for_warp();
}

inline void copy_async(uint16_t* to, const uint16_t* from, bool valid) {
  emulator::check_aligned(to);
  emulator::check_aligned(from);
  std::fill(to, to + 8, emulator::NOT_A_NUMBER);
  emulator::Thread& thread = emulator::threads[emulator::current];
  thread.copies.push_back({to, from, valid, thread.groups});
}

inline void commit_copies() { emulator::threads[emulator::current].groups++; }

template <int PENDING>
void wait_for_copies() {
  const int complete = emulator::threads[emulator::current].groups - PENDING;
  emulator::land([=](const emulator::Copy& copy) { return copy.group < complete; });
}

inline uint32_t pack_half(float low, float high) {
  return emulator::pair(emulator::to_half(low), emulator::to_half(high));
}

template <bool BF16>
uint32_t pack(float low, float high) {
  if (!BF16) return pack_half(low, high);
  return emulator::pair(emulator::to_bfloat16(low), emulator::to_bfloat16(high));
}

inline float low_half(uint32_t pair) { return emulator::from_half(pair & 0xffff); }
inline float high_half(uint32_t pair) { return emulator::from_half(pair >> 16); }

inline uint32_t add_halves(uint32_t a, uint32_t b) {
  return pack_half(low_half(a) + low_half(b), high_half(a) + high_half(b));
}

inline float exchange(float value, int lanes_apart) {
  emulator::own().value = value;
  emulator::wait_for_warp();
  const float out = emulator::lane((emulator::current % emulator::LANES) ^ lanes_apart).value;
  emulator::wait_for_warp();
  return out;
}

inline uint32_t taken_from(uint32_t value, int lane) {
  emulator::own().registers[0] = value;
  emulator::wait_for_warp();
  const uint32_t out = emulator::lane(emulator::current % emulator::LANES / 4 * 4 + lane).registers[0];
  emulator::wait_for_warp();
  return out;
}

inline uint32_t bytes_of(uint32_t low, uint32_t high, uint32_t chosen) {
  const uint64_t all = low | uint64_t(high) << 32;
  uint32_t out = 0;
  for (int byte = 0; byte < 4; byte++)
    out |= uint32_t(all >> (8 * (chosen >> (4 * byte) & 7)) & 0xff) << (8 * byte);
  return out;
}

inline int forgotten(int value) { return value; }
inline float power_of_two(float x) { return std::exp2(x); }
