// Attention along the paths of a forest on CPUs, and its gradients. Python's side is forest_cpu.py.
//
// Blocks of queries walk through the runs of keys that they see. Scores stand as [key, query]: the
// lanes of a vector are neighbouring queries, so what a softmax compares and adds up over keys
// stays in its lane, and keys and values are read as they lie. What one item writes no other one
// does, and each is computed by one thread, so results do not depend on how many there are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "cpu.h"
#include "forest_scores.h"
#include "forest_walk.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using agemem::Exp;
using agemem::Floats;
using agemem::Integers;
using agemem::kLanes;
using agemem::Load;
using agemem::Store;
using namespace agemem::forest;

struct Forward : Attention {
  float *mixed, *log_sum;

  struct State {
    float *turned, *scores, *sums;
    Floats top[kMostVectors], total[kMostVectors];
  };

  int64_t items() const { return shape.rows * shape.heads * shape.blocks(); }

  void Compute(int64_t item) const {
    const int64_t index = item % shape.blocks(), head = item / shape.blocks() % shape.heads;
    const int64_t row = item / shape.blocks() / shape.heads;
    const Block block = BlockAt(row, index);
    thread_local agemem::Room scratch;
    scratch.Grow((2 * shape.dim + kMostKeys) * kBlock);
    float* room = scratch.data();
    State state;
    state.turned = Take(room, shape.dim * kBlock);
    state.sums = Take(room, shape.dim * kBlock);
    state.scores = Take(room, kMostKeys * kBlock);
    std::fill_n(state.sums, shape.dim * kBlock, 0.0f);
    for (int64_t v = 0; v < kMostVectors; ++v) {
      state.top[v] = Floats{} + kMasked;
      state.total[v] = Floats{};
    }
    const int64_t start = QueryStart(row, head, index), key_start = KeyStart(row, head);
    block.Turn(query + start * shape.dim, shape.dim, state.turned);
    walk->ForEach(row, index, [&](const Run& run) {
      WithConstant(run.last - run.first, [&](auto vectors) {
        Add<vectors>(block, run, key_start, k_info + row * 2 * shape.length, state);
      });
    });
    for (int64_t v = 0; v * kLanes < block.count; ++v) {
      // Where nothing was seen, nothing is mixed, and the scores' exponentials become 0 when they
      // are computed again.
      const Integers anything = state.top[v] > 0.5f * kMasked;
      const Floats total = anything ? state.total[v] : Floats{} + 1.0f;
      const Floats share = anything ? 1.0f / total : Floats{};
      for (int64_t d = 0; d < shape.dim; ++d) {
        float* at = state.sums + d * kBlock + v * kLanes;
        Store(at, Load(at) * share);
      }
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        log_sum[start + v * kLanes + lane] =
            anything[lane] ? state.top[v][lane] + std::log(total[lane]) : 0.0f;
      }
    }
    block.TurnBack(state.sums, shape.dim, mixed + start * shape.dim);
  }

  // One more run of keys: what was summed up before shrinks where a higher score comes.
  template <int kVectors>
  void Add(const Block& block, const Run& run, int64_t key_start, const int32_t* own_k_info,
           State& state) const {
    constexpr int64_t kWidth = kVectors * kLanes;
    Score<kVectors>(block, run, keys + key_start * shape.dim, state.turned, own_k_info,
                    state.scores);
    for (int v = 0; v < kVectors; ++v) {
      float* scores = state.scores + v * kLanes;
      Floats& top = state.top[run.first + v];
      Floats highest = top;
      for (int64_t i = 0; i < run.count; ++i) {
        const Floats score = Load(scores + i * kWidth);
        highest = score > highest ? score : highest;
      }
      Floats total{};
      for (int64_t i = 0; i < run.count; ++i) {
        const Floats share = Exp(Load(scores + i * kWidth) - highest);
        Store(scores + i * kWidth, share);
        total += share;
      }
      const Floats shrink = Exp(top - highest);
      state.total[run.first + v] = state.total[run.first + v] * shrink + total;
      top = highest;
      for (int64_t d = 0; d < shape.dim; ++d) {
        float* at = state.sums + d * kBlock + (run.first + v) * kLanes;
        Store(at, Load(at) * shrink);
      }
    }
    Multiply<kVectors, true>(values + (key_start + run.start) * shape.dim, 1, shape.dim, shape.dim,
                             state.scores, kWidth, run.count, state.sums + run.first * kLanes,
                             kBlock);
  }
};

