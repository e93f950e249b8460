// The passes of filtered_lrelu's fast CUDA kernels, from tile to tile of shared memory.
//
// In separable passes a thread walks along a line and loads every number once: the MX last ones wait in registers for
// the sums that need them (up), or the P sums that have begun wait for their last number (down). Unrolled so far that
// which register waits for which is fixed when compiled. Lanes stand across the walk.
#pragma once
#include "filtered_lrelu/filtered_lrelu_cuda_tile.cuh"

namespace gk {
namespace {

enum class Mode { activate, write_mask, read_mask };

constexpr GK_HD int gcd_of(int a, int b) { return b ? gcd_of(b, a % b) : a; }
constexpr GK_HD int lcm_of(int a, int b) { return a / gcd_of(a, b) * b; }

// ---- the activation -------------------------------------------------------------------------------------------------
// lrelu_activate in fewer instructions: `clamp` is infinite where there is none, and clamping keeps the sign. The
// code goes to `packed`, whose bits from kBit on are 0.
template <bool kCode, int kBit>
__device__ __forceinline__ float activate(float t, const LreluSlopes<float>& slopes, float clamp, uint32_t& packed) {
  const bool negative = t <= 0.f;
  const float a = t * (negative ? slopes.negative : slopes.positive);
  const bool clamped = fabsf(a) > clamp;
  if (kCode) packed |= (clamped ? kMaskClamped : negative ? kMaskNegative : kMaskPositive) << kBit;
  return clamped ? copysignf(clamp, a) : a;
}

// The masks of one column of the tile's intermediate image, which a thread walks down. Four adjacent lanes
// have the four numbers of a byte.
template <class S, Mode kMode>
struct Masks {
  const uint8_t* in;  // of the row that is read next
  uint8_t* out;       // of the row that this lane writes next
  int64_t pitch;
  int row;       // that row; when writing counted from the first one that the tile writes
  int rows;      // read: of the image; write: of those that the tile writes; 0 if this column has none
  uint32_t bit;  // the lower one of the number in its byte, 0 if there is no number

