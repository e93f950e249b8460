// modulated_conv2d: what is around the convolutions.
//
// Sums of squares over a kernel's taps, which PyTorch's operators are slow at:
//   q[o, i] = sum over t of w[o, i, t]^2
// and, having read the kernel, that in the other layout.
//
// The tail of a layer, for inference: one pass over what a convolution made (z, channels_last), with all that follows it up to
// the next convolution. With a separable filter of 4 taps (what upsampling by a transposed convolution leaves to be done), or
// without:
//   u[n, c, h, w] = sum over i, j of fy[i] fx[j] z[n, c, h + i - pad_y, w + j - pad_x]     (zeros outside of z)
// or, with phases, a convolution at the low resolution that made z's even and odd rows and columns as channels of their own:
//   z[n, c, h, w] is channel ((h % 2) * 2 + w % 2) * C + c of pixel (h / 2, w / 2)
//   v = clamp(gain * f(u * scale[n, c] + noise[n, h, w] + b[c]))
//   y[n, c, h, w] = v * next[n, c]                                  what the next convolution reads
//   rgb[n, k, h, w] = base[n, k, h, w] + clamp_rgb(sum over c of rgb_weight[n, k, c] v[n, c, h, w] + rgb_b[k])
//
// What layers make of their styles s, for inference: any number of jobs, all in one launch. With t = s, or normalised
// t = s * z, z = rsqrt(mean over n, i of s[n, i]^2 + 1e-20), and a matrix w of constants,
//   demodulation   d[n, o] = rsqrt(sum over i of t[n, i]^2 w[o, i] + eps * min((norm[o] * z)^2, 1e30))    (without norms: eps)
//   factors        a[n, o, i] = t[n, i] * w[o, i]
#pragma once
#include "bias_act/bias_act_params.h"
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct ModulatedConv2dParams {
  DType dtype;  // f32 or f64, of w and q
  const void* w;
  void* q;                        // [outputs, inputs]
  void* turned;                   // [outputs, taps, inputs], for w in the other layout; or null
  int64_t outputs, inputs, taps;  // w is [outputs, inputs, taps], or [outputs, taps, inputs] if channels_last
  bool channels_last;
};

constexpr int64_t kTailTaps = 4;     // of the filter, along each axis
constexpr int64_t kTailColours = 3;  // of rgb

// A null pointer means absent: a factor of 1, an addend of 0, an output that is not wanted. All that is not z or y is float.
struct ModulatedConv2dTailParams {
  DType dtype;  // of z and y: f32, f16 or bf16
  Act act;
  double alpha, gain, clamp, rgb_clamp;      // clamps < 0: none
  int64_t samples, channels, height, width;  // of y; z has as many samples and channels
  int64_t z_height, z_width, pad_y, pad_x;
  bool phases;         // z_height and z_width are then those that its phases make together
  const void* z;       // channels_last
  void* y;             // channels_last; may be z where there is no filter
  const float* taps;   // fy, then fx, in the order of correlation
  const float* scale;  // [N, C], rows scale_stride apart
  int64_t scale_stride;
  const float* noise;  // [noise_samples, H, W]
  int64_t noise_samples;
  const float* b;     // [C]
  const float* next;  // [N, C], rows next_stride apart
  int64_t next_stride;
  const float* rgb_weight;  // [N, kTailColours, C]
  const float* rgb_b;       // [kTailColours]
  const float* base;        // [N, kTailColours, H, W]
  float* rgb;               // likewise; may be base. Not together with a filter
};

constexpr int64_t kFactorRows = 4;         // of a task
constexpr float kDemodulationEps = 1e-8f;  // as factors.py has it

// A row of the table of jobs: int64 numbers. Styles, weights, norms and out are where things begin, in floats.
struct ModulatedConv2dFactorsJob {
  int64_t demodulated, normalised;  // 0 or 1
  int64_t inputs, outputs;
  int64_t styles, weights, norms, out;  // norms < 0: none
  int64_t stride;                       // of the styles' rows
};
constexpr int64_t kFactorsJobNumbers = sizeof(ModulatedConv2dFactorsJob) / sizeof(int64_t);

struct ModulatedConv2dFactorsParams {
  const float* styles;
  const float* weights;
  const ModulatedConv2dFactorsJob* table;
  int64_t samples, jobs;
  float* out;
};

}  // namespace gk

// Rows [begin, end) of N * H.
GK_DECLARE_CPU(void, modulated_conv2d_tail_cpu, (const ModulatedConv2dTailParams& p, int64_t begin, int64_t end))
// Tasks [begin, end) of kFactorRows outputs of a job.
GK_DECLARE_CPU(void, modulated_conv2d_factors_cpu, (const ModulatedConv2dFactorsParams& p, int64_t begin, int64_t end))
// Rows [begin, end) of outputs.
GK_DECLARE_CPU(void, modulated_conv2d_squares_cpu, (const ModulatedConv2dParams& p, int64_t begin, int64_t end))
