// Sums of squares over the taps of a kernel, and the kernel in channels_last if that is wanted: one read of it. The loops are
// plain, the compiler vectorises them.
#include "modulated_conv2d/modulated_conv2d_params.h"

namespace gk {
namespace GK_ISA {
namespace {

template <class T>
void last(const T* w, T* q, int64_t inputs, int64_t taps) {
  for (int64_t i = 0; i < inputs; ++i) q[i] = w[i] * w[i];
  for (int64_t t = 1; t < taps; ++t)
    for (int64_t i = 0; i < inputs; ++i) q[i] += w[t * inputs + i] * w[t * inputs + i];
}

// A weight of many channels is out of the near caches, and its rows are shorter than what the hardware follows at full speed.
constexpr int64_t kInputs = 64;        // taken together
constexpr int64_t kAheadBytes = 8192;  // fetched so far ahead
constexpr int64_t kCacheLineBytes = 64;

// kTaps > 0: known to the compiler, which then reads inputs with a constant stride. turned: [taps, inputs] of the row, or null.
template <class T, int kTaps>
void first(const T* w, T* q, T* turned, int64_t inputs, int64_t taps) {
  const int64_t n = kTaps ? kTaps : taps;
  for (int64_t begin = 0; begin < inputs; begin += kInputs) {
    const int64_t count = inputs - begin < kInputs ? inputs - begin : kInputs;
    const T* from = w + begin * n;
    const char* bytes = reinterpret_cast<const char*>(from) + kAheadBytes;
    for (int64_t k = 0; k < count * n * static_cast<int64_t>(sizeof(T)); k += kCacheLineBytes)
      __builtin_prefetch(bytes + k, 0);
    T* to = q + begin;
    if (turned) {
      for (int64_t i = 0; i < count; ++i) to[i] = 0;
      for (int64_t t = 0; t < n; ++t) {
        T* line = turned + t * inputs + begin;
        for (int64_t i = 0; i < count; ++i) line[i] = from[i * n + t], to[i] += from[i * n + t] * from[i * n + t];
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        T sum = 0;
        for (int64_t t = 0; t < n; ++t) sum += from[i * n + t] * from[i * n + t];
        to[i] = sum;
      }
    }
  }
}

template <class T>
void rows(const ModulatedConv2dParams& p, int64_t begin, int64_t end) {
  for (int64_t o = begin; o < end; ++o) {
    const T* w = static_cast<const T*>(p.w) + o * p.inputs * p.taps;
    T* q = static_cast<T*>(p.q) + o * p.inputs;
    T* turned = p.turned ? static_cast<T*>(p.turned) + o * p.inputs * p.taps : nullptr;
    if (p.channels_last || (p.taps == 1 && !turned))
      last(w, q, p.inputs, p.taps);
    else if (p.taps == 9)
      first<T, 9>(w, q, turned, p.inputs, p.taps);
    else
      first<T, 0>(w, q, turned, p.inputs, p.taps);
  }
}

}  // namespace

void modulated_conv2d_squares_cpu(const ModulatedConv2dParams& p, int64_t begin, int64_t end) {
  if (p.dtype == DType::f64)
    rows<double>(p, begin, end);
  else
    rows<float>(p, begin, end);
}

}  // namespace GK_ISA
}  // namespace gk
