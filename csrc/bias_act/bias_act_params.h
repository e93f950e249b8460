// bias_act: what the kernels are given, and their launch prototypes.
//
//   v = x + noise + b            y = clamp(gain * f(v), -clamp, clamp)
//
// Tensors are dense; an element's index in memory is (o * channels + c) * inner + i, with o < outer, c < channels,
// i < inner. NCHW with a bias along C: outer = N, inner = H W. channels_last or 2-D: outer = N H W, inner = 1.
// A position is m = o * inner + i, 0 <= m < outer * inner: a pixel of an image.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

enum class Act : int32_t { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

struct BiasActParams {
  DType dtype;  // of every tensor but the partial sums
  Act act;
  int64_t outer, channels, inner;
  double alpha, gain, clamp;  // clamp < 0: none; otherwise it is a number that dtype can hold

  // v's ingredients. Backward and double backward have x (with b and noise) or y, or neither: then the slope is gain.
  const void* x;
  const void* b;      // [channels] or null
  const void* noise;  // [noise_outer, inner] or null: the pixel's number is noise[(o % noise_outer) * inner + i]
  int64_t noise_outer;
  const void* y_saved;  // the output, from which backward takes the slope (see bias_act_math.h)

  // forward: writes y (which may be x: in place)
  void* y;

  // backward: g = dy * slope; writes dx = g (may be null), and deterministic partial sums in the accumulation type:
  //   db_partial [chunks, channels]               sums of g over positions [p * chunk, (p + 1) * chunk)   (may be null)
  //   dnoise_partial [channel_chunks, positions]  sums of g over channels [q * channel_chunk, ...)         (may be null)
  const void* dy;
  void* dx;
  void* db_partial;
  int64_t chunk, chunks;
  void* dnoise_partial;
  int64_t channel_chunk, channel_chunks;

  // double backward, with U = u + u_b[c] + u_noise[m] (each may be null, not all): writes
  //   d_dy = U * slope            (may be null)
  //   d_saved = U * dy * slope'   (may be null): slope' is the derivative in y_saved, or in v where x is given
  const void* u;
  const void* u_b;
  const void* u_noise;
  void* d_dy;
  void* d_saved;
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_bias_act(const BiasActParams& p, void* stream);
const char* launch_bias_act_backward(const BiasActParams& p, void* stream);
const char* launch_bias_act_double_backward(const BiasActParams& p, void* stream);

}  // namespace gk

// CPU: forward and double backward do elements [begin, end) of the flat tensor; backward does chunks [begin, end) of positions.
GK_DECLARE_CPU(void, bias_act_cpu, (const BiasActParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, bias_act_backward_cpu, (const BiasActParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, bias_act_double_backward_cpu, (const BiasActParams& p, int64_t begin, int64_t end))
