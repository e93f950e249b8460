// What upfirdn2d's fast CUDA kernels share: arguments, taps, and the walk down a strip of the image with the sums in
// registers.
#pragma once
#include <cstdint>

#include "common/host_device.h"
#include "common/launch.h"

namespace gk {
namespace {

constexpr int kStages = 3, kStageRows = 2;  // of the ring of input rows: one stage is read while two are on the way
constexpr unsigned kAllLanes = 0xffffffffu;

enum Mode { kSame, kUp, kDown };  // factors (up, down): (1, 1), (2, 1), (1, 2)

struct FastArgs {
  const char* x;
  char* y;
  const float *taps, *taps_y, *taps_x;
  int64_t x_stride[4], y_stride[4];  // bytes
  int64_t items;                     // rows: tiles along x of all planes
  int channels, in_w, in_h, out_w, out_h;
  int tap_w, tap_h, up_x, down_x, pad_x;
  int first_x;                   // output column at which tile 0 begins: 0 or -1
  int first_y, first_in;         // output and input row at which unit 0 begins; may be negative
  int units, segment, segments;  // units of the image, of a strip; strips down the image
  int tiles_x, tiles_c;
  int lanes_log2;           // channels: vectors of channels side by side in a block; rows: lanes side by side in a warp
  int pitch;                // channels: staged pixels of a row; rows: bytes of a group's staged row
  int row_bytes;            // of a team's staged row
  bool flip, product_only;  // product_only: leave if the taps are no product
  bool wide;                // rows: y takes 16-byte stores
  float gain;
};

// What a thread computes: kColumns times V outputs of each row, with taps of class K (the next larger K that is
// compiled). Rows go in units: a unit is one input row and one output row; two output rows when up 2; two input rows
// when down 2.
template <Mode kMode_, int K_, int kColumns_, int V_, int MX_, int kPhases_>
struct Shape {
  static constexpr Mode kMode = kMode_;
  static constexpr int K = K_, kColumns = kColumns_, V = V_, MX = MX_;  // MX: taps along x that an output meets
  static constexpr int kPhases = kPhases_;  // sets of taps along x that a thread's outputs need
  static constexpr int kIn = kMode == kDown ? 2 : 1;
  static constexpr int kOut = kMode == kUp ? 2 : 1;
  static constexpr int kSpan = kMode == kSame ? K : K / 2;  // units of input rows that a unit of output rows needs
  static constexpr int kStageUnits = kStageRows / kIn;
  static_assert(kSpan % kStageUnits == 0, "the sweep is unrolled by kSpan units, whole stages");
  // The tap with which input row r of the unit m below an output unit's first enters that unit's row o. When up 2,
  // units begin at an output row that meets the odd taps; the next row meets the even ones, beginning with the same
  // pixel.
  static constexpr GK_HD int tap(int m, int r, int o) {
    return kMode == kSame ? m : kMode == kDown ? 2 * m + r : 2 * m + 1 - o;
  }
  static constexpr GK_HD int phase(int column, int c) { return kPhases == 1 ? 0 : kColumns > 1 ? column : c % 2; }
};

// Where in shared memory the stage lies that is read or filled next.
struct RingPosition {
  int begin, end, now;
  __device__ __forceinline__ void advance(int stage_bytes) {
    now += stage_bytes;
    if (now == end) now = begin;
  }
};

// ---- taps -----------------------------------------------------------------------------------------------------------
struct Product {
  bool holds;
  int x, y;     // where the largest tap is
  float scale;  // 1 / that tap
};

// Whether taps[y, x] = taps[y, px] * taps[py, x] / taps[py, px] for the largest tap, to the rounding of such a product
// (six roundings of 2^-24 each, and some). All lanes of a warp call it. No contraction to FMA, so that every kernel
// decides alike.
__device__ __forceinline__ Product product_of(const float* taps, int w, int h) {
  const int lane = threadIdx.x & 31, n = w * h;
  float best = -1.f;
  int at = 0;
#pragma unroll 1
  for (int i = lane; i < n; i += 32) {
    const float v = fabsf(__ldg(taps + i));
    if (v > best) best = v, at = i;
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
    const float v = __shfl_xor_sync(kAllLanes, best, d);
    const int other = __shfl_xor_sync(kAllLanes, at, d);
    if (v > best || (v == best && other < at)) best = v, at = other;
  }
  Product p;
  p.y = at / w, p.x = at - p.y * w;
  p.scale = best > 0.f ? __fdiv_rn(1.f, __ldg(taps + at)) : 0.f;
  bool holds = true;
#pragma unroll 1
  for (int i = lane; i < n; i += 32) {
    const int y = i / w;
    const float t = __ldg(taps + i);
    const float product = __fmul_rn(__ldg(taps + y * w + p.x), __fmul_rn(__ldg(taps + p.y * w + i - y * w), p.scale));
    holds = holds && fabsf(__fadd_rn(t, -product)) <= 4.8e-7f * fabsf(t);  // false for NaN
  }
  p.holds = __all_sync(kAllLanes, holds) != 0;
  return p;
}

// Tap k of the reversed filter is at this place before reversal.
__device__ __forceinline__ int tap_place(int k, int size, bool flip) { return flip ? k : size - 1 - k; }

__device__ __forceinline__ float row_tap(const FastArgs& a, const Product& p, int k) {
  if (k < 0 || k >= a.tap_w) return 0.f;
  const int i = tap_place(k, a.tap_w, a.flip);
  return a.taps ? __ldg(a.taps + p.y * a.tap_w + i) * p.scale : __ldg(a.taps_x + i);
}
__device__ __forceinline__ float column_tap(const FastArgs& a, const Product& p, int k) {
  if (k >= a.tap_h) return 0.f;
  const int i = tap_place(k, a.tap_h, a.flip);
  return a.gain * (a.taps ? __ldg(a.taps + i * a.tap_w + p.x) : __ldg(a.taps_y + i));
}
__device__ __forceinline__ float full_tap(const FastArgs& a, int ky, int kx) {
  if (ky >= a.tap_h || kx < 0 || kx >= a.tap_w) return 0.f;
  return a.gain * __ldg(a.taps + tap_place(ky, a.tap_h, a.flip) * a.tap_w + tap_place(kx, a.tap_w, a.flip));
}

// ---- the walk -------------------------------------------------------------------------------------------------------
// next_stage() makes the next kStageRows input rows readable. for_taps(row, f) calls f(column, m, v): input row `row`
// of the stage meets the outputs of that column with values v[V] at tap m, m ascending. Taps: gy[K] and gx[phase][MX]
// or, if kFull, gx[K][phase][MX]. emit(line, v) is told every output row v[kColumns * V] in turn; lines below 0 and
// past the strip are not complete. Unrolled by the span, so that which register waits for which row is fixed when
// compiled.
template <class S, bool kFull, class NextStage, class ForTaps, class Emit>
__device__ __forceinline__ void sweep(int units, const float* gy, const float* gx, NextStage next_stage,
                                      ForTaps for_taps, Emit emit) {
  // Either the last kSpan filtered rows wait for the outputs that need them, or the outputs begun wait for their last
  // row. The former takes fewer registers when up 2, the latter when down 2 and wherever the taps are no product.
  constexpr bool kGather = !kFull && S::kMode != kDown;
  constexpr int V = S::V, kSpan = S::kSpan, kWide = S::kColumns * V, kHeld = kGather ? kSpan : kSpan * S::kOut;
  float held[kHeld][kWide];
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
#pragma unroll
    for (int c = 0; c < kWide; ++c) held[i][c] = 0.f;
  const int steps = units + kSpan - 1;
  int line = -(kSpan - 1) * S::kOut;
#pragma unroll 1
  for (int t = 0;; t += kSpan) {
#pragma unroll
    for (int j = 0; j < kSpan; ++j) {
      if (j % S::kStageUnits == 0) {
        if (t + j >= steps) return;
        next_stage();
      }
#pragma unroll
      for (int r = 0; r < S::kIn; ++r) {
        const int row = j % S::kStageUnits * S::kIn + r;
        if constexpr (kFull) {
          for_taps(row, [&](int column, int mx, const float* v) {
#pragma unroll
            for (int m = 0; m < kSpan; ++m)
#pragma unroll
              for (int o = 0; o < S::kOut; ++o) {
                float* sum = held[(j - m + kSpan) % kSpan * S::kOut + o] + column * V;
#pragma unroll
                for (int c = 0; c < V; ++c) {
                  const float product = gx[(S::tap(m, r, o) * S::kPhases + S::phase(column, c)) * S::MX + mx] * v[c];
                  sum[c] = m == 0 && r == 0 && mx == 0 ? product : sum[c] + product;
                }
              }
          });
        } else {
          float h[kWide];
          for_taps(row, [&](int column, int mx, const float* v) {
#pragma unroll
            for (int c = 0; c < V; ++c) {
              const float product = gx[S::phase(column, c) * S::MX + mx] * v[c];
              h[column * V + c] = mx == 0 ? product : h[column * V + c] + product;
            }
          });
          if constexpr (kGather) {
#pragma unroll
            for (int c = 0; c < kWide; ++c) held[j][c] = h[c];
          } else {
#pragma unroll
            for (int m = 0; m < kSpan; ++m) {
              float* sum = held[(j - m + kSpan) % kSpan];
#pragma unroll
              for (int c = 0; c < kWide; ++c) {
                const float product = gy[S::tap(m, r, 0)] * h[c];
                sum[c] = m == 0 && r == 0 ? product : sum[c] + product;
              }
            }
          }
        }
      }
#pragma unroll
      for (int o = 0; o < S::kOut; ++o, ++line) {
        if constexpr (kGather) {
          float sum[kWide];
#pragma unroll
          for (int m = 0; m < kSpan; ++m)
#pragma unroll
            for (int c = 0; c < kWide; ++c) {
              const float product = gy[S::tap(m, 0, o)] * held[(j + 1 + m) % kSpan][c];
              sum[c] = m == 0 ? product : sum[c] + product;
            }
          emit(line, sum);
        } else {
          emit(line, held[(j + 1) % kSpan * S::kOut + o]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace gk
