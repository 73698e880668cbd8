// Products of a few rows with a matrix on CPUs. Python's side is product_cpu.py.
//
// The matrix is read once, at the rate at which memory gives it. Every sum is computed by one
// thread in one order, so results do not depend on how many there are.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "cpu.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using agemem::Floats;
using agemem::kLanes;
using agemem::kSums;
using agemem::LoadOnce;
using Matrix = ffi::Buffer<ffi::F32, 2>;

constexpr int64_t kMostRows = 32;
constexpr int64_t kLine = 64 / sizeof(float);  // numbers in a line of a processor's cache

// `kCount` outputs of all rows. `columns` holds the rows turned around, [inputs, vector, lane], and
// `matrix` the outputs' weights, one behind the other; `next` is what this thread reads then.
template <int kCount, int kVectors>
void Multiply(const float* matrix, const float* next, const float* columns, int64_t inputs,
              int64_t rows, int64_t outputs, float* product) {
  Floats sum[kCount][kVectors] = {};
  const auto add = [&](int64_t i) {
    Floats x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = LoadOnce(columns + (i * kVectors + v) * kLanes);
    for (int j = 0; j < kCount; ++j) {
      for (int v = 0; v < kVectors; ++v) sum[j][v] += matrix[j * inputs + i] * x[v];
    }
  };
  int64_t i = 0;
  for (; i + kLine <= inputs; i += kLine) {
    for (int j = 0; j < kCount; ++j) __builtin_prefetch(next + j * inputs + i);
    for (int64_t k = 0; k < kLine; ++k) add(i + k);
  }
  for (; i < inputs; ++i) add(i);
  float turned[kVectors * kLanes][kCount];
  for (int j = 0; j < kCount; ++j) {
    for (int v = 0; v < kVectors; ++v) {
      for (int lane = 0; lane < kLanes; ++lane) turned[v * kLanes + lane][j] = sum[j][v][lane];
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(product + row * outputs, turned[row], sizeof(turned[row]));
  }
}

template <int kVectors>
void MultiplyAll(ffi::ThreadPool& pool, const float* x, const float* matrix, int64_t rows,
                 int64_t inputs, int64_t outputs, float* product) {
  constexpr int kOutputs = std::min(8, kSums / kVectors);  // that are summed up side by side
  const auto columns = std::make_shared<agemem::Room>(inputs * kVectors * kLanes);
  std::fill_n(columns->data(), inputs * kVectors * kLanes, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    float* column = columns->data() + row;
    for (int64_t i = 0; i < inputs; ++i) column[i * kVectors * kLanes] = x[row * inputs + i];
  }
  const int64_t threads = agemem::Threads(pool, outputs * inputs * sizeof(float));
  // A few turns for each, and outputs by the line: threads that write to the same one wait for
  // each other.
  const int64_t taken = std::max<int64_t>(1, outputs / (4 * threads * kLine)) * kLine;
  const auto run = [=](int64_t item) {
    int64_t at = item * taken;
    const int64_t end = std::min(outputs, at + taken);
    for (; at + kOutputs <= end; at += kOutputs) {
      const float* own = matrix + at * inputs;
      const float* next = at + 2 * kOutputs <= end ? own + kOutputs * inputs : own;
      Multiply<kOutputs, kVectors>(own, next, columns->data(), inputs, rows, outputs, product + at);
    }
    for (; at < end; ++at) {
      const float* own = matrix + at * inputs;
      Multiply<1, kVectors>(own, own, columns->data(), inputs, rows, outputs, product + at);
    }
  };
  agemem::RunInTurns(pool, threads, (outputs + taken - 1) / taken, run);
}

// Of twice as many vectors until they hold all rows.
template <int kVectors>
auto MultiplyFor(int64_t rows) {
  if constexpr (kVectors * kLanes < kMostRows) {
    if (rows > kVectors * kLanes) return MultiplyFor<2 * kVectors>(rows);
  }
  return MultiplyAll<kVectors>;
}

// Arguments: rows [row, input] and a matrix [output, input]. Result: [row, output].
ffi::Error Times(ffi::ThreadPool pool, Matrix x, Matrix matrix, ffi::Result<Matrix> product) {
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1];
  const int64_t outputs = matrix.dimensions()[0];
  if (rows > kMostRows) return ffi::Error::InvalidArgument("These are too many rows.");
  const auto multiply_all = MultiplyFor<1>(rows);
  multiply_all(pool, x.typed_data(), matrix.typed_data(), rows, inputs, outputs,
               product->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    agemem_times_transposed, Times,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Matrix>().Arg<Matrix>().Ret<Matrix>());
