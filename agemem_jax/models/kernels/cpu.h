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

// Numbers in one of the processor's vectors, and how many of these its registers hold as sums,
// beside what is added. Wider ones some compilers take apart, number by number.
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
constexpr int kSums = 16;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
constexpr int kSums = 8;
#elif defined(__aarch64__)
constexpr int64_t kLanes = 4;
constexpr int kSums = 16;
#else
constexpr int64_t kLanes = 4;
constexpr int kSums = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));

inline Floats Load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

// A vector that is used several times. GCC would read it again each time, which with 512 bits, and
// half as many loads, does not matter.
inline Floats LoadOnce(const float* from) {
  Floats x = Load(from);
#if defined(__AVX2__) && !defined(__AVX512F__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}

inline void Store(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }

// e to the power of x <= 0, in two parts: `scale`, a power of 2, and `scale` times what is missing
// to the whole. Both are 0 where it is less than 1e-38.
struct Exponential {
  Floats scale, rest;
};

inline Exponential ExpInParts(Floats x) {
  x = x < -88.0f ? Floats{} - 88.0f : x;  // whose exponent below has no bits
  constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction
  const Floats power = (x * 1.44269504f + kRounding) - kRounding;
  // log(2) in two parts, so that the product with the first is exact.
  const Floats rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  Floats series = rest * (1.0f / 5040) + 1.0f / 720;
  series = series * rest + 1.0f / 120;
  series = series * rest + 1.0f / 24;
  series = series * rest + 1.0f / 6;
  series = series * rest + 0.5f;
  series = series * rest * rest + rest;
  const Integers bits = (__builtin_convertvector(power, Integers) + 127) << 23;
  Exponential parts;
  std::memcpy(&parts.scale, &bits, sizeof(bits));
  parts.rest = series * parts.scale;
  return parts;
}

// e to the power of x <= 0, to 2 units in the last place; 0 for what is less than 1e-38.
inline Floats Exp(Floats x) {
  const Exponential parts = ExpInParts(x);
  return parts.scale + parts.rest;
}

// The hyperbolic tangent. It is as exact near 0, since nothing near 1 is subtracted from 1.
inline Floats Tanh(Floats x) {
  const Exponential parts = ExpInParts(x < 0.0f ? 2.0f * x : -2.0f * x);
  const Floats less = (parts.scale - 1.0f) + parts.rest;  // than 1, of e^(-2|x|)
  const Floats size = -less / (less + 2.0f);
  return x < 0.0f ? -size : size;
}

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
