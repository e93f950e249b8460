// What filtered_lrelu's fast CUDA kernels share: arguments, the geometry of a tile, taps, and tiles to and from memory.
#pragma once
#include <cstdint>

#include "common/cuda_io.cuh"
#include "common/host_device.h"
#include "common/launch.h"
#include "filtered_lrelu/filtered_lrelu_math.h"
#include "filtered_lrelu/filtered_lrelu_params.h"

namespace gk {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

struct FastArgs {
  const void* x;
  void* y;
  const float *bias, *up_taps, *down_taps;
  const uint8_t* mask_in;
  uint8_t* mask_out;
  int64_t x_stride[4], y_stride[4];  // elements
  int64_t mask_row, mask_image;      // bytes of a row, and of a plane (channels_last: of a sample)
  int64_t planes;                    // N * C
  int mask_pixel;                    // channels_last: bytes of a pixel
  int channels, in_h, in_w, out_h, out_w, mid_h, mid_w;
  int up_h, up_w, down_h, down_w;  // numbers of taps
  int start_x, start_y, offset_x, offset_y;
  int first_out_y;  // output row at which tile 0 begins: 0 or -1
  int tiles_x, tiles_y, tiles_c;
  DType dtype;
  bool flip, up_none, down_none;
  bool wide;  // channels_last: x and y take vectors of 8 channels
  float scale, clamp;
  LreluSlopes<float> slopes;
};

constexpr GK_HD int round_up(int v, int to) { return (v + to - 1) / to * to; }
constexpr GK_HD int most(int a, int b) { return a > b ? a : b; }

// Which filter is not separable.
enum class Full { none, up, down };

// A tile in shared memory: pixels of kPlanes channels, the channels innermost (channels_last) or outermost. Lanes of a
// warp stand side by side in a row, one above the other in a column, or on neighbouring channels; odd distances keep
// them on different banks.
template <int kRows_, int kCols_, int kPlanes_, bool kLast, bool kSpread = false>
struct Image {
  static constexpr int kRows = kRows_, kCols = kCols_, kPlanes = kPlanes_;
  static constexpr int kChannel = kLast ? 1 : (kRows * (kCols | 1)) | 1;
  static constexpr int kX = kLast ? kPlanes : 1;
  // kSpread: threads read every fourth row.
  static constexpr int kY = kLast ? (kSpread ? kCols * kPlanes + 2 : (kCols | 1) * kPlanes) : kCols | 1;
  static constexpr int kFloats = round_up(kLast ? kRows * kY : kPlanes * kChannel, 4);
  static __device__ __forceinline__ int at(int row, int col, int c) { return row * kY + col * kX + c * kChannel; }
};

// Geometry of a tile of TW x TH outputs of CT channels.
//
// Numbers of the intermediate image come in units of UP along either axis, which see the same MX pixels: number
// UP * i + r of the tile meets tap UP - 1 - r + UP * m at pixel i + m of the tile. So the tile's intermediate image
// begins at a number (`base`) that is 1 more than start, modulo UP: up to UP - 1 before the first that is needed.
// Along x it also begins with a whole group of the mask (NCHW).
template <int UP_, int DOWN_, int KU_, int KD_, Full kFull_, int TW_, int TH_, int CT_, bool kLast_, int kThreads_>
struct Plan {
  static constexpr int UP = UP_, DOWN = DOWN_, KU = KU_, KD = KD_, TW = TW_, TH = TH_, CT = CT_, kThreads = kThreads_;
  static constexpr Full kFull = kFull_;
  static constexpr bool kLast = kLast_;
  static constexpr int MX = KU / UP, P = KD / DOWN;  // pixels that a number meets, outputs that it enters, each axis
  static_assert(KU % UP == 0 && KD % DOWN == 0 && KD >= DOWN && TW * DOWN % 4 == 0 && CT <= 8 && 8 % CT == 0, "plan");

