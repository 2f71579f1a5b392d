// Kernels share their work among threads of their own. OpenMP's threads meet at the end of every loop: where
// another process takes the core of one of them, all others wait until it runs again. Here the caller goes on
// alone, and waits for nobody but those that are within a task.
#pragma once

#include <cstdint>

// Calls work(context, task) for task = 0 .. tasks - 1, about in this order, on this thread and on up to
// threads - 1 others. Throws std::bad_alloc where a task had no memory.
void share(int tasks, int threads, void (*work)(const void* context, int task), const void* context);

// Calls work(task) likewise.
template <typename Work>
inline void parallel_for(int tasks, int threads, const Work& work) {
  share(
      tasks, threads, [](const void* context, int task) { (*static_cast<const Work*>(context))(task); }, &work);
}

namespace {  // Every instruction set compiles its own.

// Rows of many, which threads take through whole maps in blocks: what a thread reads there it has mostly
// computed itself, so that it lies in its own caches. Every thread has as many blocks as every other, and at
// least two where there are several, as one whose processor is busy leaves some to the others. With fewer rows
// the weights, which every thread then reads, would cost more than that saves.
struct RowBlocks {
  static constexpr int STEP = 8;  // A block has a multiple of it, but for the last one.

  const int rows, steps, count;

  RowBlocks(int rows, int count) : rows(rows), steps((rows + STEP - 1) / STEP), count(count) {}

  // most: rows of a block
  RowBlocks(int rows, int threads, int most)
      : RowBlocks(rows, threads * blocks_of_thread(rows, threads, most)) {}

  static bool suit(int rows, int threads, int most) { return rows >= threads * most; }

  int start(int block) const {
    const int row = int(int64_t(steps) * block / count) * STEP;
    return row < rows ? row : rows;
  }

 private:
  static int blocks_of_thread(int rows, int threads, int most) {
    const int blocks = (rows + threads * most - 1) / (threads * most);
    return blocks < 2 && threads > 1 ? 2 : blocks;
  }
};

}  // namespace

// Calls work(first, end, part, step) for blocks of rows and every part of a weight. A task is a block with all
// parts where there are many rows; else it is a block with one part. Blocks have `most` rows, and fewer where
// there would be too few tasks, though not fewer than `least`. The thread probably does part + step next.
template <typename Work>
inline void share_parts(int rows, int parts, int threads, int least, int most, const Work& work) {
  if (RowBlocks::suit(rows, threads, most)) {
    const RowBlocks blocks(rows, threads, most);
    return parallel_for(blocks.count, threads, [=, &work](int task) {
      for (int part = 0; part < parts; part++) work(blocks.start(task), blocks.start(task + 1), part, 1);
    });
  }
  int block = most;
  while (block / 2 >= least && (rows + block - 1) / block * parts < 4 * threads) block /= 2;
  parallel_for((rows + block - 1) / block * parts, threads, [=, &work](int task) {
    const int first = task / parts * block, end = first + block < rows ? first + block : rows;
    work(first, end, task % parts, threads);
  });
}

// Calls work(row) likewise; a task has the rows of about 16,384 values.
template <typename Work>
inline void for_rows(int count, int width, int threads, const Work& work) {
  const int rows = (1 << 14) / width + 1, tasks = (count + rows - 1) / rows;
  parallel_for(tasks, threads, [&work, rows, count](int task) {
    for (int row = task * rows; row < count && row < (task + 1) * rows; row++) work(row);
  });
}
