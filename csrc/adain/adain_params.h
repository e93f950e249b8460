// adain: what the kernels are given, and their launch prototypes.
//
//   q = x + noise + b        v = p(q)        n = (v - m) r        a = s n + t        y = gain * f(a)
//
// with the mean m of a plane, r = 1 / sqrt(var + eps) (var = sum (v - m)^2 / HW), factors s and t (scale and shift) and the
// activations p and f. Images are dense, all in one layout: NCHW, index (n * C + c) * HW + p, or channels_last, index
// (n * HW + p) * C + c. Everything that is not an image has the accumulation type: float, or double if dtype is f64.
// Below f1 = gain f'(a), f2 = gain f''(a), p1 = p'(q), p2 = p''(q) (bias_act_math.h: slope_from_v and curvature_from_v;
// p has gain 1), [] is the mean over a plane, and P(z) = z - [z] - n [z n].
//
// backward, given dy:
//   G = dy f1        dshift = sum G        dscale = sum G n  (spatial: G and G n at each pixel)
//   D = G s          dx = r P(D) p1        dnoise = sum_c dx        db = sum_np dx
//
// double backward, given cotangents u of dx, u_scale of dscale, u_shift of dshift, u_noise of dnoise, u_b of db:
//   U = u + u_noise + u_b        W = U p1
//   H = s r P(W) + u_scale n + u_shift        d_dy = H f1
//   K = H dy f2                               (zero for piecewise linear f: nothing of it need be computed)
//   d_shift = sum K        d_scale = sum (K n + G r P(W))  (spatial: at each pixel)
//   dn = K s + G u_scale - r (W [D n] + D [W n])
//   d_x = r (P(dn) - r n [W P(D)]) p1 + U r P(D) p2        d_noise = sum_c d_x        d_b = sum_np d_x
// Means of dn and dn n need no third pass: see kAdainDoubleSums.
#pragma once
#include "bias_act/bias_act_params.h"
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

// Numbers a channel of a rectangle has in `partial`, and a plane in `coefficients`.
//
// Forward: a number close to the rectangle's mean, and the sums of the deviations from it and of their squares.
// Backward: sums of D and D n; without images as factors those of G and G n, which are dshift and dscale.
constexpr int kAdainForwardSums = 3, kAdainBackwardSums = 2;
// Backward: [D], [D n].
constexpr int kAdainBackwardCoefficients = 2;
// Double backward: sums of
//   0 D   1 D n   2 W   3 W n   4 D W   5 e   6 e n   7 e n n   8 e W   9 e W n   10 L   11 L n
// with e = s^2 dy f2 and L = G u_scale + s dy f2 (u_scale n + u_shift); without images as factors G stands for D, dy f2 for
// e, and 10 and 11 are not there, for they follow from the others. 5 to 9 are zero for piecewise linear f.
constexpr int kAdainDoubleSums = 12;
// Double backward: [D], [D n], [W], [W n], [dn], [dn n] + r [W P(D)]; with
//   [W P(D)] = [D W] - [D] [W] - [D n] [W n]
//   [K s + G u_scale]   = r ([e W] - [W] [e] - [W n] [e n]) + [L]
//   [(K s + G u_scale) n] = r ([e W n] - [W] [e n] - [W n] [e n n]) + [L n]
//   [dn] = [K s + G u_scale] - r ([W] [D n] + [D] [W n])        [dn n] = [(K s + G u_scale) n] - 2 r [D n] [W n]
// so that d_x = r (dn - c4 - n c5) p1 + U r (D - c0 - n c1) p2.
constexpr int kAdainDoubleCoefficients = 6;

// A null pointer means absent: an input that is zero (scale: one), or an output that is not wanted.
struct AdainParams {
  DType dtype;  // of the images
  Act act, pre_act;
  bool channels_last;
  bool spatial;                       // scale, shift, u_scale, u_shift and their gradients are images, else [N, C]
  int64_t samples, channels, pixels;  // N, C, HW
  double alpha, gain, pre_alpha, eps;

  const void* x;      // image
  const void* scale;  // image or [N, C]
  const void* shift;  // image or [N, C]
  const void* noise;  // [noise_samples, HW]: sample n takes row n % noise_samples
  int64_t noise_samples;
  const void* b;  // [C]

  // Written by forward, read by the derivatives.
  void* mean;  // [N, C]
  void* rstd;  // [N, C]

  // forward: writes y
  void* y;

  // Sums are made in two stages: those of a rectangle of pixel_chunk pixels of one sample times channel_chunk channels, then
  // over the pixel_chunks rectangles of a plane, in their order. Deterministic.
  int64_t pixel_chunk, pixel_chunks, channel_chunk, channel_chunks;
  void* partial;       // [N, pixel_chunks, sums, C]
  void* coefficients;  // [N, coefficients, C]

  // backward: writes
  const void* dy;        // image
  void* dx;              // image
  void* dscale;          // image or [N, C]
  void* dshift;          // image or [N, C]
  void* dnoise_partial;  // [channel_chunks, N, HW]    sums of dx over channels
  void* db_partial;      // [N, pixel_chunks, C]       sums of dx

  // double backward: writes d_dy (image) and, in the places of backward's, what x, scale, shift, noise and b get
  const void* u;        // image
  const void* u_scale;  // image or [N, C]
  const void* u_shift;  // image or [N, C]
  const void* u_noise;  // [N, HW]
  const void* u_b;      // [C]
  void* d_dy;           // image
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_adain(const AdainParams& p, void* stream);
const char* launch_adain_backward(const AdainParams& p, void* stream);
const char* launch_adain_double_backward(const AdainParams& p, void* stream);

// What a call of a CPU kernel does. `whole` is the three after one another where a plane is one rectangle: what the sums
// have read is then still in cache.
enum class AdainStage : int32_t { sums, finish, apply, whole };
// Channels that one call of `finish` does.
constexpr int64_t kAdainFinish = 64;

}  // namespace gk

// CPU: each does rectangles [begin, end) of N * pixel_chunks * channel_chunks, in the order [N, pixel_chunks, channel_chunks];
// the stage `finish` does pieces [begin, end) of N * ceil(C / kAdainFinish), in the order [N, C].
GK_DECLARE_CPU(void, adain_cpu, (const AdainParams& p, AdainStage stage, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, adain_backward_cpu, (const AdainParams& p, AdainStage stage, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, adain_double_backward_cpu, (const AdainParams& p, AdainStage stage, int64_t begin, int64_t end))
