// filtered_lrelu: what the kernels are given, and their launch prototypes.
//
// Three steps that meet in an intermediate image t, a of mid_h x mid_w pixels, which never reaches memory:
//
//   t[i] = scale * sum over k of gu[k] * z[i + k - start],  z[j] = x[j / up] + b[c] if up divides j and the pixel exists, else 0
//   a[i] = slope(t[i]) * t[i], clamped to [-clamp, clamp];  slope = gain, or gain * negative_slope where t <= 0
//   y[o] = sum over k of gd[k] * a[o * down + k + offset],  a[i] = 0 outside 0 <= i < mid
//
// along both axes (indices stand for [y, x] pairs), with gu, gd = the taps fu, fd, reversed along both axes unless `flip` (so
// that flip = false is convolution, true is correlation). start, offset may be negative.
//
// The CPU kernels also take factors, for inference: z[j] = x[j / up] * scale[n, c] + b[c], and y[o] times next[n, c].
//
// With masks read instead (`mask_in`), a[i] = factor(code) * t[i] with the factor gain, gain * negative_slope or 0: linear in x,
// and its transpose is the same with up and down, fu and fd exchanged, flip inverted and
//   start' = taps of fd - 1 + offset,  offset' = start - taps of fu + 1,  the same mid and scale:
// that is how every derivative is computed.
//
// Masks hold 2 bits for every number of the intermediate image: 0 positive, 1 negative (t <= 0), 2 clamped. Number r of a group of
// four is at bits 2 * r of its byte; groups run along x: [N, C, mid_h, ceil(mid_w / 4)], or in channels_last along the channels:
// [N, mid_h, mid_w, ceil(C / 4)]; contiguous. Bits beyond the last number are 0 when written and ignored when read.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct FilteredLreluParams {
  DType dtype;  // of x and y
  View4 x, y;   // either stride[3] == 1 in both (rows of pixels) or stride[1] == 1 in both (channels_last)
  bool channels_last;
  // Taps are float, or double if dtype is f64, contiguous, before reversal.
  // Full 2-D filter: `up_taps` [up_h, up_w]. Separable: `up_taps` [up_w], used along both axes (up_h == up_w), and
  // `up_separable`. No filter: null with up_h = up_w = 1, a single tap of 1. Likewise down.
  const void* up_taps;
  const void* down_taps;
  bool up_separable, down_separable;
  int64_t up_h, up_w, down_h, down_w;  // numbers of taps
  int64_t up_x, up_y, down_x, down_y;  // factors
  int64_t start_x, start_y, offset_x, offset_y;
  int64_t mid_h, mid_w;
  bool flip;
  const void* bias;        // [C] of the accumulation type, or null
  const void* factor_in;   // scale [N, C] of the accumulation type, or null: 1; CPU only
  const void* factor_out;  // next, likewise
  const uint8_t* mask_in;  // null: the activation function
  uint8_t* mask_out;       // null: not wanted; never together with mask_in
  double scale, gain, negative_slope;
  double clamp;  // negative: none
};

// CUDA: returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_filtered_lrelu(const FilteredLreluParams& p, void* stream);

}  // namespace gk

// CPU: the work is divided into filtered_lrelu_cpu_tasks(p) independent pieces; filtered_lrelu_cpu does [begin, end) of them.
GK_DECLARE_CPU(int64_t, filtered_lrelu_cpu_tasks, (const FilteredLreluParams& p))
GK_DECLARE_CPU(void, filtered_lrelu_cpu, (const FilteredLreluParams& p, int64_t begin, int64_t end))