struct Backward : Attention {
  const float *mixed, *log_sum, *grad;
  float *q_grad, *k_grad, *v_grad;  // of keys and values for every head that reads them

  struct State {
    float *turned, *turned_grad, *sums, *shares, *slopes;
    const float *query, *grad;
    float *k_grad, *v_grad;
    Floats log_sum[kMostVectors], delta[kMostVectors];
  };

  // A head of a row.
  int64_t items() const { return shape.rows * shape.heads; }

  void Compute(int64_t item) const {
    const int64_t head = item % shape.heads, row = item / shape.heads;
    thread_local agemem::Room scratch;
    scratch.Grow((3 * shape.dim + 2 * kMostKeys) * kBlock);
    float* room = scratch.data();
    State state;
    state.turned = Take(room, shape.dim * kBlock);
    state.turned_grad = Take(room, shape.dim * kBlock);
    state.sums = Take(room, shape.dim * kBlock);
    state.shares = Take(room, kMostKeys * kBlock);
    state.slopes = Take(room, kMostKeys * kBlock);
    const int64_t size = shape.length * shape.dim, key_start = KeyStart(row, head);
    state.k_grad = k_grad + item * size;
    state.v_grad = v_grad + item * size;
    std::fill_n(state.k_grad, size, 0.0f);
    std::fill_n(state.v_grad, size, 0.0f);
    for (int64_t index = 0; index < shape.blocks(); ++index) {
      const Block block = BlockAt(row, index);
      const int64_t start = QueryStart(row, head, index);
      state.query = query + start * shape.dim;
      state.grad = grad + start * shape.dim;
      block.Turn(state.query, shape.dim, state.turned);
      block.Turn(state.grad, shape.dim, state.turned_grad);
      for (int64_t v = 0; v * kLanes < block.count; ++v) {
        state.log_sum[v] = Load(log_sum + start + v * kLanes);
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const int64_t at = (v * kLanes + lane) * shape.dim;
          Floats sum{};
          for (int64_t d = at; d < at + shape.dim; d += kLanes) {
            sum += Load(state.grad + d) * Load(mixed + start * shape.dim + d);
          }
          float delta = 0;
          for (int64_t i = 0; i < kLanes; ++i) delta += sum[i];
          state.delta[v][lane] = delta;
        }
      }
      std::fill_n(state.sums, shape.dim * kBlock, 0.0f);
      walk->ForEach(row, index, [&](const Run& run) {
        WithConstant(run.last - run.first, [&](auto vectors) {
          Add<vectors>(block, run, key_start, k_info + row * 2 * shape.length, state);
        });
      });
      block.TurnBack(state.sums, shape.dim, q_grad + start * shape.dim);
    }
  }

  template <int kVectors>
  void Add(const Block& block, const Run& run, int64_t key_start, const int32_t* own_k_info,
           const State& state) const {
    constexpr int64_t kWidth = kVectors * kLanes;
    const int64_t dim = shape.dim, at_query = run.first * kLanes, at_key = run.start * dim;
    const float* own_keys = keys + key_start * dim;
    Score<kVectors>(block, run, own_keys, state.turned, own_k_info, state.shares);
    Multiply<kVectors, false>(values + key_start * dim + at_key, dim, 1, run.count,
                              state.turned_grad + at_query, kBlock, dim, state.slopes, kWidth);
    for (int64_t i = 0; i < run.count; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = i * kWidth + v * kLanes;
        const Floats score = Load(state.shares + at);
        const Floats share = Exp(score - state.log_sum[run.first + v]);
        Floats slope = share * (Load(state.slopes + at) - state.delta[run.first + v]);
        if (settings.softcap != 0) {
          // The tanh; of what is masked, that of the least score, where it is flat.
          const Floats bent = score < -settings.softcap ? Floats{} - 1.0f : score / settings.softcap;
          slope *= 1.0f - bent * bent;
        }
        Store(state.shares + at, share);
        Store(state.slopes + at, settings.scale * slope);
      }
    }
    MultiplyWide(state.shares, kWidth, run.count, state.grad + at_query * dim, kWidth, dim,
                 state.v_grad + at_key);
    MultiplyWide(state.slopes, kWidth, run.count, state.query + at_query * dim, kWidth, dim,
                 state.k_grad + at_key);
    Multiply<kVectors, true>(own_keys + at_key, 1, dim, dim, state.slopes, kWidth, run.count,
                             state.sums + at_query, kBlock);
  }
};

