// modulate: what the kernels are given, and their launch prototypes.
//
//   v[n, c, p] = x[n, c, p] * scale[n, c] + noise[n, p] + b[c]        y = clamp(gain * f(v), -clamp, clamp)
//
// with pixels p < HW. Images are dense, all in one layout: NCHW, index (n * C + c) * HW + p, or channels_last, index
// (n * HW + p) * C + c. Everything that is not an image has the accumulation type: float, or double if dtype is f64.
#pragma once
#include "bias_act/bias_act_params.h"
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

// A null pointer means absent: an input that is zero (scale: one), or an output that is not wanted.
struct ModulateParams {
  DType dtype;  // of the images
  Act act;
  bool channels_last;
  int64_t samples, channels, pixels;  // N, C, HW
  double alpha, gain, clamp;          // clamp < 0: none; otherwise it is a number that dtype can hold

  const void* x;      // image
  const void* scale;  // [N, C]
  const void* noise;  // [noise_samples, HW]: sample n takes row n % noise_samples
  int64_t noise_samples;
  const void* b;  // [C]
  const void*
      y_saved;  // image: the output, if the slope is a function of it (bias_act_math.h); else it is taken from v

  // forward: writes y (which may be x: in place)
  void* y;

  // Sums are made in two stages: a rectangle of pixel_chunk pixels of one sample times channel_chunk channels is one piece of
  // work, with pixel_chunks rectangles along a sample and channel_chunks across it. Deterministic.
  int64_t pixel_chunk, pixel_chunks, channel_chunk, channel_chunks;

  // backward: G = dy * slope; writes
  //   dx = G * scale                                                       image
  //   dscale_partial [N, pixel_chunks, C]      sums of G * x               (needs x)
  //   dnoise_partial [channel_chunks, N, HW]   sums of G over channels
  //   db_partial     [N, pixel_chunks, C]      sums of G
  const void* dy;
  void* dx;
  void* dscale_partial;
  void* dnoise_partial;
  void* db_partial;

  // double backward, given cotangents u of dx (image), u_scale [N, C], u_noise [N, HW], u_b [C];
  // U = u * scale + u_scale * x + u_noise + u_b; writes
  //   d_dy = U * slope                                                     image
  //   d_saved = U * dy * slope'                                            image: slope' in y_saved, or in v
  //   d_x = u_scale * G                                                    image
  //   d_scale_partial [N, pixel_chunks, C]     sums of u * G
  const void* u;
  const void* u_scale;
  const void* u_noise;
  const void* u_b;
  void* d_dy;
  void* d_saved;
  void* d_x;
  void* d_scale_partial;
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_modulate(const ModulateParams& p, void* stream);
const char* launch_modulate_backward(const ModulateParams& p, void* stream);
const char* launch_modulate_double_backward(const ModulateParams& p, void* stream);

}  // namespace gk

// CPU: each does rectangles [begin, end) of N * pixel_chunks * channel_chunks, in the order [N, pixel_chunks, channel_chunks].
GK_DECLARE_CPU(void, modulate_cpu, (const ModulateParams& p, int64_t begin, int64_t end))
// Forward with x in the other layout than y: channels_last is y's.
GK_DECLARE_CPU(void, modulate_relaid_cpu, (const ModulateParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, modulate_backward_cpu, (const ModulateParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, modulate_double_backward_cpu, (const ModulateParams& p, int64_t begin, int64_t end))
