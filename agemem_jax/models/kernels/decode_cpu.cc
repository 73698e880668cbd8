// Attention of one new token per slot over the slot's cache on CPUs.
//
// Each slot reads its cache as far as it is filled. A pair of slot and key head is computed by one
// thread, so results do not depend on how many there are. Python's side is decode_cpu.py.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using agemem::Exp;
using agemem::Floats;
using agemem::kLanes;
using agemem::kSums;
using agemem::Load;
using agemem::Store;
using agemem::Tanh;

constexpr int64_t kFoldedDims = 4;  // of a key that one pass over the scores adds
constexpr int64_t kMostHeads = 4;   // that share what is read of a cache

typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

struct BFloat16 {
  uint16_t bits;  // the upper half of a float's
};

Floats Load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Floats x;
  std::memcpy(&x, &words, sizeof(x));
  return x;
}

float LoadOne(const float* from) { return *from; }

float LoadOne(const BFloat16* from) {
  const uint32_t word = uint32_t{from->bits} << 16;
  float x;
  std::memcpy(&x, &word, sizeof(x));
  return x;
}

int64_t RoundDown(int64_t x) { return x / kLanes * kLanes; }
int64_t RoundUp(int64_t x) { return RoundDown(x + kLanes - 1); }

// A stretch of the cache: keys [slot, kv_head, head_dim, length] and values
// [slot, kv_head, length, head_dim].
template <typename T>
struct Part {
  const T* keys;
  const T* values;
  int64_t length;
};

struct Settings {
  float scale;
  float softcap;
  int64_t window;
};

// Writes the products of `kHeads` queries and the keys `begin` to `end`.
template <int kHeads, typename T>
void Score(const float* query, int64_t dim, const T* keys, int64_t length, int64_t begin,
           int64_t end, float* scores, int64_t stride) {
  for (int64_t d = 0; d < dim; d += kFoldedDims) {
    const T* row[kFoldedDims];
    for (int i = 0; i < kFoldedDims; ++i) row[i] = keys + (d + i) * length;
    int64_t at = begin;
    for (; at + kLanes <= end; at += kLanes) {
      Floats key[kFoldedDims];
      for (int i = 0; i < kFoldedDims; ++i) key[i] = Load(row[i] + at);
      for (int head = 0; head < kHeads; ++head) {
        float* score = scores + head * stride + at;
        Floats sum = d ? Load(score) : Floats{};
        for (int i = 0; i < kFoldedDims; ++i) sum += query[head * dim + d + i] * key[i];
        Store(score, sum);
      }
    }
    for (; at < end; ++at) {
      for (int head = 0; head < kHeads; ++head) {
        float& score = scores[head * stride + at];
        if (d == 0) score = 0;
        for (int i = 0; i < kFoldedDims; ++i) {
          score += query[head * dim + d + i] * LoadOne(row[i] + at);
        }
      }
    }
  }
}

// Adds the values `begin` to `end`, `kVectors` vectors of each, in the queries' shares.
template <int kHeads, int kVectors, typename T>
void Mix(const float* shares, int64_t stride, const T* values, int64_t dim, int64_t begin,
         int64_t end, float* mixed) {
  Floats sum[kHeads][kVectors];
  for (int head = 0; head < kHeads; ++head) {
    for (int i = 0; i < kVectors; ++i) sum[head][i] = Load(mixed + head * dim + i * kLanes);
  }
  for (int64_t at = begin; at < end; ++at) {
    Floats value[kVectors];
    for (int i = 0; i < kVectors; ++i) value[i] = Load(values + at * dim + i * kLanes);
    for (int head = 0; head < kHeads; ++head) {
      const float share = shares[head * stride + at];
      for (int i = 0; i < kVectors; ++i) sum[head][i] += share * value[i];
    }
  }
  for (int head = 0; head < kHeads; ++head) {
    for (int i = 0; i < kVectors; ++i) Store(mixed + head * dim + i * kLanes, sum[head][i]);
  }
}