  static constexpr int kMidW = (TW - 1) * DOWN + KD, kMidH = (TH - 1) * DOWN + KD;
  static constexpr int kCols = kLast ? kMidW : round_up(kMidW + 3, 4);  // of the intermediate image that are computed
  static constexpr int kUnitsX = (kCols + UP - 1 + UP - 1) / UP;
  // Rows before the first that is needed: separable kernels are compiled for 0 and for 1, see launch_fast.
  static constexpr int kLeadY = kFull == Full::none ? (UP > 1 ? 1 : 0) : UP - 1;
  static constexpr int kBlockRows = 4;  // units along y that a thread of the full up pass computes
  static constexpr int kUnitsY = round_up((kMidH + kLeadY + UP - 1) / UP, kFull == Full::up ? kBlockRows : 1);

  using In = Image<kUnitsY + MX - 1, kUnitsX + MX - 1, CT, kLast>;
  using Wide = Image<In::kRows, kUnitsX * UP, CT, kLast>;  // filtered along x
  using Mid = Image<kUnitsY * UP, kFull == Full::up ? kUnitsX * UP : kCols, CT, kLast, kFull == Full::down>;
  using Low = Image<TH, kCols, CT, kLast>;  // the intermediate image, filtered along y
  using Out = Image<TH, TW, CT, kLast>;

  // Two buffers: In -> Wide -> Low -> Out; full down: In -> Wide -> Mid -> Out; full up: In -> Mid -> Low -> Out.
  static constexpr int kFirst = most(In::kFloats, kFull == Full::down ? Mid::kFloats : Low::kFloats);
  static constexpr int kSecond = most(kFull == Full::up ? Mid::kFloats : Wide::kFloats, Out::kFloats);
  static constexpr int kUpTaps = kFull == Full::up ? KU * KU : KU, kDownTaps = kFull == Full::down ? KD * KD : KD;
  static constexpr int kTaps = round_up(kUpTaps, 4) + round_up(kDownTaps, 4);
  static constexpr int kBytes = (kFirst + kSecond + kTaps) * 4;
};

// Which tile a block has.
template <class S>
struct Tile {
  int64_t plane0, n;     // NCHW: its first plane; channels_last: its sample
  int c0;                // channels_last: its first channel
  int out_x, out_y;      // its first output
  int need_x, need_y;    // the first number of the intermediate image that they need
  int group_x;           // the first one that is computed and written to masks
  int base_x, base_y;    // the first one of the first unit
  int pixel_x, pixel_y;  // the first pixel
  bool last_x, last_y;

  __device__ __forceinline__ Tile(const FastArgs& a) {
    unsigned block = blockIdx.x;
    unsigned channel_tile = 0;
    if (S::kLast) channel_tile = block % a.tiles_c, block /= a.tiles_c;  // they share sectors of memory
    const int tx = static_cast<int>(block % a.tiles_x);
    block /= a.tiles_x;
    const int ty = static_cast<int>(block % a.tiles_y);
    const int64_t outer = block / a.tiles_y;
    n = outer, plane0 = outer * S::CT, c0 = static_cast<int>(channel_tile) * S::CT;
    out_x = tx * S::TW, out_y = a.first_out_y + ty * S::TH;
    last_x = tx == a.tiles_x - 1, last_y = ty == a.tiles_y - 1;
    need_x = out_x * S::DOWN + a.offset_x, need_y = out_y * S::DOWN + a.offset_y;
    group_x = S::kLast ? need_x : need_x & ~3;
    pixel_x = before(group_x, a.start_x, base_x), pixel_y = before(need_y, a.start_y, base_y);
  }
  // The last beginning of a unit that is not after `number`, and the first pixel that the unit meets.
  static __device__ __forceinline__ int before(int number, int start, int& base) {
    const int d = number - start - 1;
    const int unit = S::UP == 1 ? d : (d - (d < 0 ? S::UP - 1 : 0)) / S::UP;
    base = start + 1 + unit * S::UP;
    return unit + 1;
  }
};

// ---- taps -----------------------------------------------------------------------------------------------------------
// Into shared memory: reversed as they are used, times `scale`, filled up with zeros; no filter: a single 1. Those that
// meet the same number are together: phase by phase along both axes.
template <int K, bool kFull, int kPhases, int kThreads>
__device__ __forceinline__ void copy_taps(float* to, const float* taps, int h, int w, bool flip, bool none,
                                          float scale) {
  for (int i = threadIdx.x; i < (kFull ? K * K : K); i += kThreads) {
    const int ky = kFull ? i / K : 0, kx = kFull ? i % K : i;
    float tap = 0.f;
    if (none)
      tap = i == 0 ? 1.f : 0.f;
    else if (kx < w && (!kFull || ky < h))
      tap = __ldg(taps + (kFull ? stored_tap(ky, h, flip) * w : 0) + stored_tap(kx, w, flip));
    constexpr int MX = K / kPhases;
    to[kFull ? (ky % kPhases * kPhases + kx % kPhases) * (MX * MX) + ky / kPhases * MX + kx / kPhases : i] =
        tap * scale;
  }
}

// ---- memory ---------------------------------------------------------------------------------------------------------
// Storage types are told apart here alone, so that one compiled kernel serves all three: the rest of it computes in
// float.
template <class F>
__device__ __forceinline__ void with_dtype(DType dtype, F f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f16) return f(__half{});
  return f(__nv_bfloat16{});
}

