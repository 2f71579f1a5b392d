// Several threads share work at once, and every task must run once: ThreadSanitizer watches them.
#include "../../csrc/cpu/parallel.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

static int faults(int caller, int jobs) {
  int wrong = 0;
  for (int job = 0; job < jobs; job++) {
    const int tasks = (caller + job * 7) % 40;
    std::vector<int> runs(tasks);
    parallel_for(tasks, 1 + (caller + job) % 4, [&](int task) { runs[task] += task + 1; });
    for (int task = 0; task < tasks; task++) wrong += runs[task] != task + 1;
  }
  return wrong;
}

static bool throws_for_want_of_memory() {
  try {
    parallel_for(8, 2, [](int task) {
      if (task == 5) throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

int main(int count, char**) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 24; caller++)
    callers.emplace_back([&wrong, caller] { wrong += faults(caller, 300); });
  for (std::thread& caller : callers) caller.join();
  wrong += !throws_for_want_of_memory();
  if (count > 1) {  // ThreadSanitizer does not follow a child that has threads of its own.
    if (const pid_t child = fork(); child == 0) _exit(faults(3, 100));
    int status = -1;
    wait(&status);
    wrong += status != 0;
  }
  std::printf("%d wrong\n", wrong.load());
  return wrong != 0;
}