// Turns the scores `begin` to `end` into weights of at most 1, and returns their sum. What fills up
// the vectors at both ends gets weights of nothing.
float Weigh(float* scores, int64_t begin, int64_t end, float softcap) {
  const int64_t first = RoundDown(begin), last = RoundUp(end);
  if (softcap != 0) {
    for (int64_t at = first; at < last; at += kLanes) {
      Store(scores + at, softcap * Tanh(Load(scores + at) / softcap));
    }
  }
  constexpr float kUnseen = -std::numeric_limits<float>::infinity();
  std::fill(scores + first, scores + begin, kUnseen);
  std::fill(scores + end, scores + last, kUnseen);
  Floats top = Load(scores + first);
  for (int64_t at = first; at < last; at += kLanes) {
    const Floats score = Load(scores + at);
    top = score > top ? score : top;
  }
  float highest = top[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) highest = std::max(highest, float{top[lane]});
  Floats total{};
  for (int64_t at = first; at < last; at += kLanes) {
    const Floats weight = Exp(Load(scores + at) - highest);
    Store(scores + at, weight);
    total += weight;
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += total[lane];
  return sum;
}

// Attention of `kHeads` heads that share the keys and values of `pair`, a slot's key head.
template <int kHeads, typename T>
void AttendHeads(const float* query, const std::vector<Part<T>>& parts, int64_t pair, int64_t dim,
                 int64_t position, const Settings& settings, agemem::Room& scratch, float* mixed) {
  const int64_t end = position + 1;
  const int64_t begin = settings.window ? std::max<int64_t>(0, end - settings.window) : 0;
  const int64_t stride = RoundUp(end);
  scratch.Grow(kHeads * (stride + dim));
  float* scores = scratch.data();
  float* scaled = scores + kHeads * stride;
  for (int64_t i = 0; i < kHeads * dim; ++i) scaled[i] = settings.scale * query[i];

  // Calls `use(part, start, first, last)` for what is seen of each part, which begins at `start`.
  const auto for_each_part = [&](auto use) {
    int64_t start = 0;
    for (const Part<T>& part : parts) {
      const int64_t first = std::max<int64_t>(begin - start, 0);
      const int64_t last = std::min(end - start, part.length);
      if (first < last) use(part, start, first, last);
      start += part.length;
    }
  };
  for_each_part([&](const Part<T>& part, int64_t start, int64_t first, int64_t last) {
    // Whole vectors, where neither the part nor the scores end before.
    const int64_t whole = std::min({RoundUp(last), part.length, stride - start});
    Score<kHeads>(scaled, dim, part.keys + pair * dim * part.length, part.length, RoundDown(first),
                  whole, scores + start, stride);
  });
  float totals[kHeads];
  for (int head = 0; head < kHeads; ++head) {
    totals[head] = Weigh(scores + head * stride, begin, end, settings.softcap);
  }
  std::fill_n(mixed, kHeads * dim, 0.0f);
  for_each_part([&](const Part<T>& part, int64_t start, int64_t first, int64_t last) {
    const T* values = part.values + pair * dim * part.length;
    constexpr int kVectors = kSums / kMostHeads;
    int64_t d = 0;
    for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) {
      Mix<kHeads, kVectors>(scores + start, stride, values + d, dim, first, last, mixed + d);
    }
    for (; d < dim; d += kLanes) {
      Mix<kHeads, 1>(scores + start, stride, values + d, dim, first, last, mixed + d);
    }
  });
  for (int head = 0; head < kHeads; ++head) {
    for (int64_t d = 0; d < dim; ++d) mixed[head * dim + d] /= totals[head];
  }
}

// Attention of all slots.
template <typename T>
struct Slots {
  const float* query;
  const int32_t* positions;
  std::vector<Part<T>> parts;
  int64_t slots, kv_heads, group, dim, length;
  Settings settings;
  float* mixed;

