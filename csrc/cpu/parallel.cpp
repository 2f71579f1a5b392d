// A job is published in a slot, from which threads take its tasks one by one. A ticket holds the number of the
// job and how many of its tasks nobody has taken: a thread that comes late, when the slot holds another job or
// none, fails to take one and touches nothing else. The others' tasks keep a job and what it refers to alive.
#include "parallel.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int SLOTS = 16;          // jobs at a time; the callers of more work alone
constexpr int MOST_HELPERS = 255;  // threads beside those that call

// Threads look for work so long before they sleep: longer than it takes to come to the next kernel of a model,
// but not in a crowd, where others want the processors. There one that looks loses its turn, and others wait.
constexpr auto AWAKE = 200us, AWAKE_IN_A_CROWD = 50us;
// A thread counts over a while how often others took its processor: more often in a second of its work means
// that there is a crowd, which is believed in for a time. Alone on a machine it was up to 60 times, beside one
// busy process 700 times.
constexpr auto COUNTED = 50ms, BELIEVED = 1000ms;
constexpr int CROWD = 150;

struct alignas(64) Job {
  std::atomic<bool> used{false};
  std::atomic<uint64_t> ticket{0};  // the job's number << 32 | tasks that nobody has taken
  std::atomic<int> unfinished{0};   // tasks
  std::atomic<uint64_t> seats{0};   // the job's number << 32 | helpers that may still come
  std::atomic<bool> no_memory{false};
  int tasks = 0;
  void (*work)(const void*, int) = nullptr;
  const void* context = nullptr;
};

Job jobs[SLOTS];
std::atomic<uint32_t> published{0};  // jobs so far
std::atomic<int> wanted{0};          // helpers of all callers: the others need not look
std::atomic<int> sleeping{0};        // helpers
std::atomic<int> started{0};         // helpers
std::atomic<int> most{MOST_HELPERS};
std::atomic<int> waiting{0};  // callers, for the end of their jobs

// These are never destroyed, as helpers sleep on them when the process ends.
std::mutex& mutex = *new std::mutex;  // It guards sleep, and the start of helpers.
std::condition_variable& wake_helpers = *new std::condition_variable;
std::condition_variable& wake_callers = *new std::condition_variable;

inline void pause() {
#ifdef __x86_64__
  _mm_pause();
#endif
}

// Returns whether one of our threads found of late that there is a crowd. Where that cannot be found out, there
// may always be one.
bool in_a_crowd(Clock::time_point now) {
#ifdef RUSAGE_THREAD
  static std::atomic<Clock::rep> until{0};
  thread_local Clock::time_point start = now;
  thread_local rusage before{};
  if (now - start > COUNTED) {
    rusage used;
    getrusage(RUSAGE_THREAD, &used);
    const auto seconds = [](const rusage& of) {
      return of.ru_utime.tv_sec + of.ru_stime.tv_sec + 1e-6 * (of.ru_utime.tv_usec + of.ru_stime.tv_usec);
    };
    constexpr int FEW = 2;  // They tell nothing of a thread that hardly worked.
    if (used.ru_nivcsw - before.ru_nivcsw > FEW + CROWD * (seconds(used) - seconds(before)))
      until = (now + BELIEVED).time_since_epoch().count();
    start = now, before = used;
  }
  return now.time_since_epoch().count() < until;
#else
  return true;
#endif
}

// Returns whether `done` became true before it is time to sleep.
template <typename Done>
bool comes_soon(Done done) {
  const auto start = Clock::now();
  for (auto now = start; now - start < (in_a_crowd(now) ? AWAKE_IN_A_CROWD : AWAKE); now = Clock::now())
    for (int n = 0; n < 16; n++, pause())
      if (done()) return true;
  return false;
}

// The helpers of a thread's last job, which are wanted for its next one, too.
struct Wish {
  int helpers = 0;

  void change(int count) {
    if (count != helpers) wanted += count - helpers;
    helpers = count;
  }

