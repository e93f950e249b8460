// filtered_lrelu's CUDA kernel for any factors, taps, offsets and types.
//
// A block has 256 outputs, a thread each. It goes through the rows of the intermediate image that they need, in pieces
// of a fixed size that live in shared memory: whatever the factors and the taps, it always fits. Each number is summed
// over the whole 2-D window at once.
#pragma once
#include "filtered_lrelu/filtered_lrelu_cuda_tile.cuh"

namespace gk {
namespace {

constexpr int kGenericThreads = 256, kPieceNumbers = 1024;

struct GenericArgs {
  const void *x, *bias, *up_taps, *down_taps;
  void* y;
  const uint8_t* mask_in;
  uint8_t* mask_out;
  int64_t x_stride[4], y_stride[4];  // elements
  int64_t mask_stride[4];            // bytes; 0 along the groups
  int64_t samples, channels, in_h, in_w, out_h, out_w, mid_h, mid_w;
  int64_t up_h, up_w, down_h, down_w;  // numbers of taps
  int64_t up_y, up_x, down_y, down_x, start_y, start_x, offset_y, offset_x;
  int64_t tiles_c, tiles_x, tiles_y, blocks;
  int c_log2, x_log2, y_log2;  // a block's outputs
  bool channels_last, flip, up_separable, down_separable;
  double scale, gain, negative_slope, clamp;
};

// The taps that a number meets along one axis: `count` pixels from `pixel` on, with the taps first, first + up, ...
template <class I>
struct Meet {
  I first, pixel, count;
  __device__ __forceinline__ Meet(I position, I up, I taps, I size) {
    pixel = up == 1 ? position : position > 0 ? (position - 1) / up + 1 : -(-position / up);
    first = pixel * up - position;
    count = first < taps ? (taps - 1 - first) / up + 1 : 0;
    const I skipped = pixel < 0 ? -pixel : 0;
    first += skipped * up, pixel += skipped, count -= skipped;
    if (count > size - pixel) count = size - pixel;
  }
};

// I: what holds coordinates; 64-bit arithmetic takes several times as long.
template <class T, class I>
__global__ void __launch_bounds__(kGenericThreads, sizeof(I) == 8 ? 1 : 3) filtered_lrelu_generic(const GenericArgs a) {
  using A = Accumulator<T>;
  GK_SHARED(A, piece, [kPieceNumbers]);
  const int tid = threadIdx.x, c_mask = (1 << a.c_log2) - 1;
  const int own_c = tid & c_mask, own_x = tid >> a.c_log2 & ((1 << a.x_log2) - 1), own_y = tid >> (a.c_log2 + a.x_log2);
  const I tile_w = I(1) << a.x_log2, tile_h = I(1) << a.y_log2, columns = kPieceNumbers >> a.c_log2;
  const I up_y = static_cast<I>(a.up_y), up_x = static_cast<I>(a.up_x), down_y = static_cast<I>(a.down_y);
  const I down_x = static_cast<I>(a.down_x), up_h = static_cast<I>(a.up_h), up_w = static_cast<I>(a.up_w);
  const I down_h = static_cast<I>(a.down_h), down_w = static_cast<I>(a.down_w), mid_h = static_cast<I>(a.mid_h);
  const I mid_w = static_cast<I>(a.mid_w), out_h = static_cast<I>(a.out_h), out_w = static_cast<I>(a.out_w);
  const A *gu = static_cast<const A*>(a.up_taps), *gd = static_cast<const A*>(a.down_taps);
  const LreluSlopes<A> slopes = lrelu_slopes<A>(a.gain, a.negative_slope);
  const A clamp = static_cast<A>(a.clamp), scale = static_cast<A>(a.scale);
  // Tap k is at `first + k * step` before reversal.
  const I step = a.flip ? 1 : -1;
  const I up_first_y = a.flip ? 0 : up_h - 1, up_first_x = a.flip ? 0 : up_w - 1;
  const I down_first_y = a.flip ? 0 : down_h - 1, down_first_x = a.flip ? 0 : down_w - 1;

  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    int64_t at = block;
    const int64_t tile_c = at % a.tiles_c;
    at /= a.tiles_c;
    const I tx = static_cast<I>(at % a.tiles_x);
    at /= a.tiles_x;
    const I ty = static_cast<I>(at % a.tiles_y);
    const int64_t n = at / a.tiles_y, c0 = tile_c << a.c_log2;
    const I ox0 = tx * tile_w, oy0 = ty * tile_h, oy = oy0 + own_y, ox = ox0 + own_x;
    const int64_t c = c0 + own_c;
    const bool live = oy < out_h && ox < out_w && c < a.channels;

    // The part of the intermediate image that the tile goes through: what its outputs need and, where masks are
    // written, all that lies before the next tile's. Outside of the image everything is zero.
    const I need_y = oy0 * down_y + static_cast<I>(a.offset_y), need_x = ox0 * down_x + static_cast<I>(a.offset_x);
    const I group_x = a.channels_last ? need_x : need_x & ~I(3);
    const I rows = (oy0 + tile_h < out_h ? tile_h : out_h - oy0) - 1,
            cols = (ox0 + tile_w < out_w ? tile_w : out_w - ox0) - 1;
    const bool last_y = ty == static_cast<I>(a.tiles_y) - 1, last_x = tx == static_cast<I>(a.tiles_x) - 1;
    I y0 = need_y, y1 = need_y + rows * down_y + down_h, x0 = group_x, x1 = need_x + cols * down_x + down_w;
    // Masks: rows from own_y0 on, until own_y1, and groups alike.
    const I own_y0 = ty == 0 ? 0 : need_y, own_y1 = last_y ? mid_h : need_y + tile_h * down_y;
    const I own_x0 = tx == 0 ? 0 : group_x, own_x1 = last_x ? mid_w : group_x + tile_w * down_x;
    if (a.mask_out) {
      y0 = own_y0 < y0 ? own_y0 : y0, y1 = own_y1 > y1 ? own_y1 : y1;
      x0 = own_x0 < x0 ? own_x0 : x0, x1 = own_x1 > x1 ? own_x1 : x1;
    }
    y0 = y0 < 0 ? 0 : y0, y1 = y1 > mid_h ? mid_h : y1, x0 = x0 < 0 ? 0 : x0, x1 = x1 > mid_w ? mid_w : x1;

    const I from_y = oy * down_y + static_cast<I>(a.offset_y), from_x = ox * down_x + static_cast<I>(a.offset_x);
    A sum = 0;
    for (I row = y0; row < y1; ++row) {
      if (!a.mask_out && (row - need_y) % down_y >= down_h) continue;  // between two windows
      const Meet<I> meet_y(row - static_cast<I>(a.start_y), up_y, up_h, static_cast<I>(a.in_h));
      for (I x = x0; x < x1; x += columns) {
        const I width = x1 - x < columns ? x1 - x : columns;
        __syncthreads();  // the piece before has been read
        const int numbers = static_cast<int>(width) << a.c_log2;
        // Whole warps: lanes exchange masks.
        for (int i = tid; i - (tid & 31) < numbers; i += kGenericThreads) {
          const int ci = i & c_mask;
          const I col = x + (i >> a.c_log2);
          const int64_t channel = c0 + ci;
          const bool exists = i < numbers && channel < a.channels;
          A v = 0;
          uint32_t code = 0;
          const int64_t group = a.channels_last ? channel >> 2 : col >> 2;
          const int64_t byte = n * a.mask_stride[0] + (a.channels_last ? group : channel * a.mask_stride[1] + group) +
                               row * a.mask_stride[2] + (a.channels_last ? col * a.mask_stride[3] : 0);
          const int shift = 2 * static_cast<int>((a.channels_last ? channel : static_cast<int64_t>(col)) & 3);
          if (exists) {
            const Meet<I> meet_x(col - static_cast<I>(a.start_x), up_x, up_w, static_cast<I>(a.in_w));
            const A bias = a.bias ? static_cast<const A*>(a.bias)[channel] : A(0);
            const T* line = static_cast<const T*>(a.x) + n * a.x_stride[0] + channel * a.x_stride[1] +
                            meet_y.pixel * a.x_stride[2] + meet_x.pixel * a.x_stride[3];
            I ky = up_first_y + step * meet_y.first;
            for (I my = 0; my < meet_y.count; ++my, ky += step * up_y, line += a.x_stride[2]) {
              const A* g = gu + (a.up_separable ? 0 : static_cast<int64_t>(ky) * up_w);
              I kx = up_first_x + step * meet_x.first;
              const T* pixel = line;
              A along = 0;
              for (I mx = 0; mx < meet_x.count; ++mx, kx += step * up_x, pixel += a.x_stride[3])
                along += (gu ? g[kx] : A(1)) * (load_value(pixel) + bias);
              v += gu && a.up_separable ? along * gu[ky] : along;
            }
            v *= scale;
            if (a.mask_in)
              v *= lrelu_factor(static_cast<uint32_t>(a.mask_in[byte]) >> shift, slopes);
            else
              v = lrelu_activate(v, slopes, clamp, code);
          }
          if (a.mask_out) {
            // Four adjacent lanes have the four numbers of a byte, the first of which is that of a multiple of four.
            uint32_t packed = exists ? code << shift : 0;
            packed |= __shfl_xor_sync(kAllLanes, packed, 1);
            packed |= __shfl_xor_sync(kAllLanes, packed, 2);
            if (exists && shift == 0 && row >= own_y0 && row < own_y1 && col >= own_x0 && col < own_x1)
              a.mask_out[byte] = static_cast<uint8_t>(packed);
          }
          if (i < numbers) piece[i] = v;
        }
        __syncthreads();
        const I ky = row - from_y;
        if (live && ky >= 0 && ky < down_h) {
          const I begin = x > from_x ? x - from_x : 0, end = x + width - from_x < down_w ? x + width - from_x : down_w;
          const I place = down_first_y + step * ky;
          const A* g = gd + (a.down_separable ? 0 : static_cast<int64_t>(place) * down_w);
          A along = 0;
          for (I kx = begin; kx < end; ++kx) {
            const A v = piece[(static_cast<int>(from_x + kx - x) << a.c_log2) + own_c];
            along += (gd ? g[down_first_x + step * kx] : A(1)) * v;
          }
          sum += gd && a.down_separable ? along * gd[place] : along;
        }
      }
    }
    if (live)
      store_value(
          static_cast<T*>(a.y) + n * a.y_stride[0] + c * a.y_stride[1] + oy * a.y_stride[2] + ox * a.y_stride[3], sum);
  }
}

}  // namespace
}  // namespace gk