  bool Idle(int64_t slot) const { return positions[slot] < 0 || positions[slot] >= length; }

  // A pair is a slot's key head, with the heads that share it.
  void Attend(int64_t pair) const {
    const int64_t slot = pair / kv_heads;
    if (Idle(slot)) {
      std::fill_n(mixed + pair * group * dim, group * dim, 0.0f);
      return;
    }
    thread_local agemem::Room scratch;
    for (int64_t head = 0; head < group; head += kMostHeads) {
      const int64_t offset = (pair * group + head) * dim;
      const auto attend = [&](auto heads) {
        AttendHeads<decltype(heads)::value>(query + offset, parts, pair, dim, positions[slot],
                                            settings, scratch, mixed + offset);
      };
      switch (std::min(group - head, kMostHeads)) {
        case 1: attend(std::integral_constant<int, 1>()); break;
        case 2: attend(std::integral_constant<int, 2>()); break;
        case 3: attend(std::integral_constant<int, 3>()); break;
        default: attend(std::integral_constant<int, kMostHeads>());
      }
    }
  }

  int64_t BytesRead() const {
    int64_t tokens = 0;
    for (int64_t slot = 0; slot < slots; ++slot) tokens += Idle(slot) ? 0 : positions[slot] + 1;
    return tokens * kv_heads * dim * 2 * sizeof(T);
  }
};

template <typename T>
void AttendAs(ffi::ThreadPool& pool, const ffi::Buffer<ffi::F32>& query,
              const ffi::Buffer<ffi::S32>& positions, const std::vector<ffi::AnyBuffer>& cache,
              const Settings& settings, ffi::ResultBuffer<ffi::F32>& mixed) {
  Slots<T> all;
  all.query = query.typed_data();
  all.positions = positions.typed_data();
  all.mixed = mixed->typed_data();
  all.settings = settings;
  const size_t count = cache.size() / 2;
  const auto shape = cache[count].dimensions();
  all.slots = shape[0];
  all.kv_heads = shape[1];
  all.dim = shape[3];
  all.group = query.dimensions()[1] / all.kv_heads;
  all.length = 0;
  for (size_t i = 0; i < count; ++i) {
    const int64_t length = cache[count + i].dimensions()[2];
    all.parts.push_back({reinterpret_cast<const T*>(cache[i].untyped_data()),
                         reinterpret_cast<const T*>(cache[count + i].untyped_data()), length});
    all.length += length;
  }
  agemem::RunInTurns(pool, agemem::Threads(pool, all.BytesRead()), all.slots * all.kv_heads,
                     [all](int64_t pair) { all.Attend(pair); });
}

// Arguments: query [slot, head, head_dim], positions [slot], then all parts' keys, then all
// parts' values. Result: [slot, head, head_dim].
ffi::Error Attend(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> query,
                  ffi::Buffer<ffi::S32> positions, ffi::RemainingArgs parts,
                  ffi::ResultBuffer<ffi::F32> mixed, float scale, float softcap, int64_t window) {
  std::vector<ffi::AnyBuffer> cache;
  for (size_t i = 0; i < parts.size(); ++i) {
    const ffi::ErrorOr<ffi::AnyBuffer> part = parts.get<ffi::AnyBuffer>(i);
    if (part.has_error()) return part.error();
    cache.push_back(part.value());
  }
  const Settings settings{scale, softcap, window};
  switch (cache.front().element_type()) {
    case ffi::DataType::F32:
      AttendAs<float>(pool, query, positions, cache, settings, mixed);
      return ffi::Error::Success();
    case ffi::DataType::BF16:
      AttendAs<BFloat16>(pool, query, positions, cache, settings, mixed);
      return ffi::Error::Success();
    default: return ffi::Error::InvalidArgument("A cache is float32 or bfloat16.");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(agemem_decode_attention, Attend,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap")
                                  .Attr<int64_t>("window"));