  __device__ __forceinline__ Masks(const FastArgs& a, const Tile<S>& tile, int col, int c, bool live) {
    const int mid_x = tile.group_x + col, channel = tile.c0 + c;
    const int64_t plane = tile.plane0 + c;
    const int shift = 2 * ((S::kLast ? channel : mid_x) & 3);
    const auto exists = [&](int x, int of_channel) {
      return live && static_cast<unsigned>(x) < static_cast<unsigned>(a.mid_w) &&
             (S::kLast ? of_channel < a.channels : plane < a.planes);
    };
    bit = exists(mid_x, channel) ? 1u << shift : 0;
    rows = bit ? a.mid_h : 0;
    pitch = a.mask_row;
    if constexpr (kMode != Mode::activate) {
      const int64_t at = S::kLast ? tile.n * a.mask_image + static_cast<int64_t>(mid_x) * a.mask_pixel + (channel >> 2)
                                  : plane * a.mask_image + (mid_x >> 2);
      row = tile.base_y, in = a.mask_in + at + row * pitch;
      if constexpr (kMode == Mode::write_mask) {
        // A byte belongs to the tile in which its group lies without the halo, a row likewise: one tile writes it.
        // The lane that stores it need not have a number in it.
        const int first_x = S::kLast ? mid_x : mid_x & ~3;
        const bool own =
            exists(first_x, S::kLast ? channel & ~3 : 0) && (first_x - tile.group_x < S::TW * S::DOWN || tile.last_x);
        const int begin = tile.need_y > 0 ? tile.need_y : 0;
        const int next = tile.need_y + S::TH * S::DOWN, end = tile.last_y || next > a.mid_h ? a.mid_h : next;
        const int r = static_cast<int>(threadIdx.x & 3);  // of a unit's rows
        rows = own && r < S::UP ? end - begin : 0;
        out = a.mask_out + at + (row + r) * pitch;
        row += r - begin;
      }
    }
  }
  // The byte of the next row, or this where there is no number.
  static constexpr uint32_t kNothing = 0x100;
  __device__ __forceinline__ uint32_t read() {
    uint32_t byte = kNothing;
    if constexpr (kMode == Mode::read_mask) {
      if (static_cast<unsigned>(row) < static_cast<unsigned>(rows)) byte = __ldg(in);
      in += pitch, ++row;
    }
    return byte;
  }
  __device__ __forceinline__ float factor(uint32_t byte, const LreluSlopes<float>& slopes, float t) const {
    static_assert(kMaskNegative == 1 && kMaskClamped == 2, "bits of a code");
    const float a = t * (byte & bit ? slopes.negative : slopes.positive);
    return byte & (2 * bit | kNothing) ? 0.f : a;
  }
  // UP numbers t of this column become a. All lanes of a warp call it, for one unit after the other.
  __device__ __forceinline__ void apply(const FastArgs& a, const uint32_t (&bytes)[S::UP], float (&v)[S::UP]) {
    if constexpr (kMode == Mode::read_mask) {
#pragma unroll
      for (int r = 0; r < S::UP; ++r) v[r] = factor(bytes[r], a.slopes, v[r]);
    } else {
      constexpr bool kCode = kMode == Mode::write_mask;
      uint32_t packed = 0;
      v[0] = activate<kCode, 0>(v[0], a.slopes, a.clamp, packed);
      if constexpr (S::UP > 1) v[1] = activate<kCode, 8>(v[1], a.slopes, a.clamp, packed);
      if constexpr (S::UP > 2) v[2] = activate<kCode, 16>(v[2], a.slopes, a.clamp, packed);
      if constexpr (S::UP > 3) v[3] = activate<kCode, 24>(v[3], a.slopes, a.clamp, packed);
      static_assert(S::UP <= 4, "a byte of `packed` for each row");
      if constexpr (kCode) {
        packed *= bit;  // to its place in the byte, or 0
        packed |= __shfl_xor_sync(kAllLanes, packed, 1);
        packed |= __shfl_xor_sync(kAllLanes, packed, 2);
        // One lane of the four stores the byte of one row.
        if (static_cast<unsigned>(row) < static_cast<unsigned>(rows))
          *out = static_cast<uint8_t>(packed >> 8 * (threadIdx.x & 3));
        row += S::UP, out += S::UP * pitch;
      }
    }
  }
};

// ---- separable passes -----------------------------------------------------------------------------------------------
// Line `i` of `lines` lines of CT channels: which one, and of which channel.
template <class S>
__device__ __forceinline__ void split(int i, int lines, int& line, int& c) {
  if (S::kLast)
    line = i / S::CT, c = i % S::CT;
  else
    c = i / lines, line = i - c * lines;
}

template <int K>
__device__ __forceinline__ void read_taps(float (&g)[K], const float* taps, float scale) {
#pragma unroll
  for (int k = 0; k < K; ++k) g[k] = taps[k] * scale;
}

__device__ __forceinline__ void read_four(float (&to)[4], const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// One unit from its window, whose first pixel is in w[first].
template <class S>
__device__ __forceinline__ void up_unit(const float (&g)[S::KU], const float (&w)[S::MX], int first,
                                        float (&v)[S::UP]) {
#pragma unroll
  for (int r = 0; r < S::UP; ++r) {
    v[r] = g[S::UP - 1 - r] * w[first % S::MX];
#pragma unroll
    for (int m = 1; m < S::MX; ++m) v[r] += g[S::UP - 1 - r + S::UP * m] * w[(first + m) % S::MX];
  }
}

// In -> Wide, along x.
template <class S>
__device__ __forceinline__ void widen(const float* in, const float* taps, float* out) {
  using In = typename S::In;
  using Wide = typename S::Wide;
  constexpr int MX = S::MX;
  float g[S::KU];
  read_taps(g, taps, 1.f);
#pragma unroll 1
  for (int i = threadIdx.x; i < In::kRows * S::CT; i += S::kThreads) {
    int row, c;
    split<S>(i, In::kRows, row, c);
    const float* from = in + In::at(row, 0, c);
    float* to = out + Wide::at(row, 0, c);
    float w[MX];
#pragma unroll
    for (int m = 0; m < MX - 1; ++m, from += In::kX) w[m] = *from;
#pragma unroll 1
    for (int t = 0; t < S::kUnitsX; t += MX) {
#pragma unroll
      for (int j = 0; j < MX; ++j) {
        if (t + j >= S::kUnitsX) break;
        w[(j + MX - 1) % MX] = from[j * In::kX];
        float v[S::UP];
        up_unit<S>(g, w, j, v);
#pragma unroll
        for (int r = 0; r < S::UP; ++r) to[(j * S::UP + r) * Wide::kX] = v[r];
      }
      from += MX * In::kX, to += MX * S::UP * Wide::kX;
    }
  }
}

// A number enters the P sums that have begun; kAt: its place in the line, modulo KD, 0 being output 0's first tap. True
// if that completes `done`.
template <class S>
__device__ __forceinline__ bool down_step(const float (&g)[S::KD], float (&sums)[S::P], int at, float v, float& done) {
#pragma unroll
  for (int p = 0; p < S::P; ++p) {
    const int k = at % S::DOWN + S::DOWN * p, slot = (at / S::DOWN - p + S::P) % S::P;
    sums[slot] = k == 0 ? g[k] * v : sums[slot] + g[k] * v;
    if (k == S::KD - 1) done = sums[slot];
  }
  return at % S::DOWN == S::DOWN - 1;
}

// Wide -> (up along y, activation) -> down along y -> Low; kFull == down: -> Mid instead. kLead: rows before the first
// that is needed.
template <class S, Mode kMode, int kLead>
__device__ __forceinline__ void middle(const FastArgs& a, const Tile<S>& tile, const float* in, const float* up_taps,
                                       const float* down_taps, float* out) {
  using Wide = typename S::Wide;
  using Low = typename S::Low;
  using Mid = typename S::Mid;
  constexpr bool kDown = S::kFull == Full::none;
  constexpr int UP = S::UP, MX = S::MX, P = S::P, KD = S::KD;
  constexpr int kUnroll = kDown ? lcm_of(MX, KD / gcd_of(KD, UP)) : MX;
  constexpr int kLines = S::kCols * S::CT;
  float gu[S::KU], gd[KD];
  read_taps(gu, up_taps, a.scale);
  if (kDown) read_taps(gd, down_taps, 1.f);
  const int lane = threadIdx.x & 31, lead_x = tile.group_x - tile.base_x;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) - lane; first < kLines; first += S::kThreads) {
    const bool live = first + lane < kLines;  // whole warps: lanes exchange masks
    int col, c;
    split<S>(live ? first + lane : kLines - 1, S::kCols, col, c);
    Masks<S, kMode> masks(a, tile, col, c, live);
    const float* from = in + Wide::at(0, lead_x + col, c);
    // Of the output row that is completed next; the first ones are none.
    int o = -(P - 1) - (kLead ? 1 : 0);
    float* to = out + (kDown ? Low::at(0, col, c) + o * Low::kY : Mid::at(0, col, c));
    float w[MX], sums[P];
#pragma unroll
    for (int m = 0; m < MX - 1; ++m, from += Wide::kY) w[m] = *from;
#pragma unroll
    for (int p = 0; p < P; ++p) sums[p] = 0.f;
    if (!live) o = S::TH;  // stores nothing
    uint32_t next[UP];     // on their way while the unit before is computed
#pragma unroll
    for (int r = 0; r < UP; ++r) next[r] = masks.read();
#pragma unroll 1
    for (int t = 0; t < S::kUnitsY; t += kUnroll) {
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        if (t + j >= S::kUnitsY) break;
        uint32_t bytes[UP];
#pragma unroll
        for (int r = 0; r < UP; ++r) bytes[r] = next[r], next[r] = masks.read();
        w[(j + MX - 1) % MX] = *from, from += Wide::kY;
        float v[UP];
        up_unit<S>(gu, w, j, v);
        masks.apply(a, bytes, v);
        if constexpr (kDown) {
#pragma unroll
          for (int r = 0; r < UP; ++r) {
            float done;
            if (down_step<S>(gd, sums, (UP * j + r - kLead + KD) % KD, v[r], done)) {
              if (static_cast<unsigned>(o) < static_cast<unsigned>(S::TH)) *to = done;
              to += Low::kY, ++o;
            }
          }
        } else {
#pragma unroll
          for (int r = 0; r < UP; ++r, to += Mid::kY)
            if (live) *to = v[r];
        }
      }
    }
  }
}

