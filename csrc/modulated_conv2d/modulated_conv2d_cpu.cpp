// Sums of squares over the taps of a kernel: one read of it. The loops are plain, the compiler vectorises them.
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

// kTaps > 0: known to the compiler, which then reads inputs with a constant stride.
template <class T, int kTaps>
void first(const T* w, T* q, int64_t inputs, int64_t taps) {
  const int64_t n = kTaps ? kTaps : taps;
  for (int64_t i = 0; i < inputs; ++i) {
    T sum = 0;
    for (int64_t t = 0; t < n; ++t) sum += w[i * n + t] * w[i * n + t];
    q[i] = sum;
  }
}

template <class T>
void rows(const ModulatedConv2dParams& p, int64_t begin, int64_t end) {
  for (int64_t o = begin; o < end; ++o) {
    const T* w = static_cast<const T*>(p.w) + o * p.inputs * p.taps;
    T* q = static_cast<T*>(p.q) + o * p.inputs;
    if (p.channels_last || p.taps == 1)
      last(w, q, p.inputs, p.taps);
    else if (p.taps == 9)
      first<T, 9>(w, q, p.inputs, p.taps);
    else
      first<T, 0>(w, q, p.inputs, p.taps);
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
