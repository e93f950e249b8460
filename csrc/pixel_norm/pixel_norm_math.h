// The formulas of pixel_norm, for CPU vectors, single numbers and CUDA threads alike.
//
// With means over the channels of a pixel, r = (mean(x x) + eps)^(-1/2):
//   y    = r x
//   dx   = r dy - r^3 mean(x dy) x
//   d_dy = r u - r^3 mean(x u) x                     the Jacobian is symmetric
//   d_x  = -r^3 [mean(x u) dy + mean(x dy) u + (mean(dy u) - 3 r^2 mean(x dy) mean(x u)) x]
#pragma once
#include "common/host_device.h"

namespace gk {

// Which derivative a kernel computes.
enum class PixelNormPass { forward, backward, twice };

// Sums over channels: of x x, then x dy, then x u, then dy u.
template <PixelNormPass pass>
constexpr int pixel_norm_sums = pass == PixelNormPass::forward    ? 1
                                : pass == PixelNormPass::backward ? 2
                                                                  : 4;

// Adds the products of one channel. dy and u are looked at only in passes that have them.
template <PixelNormPass pass, class V>
GK_HD void pixel_norm_add(V* sums, const V& x, const V& dy, const V& u) {
  sums[0] += x * x;
  if constexpr (pass != PixelNormPass::forward) sums[1] += x * dy;
  if constexpr (pass == PixelNormPass::twice) sums[2] += x * u, sums[3] += dy * u;
}

// What the outputs are made of:
//   forward   y = c[0] x
//   backward  dx = c[0] dy + c[1] x
//   twice     d_dy = c[0] u + c[1] x     d_x = c[1] dy + c[2] u + c[3] x
// c may be sums itself. `root` is the square root of the type.
template <PixelNormPass pass, class A, class Root>
GK_HD void pixel_norm_coefficients(A* c, const A* sums, A inverse_channels, A eps, Root root) {
  const A r = A(1) / root(sums[0] * inverse_channels + eps);
  if constexpr (pass != PixelNormPass::forward) {
    const A cube = r * r * r, x_dy = sums[1] * inverse_channels;
    if constexpr (pass == PixelNormPass::backward) {
      c[1] = -cube * x_dy;
    } else {
      const A x_u = sums[2] * inverse_channels, dy_u = sums[3] * inverse_channels;
      c[1] = -cube * x_u;
      c[2] = -cube * x_dy;
      c[3] = -cube * (dy_u - A(3) * (r * x_dy) * (r * x_u));
    }
  }
  c[0] = r;
}

}  // namespace gk