// kOuts outputs of a line that has one number every kStep floats.
template <class S, int kOuts, int kStep, int kOutStep>
__device__ __forceinline__ void walk_down(const float (&g)[S::KD], const float* from, float* to) {
  constexpr int kNumbers = (kOuts - 1) * S::DOWN + S::KD;
  float sums[S::P];
#pragma unroll
  for (int p = 0; p < S::P; ++p) sums[p] = 0.f;
#pragma unroll 1
  for (int t = 0; t < kNumbers; t += S::KD) {
#pragma unroll
    for (int j = 0; j < S::KD; ++j) {
      if (t + j >= kNumbers) break;
      float done;
      if (down_step<S>(g, sums, j, from[j * kStep], done) && t + j >= S::KD - 1) *to = done, to += kOutStep;
    }
    from += S::KD * kStep;
  }
}

// Low -> Out, along x.
template <class S>
__device__ __forceinline__ void narrow(const Tile<S>& tile, const float* in, const float* taps, float* out) {
  using Low = typename S::Low;
  using Out = typename S::Out;
  constexpr int kPieces = S::TW >= 32 ? 2 : 1, kOuts = S::TW / kPieces;  // of a row, so that most threads have one
  float g[S::KD];
  read_taps(g, taps, 1.f);
#pragma unroll 1
  for (int i = threadIdx.x; i < S::TH * S::CT * kPieces; i += S::kThreads) {
    const int piece = i / (S::TH * S::CT);
    int row, c;
    split<S>(i - piece * (S::TH * S::CT), S::TH, row, c);
    walk_down<S, kOuts, Low::kX, Out::kX>(g, in + Low::at(row, tile.need_x - tile.group_x + piece * kOuts * S::DOWN, c),
                                          out + Out::at(row, piece * kOuts, c));
  }
}

