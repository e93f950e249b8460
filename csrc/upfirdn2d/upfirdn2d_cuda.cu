// upfirdn2d on CUDA.
//
// What limits it (H200: copies at 4.3 TB/s; 132 multiprocessors issue 30e12 lane instructions a second, an FMA each at
// best):
//   bf16, 4x4 taps      bytes per output   outputs/s at copy speed   instructions per output that this leaves
//   same rate           4                  1.08e12                   27
//   up 2                2.5                1.72e12                   17
//   down 2              10                 0.43e12                   69
// At the same rate 16 FMA an output are affordable only in theory, next to loads, conversions and addresses; as a
// column and a row of 4 they are 8 (up 2: 3, down 2: 12). So the two axes are filtered one after the other in ONE pass:
// every input row is filtered along x once and the sums are carried down the image in registers, where the outputs that
// still miss rows wait. In all that takes 15 instructions an output for channels_last and 17 for NCHW (up 2: 6 and 7).
// 2-D taps come in device memory and the host must not read them: each warp checks whether they are a product of a
// column and a row, a few dozen instructions while its first rows are still on the way, and takes the K*K form if they
// are not.
//
// Two fast kernels share that sweep. A team of threads walks down a strip of the image, through a ring of input rows in
// shared memory that cp.async fills two stages ahead: some 20 KB a multiprocessor must be in flight to cover the
// memory's latency, more than registers could hold. Whatever lies outside of the image is filled with zeros on the way.
//   upfirdn2d_channels (channels_last): a block is the team; a thread has 16 bytes of channels at one or two adjacent
//     columns. Two save conversions: their inputs overlap. All copies and stores are 16 bytes.
//   upfirdn2d_rows (NCHW): a warp is the team; a lane has 16 bytes of adjacent outputs. Outputs sit on 16-byte
//     boundaries, so their inputs (x - pad) do not, and rows are copied in 4-byte words, lanes side by side: 128 bytes
//     an instruction, one instruction in 14 clocks, far below what L1 takes, and any stride or offset is served alike.
//     The shift is undone by where the words land; for halves at an odd position the rest of it by a funnel shift.
//     Stores are 16 bytes where y allows it, else rows go out element by element, still side by side.
// upfirdn2d_generic: anything else, one thread per output.
//
// Fast kernels hold taps for a class of sizes; a shorter filter is filled up with zero taps (so infinities may spread
// to one pixel more than the filter reaches).
#include "common/cuda_async.cuh"
#include "common/cuda_io.cuh"
#include "upfirdn2d/upfirdn2d_math.h"
#include "upfirdn2d/upfirdn2d_params.h"
#include "upfirdn2d/upfirdn2d_sweep.cuh"

