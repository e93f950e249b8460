// adain's CUDA kernels: activations, and what follows from the sums of a plane (see adain_params.h).
#pragma once
#include <cmath>

#include "adain/adain_params.h"
#include "bias_act/bias_act_math.h"

namespace gk {
namespace {

// ---- activations ----------------------------------------------------------------------------------------------------
// kFast: linear, relu and lrelu, all as lrelu (see act_settings), which costs two instructions. Else any, chosen where it is
// computed.
template <class A>
struct ActNumbers {
  ActSettings<A> s;
  Act act;
};

template <bool kFast, class A>
ActNumbers<A> act_numbers(Act act, double alpha, double gain) {
  if (kFast && act != Act::lrelu) alpha = act == Act::linear ? 1 : 0;
  return {ActSettings<A>(alpha, gain, -1), act};
}

template <Act kAct>
struct ActTag {
  static constexpr Act act = kAct;
};
template <class F>
__device__ __forceinline__ auto with_act(Act act, F f) {
  switch (act) {
    case Act::relu: return f(ActTag<Act::relu>{});
    case Act::lrelu: return f(ActTag<Act::lrelu>{});
    case Act::tanh: return f(ActTag<Act::tanh>{});
    case Act::sigmoid: return f(ActTag<Act::sigmoid>{});
    case Act::elu: return f(ActTag<Act::elu>{});
    case Act::selu: return f(ActTag<Act::selu>{});
    case Act::softplus: return f(ActTag<Act::softplus>{});
    case Act::swish: return f(ActTag<Act::swish>{});
    case Act::linear: break;
  }
  return f(ActTag<Act::linear>{});
}

template <bool kFast, class A>
__device__ __forceinline__ A act_value(A v, const ActNumbers<A>& f) {
  if constexpr (kFast) {
    const A negative = f.act == Act::relu ? A(0) : v * f.s.alpha;  // not 0 times an infinity
    return (v < A(0) ? negative : v) * f.s.gain;
  } else {
    return with_act(f.act, [&](auto tag) { return act_forward<decltype(tag)::act>(v, f.s.alpha) * f.s.gain; });
  }
}
template <bool kFast, class A>
__device__ __forceinline__ A act_slope(A v, const ActNumbers<A>& f) {
  if constexpr (kFast)
    return v > A(0) ? f.s.gain : f.s.alpha * f.s.gain;
  else
    return with_act(f.act, [&](auto tag) { return slope_from_v<decltype(tag)::act>(v, f.s); });
}
template <bool kFast, class A>
__device__ __forceinline__ A act_curvature(A v, const ActNumbers<A>& f) {
  if constexpr (kFast)
    return A(0);
  else
    return with_act(f.act, [&](auto tag) { return curvature_from_v<decltype(tag)::act>(v, f.s); });
}

// ---- of a plane -----------------------------------------------------------------------------------------------------
template <class A>
__device__ __forceinline__ A rstd_of(A squares, A count, double eps) {
  return A(1) / std::sqrt(squares / count + static_cast<A>(eps));
}

// coefficients[2] of backward from its two sums, given the scale (1 if that is an image) and 1 / HW.
template <class A>
__device__ __forceinline__ void finish_backward(const A* sums, A s, A share, A* coefficients) {
  coefficients[0] = s * sums[0] * share, coefficients[1] = s * sums[1] * share;
}

// coefficients[6] of double backward from its twelve sums, and d_shift and d_scale without images as factors.
template <class A>
__device__ __forceinline__ void finish_double_backward(const A* sums, bool spatial, A s, A u_scale, A u_shift, A r,
                                                       A pixels, A* coefficients, A* d_shift, A* d_scale) {
  const A share = A(1) / pixels;
  A m[kAdainDoubleSums];
#pragma unroll
  for (int k = 0; k < kAdainDoubleSums; ++k) m[k] = sums[k] * share;
  const A w = m[2], wn = m[3];
  // Means of K and K n; with images as factors of K s and K s n, but for what L has.
  const A k = s * r * (m[8] - w * m[5] - wn * m[6]) + u_scale * m[6] + u_shift * m[5];
  const A kn = s * r * (m[9] - w * m[6] - wn * m[7]) + u_scale * m[7] + u_shift * m[6];
  const A gpw = m[4] - m[0] * w - m[1] * wn;  // of G P(W), or of D P(W)
  *d_shift = k * pixels, *d_scale = (kn + r * gpw) * pixels;
  const A d = s * m[0], dn = s * m[1];
  const A e = spatial ? k + m[10] : s * k + u_scale * m[0], en = spatial ? kn + m[11] : s * kn + u_scale * m[1];
  coefficients[0] = d, coefficients[1] = dn, coefficients[2] = w, coefficients[3] = wn;
  coefficients[4] = e - r * (w * dn + d * wn);
  coefficients[5] = en - A(2) * r * dn * wn + r * s * gpw;
}

}  // namespace
}  // namespace gk