// Mid -> Low, along y, after the full up pass.
template <class S>
__device__ __forceinline__ void lower(const Tile<S>& tile, const float* in, const float* taps, float* out) {
  using Mid = typename S::Mid;
  using Low = typename S::Low;
  float g[S::KD];
  read_taps(g, taps, 1.f);
  const int lead_x = tile.group_x - tile.base_x, lead_y = tile.need_y - tile.base_y;
#pragma unroll 1
  for (int i = threadIdx.x; i < S::kCols * S::CT; i += S::kThreads) {
    int col, c;
    split<S>(i, S::kCols, col, c);
    walk_down<S, S::TH, Mid::kY, Low::kY>(g, in + Mid::at(lead_y, lead_x + col, c), out + Low::at(0, col, c));
  }
}

// ---- full filters ---------------------------------------------------------------------------------------------------
// In -> Mid. A thread computes kBlockRows units, one above the other: their window is loaded once, for all UP * UP
// phases, and a tap serves kBlockRows sums. Masks are read only: none is written behind a full up filter
// but by the generic kernel.
template <class S, Mode kMode>
__device__ __forceinline__ void raise(const FastArgs& a, const Tile<S>& tile, const float* in, const float* taps,
                                      float* out) {
  using In = typename S::In;
  using Mid = typename S::Mid;
  constexpr int UP = S::UP, MX = S::MX, R = S::kBlockRows, kBlocks = S::kUnitsY / R;
#pragma unroll 1
  for (int i = threadIdx.x; i < S::kUnitsX * kBlocks * S::CT; i += S::kThreads) {
    int at, c;
    split<S>(i, S::kUnitsX * kBlocks, at, c);
    const int block = at / S::kUnitsX, unit = at % S::kUnitsX, row0 = tile.base_y + block * R * UP;
    const float* from = in + In::at(block * R, unit, c);
    float* to = out + Mid::at(block * R * UP, unit * UP, c);
    float w[R + MX - 1][MX];
#pragma unroll
    for (int m = 0; m < R + MX - 1; ++m)
#pragma unroll
      for (int n = 0; n < MX; ++n) w[m][n] = from[m * In::kY + n * In::kX];
#pragma unroll 1
    for (int rx = 0; rx < UP; ++rx) {
      Masks<S, kMode> masks(a, tile, unit * UP + rx - (tile.group_x - tile.base_x), c, true);
      masks.in += (row0 - tile.base_y) * masks.pitch, masks.row = row0;
      uint32_t bytes[R * UP];
#pragma unroll
      for (int r = 0; r < R * UP; ++r) bytes[r] = masks.read();
#pragma unroll
      for (int ry = 0; ry < UP; ++ry) {
        float sums[R];
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] = 0.f;
        const float* g = taps + ((UP - 1 - ry) * UP + UP - 1 - rx) * (MX * MX);
        static_assert(MX * MX % 4 == 0, "taps are read by fours");
#pragma unroll
        for (int k = 0; k < MX * MX; k += 4) {
          float four[4];
          read_four(four, g + k);
#pragma unroll
          for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int r = 0; r < R; ++r) sums[r] += four[e] * w[(k + e) / MX + r][(k + e) % MX];
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
          uint32_t no_code = 0;
          float& a_value = to[(r * UP + ry) * Mid::kY + rx * Mid::kX];
          if constexpr (kMode == Mode::read_mask)
            a_value = masks.factor(bytes[r * UP + ry], a.slopes, sums[r]);
          else
            a_value = activate<false, 0>(sums[r], a.slopes, a.clamp, no_code);
        }
      }
    }
  }
}

