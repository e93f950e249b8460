// The activations on CPU vectors, and rows of numbers in any storage type: what the CPU kernels of bias_act and modulate
// share. Include from *_cpu.cpp only (see common/cpu_isa.h).
#pragma once
#include "bias_act/bias_act_math.h"
#include "bias_act/bias_act_params.h"
#include "common/cpu_math.h"
#include "common/cpu_vec.h"

namespace gk {
namespace {

template <>
struct Math<GK_ISA::FloatVec> {
  using V = GK_ISA::FloatVec;
  using Scalar = float;
  static GK_INLINE V splat(float a) { return V{} + a; }
  static GK_INLINE V exp(V v) { return GK_ISA::vec_exp(v); }
  static GK_INLINE V expm1(V v) { return GK_ISA::vec_expm1(v); }
  static GK_INLINE V tanh(V v) { return GK_ISA::vec_tanh(v); }
  static GK_INLINE V sigmoid(V v) { return GK_ISA::vec_sigmoid(v); }
  static GK_INLINE V softplus(V v) { return GK_ISA::vec_softplus(v); }
};

template <>
struct Math<GK_ISA::DoubleVec> {
  using V = GK_ISA::DoubleVec;
  using Scalar = double;
  static GK_INLINE V splat(double a) { return V{} + a; }
  static GK_INLINE V exp(V v) { return GK_ISA::vec_exp(v); }
  static GK_INLINE V expm1(V v) { return GK_ISA::vec_expm1(v); }
  static GK_INLINE V tanh(V v) { return GK_ISA::vec_tanh(v); }
  static GK_INLINE V sigmoid(V v) { return GK_ISA::vec_sigmoid(v); }
  static GK_INLINE V softplus(V v) { return GK_ISA::vec_softplus(v); }
};

}  // namespace

namespace GK_ISA {
namespace {

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
GK_INLINE T* offset(T* p, int64_t i) {
  return p ? p + i : nullptr;
}

// ---- rows of numbers ------------------------------------------------------------------------------------------------
struct Whole {};  // a whole vector
struct Part {     // the last n < lanes numbers of a row
  int64_t n;
};
template <class S>
GK_INLINE typename S::Vec load(const typename S::Elem* p, Whole) {
  return S::load(p);
}
template <class S>
GK_INLINE typename S::Vec load(const typename S::Elem* p, Part part) {
  return S::load(p, part.n);
}
template <class S>
GK_INLINE void store(typename S::Elem* p, typename S::Vec v, Whole) {
  S::store(p, v);
}
template <class S>
GK_INLINE void store(typename S::Elem* p, typename S::Vec v, Part part) {
  S::store(p, v, part.n);
}

// Calls body(i, Whole or Part) for every vector of a row.
template <class S, class Body>
GK_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + S::lanes <= n; i += S::lanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

template <class V>
GK_INLINE auto sum_lanes(V v) {
  using T = typename Math<V>::Scalar;
  T lane[sizeof(V) / sizeof(T)];
  store_bits(lane, v);
  for (int half = sizeof(V) / sizeof(T) / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

// ---- which formula ---------------------------------------------------------------------------------------------------
enum class From { y, v, nothing };  // what the slope is a function of

template <From from, Act act, class V>
GK_INLINE V slope_of(V saved, const ActSettings<typename Math<V>::Scalar>& s) {
  if constexpr (from == From::y) return slope_from_y<act>(saved, s);
  if constexpr (from == From::v) return slope_from_v<act>(saved, s);
  return Math<V>::splat(s.gain);
}

// The derivative of slope_of in what it is a function of.
template <From from, Act act, class V>
GK_INLINE V curvature_of(V saved, const ActSettings<typename Math<V>::Scalar>& s) {
  return from == From::y ? curvature_from_y<act>(saved, s) : curvature_from_v<act>(saved, s);
}

template <Act a>
struct Tag {
  static constexpr Act act = a;
};
template <class F>
auto with_act(Act act, F f) {
  switch (act) {
    case Act::relu: return f(Tag<Act::relu>{});
    case Act::lrelu: return f(Tag<Act::lrelu>{});
    case Act::tanh: return f(Tag<Act::tanh>{});
    case Act::sigmoid: return f(Tag<Act::sigmoid>{});
    case Act::elu: return f(Tag<Act::elu>{});
    case Act::selu: return f(Tag<Act::selu>{});
    case Act::softplus: return f(Tag<Act::softplus>{});
    case Act::swish: return f(Tag<Act::swish>{});
    case Act::linear: break;
  }
  return f(Tag<Act::linear>{});
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
