// What both directions of attention along a forest share: arguments, products, and scores.

#ifndef AGEMEM_FOREST_SCORES_H_
#define AGEMEM_FOREST_SCORES_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "cpu.h"
#include "forest_walk.h"

namespace agemem::forest {

constexpr float kMasked = -1e30f;
static_assert(kGroup % kSums == 0, "Products are of whole groups.");

// Adds to `sums` [rows, kVectors vectors] the product of `left` [rows, inner], of which neighbours
// in a row lie `step` apart, and `right` [inner, kVectors vectors]; or replaces them by it.
template <int kVectors, bool kAdd>
void Multiply(const float* left, int64_t left_row, int64_t step, int64_t rows, const float* right,
              int64_t right_row, int64_t inner, float* sums, int64_t sums_row) {
  constexpr int kTogether = kSums / kVectors;
  for (int64_t row = 0; row < rows; row += kTogether) {
    Floats sum[kTogether][kVectors] = {};
    const float* own = left + row * left_row;
    for (int64_t i = 0; i < inner; ++i) {
      Floats x[kVectors];
      for (int v = 0; v < kVectors; ++v) x[v] = LoadOnce(right + i * right_row + v * kLanes);
      for (int r = 0; r < kTogether; ++r) {
        const float factor = own[r * left_row + i * step];
        for (int v = 0; v < kVectors; ++v) sum[r][v] += factor * x[v];
      }
    }
    for (int r = 0; r < kTogether; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* to = sums + (row + r) * sums_row + v * kLanes;
        Store(to, kAdd ? Load(to) + sum[r][v] : sum[r][v]);
      }
    }
  }
}

// Calls `use` with `count`, which is 1 or kMostVectors, as a constant.
template <typename Use>
void WithConstant(int64_t count, Use use) {
  if (count == 1) return use(std::integral_constant<int, 1>());
  return use(std::integral_constant<int, kMostVectors>());
}

// Adds a product whose result lies as [rows, dim].
inline void MultiplyWide(const float* left, int64_t left_row, int64_t rows, const float* right,
                  int64_t inner, int64_t dim, float* sums) {
  int64_t d = 0;
  for (; d + kBlock <= dim; d += kBlock) {
    Multiply<kMostVectors, true>(left, left_row, 1, rows, right + d, dim, inner, sums + d, dim);
  }
  for (; d < dim; d += kLanes) {
    Multiply<1, true>(left, left_row, 1, rows, right + d, dim, inner, sums + d, dim);
  }
}

// Takes numbers from `room`, behind those taken before.
inline float* Take(float*& room, int64_t count) {
  float* taken = room;
  room += count;
  return taken;
}

// A block of queries of one head, with what is known of them turned so that queries are neighbours.
struct Block {
  int64_t count;
  Integers first[kMostVectors], last[kMostVectors], order[kMostVectors], position[kMostVectors];

  Block(const QueryInfo* info, int64_t count) : count(count) {
    for (int64_t i = 0; i < count; ++i) {
      first[i / kLanes][i % kLanes] = info[i].first;
      last[i / kLanes][i % kLanes] = info[i].last;
      order[i / kLanes][i % kLanes] = info[i].order;
      position[i / kLanes][i % kLanes] = info[i].position;
    }
  }

  // [query, dim] as [dim, query], of which each takes kBlock.
  void Turn(const float* from, int64_t dim, float* to) const {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < dim; ++d) to[d * kBlock + i] = from[i * dim + d];
    }
  }

  void TurnBack(const float* from, int64_t dim, float* to) const {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < dim; ++d) to[i * dim + d] = from[d * kBlock + i];
    }
  }

  // Which queries of vector `v` see a key: all bits are set where one does.
  Integers Sees(int64_t v, int32_t key, const int32_t* k_info, int64_t length,
                int64_t window) const {
    Integers seen = (first[v] <= key) & (last[v] >= key) & (order[v] < k_info[key]);
    if (window) {
      seen &= position[v] - k_info[length + key] < static_cast<int32_t>(window);
    }
    return seen;
  }
};

// What forward and backward share: arguments, and scores.
struct Attention {
  Shape shape;
  Settings settings;
  const float *query, *keys, *values;
  const QueryInfo* q_info;
  const int32_t* k_info;
  std::shared_ptr<const Walk> walk;

  Block BlockAt(int64_t row, int64_t block) const {
    const int64_t at = block * kBlock;
    return Block(q_info + row * shape.tokens + at, std::min(kBlock, shape.tokens - at));
  }

  int64_t QueryStart(int64_t row, int64_t head, int64_t block) const {
    return (row * shape.heads + head) * shape.tokens + block * kBlock;
  }

  // Index of the first key of this head.
  int64_t KeyStart(int64_t row, int64_t head) const {
    return (row * shape.kv_heads + head * shape.kv_heads / shape.heads) * shape.length;
  }

  // Scores of a run, [key, query], from `turned` queries [dim, query].
  template <int kVectors>
  void Score(const Block& block, const Run& run, const float* own_keys, const float* turned,
             const int32_t* own_k_info, float* scores) const {
    constexpr int64_t kWidth = kVectors * kLanes;
    Multiply<kVectors, false>(own_keys + run.start * shape.dim, shape.dim, 1, run.count,
                              turned + run.first * kLanes, kBlock, shape.dim, scores, kWidth);
    for (int64_t i = 0; i < run.count; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        float* at = scores + i * kWidth + v * kLanes;
        Floats score = settings.scale * Load(at);
        if (settings.softcap != 0) score = settings.softcap * Tanh(score / settings.softcap);
        if (run.partly) {
          const Integers seen = block.Sees(run.first + v, run.start + i, own_k_info, shape.length,
                                           settings.window);
          score = seen ? score : Floats{} + kMasked;
        }
        Store(at, score);
      }
    }
  }
};

}  // namespace agemem::forest

#endif  // AGEMEM_FOREST_SCORES_H_
