// What the kernels for CPUs share: vectors, and work that threads take in turns.

#ifndef AGEMEM_CPU_H_
#define AGEMEM_CPU_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace agemem {

constexpr int64_t kLanes = 16;

// Compilers make of these what the processor has.
typedef float Floats __attribute__((vector_size(4 * kLanes)));

inline Floats Load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

inline void Store(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }

// Room for numbers, none of whose vectors lies across two lines of a processor's cache: reading
// such a one takes twice as long.
class Room {
 public:
  explicit Room(int64_t count = 0) { Grow(count); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() { Free(); }

  float* data() const { return data_; }

  // What was there is lost where there was less room.
  void Grow(int64_t count) {
    if (count <= count_) return;
    Free();
    data_ = new (kLine) float[count];
    count_ = count;
  }

 private:
  static constexpr std::align_val_t kLine{64};

  void Free() { operator delete[](data_, kLine); }

  float* data_ = nullptr;
  int64_t count_ = 0;
};

// How many threads are worth waking to read so many bytes.
inline int64_t Threads(const xla::ffi::ThreadPool& pool, int64_t bytes) {
  constexpr int64_t kBytesPerThread = 128 << 10;
  return std::max<int64_t>(1, std::min(pool.num_threads(), bytes / kBytesPerThread));
}

// Calls `run(item)` for each of `items`, on this thread and others, of which each takes the next
// item as soon as it is free. Returns when all are done.
template <typename Run>
void RunInTurns(xla::ffi::ThreadPool& pool, int64_t threads, int64_t items, Run run) {
  struct State {
    Run run;
    int64_t items;
    std::atomic<int64_t> taken{0}, done{0};
    State(Run run, int64_t items) : run(std::move(run)), items(items) {}
  };
  auto state = std::make_shared<State>(std::move(run), items);
  const auto help = [state] {
    for (int64_t item; (item = state->taken.fetch_add(1)) < state->items;) {
      state->run(item);
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t i = 1; i < std::min(threads, items); ++i) {
    pool.Schedule([help] { help(); });  // one that comes too late finds all items taken
  }
  help();
  while (state->done.load(std::memory_order_acquire) < items) std::this_thread::yield();
}

}  // namespace agemem

#endif  // AGEMEM_CPU_H_