// Mid -> Out. A thread computes 4 x 2 outputs: a row of numbers that it loads serves both rows of outputs where it
// meets both.
template <class S>
__device__ __forceinline__ void gather(const Tile<S>& tile, const float* in, const float* taps, float* out) {
  using Mid = typename S::Mid;
  using Out = typename S::Out;
  constexpr int DOWN = S::DOWN, KD = S::KD, kAcross = 4, kLoads = (kAcross - 1) * DOWN + KD;
  constexpr int kBlocksX = S::TW / kAcross, kBlocksY = S::TH / 2;
  const int lead_x = tile.need_x - tile.group_x, lead_y = tile.need_y - tile.base_y;
#pragma unroll 1
  for (int i = threadIdx.x; i < kBlocksX * kBlocksY * S::CT; i += S::kThreads) {
    const int c = i % S::CT, y = i / S::CT % kBlocksY, x = i / (S::CT * kBlocksY);
    const float* from = in + Mid::at(lead_y + 2 * DOWN * y, lead_x + kAcross * DOWN * x, c);
    float sums[2][kAcross];
#pragma unroll
    for (int o = 0; o < 2; ++o)
#pragma unroll
      for (int q = 0; q < kAcross; ++q) sums[o][q] = 0.f;
#pragma unroll 1
    for (int row = 0; row < KD + DOWN; ++row, from += Mid::kY) {
      float v[kLoads];
#pragma unroll
      for (int k = 0; k < kLoads; ++k) v[k] = from[k * Mid::kX];
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        const int ky = row - o * DOWN;
        if (static_cast<unsigned>(ky) >= static_cast<unsigned>(KD)) continue;
        const float* g = taps + ky * KD;
        static_assert(KD % 4 == 0, "taps are read by fours");
#pragma unroll
        for (int kx = 0; kx < KD; kx += 4) {
          float four[4];
          read_four(four, g + kx);
#pragma unroll
          for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int q = 0; q < kAcross; ++q) sums[o][q] += four[e] * v[q * DOWN + kx + e];
        }
      }
    }
#pragma unroll
    for (int o = 0; o < 2; ++o)
#pragma unroll
      for (int q = 0; q < kAcross; ++q) out[Out::at(2 * y + o, kAcross * x + q, c)] = sums[o][q];
  }
}

}  // namespace
}  // namespace gk
