// Transcendental functions on the vectors of cpu_vec.h. Include from *_cpu.cpp only.
//
// Floats: polynomials, within some 2 units in the last place of the result; infinities and NaN as in libm, results
// below 2^-125 are 0. Doubles: libm, lane by lane (float64 is for checking, not for speed).
#pragma once
#include <math.h>

#include "common/cpu_vec.h"

namespace gk {
namespace GK_ISA {
namespace {

GK_INLINE FloatVec vec_abs(FloatVec v) { return (FloatVec)((UIntVec)v & 0x7fffffffu); }
GK_INLINE FloatVec vec_copysign(FloatVec size, FloatVec sign) {
  return (FloatVec)((UIntVec)size | ((UIntVec)sign & 0x80000000u));
}

// exp(v) = 2^n * (1 + p) with p = expm1(r), r = v - n ln 2, |r| <= ln(2) / 2. For v in [-87, 88.7]; NaN gives NaN.
struct SplitExp {
  FloatVec half_scale, p;  // 2^(n - 1): 2^128 is not a float
};
GK_INLINE SplitExp split_exp(FloatVec v) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the last bits of the sum.
  const FloatVec shifted = v * 1.442695040888963f + 12582912.0f;
  const FloatVec n = shifted - 12582912.0f;
  // ln 2 in two parts: n times the first is exact.
  const FloatVec r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  FloatVec q = r * (1.0f / 5040) + 1.0f / 720;  // Taylor: the term left out, r^8 / 8!, is 2^-26 of p at most
  q = q * r + 1.0f / 120;
  q = q * r + 1.0f / 24;
  q = q * r + 1.0f / 6;
  q = q * r + 0.5f;
  const UIntVec exponent = ((UIntVec)shifted - 0x4b400000u) + 126u;
  return {(FloatVec)(exponent << 23), q * (r * r) + r};
}

GK_INLINE FloatVec vec_exp(FloatVec v) {
  const SplitExp e = split_exp(v < -86.5f ? FloatVec{} - 86.5f : v);
  const FloatVec result = (e.half_scale * e.p + e.half_scale) * 2.0f;
  const FloatVec bounded = v > 88.722839f ? FloatVec{} + __builtin_inff() : result;
  return v < -86.5f ? FloatVec{} : bounded;
}

GK_INLINE FloatVec vec_expm1(FloatVec v) {
  const SplitExp e = split_exp(v < -40.0f ? FloatVec{} - 40.0f : v);  // -1 long before
  // p for n = 0 (half_scale 1/2), where 2^n - 1 vanishes: no digit is lost near 0.
  const FloatVec result = (e.half_scale * e.p + (e.half_scale - 0.5f)) * 2.0f;
  return v > 88.722839f ? FloatVec{} + __builtin_inff() : result;
}

GK_INLINE FloatVec vec_sigmoid(FloatVec v) { return 1.0f / (1.0f + vec_exp(-v)); }

GK_INLINE FloatVec vec_tanh(FloatVec v) {
  // tanh = m / (m + 2) with m = expm1(2 |v|): no cancellation anywhere. From 10 on it is 1.
  const FloatVec a = vec_abs(v), doubled = a > 10.0f ? FloatVec{} + 20.0f : a + a;
  const SplitExp e = split_exp(doubled);
  const FloatVec m = (e.half_scale * e.p + (e.half_scale - 0.5f)) * 2.0f;
  return vec_copysign(m / (m + 2.0f), v);
}

// log(1 + t) for t in [0, 1]: by log((1 + s) / (1 - s)) = 2 (s + s^3 / 3 + ...).
GK_INLINE FloatVec vec_log1p_unit(FloatVec t) {
  const auto high = t > 0.41421356f;  // halve 1 + t there, so that it stays within [1 / sqrt 2, sqrt 2]
  const FloatVec f = high ? (t - 1.0f) * 0.5f : t;
  const FloatVec s = f / (f + 2.0f), z = s * s;
  FloatVec q = z * (2.0f / 9) + 2.0f / 7;  // the term left out, 2 s^11 / 11, is 2^-27 of the result at most
  q = q * z + 2.0f / 5;
  q = q * z + 2.0f / 3;
  const FloatVec log = q * (z * s) + (s + s);
  return high ? log + 0.69314718f : log;
}

// log(1 + exp(v)) = max(v, 0) + log1p(exp(-|v|)).
GK_INLINE FloatVec vec_softplus(FloatVec v) {
  const FloatVec positive = v > 0.0f ? v : FloatVec{};
  return positive + vec_log1p_unit(vec_exp(-vec_abs(v)));
}

template <class F>
GK_INLINE DoubleVec each_lane(DoubleVec v, F f) {
  for (int i = 0; i < kDoubleLanes; ++i) v[i] = f(v[i]);
  return v;
}
GK_INLINE DoubleVec vec_exp(DoubleVec v) {
  return each_lane(v, [](double a) { return ::exp(a); });
}
GK_INLINE DoubleVec vec_expm1(DoubleVec v) {
  return each_lane(v, [](double a) { return ::expm1(a); });
}
GK_INLINE DoubleVec vec_tanh(DoubleVec v) {
  return each_lane(v, [](double a) { return ::tanh(a); });
}
GK_INLINE DoubleVec vec_sigmoid(DoubleVec v) { return 1.0 / (1.0 + vec_exp(-v)); }
GK_INLINE DoubleVec vec_softplus(DoubleVec v) {
  return each_lane(v, [](double a) { return a > 20.0 ? a : ::log1p(::exp(a)); });  // beyond 20 as PyTorch has it
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
