// upfirdn2d: what the kernels are given, and their launch prototypes.
//
// With g = the taps, reversed along both axes unless `flip` (so that flip = false is convolution, true is correlation),
//   y[n, c, oy, ox] = gain * sum_{ky, kx} g[ky, kx] * z[n, c, oy * down_y + ky - pad_y0, ox * down_x + kx - pad_x0]
// where z[.., jy, jx] = x[.., jy / up_y, jx / up_x] if up divides j and the pixel exists, else 0.
// pad_*1 only enters the output's size, which is y.size.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct Upfirdn2dParams {
  DType dtype;  // of x and y
  View4 x, y;   // either stride[3] == 1 in both (rows of pixels) or stride[1] == 1 in both (channels_last)
  // Taps are float, or double if dtype is f64, contiguous, before reversal.
  // Full 2-D filter: `taps` [tap_h, tap_w]. Separable: `taps_y` [tap_h] and `taps_x` [tap_w], and `taps` is null.
  // All three null: a single tap of 1.
  const void* taps;
  const void* taps_y;
  const void* taps_x;
  int64_t tap_h, tap_w;
  int64_t up_x, up_y, down_x, down_y;
  int64_t pad_x0, pad_y0;
  bool flip;
  double gain;
};

// CUDA: returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_upfirdn2d(const Upfirdn2dParams& p, void* stream);

}  // namespace gk

// CPU: the work is divided into upfirdn2d_cpu_tasks(p) independent pieces; upfirdn2d_cpu does [begin, end) of them.
GK_DECLARE_CPU(int64_t, upfirdn2d_cpu_tasks, (const Upfirdn2dParams& p))
GK_DECLARE_CPU(void, upfirdn2d_cpu, (const Upfirdn2dParams& p, int64_t begin, int64_t end))
