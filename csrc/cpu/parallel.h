// Kernels share their work among threads of their own. OpenMP's threads meet at the end of every loop: where
// another process takes the core of one of them, all others wait until it runs again. Here the caller goes on
// alone, and waits for nobody but those that are within a task.
#pragma once

// Calls work(context, task) for task = 0 .. tasks - 1, about in this order, on this thread and on up to
// threads - 1 others. Throws std::bad_alloc where a task had no memory.
void share(int tasks, int threads, void (*work)(const void* context, int task), const void* context);

// Calls work(task) likewise.
template <typename Work>
inline void parallel_for(int tasks, int threads, const Work& work) {
  share(
      tasks, threads, [](const void* context, int task) { (*static_cast<const Work*>(context))(task); }, &work);
}

// Calls work(row) likewise; a task has the rows of about 16,384 values.
template <typename Work>
inline void for_rows(int count, int width, int threads, const Work& work) {
  const int rows = (1 << 14) / width + 1, tasks = (count + rows - 1) / rows;
  parallel_for(tasks, threads, [&work, rows, count](int task) {
    for (int row = task * rows; row < count && row < (task + 1) * rows; row++) work(row);
  });
}
