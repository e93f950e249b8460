// bias_act: the activations, their slopes and curvatures, shared by the CPU and CUDA kernels.
//
//   y = clamp(gain * f(v), -clamp, clamp)
//   slope      dy/dv, as a function of y or of v; 0 where |y| >= clamp
//   curvature  the derivative of that function in its argument: d slope / dy, or d slope / dv
//
// They are templates on the value type V: float, double, or a vector of those on the CPU. What a formula needs besides
// arithmetic, comparison and selection comes from Math<V>. Comparisons are written so that NaN stays NaN in forward,
// and counts as clamped and as not positive in the slopes, as it does in the reference. Internal linkage throughout:
// these are compiled into several CPU variants (see common/cpu_isa.h).
#pragma once
#include <math.h>

#include <cstdint>

#include "bias_act/bias_act_params.h"
#include "common/host_device.h"

namespace gk {
namespace {

constexpr double kSeluAlpha = 1.6732632423543772, kSeluScale = 1.0507009873554805;  // Klambauer et al. 2017

// Math<V>::Scalar is the element type of V, splat() makes a V of it; the rest is what the names say.
template <class V>
struct Math;

template <>
struct Math<float> {
  using Scalar = float;
  static GK_HD float splat(float a) { return a; }
  static GK_HD float exp(float v) { return ::expf(v); }
  static GK_HD float expm1(float v) { return ::expm1f(v); }
  static GK_HD float tanh(float v) { return ::tanhf(v); }
  static GK_HD float sigmoid(float v) { return 1.0f / (1.0f + ::expf(-v)); }
  static GK_HD float softplus(float v) { return v > 20.0f ? v : ::log1pf(::expf(v)); }  // beyond 20 as PyTorch has it
};

template <>
struct Math<double> {
  using Scalar = double;
  static GK_HD double splat(double a) { return a; }
  static GK_HD double exp(double v) { return ::exp(v); }
  static GK_HD double expm1(double v) { return ::expm1(v); }
  static GK_HD double tanh(double v) { return ::tanh(v); }
  static GK_HD double sigmoid(double v) { return 1.0 / (1.0 + ::exp(-v)); }
  static GK_HD double softplus(double v) { return v > 20.0 ? v : ::log1p(::exp(v)); }
};

// The numbers of a call, in the accumulation type.
template <class A>
struct ActSettings {
  A alpha, gain, inv_gain, clamp;  // inv_gain is 1 / gain: not used where gain is 0, for backward then has v
  bool clamps;

