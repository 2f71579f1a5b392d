// Kernels share their work among threads of their own. OpenMP's threads meet at the end of every loop: where
// another process takes the core of one of them, all others wait until it runs again. Here the caller goes on
// alone, and waits for nobody but those that are within a task.
#pragma once

// Calls work(context, task, worker) for task = 0 .. tasks - 1, about in this order, on this thread and on up to
// threads - 1 others. worker: the number of the thread among these, from 0 on. Throws std::bad_alloc where a
// task had no memory.
void share(int tasks, int threads, void (*work)(const void* context, int task, int worker),
           const void* context);

// Calls work(task, worker) likewise.
template <typename Work>
inline void parallel_for_workers(int tasks, int threads, const Work& work) {
  share(
      tasks, threads,
      [](const void* context, int task, int worker) { (*static_cast<const Work*>(context))(task, worker); },
      &work);
}

// Calls work(task) likewise.
template <typename Work>
inline void parallel_for(int tasks, int threads, const Work& work) {
  parallel_for_workers(tasks, threads, [&work](int task, int) { work(task); });
}

// Where every thread has so many rows, it takes blocks of them through whole maps: what it reads there it has
// mostly computed itself, so that it lies in its own caches. With fewer rows the weights, which every thread
// then reads, would cost more than that saves.
constexpr int OWN_ROWS = 32;
constexpr int BLOCK_ROWS = 64;  // of a block at most

// Functions that are no templates are static, as every instruction set compiles its own.
static inline bool has_own_rows(int rows, int threads) { return rows >= threads * OWN_ROWS; }

// Returns how many rows a block has where every thread gets as many blocks.
static inline int even_block(int rows, int threads) {
  constexpr int STEP = 8;  // What a product does at a time divides it.
  const int blocks = (rows + threads * BLOCK_ROWS - 1) / (threads * BLOCK_ROWS) * threads;
  return ((rows + blocks - 1) / blocks + STEP - 1) / STEP * STEP;
}

// Calls work(first, end, part, step) for blocks of rows and every part of a weight. A task is a block with all
// parts where threads have rows of their own; else it is a block with one part, and blocks have fewer rows,
// `least` at least, where there would be too few tasks. The thread probably does part + step next.
template <typename Work>
inline void share_parts(int rows, int parts, int threads, int least, const Work& work) {
  const bool own = has_own_rows(rows, threads);
  int block = own ? even_block(rows, threads) : BLOCK_ROWS;
  while (!own && block > least && (rows + block - 1) / block * parts < 4 * threads) block /= 2;
  const int tasks_of_block = own ? 1 : parts, step = own ? 1 : threads;
  parallel_for((rows + block - 1) / block * tasks_of_block, threads, [=, &work](int task) {
    const int first = task / tasks_of_block * block, end = first + block < rows ? first + block : rows;
    for (int part = task % tasks_of_block; part < parts; part += tasks_of_block) work(first, end, part, step);
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
