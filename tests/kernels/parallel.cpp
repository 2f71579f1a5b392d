// Several threads share work at once, and every task must run once: ThreadSanitizer watches them. With an
// argument the process forks meanwhile, and its children share work too.
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

static int caught(int jobs) {
  int caught = 0;
  for (int job = 0; job < jobs; job++) try {
      parallel_for(8, 2, [](int task) {
        if (task == 5) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      caught++;
    }
  return caught;
}

int main(int count, char**) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 24; caller++)
    callers.emplace_back([&wrong, caller] { wrong += faults(caller, 300); });
  for (std::thread& caller : callers) caller.join();
  wrong += caught(40) != 40;
  if (count > 1) {  // ThreadSanitizer does not follow a child that has threads of its own.
    std::atomic<bool> ended{false};
    std::thread busy([&] { while (!ended) faults(7, 10); });
    for (int n = 0; n < 50; n++) {
      if (const pid_t child = fork(); child == 0) _exit(faults(3, 100));
      int status = -1;
      wait(&status);
      wrong += status != 0;
    }
    ended = true;
    busy.join();
  }
  std::printf("%d wrong\n", wrong.load());
  return wrong != 0;
}
