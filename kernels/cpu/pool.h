// The threads of the kernels: a job is a number of units, which whoever is free takes one after the other.
//
// Units are taken, not dealt out: where another program holds a core, the threads on the others do the work meanwhile, and
// a thread that has not begun is never waited for. Threads spin for a moment when there is nothing to do, as the next
// kernel of a step is some microseconds away, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

class Pool {
 public:
  using Work = void (*)(const void* context, int64_t unit);

  // Threads that work at a job, the caller's among them, from the next job on.
  void resize(int threads);
  int threads() const { return threads_; }

  // work(context, unit) for every unit in [0, units), in any order and by any thread; returns when all are done.
  void run(Work work, const void* context, int64_t units);

  // job(unit) for every unit.
  template <class Job>
  void each(int64_t units, const Job& job) {
    run([](const void* context, int64_t unit) { (*static_cast<const Job*>(context))(unit); }, &job, units);
  }

  ~Pool();

 private:
  void work_until_closed(uint64_t epoch);
  void loop(uint64_t epoch);
  void stop();

  static constexpr uint64_t CLOSED = 0xffffffff;  // as the next unit: there is none

  // The epoch of the job in the upper half, its next unit in the lower one. Whoever takes a unit moves it on by compare and
  // swap: that fails where the job has changed, so what was read of the job before belongs to the unit that was taken.
  alignas(64) std::atomic<uint64_t> state_{CLOSED};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<Work> work_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int64_t> units_{0};

  std::atomic<int> asleep_{0};
  std::atomic<bool> stopping_{false};
  std::mutex sleep_, running_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  int threads_ = 1;
};

extern Pool pool;

}  // namespace quire
