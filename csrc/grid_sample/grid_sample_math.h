// The formulas of bilinear sampling, shared by CPU and CUDA. A is the accumulation type.
#pragma once
#include "common/host_device.h"

namespace gk {

// One axis: the pixel at or before a sample's position, how far the sample is past it, and which of the two pixels exist.
template <class A>
struct Bracket {
  int64_t low;    // floor(position); the other pixel is low + 1. 0 where neither exists
  A part;         // position - floor(position), in [0, 1)
  bool has_low;   // pixel low exists
  bool has_high;  // pixel low + 1 exists
};

// Rounds to a multiple of 2^-11 (2^-26 for double): half of the digits that a number around 1 has.
template <class A>
struct Split;
template <>
struct Split<float> {
  static constexpr float shift = 6144.0f;  // 1.5 * 2^12, whose last digit is 2^-11
};
template <>
struct Split<double> {
  static constexpr double shift = 100663296.0;  // 1.5 * 2^26
};

// Where grid value g stands along an axis of `size` pixels, align_corners=False: at g * size / 2 + (size - 1) / 2.
// d position / d g = size / 2.
//
// That sum has an error of up to size * 2^-25 (float), which `part` would inherit, and which grows with the image. So g is
// split into a leading half, whose product and sum are exact (up to 2048 pixels), and a rest that is 2^-12 or less: what is
// lost then is a last digit of `part`.
//
// The comparison is false for NaN, and comes before the conversion to an integer, which must not overflow.
template <class A>
GK_HD Bracket<A> bracket(A g, int64_t size) {
  Bracket<A> b{0, A(0), false, false};
  const A half = A(size) / A(2), leading = (g + Split<A>::shift) - Split<A>::shift;
  const A exact = leading * half + (half - A(0.5)), rest = (g - leading) * half, position = exact + rest;
  if (position > A(-2) && position < A(size) + A(1)) {
    int64_t low = static_cast<int64_t>(position);
    if (A(low) > position) --low;  // towards minus infinity
    A part = (exact - A(low)) + rest;
    if (part < A(0)) --low, part += A(1);
    if (part >= A(1)) ++low, part -= A(1);
    b.low = low, b.part = part;
    b.has_low = low >= 0 && low < size;
    b.has_high = low >= -1 && low + 1 < size;
  }
  return b;
}

}  // namespace gk
