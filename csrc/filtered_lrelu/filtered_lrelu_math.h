// filtered_lrelu: the activation, its mask codes and the index arithmetic that the CPU and CUDA kernels share.
// Internal linkage throughout: these are compiled into several CPU variants (see common/cpu_isa.h).
#pragma once
#include <cstdint>

#include "common/host_device.h"

namespace gk {
namespace {

// Codes of the mask, two bits each: a bit for the slope and a bit for the clamp, so that kernels can test them apart.
// Whatever bit 0 says, a clamped number has no derivative; 3 is never written and reads like 2.
constexpr uint32_t kMaskPositive = 0, kMaskNegative = 1, kMaskClamped = 2;
constexpr int64_t kMaskGroup = 4;  // numbers per byte

// Slopes of the two sides of the activation, gain included.
template <class Acc>
struct LreluSlopes {
  Acc positive, negative;
};

template <class Acc>
GK_HD LreluSlopes<Acc> lrelu_slopes(double gain, double negative_slope) {
  return {static_cast<Acc>(gain), static_cast<Acc>(gain * negative_slope)};
}

// a = slope(t) * t, clamped to [-clamp, clamp] if clamp >= 0; its code goes to `code`. A number on the bound is not
// clamped: there torch.clamp passes the gradient. NaN stays NaN and has the code of a positive number.
template <class Acc>
GK_HD Acc lrelu_activate(Acc t, LreluSlopes<Acc> slopes, Acc clamp, uint32_t& code) {
  const bool negative = t <= 0;
  Acc a = t * (negative ? slopes.negative : slopes.positive);
  code = negative ? kMaskNegative : kMaskPositive;
  if (clamp >= 0) {
    if (a > clamp) a = clamp, code = kMaskClamped;
    if (a < -clamp) a = -clamp, code = kMaskClamped;
  }
  return a;
}

// da/dt from the code (the lowest two bits of it).
template <class Acc>
GK_HD Acc lrelu_factor(uint32_t code, LreluSlopes<Acc> slopes) {
  return code & kMaskClamped ? Acc(0) : code & kMaskNegative ? slopes.negative : slopes.positive;
}

// Bytes of `n` numbers of a mask's last axis.
GK_HD int64_t mask_bytes(int64_t n) { return (n + kMaskGroup - 1) / kMaskGroup; }

// Tap number k of a filter that is stored as it is (flip), or used reversed.
GK_HD int64_t stored_tap(int64_t k, int64_t taps, bool flip) { return flip ? k : taps - 1 - k; }

}  // namespace
}  // namespace gk