  GK_HD ActSettings() {}
  GK_HD ActSettings(double alpha_, double gain_, double clamp_)
      : alpha(static_cast<A>(alpha_)),
        gain(static_cast<A>(gain_)),
        inv_gain(static_cast<A>(1 / gain_)),
        clamp(static_cast<A>(clamp_)),
        clamps(clamp_ >= 0) {}
};

// ---- forward -------------------------------------------------------------------------------------------------------
template <Act act, class V>
GK_HD V act_forward(V v, typename Math<V>::Scalar alpha) {
  using M = Math<V>;
  using A = typename M::Scalar;
  if constexpr (act == Act::relu) return v < A(0) ? M::splat(A(0)) : v;
  if constexpr (act == Act::lrelu) return v > A(0) ? v : v * alpha;
  if constexpr (act == Act::tanh) return M::tanh(v);
  if constexpr (act == Act::sigmoid) return M::sigmoid(v);
  if constexpr (act == Act::elu) return v > A(0) ? v : M::expm1(v);
  if constexpr (act == Act::selu) return v > A(0) ? v * A(kSeluScale) : M::expm1(v) * A(kSeluScale * kSeluAlpha);
  if constexpr (act == Act::softplus) return M::softplus(v);
  if constexpr (act == Act::swish) return M::sigmoid(v) * v;
  (void)alpha;
  return v;
}

// y of v: with gain and clamp.
template <Act act, class V>
GK_HD V act_output(V v, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  V y = act_forward<act>(v, s.alpha) * s.gain;
  if (s.clamps) {
    y = y > s.clamp ? M::splat(s.clamp) : y;
    y = y < -s.clamp ? M::splat(-s.clamp) : y;
  }
  return y;
}

// `value` where the output y is not clamped, else 0.
template <class V>
GK_HD V where_inside(V value, V y, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  using A = typename M::Scalar;
  if (!s.clamps) return value;
  return ((y < s.clamp) & (y > -s.clamp)) ? value : M::splat(A(0));
}

// ---- first derivative ----------------------------------------------------------------------------------------------
// From the output.
// Not for swish, nor for lrelu with a negative alpha, nor for gain 0: there y does not tell the branch.
template <Act act, class V>
GK_HD V slope_from_y(V y, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  using A = typename M::Scalar;
  const V t = y * s.inv_gain;
  const V gain = M::splat(s.gain);
  V slope = gain;
  if constexpr (act == Act::relu) slope = t > A(0) ? gain : M::splat(A(0));
  if constexpr (act == Act::lrelu) slope = t > A(0) ? gain : M::splat(s.alpha * s.gain);
  if constexpr (act == Act::tanh) slope = (A(1) - t * t) * s.gain;
  if constexpr (act == Act::sigmoid) slope = t * (A(1) - t) * s.gain;
  if constexpr (act == Act::elu) slope = t > A(0) ? gain : (t + A(1)) * s.gain;
  if constexpr (act == Act::selu)
    slope = t > A(0) ? M::splat(A(kSeluScale) * s.gain) : (t + A(kSeluScale * kSeluAlpha)) * s.gain;
  if constexpr (act == Act::softplus) slope = -M::expm1(-t) * s.gain;
  return where_inside(slope, y, s);
}

// From the pre-activation v = x + noise + b.
template <Act act, class V>
GK_HD V slope_from_v(V v, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  using A = typename M::Scalar;
  const V gain = M::splat(s.gain);
  V slope = gain, f = v;  // f(v), for the clamp
  if constexpr (act == Act::sigmoid || act == Act::softplus || act == Act::swish) {
    const V sigma = M::sigmoid(v);
    if constexpr (act == Act::sigmoid) slope = sigma * (A(1) - sigma) * s.gain;
    if constexpr (act == Act::softplus) slope = sigma * s.gain;
    if constexpr (act == Act::swish) slope = sigma * (A(1) + v * (A(1) - sigma)) * s.gain;
    f = act == Act::sigmoid ? sigma : sigma * v;
    if constexpr (act == Act::softplus) f = s.clamps ? M::softplus(v) : v;
  } else {
    if constexpr (act != Act::linear)
      if (s.clamps || act == Act::tanh) f = act_forward<act>(v, s.alpha);
    if constexpr (act == Act::relu) slope = v > A(0) ? gain : M::splat(A(0));
    if constexpr (act == Act::lrelu) slope = v > A(0) ? gain : M::splat(s.alpha * s.gain);
    if constexpr (act == Act::tanh) slope = (A(1) - f * f) * s.gain;
    if constexpr (act == Act::elu) slope = v > A(0) ? gain : M::exp(v) * s.gain;
    if constexpr (act == Act::selu)
      slope = v > A(0) ? M::splat(A(kSeluScale) * s.gain) : M::exp(v) * (A(kSeluScale * kSeluAlpha) * s.gain);
  }
  return where_inside(slope, f * s.gain, s);
}

// ---- second derivative ---------------------------------------------------------------------------------------------
// Whether f'' is not identically zero.
GK_HD constexpr bool act_curved(Act act) { return act != Act::linear && act != Act::relu && act != Act::lrelu; }

// d slope_from_y / dy: slope is gain * f' of t = y / gain, so that the gains cancel. 0 at the kink of elu and selu.
template <Act act, class V>
GK_HD V curvature_from_y(V y, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  using A = typename M::Scalar;
  const V t = y * s.inv_gain;
  V second = M::splat(A(0));
  if constexpr (act == Act::tanh) second = t * A(-2);
  if constexpr (act == Act::sigmoid) second = A(1) - A(2) * t;
  if constexpr (act == Act::elu || act == Act::selu) second = t < A(0) ? M::splat(A(1)) : M::splat(A(0));
  if constexpr (act == Act::softplus) second = M::exp(-t);
  return where_inside(second, y, s);
}

// d slope_from_v / dv.
template <Act act, class V>
GK_HD V curvature_from_v(V v, const ActSettings<typename Math<V>::Scalar>& s) {
  using M = Math<V>;
  using A = typename M::Scalar;
  V second = M::splat(A(0)), f = v;
  if constexpr (act == Act::sigmoid || act == Act::softplus || act == Act::swish) {
    const V sigma = M::sigmoid(v), bell = sigma * (A(1) - sigma);
    if constexpr (act == Act::sigmoid) second = bell * (A(1) - A(2) * sigma);
    if constexpr (act == Act::softplus) second = bell;
    if constexpr (act == Act::swish) second = bell * (A(2) + v * (A(1) - A(2) * sigma));
    f = act == Act::sigmoid ? sigma : sigma * v;
    if constexpr (act == Act::softplus) f = s.clamps ? M::softplus(v) : v;
  } else if constexpr (act_curved(act)) {
    if (s.clamps || act == Act::tanh) f = act_forward<act>(v, s.alpha);
    if constexpr (act == Act::tanh) second = A(-2) * f * (A(1) - f * f);
    if constexpr (act == Act::elu) second = v < A(0) ? M::exp(v) : M::splat(A(0));
    if constexpr (act == Act::selu) second = v < A(0) ? M::exp(v) * A(kSeluScale * kSeluAlpha) : M::splat(A(0));
  }
  return where_inside(second * s.gain, f * s.gain, s);
}

}  // namespace
}  // namespace gk
