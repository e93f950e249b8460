// The formulas of grad_norm_penalty, on the numbers of one sample, for the CPU and CUDA alike.
//
// With s = <grad, grad>, r = sqrt(s), and a cotangent u of dgrad:
//   p      = weight (r - center)^2
//   dgrad  = dp slope grad                                     slope = 2 weight (1 - center / r)
//   d_dp   = slope <grad, u>
//   d_grad = dp (slope u + along grad)                         along = 2 weight center <grad, u> / r^3
// Where center is 0 no root is taken. Where r is 0 (and center is not), slope and along are 0: the subgradient. A NaN is
// not equal to 0 and comes through. `root` is the square root of the type.
#pragma once
#include "common/host_device.h"

namespace gk {

template <class A, class Root>
GK_HD A grad_norm_penalty_value(A squares, A center, A weight, Root root) {
  if (center == A(0)) return weight * squares;
  const A off = root(squares) - center;
  return weight * (off * off);
}

template <class A, class Root>
GK_HD A grad_norm_penalty_slope(A squares, A center, A weight, Root root) {
  if (center == A(0)) return A(2) * weight;
  if (squares == A(0)) return A(0);
  return A(2) * weight * (A(1) - center / root(squares));
}

// The product is divided by the squares before anything else: r^3 would underflow where these do not.
template <class A, class Root>
GK_HD A grad_norm_penalty_along(A squares, A product, A center, A weight, Root root) {
  if (center == A(0) || squares == A(0)) return A(0);
  return A(2) * weight * center / root(squares) * (product / squares);
}

}  // namespace gk