using Array = ffi::Buffer<ffi::F32, 4>;
using Info = ffi::Buffer<ffi::S32, 3>;
using LogSum = ffi::Buffer<ffi::F32, 3>;

void Prepare(Attention& all, const Settings& settings, const Array& query, const Array& keys,
             const Array& values, const Info& q_info, const Info& k_info) {
  const auto shape = query.dimensions();
  all.shape = {shape[0], shape[1], keys.dimensions()[1], shape[2], keys.dimensions()[2], shape[3]};
  all.settings = settings;
  all.query = query.typed_data();
  all.keys = keys.typed_data();
  all.values = values.typed_data();
  all.q_info = reinterpret_cast<const QueryInfo*>(q_info.typed_data());
  all.k_info = k_info.typed_data();
  all.walk = std::make_shared<const Walk>(all.shape, settings, all.q_info, all.k_info);
}

template <typename Direction>
void ComputeAll(ffi::ThreadPool& pool, const Direction& all) {
  // An item's arithmetic, as if it were bytes.
  const int64_t work = all.walk->pairs() * all.shape.heads * all.shape.dim;
  agemem::RunInTurns(pool, agemem::Threads(pool, work), all.items(),
                     [all](int64_t item) { all.Compute(item); });
}

// Arguments: query [row, head, token, head_dim], keys and values [row, kv_head, length, head_dim],
// q_info [row, token, 4] and k_info [row, 2, length]. Results: [row, head, token, head_dim], and
// the logarithms of what scores' exponentials add up to, [row, head, token].
ffi::Error RunForward(ffi::ThreadPool pool, float scale, float softcap, int64_t window,
                      Array query, Array keys, Array values, Info q_info, Info k_info,
                      ffi::Result<Array> mixed, ffi::Result<LogSum> log_sum) {
  Forward all;
  Prepare(all, {scale, softcap, window}, query, keys, values, q_info, k_info);
  all.mixed = mixed->typed_data();
  all.log_sum = log_sum->typed_data();
  ComputeAll(pool, all);
  return ffi::Error::Success();
}

// Arguments: those of forward, its results, and the gradient of the first one. Results: gradients
// of the query, and of what each head reads of keys and values, [row, head, length, head_dim].
ffi::Error RunBackward(ffi::ThreadPool pool, float scale, float softcap, int64_t window,
                       Array query, Array keys, Array values, Info q_info, Info k_info,
                       Array mixed, LogSum log_sum, Array grad, ffi::Result<Array> q_grad,
                       ffi::Result<Array> k_grad, ffi::Result<Array> v_grad) {
  Backward all;
  Prepare(all, {scale, softcap, window}, query, keys, values, q_info, k_info);
  all.mixed = mixed.typed_data();
  all.log_sum = log_sum.typed_data();
  all.grad = grad.typed_data();
  all.q_grad = q_grad->typed_data();
  all.k_grad = k_grad->typed_data();
  all.v_grad = v_grad->typed_data();
  ComputeAll(pool, all);
  return ffi::Error::Success();
}

// What both take.
auto Bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<float>("scale")
      .Attr<float>("softcap")
      .Attr<int64_t>("window")
      .Arg<Array>()
      .Arg<Array>()
      .Arg<Array>()
      .Arg<Info>()
      .Arg<Info>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(agemem_forest_forward, RunForward,
                              Bind().Ret<Array>().Ret<LogSum>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(agemem_forest_backward, RunBackward,
                              Bind()
                                  .Arg<Array>()
                                  .Arg<LogSum>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
