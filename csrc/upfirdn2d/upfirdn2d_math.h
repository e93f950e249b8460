// upfirdn2d: index arithmetic and filter algebra that the CPU and CUDA kernels share.
// Internal linkage throughout: these are compiled into several CPU variants (see common/cpu_isa.h).
#pragma once
#include <cstdint>

#include "common/host_device.h"

namespace gk {
namespace {

GK_HD int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
GK_HD int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

GK_HD int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b, b = r;
  }
  return a;
}

// Where a window that begins at `position` of the zero-stuffed axis (output * down - pad_before) meets the image: tap
// number `tap` (in [0, up)) lies on pixel `pixel`, and so do tap + up on pixel + 1, and so on.
struct Meeting {
  int64_t tap, pixel;
};
GK_HD Meeting first_meeting(int64_t position, int64_t up) {
  if (up == 1) return {0, position};
  const int64_t pixel = ceil_div(position, up);
  return {pixel * up - position, pixel};
}

// Number of taps first, first + up, ... below size.
GK_HD int64_t taps_from(int64_t first, int64_t size, int64_t up) {
  return first < size ? (size - 1 - first) / up + 1 : 0;
}

// Splits taps [h, w] into column[h] * row[w]. False if they are not such a product to within `tolerance` of each tap,
// relative (a filter that was rounded as a whole is a few units in the last place off).
template <class T>
GK_HD bool factor_taps(const T* taps, int64_t h, int64_t w, double tolerance, double* column, double* row) {
  int64_t pivot_y = 0, pivot_x = 0;
  double largest = 0;
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; ++x) {
      const double t = taps[y * w + x], size = t < 0 ? -t : t;
      if (!(size <= 1e300)) return false;  // infinity or NaN
      if (size > largest) largest = size, pivot_y = y, pivot_x = x;
    }
  if (h == 1) {  // a product as it is: no tap is rounded
    column[0] = 1;
    for (int64_t x = 0; x < w; ++x) row[x] = taps[x];
    return true;
  }
  const double pivot = taps[pivot_y * w + pivot_x];
  // Both factors near the square root of the largest tap, so that a sum of one pass neither overflows nor vanishes.
  double scale = 1;
  while (scale * scale > largest * 2 && scale > 1e-150) scale *= 0.5;
  while (scale * scale < largest * 0.5) scale *= 2;
  for (int64_t y = 0; y < h; ++y) column[y] = taps[y * w + pivot_x] / scale;
  for (int64_t x = 0; x < w; ++x) row[x] = largest > 0 ? taps[pivot_y * w + x] / pivot * scale : 0;
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; ++x) {
      const double t = taps[y * w + x], off = column[y] * row[x] - t;
      if ((off < 0 ? -off : off) > tolerance * (t < 0 ? -t : t)) return false;
    }
  return true;
}

}  // namespace
}  // namespace gk