// 8 channels: one vector of halves, two of floats.
template <class T>
__device__ __forceinline__ void load_channels(const T* from, float* v) {
  constexpr int k = kPerVector<T>;
#pragma unroll
  for (int i = 0; i < 8; i += k) unpack_vector<T>(*reinterpret_cast<const uint4*>(from + i), v + i);
}
template <class T>
__device__ __forceinline__ void store_channels(T* to, const float* v) {
  constexpr int k = kPerVector<T>;
#pragma unroll
  for (int i = 0; i < 8; i += k) store_vector(to + i, pack_vector<T>(v + i));
}

// Whole threads or warps are given to a channel, so that what depends on it is computed once; offsets within a tile are
// ints.
template <class S, class T>
__device__ __forceinline__ void load_pixels(const FastArgs& a, const Tile<S>& tile, float* to, T) {
  using In = typename S::In;
  const int tid = threadIdx.x, lane = tid & 31;
  const T* x = static_cast<const T*>(a.x);
  const auto row_exists = [&](int row) {
    return static_cast<unsigned>(tile.pixel_y + row) < static_cast<unsigned>(a.in_h);
  };
  const auto exists = [&](int col) {
    return static_cast<unsigned>(tile.pixel_x + col) < static_cast<unsigned>(a.in_w);
  };
  if constexpr (S::kLast) {
    x += tile.n * a.x_stride[0] + tile.pixel_y * a.x_stride[2] + tile.pixel_x * a.x_stride[3] + tile.c0;
    const int step_y = static_cast<int>(a.x_stride[2]), step_x = static_cast<int>(a.x_stride[3]);
    if (S::CT == 8 && a.wide) {
      float bias[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) bias[c] = a.bias ? __ldg(a.bias + tile.c0 + c) : 0.f;
#pragma unroll 2
      for (int i = tid; i < In::kRows * In::kCols; i += S::kThreads) {
        const int row = i / In::kCols, col = i % In::kCols;
        float v[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
        if (row_exists(row) && exists(col)) {
          load_channels(x + (row * step_y + col * step_x), v);
#pragma unroll
          for (int c = 0; c < 8; ++c) v[c] += bias[c];
        }
        float4* vectors = reinterpret_cast<float4*>(to + In::at(row, col, 0));
        vectors[0] = make_float4(v[0], v[1], v[2], v[3]), vectors[1] = make_float4(v[4], v[5], v[6], v[7]);
      }
    } else {
      constexpr int kAcross = 32 / S::CT;  // pixels that a warp loads side by side
      const int c = lane % S::CT, col0 = lane / S::CT;
      const bool live = tile.c0 + c < a.channels;
      const float bias = a.bias && live ? __ldg(a.bias + tile.c0 + c) : 0.f;
#pragma unroll 1
      for (int row = tid >> 5; row < In::kRows; row += S::kThreads / 32) {
        const T* from = x + (row * step_y + col0 * step_x + c);
        const bool row_live = live && row_exists(row);
        float* line = to + In::at(row, col0, c);
#pragma unroll
        for (int col = 0; col < In::kCols; col += kAcross, from += kAcross * step_x)
          if (col + kAcross <= In::kCols || col + col0 < In::kCols)
            line[col * In::kX] = row_live && exists(col + col0) ? load_value(from) + bias : 0.f;
      }
    }
  } else {
    constexpr int kWarps = S::kThreads / 32;
    static_assert(kWarps % S::CT == 0, "a warp has rows of one plane");
    const int c = (tid >> 5) % S::CT;
    const int64_t plane = tile.plane0 + c, n = plane / a.channels, channel = plane - n * a.channels;
    const bool live = plane < a.planes;
    const float bias = a.bias && live ? __ldg(a.bias + channel) : 0.f;
    x += n * a.x_stride[0] + channel * a.x_stride[1] + tile.pixel_y * a.x_stride[2] + tile.pixel_x + lane;
    const int step_y = static_cast<int>(a.x_stride[2]);
#pragma unroll 2
    for (int row = (tid >> 5) / S::CT; row < In::kRows; row += kWarps / S::CT) {
      const T* from = x + row * step_y;
      const bool row_live = live && row_exists(row);
      float* line = to + In::at(row, lane, c);
#pragma unroll
      for (int col = 0; col < In::kCols; col += 32)
        if (col + 32 <= In::kCols || col + lane < In::kCols)
          line[col] = row_live && exists(col + lane) ? load_value(from + col) + bias : 0.f;
    }
  }
}

template <class S, class T>
__device__ __forceinline__ void store_pixels(const FastArgs& a, const Tile<S>& tile, const float* from, T) {
  using Out = typename S::Out;
  const int tid = threadIdx.x;
  T* y = static_cast<T*>(a.y);
  const auto inside = [&](int row, int col) {
    return static_cast<unsigned>(tile.out_y + row) < static_cast<unsigned>(a.out_h) && tile.out_x + col < a.out_w;
  };
  const int step_y = static_cast<int>(a.y_stride[2]), step_x = static_cast<int>(a.y_stride[3]);
  if constexpr (S::kLast) {
    y += tile.n * a.y_stride[0] + tile.out_y * a.y_stride[2] + tile.out_x * a.y_stride[3] + tile.c0;
    if (S::CT == 8 && a.wide) {
#pragma unroll 1
      for (int i = tid; i < S::TH * S::TW; i += S::kThreads) {
        const int row = i / S::TW, col = i % S::TW;
        const float4* vectors = reinterpret_cast<const float4*>(from + Out::at(row, col, 0));
        const float4 low = vectors[0], high = vectors[1];
        const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        if (inside(row, col)) store_channels(y + (row * step_y + col * step_x), v);
      }
    } else {
      const int c = tid % S::CT;
      if (tile.c0 + c < a.channels)
#pragma unroll 2
        for (int i = tid / S::CT; i < S::TH * S::TW; i += S::kThreads / S::CT) {
          const int row = i / S::TW, col = i % S::TW;
          if (inside(row, col)) store_value(y + (row * step_y + col * step_x + c), from[Out::at(row, col, c)]);
        }
    }
  } else {
    constexpr int kLanes = S::TW, kTeams = S::kThreads / kLanes;
    static_assert(kTeams % S::CT == 0, "a team has rows of one plane");
    const int col = tid % kLanes, c = tid / kLanes % S::CT;
    const int64_t plane = tile.plane0 + c, n = plane / a.channels, channel = plane - n * a.channels;
    if (plane >= a.planes) return;
    y += n * a.y_stride[0] + channel * a.y_stride[1] + tile.out_y * a.y_stride[2] + tile.out_x + col;
#pragma unroll 2
    for (int row = tid / kLanes / S::CT; row < S::TH; row += kTeams / S::CT)
      if (inside(row, col)) store_value(y + row * step_y, from[Out::at(row, col, c)]);
  }
}

}  // namespace
}  // namespace gk