namespace gk {
namespace {

constexpr int kChannelThreads = 256, kRowThreads = 128, kGenericThreads = 256;

// ---- channels_last --------------------------------------------------------------------------------------------------
template <class T, Mode kMode, int K>
struct ChannelShape : Shape<kMode, K, K == 4 && kMode != kDown ? 2 : 1, kPerVector<T>, kMode == kUp ? K / 2 : K,
                            K == 4 && kMode == kUp ? 2 : 1> {
  // A thread's second column begins kStep pixels after its first. With one column, x may have any factors.
  static constexpr int kStep = kMode == kUp ? 0 : 1;
  static constexpr int kPixels = ChannelShape::MX + (ChannelShape::kColumns - 1) * kStep;
};

template <class T, Mode kMode, int K>
__global__ void __launch_bounds__(kChannelThreads, 2) upfirdn2d_channels(const FastArgs a) {
  using S = ChannelShape<T, kMode, K>;
  constexpr int V = S::V, MX = S::MX, kColumns = S::kColumns;
  GK_DYNAMIC_SHARED(unsigned char, ring);
  const int cv = threadIdx.x & ((1 << a.lanes_log2) - 1), column = threadIdx.x >> a.lanes_log2;
  const int columns = kChannelThreads >> a.lanes_log2;
  unsigned block = blockIdx.x;
  const int c = static_cast<int>((block % a.tiles_c << a.lanes_log2) + cv) * V;
  block /= a.tiles_c;
  const int tile_x = a.first_x + static_cast<int>(block % a.tiles_x) * columns * kColumns,
            out_x = tile_x + column * kColumns;
  block /= a.tiles_x;
  const int unit0 = static_cast<int>(block % a.segments) * a.segment, units = min(a.segment, a.units - unit0);
  const int64_t n = block / a.segments;
  const bool in_channels = c < a.channels;

  // Where outputs meet pixels along x; the tile's first pixel is the ring's column 0.
  const Meeting meeting = first_meeting(static_cast<int64_t>(out_x) * a.down_x - a.pad_x, a.up_x);
  const int first_pixel =
      static_cast<int>(first_meeting(static_cast<int64_t>(tile_x) * a.down_x - a.pad_x, a.up_x).pixel);
  const int stage_bytes = kStageRows * a.row_bytes, write0 = threadIdx.x * 16;
  const int read0 = (((static_cast<int>(meeting.pixel) - first_pixel) << a.lanes_log2) + cv) * 16;

  const int first_row = a.first_in + unit0 * S::kIn;
  int rows_left = (units + S::kSpan - 1) * S::kIn, row = first_row;
  const char* from = a.x + n * a.x_stride[0] + c * static_cast<int64_t>(sizeof(T)) + first_row * a.x_stride[2] +
                     (first_pixel + column) * a.x_stride[3];
  RingPosition write{write0, write0 + kStages * stage_bytes, write0};
  auto fill = [&] {
    if (rows_left > 0) {  // of an odd number of rows the last stage brings one for nothing
      const bool inside0 = in_channels && static_cast<unsigned>(row) < static_cast<unsigned>(a.in_h);
      const bool inside1 = in_channels && static_cast<unsigned>(row + 1) < static_cast<unsigned>(a.in_h);
      const char *from0 = from, *from1 = from + a.x_stride[2];
      unsigned char* to = ring + write.now;
#pragma unroll 1
      for (int p = column; p < a.pitch; p += columns) {
        const bool inside = static_cast<unsigned>(first_pixel + p) < static_cast<unsigned>(a.in_w);
        async_copy<16>(to, from0, inside && inside0);
        async_copy<16>(to + a.row_bytes, from1, inside && inside1);
        from0 += columns * a.x_stride[3], from1 += columns * a.x_stride[3], to += kChannelThreads * 16;
      }
    }
    async_commit();
    rows_left -= kStageRows, row += kStageRows, from += kStageRows * a.x_stride[2];
    write.advance(stage_bytes);
  };
#pragma unroll 1
  for (int s = 0; s < kStages - 1; ++s) fill();

  Product product{true, 0, 0, 1.f};
  if (a.taps) product = product_of(a.taps, a.tap_w, a.tap_h);
  if (a.product_only && !product.holds) return async_wait<0>();

  RingPosition read{read0, read0 + kStages * stage_bytes, read0 + (kStages - 1) * stage_bytes};
  auto next_stage = [&] {
    async_wait<kStages - 2>();
    __syncthreads();  // the stage has arrived for all, and all have read the one that is filled next
    fill();
    read.advance(stage_bytes);
  };
  auto for_taps = [&](int r, auto f) {
    const uint4* at = reinterpret_cast<const uint4*>(ring + read.now + r * a.row_bytes);
#pragma unroll
    for (int j = 0; j < S::kPixels; ++j) {
      float v[V];
      unpack_vector<T>(at[j << a.lanes_log2], v);
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (j - i * S::kStep >= 0 && j - i * S::kStep < MX) f(i, j - i * S::kStep, v);
    }
  };
  const int first_y = a.first_y + unit0 * S::kOut, begin = max(0, -first_y),
            end = min(units * S::kOut, a.out_h - first_y);
  char* out = a.y + n * a.y_stride[0] + c * static_cast<int64_t>(sizeof(T)) + out_x * a.y_stride[3] +
              (first_y - (S::kSpan - 1) * S::kOut) * a.y_stride[2];
  bool stores[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i)
    stores[i] = in_channels && static_cast<unsigned>(out_x + i) < static_cast<unsigned>(a.out_w);
  auto emit = [&](int line, const float* v) {
    const bool complete = static_cast<unsigned>(line - begin) < static_cast<unsigned>(end - begin);
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      if (complete && stores[i]) store_vector(out + i * a.y_stride[3], pack_vector<T>(v + i * V));
    out += a.y_stride[2];
  };

  // When up 2, a thread's two columns meet the same pixels with the odd and the even taps.
  const int k0 = static_cast<int>(meeting.tap);
  if (K == 4 && !product.holds) {
    if constexpr (K == 4) {
      float g[K][S::kPhases][MX];
#pragma unroll
      for (int ky = 0; ky < K; ++ky)
#pragma unroll
        for (int i = 0; i < S::kPhases; ++i)
#pragma unroll
          for (int m = 0; m < MX; ++m) g[ky][i][m] = full_tap(a, ky, k0 - i + m * a.up_x);
      sweep<S, true>(units, nullptr, g[0][0], next_stage, for_taps, emit);
    }
  } else {
    float gy[K], gx[S::kPhases][MX];
#pragma unroll
    for (int ky = 0; ky < K; ++ky) gy[ky] = column_tap(a, product, ky);
#pragma unroll
    for (int i = 0; i < S::kPhases; ++i)
#pragma unroll
      for (int m = 0; m < MX; ++m) gx[i][m] = row_tap(a, product, k0 - i + m * a.up_x);
    sweep<S, false>(units, gy, gx[0], next_stage, for_taps, emit);
  }
}

// ---- NCHW -----------------------------------------------------------------------------------------------------------
// When up 2, outputs 2i and 2i + 1 begin at the same pixel or, if the padding is even, at adjacent ones: one tap more.
template <class T, Mode kMode, int K>
struct RowShape : Shape<kMode, K, 1, kPerVector<T>, kMode == kUp ? K / 2 + 1 : K, kMode == kUp ? 2 : 1> {
  static constexpr int kSize = static_cast<int>(sizeof(T));
  // A lane reads kInputs values of each input row from kStep * lane on, with kLoads loads of kAlign bytes.
  static constexpr int kStep = kMode == kUp ? kPerVector<T> / 2 : kMode == kDown ? 2 * kPerVector<T> : kPerVector<T>;
  static constexpr int kInputs = (kMode == kUp ? kStep - 1 : kMode == kDown ? kStep - 2 : kStep - 1) + RowShape::MX;
  static constexpr int kAlign = kMode == kUp ? 8 : 16;
  static constexpr int kOdd = kSize == 2 ? 1 : 0;  // halves: a row may begin in the middle of a word
  static constexpr int kLoads = ((kInputs + kOdd) * kSize + kAlign - 1) / kAlign;
  static constexpr int kWords = kLoads * kAlign / 4;
  static constexpr int kPer = 4 / kSize;
  // Of the words of a staged row every lane copies kWhole, and the first kTail lanes one more.
  static constexpr int kWhole = kStep / kPer, kTail = (kInputs - kStep + kOdd + kPer - 1) / kPer;
  static constexpr int kLeastLanes = kTail > 8 ? 4 : kTail > 4 ? 3 : kTail > 2 ? 2 : 1;  // its logarithm
  static constexpr int used(int lanes) { return (lanes - 1) * kStep + kInputs; }         // values of a staged row
  static constexpr int pitch(int lanes) {
    const int read = (lanes - 1) * kStep * kSize + kLoads * kAlign, filled = 4 * (kWhole * lanes + kTail);
    return ((read > filled ? read : filled) + 15) / 16 * 16;
  }
};

// kAligned: y takes 16-byte stores, and all rows of x begin and end between 4-byte words.
template <class T, Mode kMode, int K, bool kAligned>
__global__ void __launch_bounds__(kRowThreads, K == 4 ? 4 : 3) upfirdn2d_rows(const FastArgs a) {
  using S = RowShape<T, kMode, K>;
  constexpr int V = S::V, MX = S::MX, kSize = S::kSize, kPer = S::kPer;
  GK_DYNAMIC_SHARED(unsigned char, ring);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int lanes = 1 << a.lanes_log2, column = lane & (lanes - 1), group = lane >> a.lanes_log2,
            groups = 32 >> a.lanes_log2;
  const int64_t team = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + warp, strip = team / a.segments;
  const int unit0 = static_cast<int>(team - strip * a.segments) * a.segment, units = min(a.segment, a.units - unit0);
  const int64_t item = strip * groups + group;
  if (strip * groups >= a.items) return;  // a whole warp; warps never wait for each other
  const bool in_items = item < a.items;
  const int64_t plane = item / a.tiles_x, n = plane / a.channels, c = plane - n * a.channels;
  const int tile_x = static_cast<int>(item - plane * a.tiles_x) * lanes * V, out_x = tile_x + column * V;

  // The first pixel that the group's first output meets.
  const int odd_pad = a.pad_x & 1;
  const int first_pixel = kMode == kUp ? (tile_x - a.pad_x + odd_pad) / 2 : (kMode == kDown ? 2 : 1) * tile_x - a.pad_x;

  const int stage_bytes = kStageRows * a.row_bytes, ring0 = warp * kStages * stage_bytes + group * a.pitch;
  const int first_row = a.first_in + unit0 * S::kIn;
  int rows_left = (units + S::kSpan - 1) * S::kIn, row = first_row;
  const char* from = a.x + n * a.x_stride[0] + c * a.x_stride[1] + first_row * a.x_stride[2] +
                     static_cast<int64_t>(first_pixel) * kSize;
  // Halves: 1 if first_pixel is the upper half of a word of memory, in the strip's first row (kAligned: in all); it
  // then is so in shared memory, too. A lane copies the words column, column + lanes, ... of a row.
  const int odd = S::kOdd ? static_cast<int>(reinterpret_cast<uintptr_t>(from) >> 1 & 1) : 0;
  const int odd_step = S::kOdd && !kAligned ? static_cast<int>(a.x_stride[2] >> 1 & 1) : 0;
  const bool in_tail = column < S::kTail;
  unsigned in_row = 0;  // kAligned: a bit for each word, the same in all rows
#pragma unroll
  for (int i = 0; i <= S::kWhole; ++i)
    if (in_items &&
        static_cast<unsigned>(first_pixel - odd + kPer * (column + i * lanes)) < static_cast<unsigned>(a.in_w))
      in_row |= 1u << i;
  if (kAligned) from += 4 * column - 2 * odd;
  RingPosition write{ring0 + 4 * column, ring0 + 4 * column + kStages * stage_bytes, ring0 + 4 * column};
  auto fill_row = [&](unsigned char* to, const char* word, int r) {
    const bool in_image = static_cast<unsigned>(row + r) < static_cast<unsigned>(a.in_h);
    if constexpr (kAligned) {
      const unsigned wanted = in_image ? in_row : 0;
#pragma unroll
      for (int i = 0; i < S::kWhole; ++i, word += 4 * lanes, to += 4 * lanes) async_copy<4>(to, word, wanted & 1u << i);
      if (in_tail) async_copy<4>(to, word, wanted & 1u << S::kWhole);
    } else {
      const int p = odd ^ (odd_step & r);
      int pixel = first_pixel - p + kPer * column;  // of the word's lower half
      word += 4 * column - 2 * p;
#pragma unroll 1
      for (int i = column; i < S::kWhole * lanes + S::kTail;
           i += lanes, pixel += kPer * lanes, word += 4 * lanes, to += 4 * lanes) {
        // A row may end in the middle of a word, whose upper half may be past the end of all memory. Where it begins
        // in the middle of one, the lower half (pixel -1) is something else of the same 4 bytes: next_stage wipes it.
        if (S::kOdd && pixel == a.in_w - 1 && in_image && in_items)
          async_copy_half(to, word);
        else
          async_copy<4>(to, word,
                        static_cast<unsigned>(pixel + S::kOdd) < static_cast<unsigned>(a.in_w) && in_image && in_items);
      }
    }
  };
  auto fill = [&] {
    if (rows_left > 0) {
      fill_row(ring + write.now, from, 0);
      fill_row(ring + write.now + a.row_bytes, from + a.x_stride[2], 1);
    }
    async_commit();
    rows_left -= kStageRows, row += kStageRows, from += kStageRows * a.x_stride[2];
    write.advance(stage_bytes);
  };
#pragma unroll 1
  for (int s = 0; s < kStages - 1; ++s) fill();

  Product product{true, 0, 0, 1.f};
  if (a.taps) product = product_of(a.taps, a.tap_w, a.tap_h);
  if (a.product_only && !product.holds) return async_wait<0>();

  RingPosition read{ring0, ring0 + kStages * stage_bytes, ring0 + (kStages - 1) * stage_bytes};
  auto next_stage = [&] {
    async_wait<kStages - 2>();
    read.advance(stage_bytes);
    if constexpr (S::kOdd && !kAligned) {
      // Whoever copied a word that straddles the row's left edge wipes the half before it.
#pragma unroll
      for (int r = 0; r < kStageRows; ++r) {
        const int at = (odd ^ (odd_step & r)) - 1 - first_pixel;  // of pixel -1, in halves
        if (at >= 0 && at < kPer * (S::kWhole * lanes + S::kTail) && at % 2 == 0 && (at / 2 & (lanes - 1)) == column)
          *reinterpret_cast<uint16_t*>(ring + read.now + r * a.row_bytes + 2 * at) = 0;
      }
    }
    __syncwarp();  // the stage has arrived for all, and all have read the one that is filled next
    fill();
  };
  const int read_lane = column * (S::kStep * kSize);
  auto for_taps = [&](int r, auto f) {
    const unsigned char* at = ring + read.now + r * a.row_bytes + read_lane;
    uint32_t words[S::kWords + 1];
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      if constexpr (S::kAlign == 16) {
        const uint4 u = reinterpret_cast<const uint4*>(at)[i];
        words[4 * i] = u.x, words[4 * i + 1] = u.y, words[4 * i + 2] = u.z, words[4 * i + 3] = u.w;
      } else {
        const uint2 u = reinterpret_cast<const uint2*>(at)[i];
        words[2 * i] = u.x, words[2 * i + 1] = u.y;
      }
    }
    words[S::kWords] = 0;
    float in[S::kWords * kPer];
    const int shift = 16 * (odd ^ (odd_step & r));
#pragma unroll
    for (int i = 0; i < (S::kInputs + kPer - 1) / kPer; ++i)
      unpack_word<T>(S::kOdd ? __funnelshift_r(words[i], words[i + 1], shift) : words[i], in + i * kPer);
#pragma unroll
    for (int m = 0; m < MX; ++m) {
      float v[V];
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = in[(kMode == kUp ? i / 2 : kMode == kDown ? 2 * i : i) + m];
      f(0, m, v);
    }
  };
  const int first_y = a.first_y + unit0 * S::kOut, begin = max(0, -first_y),
            end = min(units * S::kOut, a.out_h - first_y);
  char* out = a.y + n * a.y_stride[0] + c * a.y_stride[1] + (first_y - (S::kSpan - 1) * S::kOut) * a.y_stride[2];
  const bool stores = in_items && out_x < a.out_w;
  if (kAligned) out += static_cast<int64_t>(out_x) * kSize;
  auto emit = [&](int line, const float* v) {
    // Alike in the whole warp.
    const bool complete = static_cast<unsigned>(line - begin) < static_cast<unsigned>(end - begin);
    const uint4 packed = pack_vector<T>(v);
    if constexpr (kAligned) {
      if (complete && stores) store_vector(out, packed);
    } else if (complete) {
      T* outputs = reinterpret_cast<T*>(out);
      if (a.wide) {
        if (stores) store_vector(outputs + out_x, packed);
      } else {
        unsigned char* exchange = ring + kRowThreads / 32 * kStages * stage_bytes + warp * 512;
        __syncwarp();  // the row before has been stored
        reinterpret_cast<uint4*>(exchange)[lane] = packed;
        __syncwarp();
        const T* mine = reinterpret_cast<const T*>(exchange) + group * lanes * V;
#pragma unroll 2
        for (int i = column; i < lanes * V; i += lanes)
          if (in_items && tile_x + i < a.out_w) outputs[tile_x + i] = mine[i];
      }
    }
    out += a.y_stride[2];
  };

