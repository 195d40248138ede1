#include "pool.h"

#include "isa.h"

#ifdef QUIRE_X86
#include <immintrin.h>
#endif

namespace quire {

Pool pool;

namespace {

constexpr int SPINS = 4000;  // of a waiting thread until it sleeps: some tens of microseconds

void relax() {
#ifdef QUIRE_X86
  _mm_pause();
#endif
}

}  // namespace

void Pool::resize(int threads) {
  std::lock_guard<std::mutex> alone(running_);
  if (threads == threads_) return;
  stop();
  threads_ = threads;
  const uint64_t epoch = state_.load() >> 32;
  for (int i = 1; i < threads; i++) workers_.emplace_back([this, epoch] { loop(epoch); });
}

void Pool::stop() {
  stopping_ = true;
  {
    std::lock_guard<std::mutex> hold(sleep_);
    wake_.notify_all();
  }
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  stopping_ = false;
}

Pool::~Pool() { stop(); }

void Pool::run(Work work, const void* context, int64_t units) {
  // A job beside that of another thread is done by its caller alone. (Units must not start jobs.)
  std::unique_lock<std::mutex> alone(running_, std::try_to_lock);
  if (units < 2 || !alone.owns_lock() || workers_.empty() || units >= static_cast<int64_t>(CLOSED)) {
    for (int64_t unit = 0; unit < units; unit++) work(context, unit);
    return;
  }
  const uint64_t epoch = ((state_.load() >> 32) + 1) & CLOSED;
  state_.store(epoch << 32 | CLOSED);
  work_ = work;
  context_ = context;
  units_ = units;
  done_ = 0;
  state_.store(epoch << 32);
  if (asleep_.load()) {
    std::lock_guard<std::mutex> hold(sleep_);
    wake_.notify_all();
  }
  work_until_closed(epoch);
  // Spinning here is short where the others have a core; where they do not, a core is what they need.
  for (int spins = 0; done_.load(std::memory_order_acquire) < units; spins++) {
    if (spins < SPINS) relax(); else std::this_thread::yield();
  }
}

void Pool::work_until_closed(uint64_t epoch) {
  for (;;) {
    uint64_t state = state_.load(std::memory_order_acquire);
    const Work work = work_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    const int64_t units = units_.load(std::memory_order_acquire);
    const int64_t unit = static_cast<int64_t>(state & CLOSED);
    if (state >> 32 != epoch || unit >= units) return;
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
    work(context, unit);
    done_.fetch_add(1, std::memory_order_release);
  }
}

void Pool::loop(uint64_t epoch) {
  for (;;) {
    int spins = 0;
    uint64_t state;
    while ((state = state_.load(std::memory_order_acquire)) >> 32 == epoch || (state & CLOSED) == CLOSED) {
      if (stopping_.load()) return;
      if (spins++ < SPINS) {
        relax();
        continue;
      }
      std::unique_lock<std::mutex> hold(sleep_);
      asleep_.fetch_add(1);
      wake_.wait(hold, [&] { return stopping_.load() || state_.load() >> 32 != epoch; });
      asleep_.fetch_sub(1);
    }
    epoch = state >> 32;
    work_until_closed(epoch);
  }
}

}  // namespace quire
