// Which keys the queries of a forest see, in blocks and runs.

#ifndef AGEMEM_FOREST_WALK_H_
#define AGEMEM_FOREST_WALK_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu.h"

namespace agemem::forest {

constexpr int64_t kMostVectors = 2;                // of queries in a block
constexpr int64_t kBlock = kMostVectors * kLanes;  // queries of a block
constexpr int64_t kGroup = 16;                     // keys of which it is known who sees them
constexpr int64_t kMostKeys = 64;                  // of a run of groups

// Of a query, what forest.py says.
struct QueryInfo {
  int32_t first, last, order, position;
};

struct Shape {
  int64_t rows, heads, kv_heads, tokens, length, dim;

  int64_t blocks() const { return (tokens + kBlock - 1) / kBlock; }
};

struct Settings {
  float scale;
  float softcap;
  int64_t window;
};

// The least and the most of some numbers.
struct Range {
  int32_t least = std::numeric_limits<int32_t>::max();
  int32_t most = std::numeric_limits<int32_t>::min();

  void Add(int32_t x) {
    least = std::min(least, x);
    most = std::max(most, x);
  }
};

// What neighbouring queries have in common.
struct Queries {
  Range first, last, order, position;
  bool padding = false;  // is among them

  explicit Queries(const QueryInfo* info, int64_t count) {
    for (const QueryInfo* each = info; each < info + count; ++each) {
      if (each->last < 0) {
        padding = true;
        continue;
      }
      first.Add(each->first);
      last.Add(each->last);
      order.Add(each->order);
      position.Add(each->position);
    }
  }
};

// What a group of keys has in common.
struct Keys {
  int32_t start;
  Range seen_until, position;
};

inline bool AnySees(const Queries& queries, const Keys& keys, int64_t window) {
  return keys.start <= queries.last.most && keys.start + kGroup > queries.first.least &&
         queries.order.least < keys.seen_until.most &&
         (window == 0 || int64_t{queries.position.least} - keys.position.most < window);
}

inline bool AllSee(const Queries& queries, const Keys& keys, int64_t window) {
  return !queries.padding && keys.start >= queries.first.most &&
         keys.start + kGroup - 1 <= queries.last.least &&
         queries.order.most < keys.seen_until.least &&
         (window == 0 || int64_t{queries.position.most} - keys.position.least < window);
}

// Neighbouring keys, and the vectors of a block's queries that see any of them.
struct Run {
  int32_t start, count;
  int8_t first, last;  // of the vectors
  bool partly;         // seen, so that it takes a mask
};

// The runs of keys that each block of queries sees, of all rows.
class Walk {
 public:
  Walk(const Shape& shape, const Settings& settings, const QueryInfo* q_info,
       const int32_t* k_info)
      : blocks_(shape.blocks()), starts_{0} {
    for (int64_t row = 0; row < shape.rows; ++row) {
      const std::vector<Keys> keys = Summarise(k_info + row * 2 * shape.length, shape.length);
      for (int64_t at = 0; at < shape.tokens; at += kBlock) {
        const QueryInfo* info = q_info + row * shape.tokens + at;
        AddRuns(info, std::min(kBlock, shape.tokens - at), keys, settings.window);
        starts_.push_back(runs_.size());
      }
    }
  }

  // Calls `use(run)` for each run of a block.
  template <typename Use>
  void ForEach(int64_t row, int64_t block, Use use) const {
    const int64_t index = row * blocks_ + block;
    for (int64_t i = starts_[index]; i < starts_[index + 1]; ++i) use(runs_[i]);
  }

  int64_t pairs() const { return pairs_; }  // of keys and queries that meet

 private:
  static std::vector<Keys> Summarise(const int32_t* k_info, int64_t length) {
    std::vector<Keys> keys;
    for (int64_t start = 0; start < length; start += kGroup) {
      Keys group{static_cast<int32_t>(start), {}, {}};
      for (int64_t key = start; key < start + kGroup; ++key) {
        group.seen_until.Add(k_info[key]);
        group.position.Add(k_info[length + key]);
      }
      keys.push_back(group);
    }
    return keys;
  }

  void AddRuns(const QueryInfo* info, int64_t count, const std::vector<Keys>& keys,
               int64_t window) {
    const Queries all(info, count);
    std::vector<Queries> vectors;
    for (int64_t at = 0; at < count; at += kLanes) vectors.emplace_back(info + at, kLanes);
    const size_t before = runs_.size();
    for (const Keys& group : keys) {
      if (!AnySees(all, group, window)) continue;
      const auto sees = [&](const Queries& each) { return AnySees(each, group, window); };
      const auto first = std::find_if(vectors.begin(), vectors.end(), sees);
      if (first == vectors.end()) continue;
      const auto last = std::find_if(vectors.rbegin(), vectors.rend(), sees).base();
      const bool partly = !std::all_of(
          first, last, [&](const Queries& each) { return AllSee(each, group, window); });
      const Run run{group.start, kGroup, static_cast<int8_t>(first - vectors.begin()),
                    static_cast<int8_t>(last - vectors.begin()), partly};
      pairs_ += kGroup * kLanes * (run.last - run.first);
      if (runs_.size() > before && Continues(runs_.back(), run)) {
        runs_.back().count += kGroup;
      } else {
        runs_.push_back(run);
      }
    }
  }

  static bool Continues(const Run& run, const Run& next) {
    return run.start + run.count == next.start && run.count < kMostKeys &&
           run.first == next.first && run.last == next.last && run.partly == next.partly;
  }

  int64_t blocks_;
  int64_t pairs_ = 0;
  std::vector<Run> runs_;
  std::vector<int64_t> starts_;  // of each block's runs
};

}  // namespace agemem::forest

#endif  // AGEMEM_FOREST_WALK_H_