  ~Wish() { change(0); }
};

thread_local Wish wish;

// Takes tasks of the slot's job of that number until none is left, and returns how many.
int take_tasks(Job& job, uint32_t number) {
  int taken = 0;
  uint64_t ticket = job.ticket.load();
  while (const uint32_t left = ticket >> 32 == number ? uint32_t(ticket) : 0) {
    if (!job.ticket.compare_exchange_weak(ticket, ticket - 1)) continue;
    taken++;
    try {
      job.work(job.context, job.tasks - int(left));
    } catch (const std::bad_alloc&) {
      job.no_memory = true;
    }
    if (job.unfinished.fetch_sub(1) == 1 && waiting) {
      std::lock_guard<std::mutex> lock(mutex);
      wake_callers.notify_all();
    }
    ticket = job.ticket.load();
  }
  return taken;
}

// Takes a seat and then tasks, where there are any. It keeps the seat, as it leaves when no task is left.
int help_with(Job& job) {
  if (!uint32_t(job.ticket.load())) return 0;
  uint64_t seats = job.seats.load();
  while (uint32_t(seats))
    if (job.seats.compare_exchange_weak(seats, seats - 1)) return take_tasks(job, seats >> 32);
  return 0;
}

void help(int number) {
  for (;;) {
    const uint32_t seen = published;
    int taken = 0;
    for (Job& job : jobs) taken += help_with(job);
    if (taken || (number < wanted && comes_soon([&] { return published != seen; }))) continue;
    std::unique_lock<std::mutex> lock(mutex);
    sleeping++;
    wake_helpers.wait(lock, [&] { return published != seen && number < wanted; });
    sleeping--;
  }
}

// A forked process has the thread that forked, and none of the others.
void forget_threads() {
  new (&wake_helpers) std::condition_variable;
  new (&wake_callers) std::condition_variable;
  sleeping = started = waiting = 0;
  most = MOST_HELPERS;
  for (Job& job : jobs) job.ticket = 0, job.seats = 0, job.used = false;
  mutex.unlock();
}

const int registered = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, forget_threads);

// Starts helpers, which leave the signals of the process to its other threads. Where the system has no more
// threads, those that there are do the work, and nobody asks again.
void start_helpers(int count) {
  if (started >= count) return;
  std::lock_guard<std::mutex> lock(mutex);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (; started < count; started++) std::thread(help, int(started)).detach();
  } catch (const std::exception&) {
    most = int(started);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Job* free_slot() {
  for (Job& job : jobs)
    if (!job.used.exchange(true)) return &job;
  return nullptr;
}

}  // namespace

void share(int tasks, int threads, void (*work)(const void*, int), const void* context) {
  int helpers = (threads < tasks ? threads : tasks) - 1;
  if (helpers > most) helpers = most;
  Job* const job = helpers > 0 ? free_slot() : nullptr;
  if (!job) {
    for (int task = 0; task < tasks; task++) work(context, task);
    return;
  }
  start_helpers(helpers);
  const uint32_t number = (job->ticket >> 32) + 1;
  job->no_memory = false;
  job->tasks = tasks, job->work = work, job->context = context;
  job->unfinished = tasks;
  job->ticket = uint64_t(number) << 32 | uint32_t(tasks);
  job->seats = uint64_t(number) << 32 | uint32_t(helpers);  // Who takes one finds the tasks.
  wish.change(helpers);
  published++;
  if (sleeping) {
    std::lock_guard<std::mutex> lock(mutex);
    wake_helpers.notify_all();
  }
  take_tasks(*job, number);
  const auto finished = [&] { return job->unfinished == 0; };
  if (!comes_soon(finished)) {
    std::unique_lock<std::mutex> lock(mutex);
    waiting++;
    wake_callers.wait(lock, finished);
    waiting--;
  }
  const bool no_memory = job->no_memory;
  job->used = false;
  if (no_memory) throw std::bad_alloc();
}