  // Taps of phase 0 begin at first_pixel: the even taps if the padding is even, else the odd ones; phase 1 has the
  // others.
  auto x_tap = [&](int phase, int m) { return kMode == kUp ? 2 * m + (phase ? odd_pad - 1 : odd_pad) : m; };
  if (K == 4 && !product.holds) {
    if constexpr (K == 4) {
      float g[K][S::kPhases][MX];
#pragma unroll
      for (int ky = 0; ky < K; ++ky)
#pragma unroll
        for (int i = 0; i < S::kPhases; ++i)
#pragma unroll
          for (int m = 0; m < MX; ++m) g[ky][i][m] = full_tap(a, ky, x_tap(i, m));
      sweep<S, true>(units, nullptr, g[0][0], next_stage, for_taps, emit);
    }
  } else {
    float gy[K], gx[S::kPhases][MX];
#pragma unroll
    for (int ky = 0; ky < K; ++ky) gy[ky] = column_tap(a, product, ky);
#pragma unroll
    for (int i = 0; i < S::kPhases; ++i)
#pragma unroll
      for (int m = 0; m < MX; ++m) gx[i][m] = row_tap(a, product, x_tap(i, m));
    sweep<S, false>(units, gy, gx[0], next_stage, for_taps, emit);
  }
}

// ---- anything else --------------------------------------------------------------------------------------------------
struct GenericArgs {
  const void *x, *taps, *taps_y, *taps_x;
  void* y;
  int64_t x_stride[4], y_stride[4];  // elements
  int64_t channels, in_w, in_h, out_w, out_h;
  int64_t tap_w, tap_h, up_x, up_y, down_x, down_y, pad_x, pad_y;
  int64_t tiles_i, tiles_j, blocks, outer;
  int i_log2, j_log2;  // a block's threads: i (x; channels_last: c) by j (y; channels_last: x) by the other two axes
  bool channels_last, flip, staged, unless_product;  // staged: the taps fit into shared memory
  double gain;
};

// The taps that an output meets along one axis: tap `first` at pixel `pixel`, then every up-th tap, `count` in the
// image.
template <class I>
struct Window {
  I first, pixel, count;
  __device__ __forceinline__ Window(I out, I down, I pad, I up, I taps, I size) {
    const I position = out * down - pad;
    pixel = up == 1 ? position : position > 0 ? (position - 1) / up + 1 : -(-position / up);
    first = pixel * up - position;
    count = up == 1 ? taps : first < taps ? (taps - 1 - first) / up + 1 : 0;
    const I skipped = pixel < 0 ? -pixel : 0;
    first += skipped * up, pixel += skipped, count -= skipped;
    if (count > size - pixel) count = size - pixel;
  }
};

// I: what holds coordinates; 64-bit arithmetic takes several times as long.
template <class T, class I>
__global__ void __launch_bounds__(kGenericThreads, 3) upfirdn2d_generic(const GenericArgs a) {
  using A = Accumulator<T>;
  GK_DYNAMIC_SHARED(unsigned char, shared);
  const int tid = threadIdx.x;
  if constexpr (sizeof(A) == 4)  // the fast kernel, launched just before, has done it
    if (a.unless_product &&
        product_of(static_cast<const A*>(a.taps), static_cast<int>(a.tap_w), static_cast<int>(a.tap_h)).holds)
      return;

  const bool full = a.taps != nullptr, none = !full && !a.taps_x;
  const A *column = static_cast<const A*>(full ? a.taps : a.taps_y), *row = static_cast<const A*>(a.taps_x);
  if (a.staged) {
    A* copy = reinterpret_cast<A*>(shared);
    const int size = static_cast<int>(full ? a.tap_h * a.tap_w : a.tap_h);
    for (int i = tid; i < size; i += kGenericThreads) copy[i] = column[i];
    column = copy;
    if (!full) {
      for (int i = tid; i < a.tap_w; i += kGenericThreads) copy[size + i] = row[i];
      row = copy + size;
    }
    __syncthreads();
  }

  const int ti = tid & ((1 << a.i_log2) - 1), tj = tid >> a.i_log2 & ((1 << a.j_log2) - 1),
            tk = tid >> (a.i_log2 + a.j_log2);
  const int k_log2 = 8 - a.i_log2 - a.j_log2;
  static_assert(kGenericThreads == 1 << 8, "k_log2");
  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    const I b = static_cast<I>(block), bj = b / static_cast<I>(a.tiles_i), bk = bj / static_cast<I>(a.tiles_j);
    const I i = ((b - bj * static_cast<I>(a.tiles_i)) << a.i_log2) + ti;
    const I j = ((bj - bk * static_cast<I>(a.tiles_j)) << a.j_log2) + tj;
    const I k = (bk << k_log2) + tk, k_size = static_cast<I>(a.channels_last ? a.out_h : a.channels);
    const I n = k / k_size, k1 = k - n * k_size;
    const I ox = a.channels_last ? j : i, oy = a.channels_last ? k1 : j, c = a.channels_last ? i : k1;
    if (ox >= a.out_w || oy >= a.out_h || c >= a.channels || k >= a.outer) continue;

    const I up_x = static_cast<I>(a.up_x), up_y = static_cast<I>(a.up_y), tap_w = static_cast<I>(a.tap_w);
    const I tap_h = static_cast<I>(a.tap_h);
    const Window<I> wy(oy, static_cast<I>(a.down_y), static_cast<I>(a.pad_y), up_y, tap_h, static_cast<I>(a.in_h));
    const Window<I> wx(ox, static_cast<I>(a.down_x), static_cast<I>(a.pad_x), up_x, tap_w, static_cast<I>(a.in_w));
    const T* pixels = static_cast<const T*>(a.x) + n * a.x_stride[0] + c * a.x_stride[1] + wy.pixel * a.x_stride[2] +
                      wx.pixel * a.x_stride[3];
    const I step_y = a.flip ? up_y : -up_y, step_x = a.flip ? up_x : -up_x;
    const I first_x = a.flip ? wx.first : tap_w - 1 - wx.first;
    I ky = a.flip ? wy.first : tap_h - 1 - wy.first;
    A sum = 0;
    for (I y = 0; y < wy.count; ++y, ky += step_y, pixels += a.x_stride[2]) {
      const A* g = (full ? column + static_cast<int64_t>(ky) * tap_w : row) + first_x;
      const T* p = pixels;
      A along = 0;
      for (I x = 0; x < wx.count; ++x, p += a.x_stride[3], g += step_x) along += (none ? A(1) : *g) * load_value(p);
      sum += full || none ? along : along * column[ky];
    }
    store_value(static_cast<T*>(a.y) + n * a.y_stride[0] + c * a.y_stride[1] + oy * a.y_stride[2] + ox * a.y_stride[3],
                sum * static_cast<A>(a.gain));
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------
const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int ceil_log2(int64_t v, int most) {
  int log2 = 0;
  while (log2 < most && int64_t{1} << log2 < v) ++log2;
  return log2;
}

template <class T>
const char* launch_generic(const Upfirdn2dParams& p, bool channels_last, bool unless_product, cudaStream_t stream) {
  GenericArgs a{};
  a.x = p.x.data, a.y = p.y.data, a.taps = p.taps, a.taps_y = p.taps_y, a.taps_x = p.taps_x;
  for (int i = 0; i < 4; ++i) a.x_stride[i] = p.x.stride[i], a.y_stride[i] = p.y.stride[i];
  a.channels = p.y.size[1], a.in_w = p.x.size[3], a.in_h = p.x.size[2], a.out_w = p.y.size[3], a.out_h = p.y.size[2];
  a.tap_w = p.tap_w, a.tap_h = p.tap_h, a.up_x = p.up_x, a.up_y = p.up_y, a.down_x = p.down_x, a.down_y = p.down_y;
  a.pad_x = p.pad_x0, a.pad_y = p.pad_y0;
  a.channels_last = channels_last, a.flip = p.flip, a.unless_product = unless_product, a.gain = p.gain;
  const int64_t taps = p.taps ? p.tap_h * p.tap_w : p.taps_x ? p.tap_h + p.tap_w : 0;
  a.staged = taps > 0 && taps <= 32768 / static_cast<int64_t>(sizeof(Accumulator<T>));
  const int64_t i_size = channels_last ? a.channels : a.out_w, j_size = channels_last ? a.out_w : a.out_h;
  a.outer = p.y.size[0] * (channels_last ? a.out_h : a.channels);
  a.i_log2 = ceil_log2(i_size, 6), a.j_log2 = ceil_log2(j_size, 8 - a.i_log2);
  a.tiles_i = ceil_div(i_size, int64_t{1} << a.i_log2), a.tiles_j = ceil_div(j_size, int64_t{1} << a.j_log2);
  a.blocks = a.tiles_i * a.tiles_j * ceil_div(a.outer, int64_t{1} << (8 - a.i_log2 - a.j_log2));
  const unsigned grid = static_cast<unsigned>(a.blocks < 0x7fffffff ? a.blocks : 0x7fffffff);
  const size_t bytes = a.staged ? static_cast<size_t>(taps) * sizeof(Accumulator<T>) : 0;
  bool small = a.blocks < 0x3fffffff && a.outer < 0x3fffffff && i_size < 0x3fffffff && j_size < 0x3fffffff;
  for (int64_t v :
       {a.in_w * a.up_x, a.in_h * a.up_y, a.out_w * a.down_x, a.out_h * a.down_y, a.pad_x, a.pad_y, a.tap_w, a.tap_h})
    small = small && -0x0fffffff < v && v < 0x0fffffff;
  small = small && a.up_x < 0xffff && a.up_y < 0xffff && a.down_x < 0xffff && a.down_y < 0xffff;
  if (small)
    GK_LAUNCH((upfirdn2d_generic<T, int>), grid, kGenericThreads, bytes, stream, a);
  else
    GK_LAUNCH((upfirdn2d_generic<T, int64_t>), grid, kGenericThreads, bytes, stream, a);
  return launched();
}

// Long strips, because span - 1 units are filtered twice where two meet, but blocks enough for a GPU.
void cut_strips(FastArgs& a, int span, int64_t blocks_per_strip_row) {
  constexpr int64_t kBlocksWanted = 2048;  // 132 multiprocessors hold 264 of upfirdn2d_channels, 660 of upfirdn2d_rows
  int segment = 16 * span;
  while (segment > 4 * span && blocks_per_strip_row * ceil_div(a.units, segment) < kBlocksWanted) segment /= 2;
  a.segments = static_cast<int>(ceil_div(a.units, segment));
  a.segment = static_cast<int>(ceil_div(a.units, a.segments));
}

// What both fast kernels take; false if they do not serve these arguments.
template <Mode kMode, int K>
bool fill_fast(const Upfirdn2dParams& p, int64_t size, FastArgs& a) {
  constexpr int kOut = kMode == kUp ? 2 : 1;
  constexpr int64_t kMost = 1 << 28;  // rows, columns and padding are ints there
  const auto near = [](int64_t v) { return -kMost < v && v < kMost; };
  for (int i = 1; i < 4; ++i)
    if (!near(p.x.size[i]) || !near(p.y.size[i])) return false;
  if (!near(p.pad_x0) || !near(p.pad_y0) || !near(p.up_x) || !near(p.down_x) || !near(p.y.size[3] * p.down_x))
    return false;
  a.x = static_cast<const char*>(p.x.data), a.y = static_cast<char*>(p.y.data);
  a.taps = static_cast<const float*>(p.taps);
  a.taps_y = static_cast<const float*>(p.taps_y), a.taps_x = static_cast<const float*>(p.taps_x);
  for (int i = 0; i < 4; ++i) a.x_stride[i] = p.x.stride[i] * size, a.y_stride[i] = p.y.stride[i] * size;
  a.channels = static_cast<int>(p.y.size[1]);
  a.in_h = static_cast<int>(p.x.size[2]), a.in_w = static_cast<int>(p.x.size[3]);
  a.out_h = static_cast<int>(p.y.size[2]), a.out_w = static_cast<int>(p.y.size[3]);
  a.tap_w = static_cast<int>(p.tap_w), a.tap_h = static_cast<int>(p.tap_h);
  a.up_x = static_cast<int>(p.up_x), a.down_x = static_cast<int>(p.down_x), a.pad_x = static_cast<int>(p.pad_x0);
  const int pad_y = static_cast<int>(p.pad_y0);
  a.first_y = kMode == kUp && pad_y % 2 == 0 ? -1 : 0;
  a.first_in = kMode == kUp ? (a.first_y - pad_y + 1) / 2 : -pad_y;
  a.units = (a.out_h - a.first_y + kOut - 1) / kOut;
  a.flip = p.flip, a.gain = static_cast<float>(p.gain), a.product_only = K > 4 && p.taps != nullptr;
  return true;
}

template <class Kernel>
const char* allow_shared(Kernel* kernel, int64_t bytes) {
  if (bytes <= 48 * 1024) return nullptr;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

constexpr char kNotServed[] = "";  // by this kernel: the generic one takes over

template <class T, Mode kMode, int K>
const char* launch_channels(const Upfirdn2dParams& p, cudaStream_t stream) {
  using S = ChannelShape<T, kMode, K>;
  FastArgs a{};
  if (p.tap_h > K || ceil_div(p.tap_w, p.up_x) > S::MX || p.y.size[1] % S::V || !fill_fast<kMode, K>(p, sizeof(T), a))
    return kNotServed;
  if (S::kColumns > 1 && (p.up_x != p.up_y || p.down_x != p.down_y)) return kNotServed;
  uintptr_t bits = reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.y);
  for (int i : {0, 2, 3}) {
    if (p.x.size[i] > 1) bits |= static_cast<uintptr_t>(a.x_stride[i]);
    if (p.y.size[i] > 1) bits |= static_cast<uintptr_t>(a.y_stride[i]);
  }
  if (bits % 16) return kNotServed;
  // Up to 128 bytes of channels side by side, the widest that leaves fewest lanes idle; 32 at least, what memory moves.
  const int vectors = a.channels / S::V;
  a.lanes_log2 = ceil_log2(vectors, 3);
  for (int i = a.lanes_log2 - 1; i >= 1; --i)
    if (ceil_div(vectors, 1 << i) << i < ceil_div(vectors, 1 << a.lanes_log2) << a.lanes_log2) a.lanes_log2 = i;
  // More where the image is narrower than the block would be.
  while (a.lanes_log2 < 6 && vectors >= 2 << a.lanes_log2 &&
         kChannelThreads * S::kColumns >> a.lanes_log2 >= 2 * a.out_w)
    ++a.lanes_log2;
  const int64_t columns = kChannelThreads >> a.lanes_log2;
  const int64_t pitch = ceil_div((columns - 1) * S::kColumns * p.down_x, p.up_x) + S::kPixels;
  const int64_t bytes = (pitch << a.lanes_log2) * 16 * kStageRows * kStages;
  if (bytes > 64 * 1024) return kNotServed;  // what a block can have on every GPU
  a.pitch = static_cast<int>(pitch), a.row_bytes = static_cast<int>(pitch << a.lanes_log2) * 16;
  a.first_x = S::kColumns > 1 && kMode == kUp && a.pad_x % 2 == 0 ? -1 : 0;
  a.tiles_c = static_cast<int>(ceil_div(vectors, 1 << a.lanes_log2));
  a.tiles_x = static_cast<int>(ceil_div(a.out_w - a.first_x, columns * S::kColumns));
  const int64_t strips = p.y.size[0] * a.tiles_c * a.tiles_x;
  cut_strips(a, S::kSpan, strips);
  if (strips * a.segments > 0x7fffffff) return kNotServed;
  if (const char* error = allow_shared(upfirdn2d_channels<T, kMode, K>, bytes)) return error;
  GK_LAUNCH((upfirdn2d_channels<T, kMode, K>), static_cast<unsigned>(strips * a.segments), kChannelThreads,
            static_cast<size_t>(bytes), stream, a);
  return launched();
}

template <class T, Mode kMode, int K>
const char* launch_rows(const Upfirdn2dParams& p, cudaStream_t stream) {
  using S = RowShape<T, kMode, K>;
  constexpr int kWarps = kRowThreads / 32;
  FastArgs a{};
  if (p.tap_h > K || p.tap_w > K || p.up_x != p.up_y || p.down_x != p.down_y || !fill_fast<kMode, K>(p, sizeof(T), a))
    return kNotServed;
  uintptr_t bits = reinterpret_cast<uintptr_t>(a.y) | static_cast<uintptr_t>(a.out_w) * sizeof(T);
  for (int i = 0; i < 3; ++i)
    if (p.y.size[i] > 1) bits |= static_cast<uintptr_t>(a.y_stride[i]);
  a.wide = bits % 16 == 0;
  bits = reinterpret_cast<uintptr_t>(a.x) | static_cast<uintptr_t>(a.in_w) * sizeof(T);
  for (int i = 0; i < 3; ++i)
    if (p.x.size[i] > 1) bits |= static_cast<uintptr_t>(a.x_stride[i]);
  const bool aligned = a.wide && bits % 4 == 0;
  // Lanes side by side: what reads least, rounded up to whole tiles. The other lanes of a warp have other tiles or
  // planes.
  int64_t least = 0;
  for (int i = 5; i >= S::kLeastLanes; --i) {
    const int64_t tiles = ceil_div(a.out_w, S::V << i), cost = tiles * S::used(1 << i);
    if (least == 0 || cost < least) least = cost, a.lanes_log2 = i, a.tiles_x = static_cast<int>(tiles);
  }
  const int groups = 32 >> a.lanes_log2;
  a.pitch = S::pitch(1 << a.lanes_log2), a.row_bytes = groups * a.pitch;
  a.items = p.y.size[0] * p.y.size[1] * a.tiles_x;
  const int64_t strips = ceil_div(a.items, groups);
  cut_strips(a, S::kSpan, ceil_div(strips, kWarps));
  const int64_t blocks = ceil_div(strips * a.segments, kWarps);
  if (blocks > 0x7fffffff) return kNotServed;
  const int64_t bytes = static_cast<int64_t>(kWarps) * (kStages * kStageRows * a.row_bytes + (a.wide ? 0 : 512));
  const auto launch = [&](auto* kernel) -> const char* {
    if (const char* error = allow_shared(kernel, bytes)) return error;
    GK_LAUNCH(kernel, static_cast<unsigned>(blocks), kRowThreads, static_cast<size_t>(bytes), stream, a);
    return launched();
  };
  return aligned ? launch(upfirdn2d_rows<T, kMode, K, true>) : launch(upfirdn2d_rows<T, kMode, K, false>);
}

template <class T, Mode kMode, int K>
const char* launch_layout(const Upfirdn2dParams& p, bool channels_last, cudaStream_t stream) {
  return channels_last ? launch_channels<T, kMode, K>(p, stream) : launch_rows<T, kMode, K>(p, stream);
}

template <class T>
const char* launch_type(const Upfirdn2dParams& p, cudaStream_t stream) {
  const bool channels_last = !(p.x.stride[3] == 1 && p.y.stride[3] == 1);
  if constexpr (sizeof(T) <= 4) {
    if (p.taps || p.taps_x) {
      const bool same = p.up_y == 1 && p.down_y == 1, up = p.up_y == 2 && p.down_y == 1,
                 down = p.up_y == 1 && p.down_y == 2;
      const char* error = kNotServed;
      if (same) error = launch_layout<T, kSame, 4>(p, channels_last, stream);
      if (up) error = launch_layout<T, kUp, 4>(p, channels_last, stream);
      if (down) error = launch_layout<T, kDown, 4>(p, channels_last, stream);
      if (error != kNotServed) return error;
      if (same) error = launch_layout<T, kSame, 8>(p, channels_last, stream);
      if (up) error = launch_layout<T, kUp, 12>(p, channels_last, stream);
      if (down) error = launch_layout<T, kDown, 12>(p, channels_last, stream);
      // More than 4x4 taps that turn out to be no product are left to the generic kernel, which else leaves at once.
      if (error != kNotServed) return error || !p.taps ? error : launch_generic<T>(p, channels_last, true, stream);
    }
  }
  return launch_generic<T>(p, channels_last, false, stream);
}

}  // namespace

const char* launch_upfirdn2d(const Upfirdn2dParams& p, void* stream) {
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch_type<float>(p, s);
    case DType::f64: return launch_type<double>(p, s);
    case DType::f16: return launch_type<__half>(p, s);
    case DType::bf16: return launch_type<__nv_bfloat16>(p, s);
  }
  return "unknown dtype";
}

}  // namespace gk
