// grid_sample on the CPU, the form for few channels: a vector is one channel of successive samples, whose pixels are
// gathered. Images and tiles are [channel][pixel], in the accumulation type; images of float32 and float64 are taken as
// they are. It has no scatter: there lanes would conflict. Include from grid_sample_cpu.cpp only.
#pragma once
#include "grid_sample/grid_sample_cpu_samples.h"

namespace gk {
namespace GK_ISA {
namespace {

// ---- gathers: lanes of `mask` (all bits set or none), zero in the others --------------------------------------------
#if defined(GK_VEC_AVX512)
GK_INLINE bool any_lane(IntVec a) { return _mm512_movepi32_mask((__m512i)a) != 0; }
GK_INLINE bool any_lane(LongVec a) { return _mm512_movepi64_mask((__m512i)a) != 0; }
GK_INLINE FloatVec gather_lanes(const float* p, IntVec at, IntVec mask) {
  return (FloatVec)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), _mm512_movepi32_mask((__m512i)mask), (__m512i)at, p,
                                            4);
}
GK_INLINE DoubleVec gather_lanes(const double* p, LongVec at, LongVec mask) {
  return (DoubleVec)_mm512_mask_i64gather_pd(_mm512_setzero_pd(), _mm512_movepi64_mask((__m512i)mask), (__m512i)at, p,
                                             8);
}
#elif defined(GK_VEC_AVX2)
GK_INLINE bool any_lane(IntVec a) { return _mm256_movemask_ps((__m256)a) != 0; }
GK_INLINE bool any_lane(LongVec a) { return _mm256_movemask_pd((__m256d)a) != 0; }
GK_INLINE FloatVec gather_lanes(const float* p, IntVec at, IntVec mask) {
  return (FloatVec)_mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, (__m256i)at, (__m256)mask, 4);
}
GK_INLINE DoubleVec gather_lanes(const double* p, LongVec at, LongVec mask) {
  return (DoubleVec)_mm256_mask_i64gather_pd(_mm256_setzero_pd(), p, (__m256i)at, (__m256d)mask, 8);
}
#else
template <class I>
GK_INLINE bool any_lane(I a) {
  int64_t any = 0;
  for (unsigned j = 0; j < sizeof(I) / sizeof(a[0]); ++j) any |= a[j];
  return any != 0;
}
template <class Acc, class I>
GK_INLINE typename ScratchOf<Acc>::type::Vec gather_lanes(const Acc* p, I at, I mask) {
  typename ScratchOf<Acc>::type::Vec v{};
  for (int j = 0; j < ScratchOf<Acc>::type::lanes; ++j)
    if (mask[j]) v[j] = p[at[j]];
  return v;
}
#endif

// a = p[at], b = p[at + 1], of lanes that all exist: two neighbours of float are one number of 64 bits.
GK_INLINE void gather_pairs(const float* p, IntVec at, FloatVec* a, FloatVec* b) {
#if defined(GK_VEC_AVX512)
  const __m256i low = _mm512_maskz_extracti32x8_epi32(0xff, (__m512i)at, 0);
  const __m256i high = _mm512_maskz_extracti32x8_epi32(0xff, (__m512i)at, 1);
  const FloatVec first = (FloatVec)_mm512_mask_i32gather_epi64(_mm512_setzero_si512(), 0xff, low, p, 4);
  const FloatVec second = (FloatVec)_mm512_mask_i32gather_epi64(_mm512_setzero_si512(), 0xff, high, p, 4);
  *a = even_lanes(first, second), *b = odd_lanes(first, second);
#elif defined(GK_VEC_AVX2)
  const __m256i all = _mm256_set1_epi32(-1);
  const auto* q = reinterpret_cast<const long long*>(p);
  const __m128i low = _mm256_castsi256_si128((__m256i)at), high = _mm256_extracti128_si256((__m256i)at, 1);
  const FloatVec first = (FloatVec)_mm256_mask_i32gather_epi64(_mm256_setzero_si256(), q, low, all, 4);
  const FloatVec second = (FloatVec)_mm256_mask_i32gather_epi64(_mm256_setzero_si256(), q, high, all, 4);
  *a = even_lanes(first, second), *b = odd_lanes(first, second);
#else
  *a = gather_lanes(p, at, IntVec{} - 1), *b = gather_lanes(p + 1, at, IntVec{} - 1);
#endif
}
GK_INLINE void gather_pairs(const double* p, LongVec at, DoubleVec* a, DoubleVec* b) {
  *a = gather_lanes(p, at, LongVec{} - 1), *b = gather_lanes(p + 1, at, LongVec{} - 1);
}

template <class S_>
struct PlaneForm {
  using S = S_;
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Scratch = typename ScratchOf<Acc>::type;
  using V = typename Scratch::Vec;
  using I = typename IntOf<Acc>::Vec;
  using T = typename IntOf<Acc>::T;
  static constexpr int lanes = S::lanes;
  static constexpr bool kScatters = false;
  static constexpr bool direct = sizeof(Elem) == sizeof(Acc);

  static int64_t padded(int64_t channels) { return channels; }
  // Samples of a tile.
  static int64_t tile_samples(int64_t) { return kMostSamples; }

  // Whether v's images can be read and written where they lie, and its samples as tiles.
  static bool in_place(const View4&) { return direct; }
  static bool tile_in_place(const View4& v) { return direct && v.stride[3] == 1 && v.stride[2] == v.size[3]; }
  static Image<Acc> image_of(const View4& v, int64_t n) {
    return {static_cast<Acc*>(v.data) + n * v.stride[0], v.stride[2], v.stride[3], v.stride[1]};
  }
  static Tile<Acc> tile_of(const View4& v, int64_t n, int64_t first) {
    return {static_cast<Acc*>(v.data) + n * v.stride[0] + first, v.stride[1]};
  }
  // Whether pixels of v's planes can be counted by the gathers, in place or staged.
  static bool fits(const View4& v) {
    return sizeof(Acc) == 8 || v.size[2] * max64(v.size[3], v.stride[2]) + v.size[3] * v.stride[3] < (int64_t{1} << 31);
  }

  // The same of staged ones: of an image [channels][plane], and of its pixels from number `first` on as a tile.
  static Image<Acc> staged_image(Acc* data, int64_t width, int64_t plane, int64_t) { return {data, width, 1, plane}; }
  static Tile<Acc> staged_tile(Acc* data, int64_t first, int64_t plane, int64_t) { return {data + first, plane}; }
  static Tile<Acc> own_tile(Acc* data, int64_t) { return {data, kMostSamples}; }

  // Pixels [first, first + count) of image n as a tile.
  static void stage_in(const View4& v, int64_t n, int64_t first, int64_t count, int64_t, int64_t channels,
                       Tile<Acc> to) {
    const Elem* image = static_cast<const Elem*>(v.data) + n * v.stride[0];
    for_rows(v, first, count, [&](int64_t at, int64_t done, int64_t length) {
      if (v.stride[3] == 1) {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < length; i += lanes) {
            const int64_t m = min64(lanes, length - i);
            put(to.data + c * to.stride + done + i, S::load(image + at + c * v.stride[1] + i, m), m);
          }
        return;
      }
      if constexpr (direct) {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < length; ++i)
            to.data[c * to.stride + done + i] = image[at + i * v.stride[3] + c * v.stride[1]];
        return;
      }
      for (int64_t i = 0; i < length; ++i)
        for (int64_t c0 = 0; c0 < channels; c0 += lanes) {
          const int64_t some = min64(lanes, channels - c0);
          const V pixel = S::load(image + at + i * v.stride[3] + c0, some);
          for (int64_t c = 0; c < some; ++c) to.data[(c0 + c) * to.stride + done + i] = pixel[c];
        }
    });
  }

  // The way back.
  static void stage_out(Tile<Acc> from, const View4& v, int64_t n, int64_t first, int64_t count, int64_t,
                        int64_t channels) {
    Elem* image = static_cast<Elem*>(v.data) + n * v.stride[0];
    for_rows(v, first, count, [&](int64_t at, int64_t done, int64_t length) {
      if (v.stride[3] == 1) {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < length; i += lanes) {
            const int64_t m = min64(lanes, length - i);
            S::store(image + at + c * v.stride[1] + i, get(from.data + c * from.stride + done + i, m), m);
          }
        return;
      }
      if constexpr (direct) {
        for (int64_t i = 0; i < length; ++i)
          for (int64_t c = 0; c < channels; ++c)
            image[at + i * v.stride[3] + c * v.stride[1]] = from.data[c * from.stride + done + i];
        return;
      }
      for (int64_t i = 0; i < length; ++i)
        for (int64_t c0 = 0; c0 < channels; c0 += lanes) {
          const int64_t some = min64(lanes, channels - c0);
          V pixel{};
          for (int64_t c = 0; c < some; ++c) pixel[c] = from.data[(c0 + c) * from.stride + done + i];
          S::store(image + at + i * v.stride[3] + c0, pixel, some);
        }
    });
  }

  // out = the samples' values; sums_x, sums_y = the sums over channels of dy times their slopes in the position.
  template <bool kValue, bool kSlope>
  static void gather(const Samples<Acc>& s, Image<const Acc> image, int64_t channels, Tile<Acc> out, Tile<Acc> dy,
                     Acc* sums_x, Acc* sums_y) {
    for (int64_t i = 0; i < s.count; i += lanes) {
      const int64_t m = min64(lanes, s.count - i);
      const Reader read(s, image, i);
      const V x1 = Scratch::load(s.part_x + i), x0 = 1 - x1, y1 = Scratch::load(s.part_y + i), y0 = 1 - y1;
      const V w00 = x0 * y0, w01 = x1 * y0, w10 = x0 * y1, w11 = x1 * y1;
      V sum_x{}, sum_y{};
      for (int64_t c = 0; c < channels; ++c) {
        const Corners<V> v = read(image.data + c * image.channel);
        if (kValue) put(out.data + c * out.stride + i, v.v00 * w00 + v.v01 * w01 + (v.v10 * w10 + v.v11 * w11), m);
        if (kSlope) {
          const V g = get(dy.data + c * dy.stride + i, m);
          sum_x += g * (v.top() * y0 + v.bottom() * y1);
          sum_y += g * (v.left() * x0 + v.right() * x1);
        }
      }
      if (kSlope) Scratch::store(sums_x + i, sum_x), Scratch::store(sums_y + i, sum_y);
    }
  }

  // out (+)= the samples' slopes along (along_x, along_y); mixed = the sums over channels of dy times the mixed second
  // derivative in the position. out or dy may be absent.
  static void gather_slopes(const Samples<Acc>& s, Image<const Acc> image, int64_t channels, const Acc* along_x,
                            const Acc* along_y, Tile<Acc> out, bool add, Tile<Acc> dy, Acc* mixed) {
    for (int64_t i = 0; i < s.count; i += lanes) {
      const int64_t m = min64(lanes, s.count - i);
      const Reader read(s, image, i);
      const V x1 = Scratch::load(s.part_x + i), y1 = Scratch::load(s.part_y + i);
      const V u = get(along_x + i, m), v = get(along_y + i, m);
      const V ux0 = u * (1 - y1), ux1 = u * y1, vy0 = v * (1 - x1), vy1 = v * x1;
      V sum{};
      for (int64_t c = 0; c < channels; ++c) {
        const Corners<V> k = read(image.data + c * image.channel);
        if (out.data) {
          Acc* target = out.data + c * out.stride + i;
          const V slope = k.top() * ux0 + k.bottom() * ux1 + (k.left() * vy0 + k.right() * vy1);
          put(target, add ? get(target, m) + slope : slope, m);
        }
        if (dy.data) sum += get(dy.data + c * dy.stride + i, m) * (k.bottom() - k.top());
      }
      if (dy.data) Scratch::store(mixed + i, sum);
    }
  }

 private:
  static GK_INLINE V get(const Acc* p, int64_t m) { return m == lanes ? Scratch::load(p) : Scratch::load(p, m); }
  static GK_INLINE void put(Acc* p, V v, int64_t m) {
    if (m == lanes)
      Scratch::store(p, v);
    else
      Scratch::store(p, v, m);
  }

  // The four pixels of a vector of samples, of any plane.
  class Reader {
   public:
    GK_INLINE Reader(const Samples<Acc>& s, const Image<const Acc>& image, int64_t i)
        : row(image.row),
          column(image.column),
          at(load_bits<I>(s.y + i) * static_cast<T>(row) + load_bits<I>(s.x + i) * static_cast<T>(column)),
          exist(load_bits<I>(s.exist + i)),
          neighbours(column == 1 && !any_lane((I)(exist != kFour))) {}
    GK_INLINE Corners<V> operator()(const Acc* plane) const {
      Corners<V> v;
      if (neighbours) {
        gather_pairs(plane, at, &v.v00, &v.v01);
        gather_pairs(plane + row, at, &v.v10, &v.v11);
      } else {
        v = {one(plane, 0, kLowX | kLowY), one(plane, column, kHighX | kLowY), one(plane, row, kLowX | kHighY),
             one(plane, row + column, kHighX | kHighY)};
      }
      return v;
    }

   private:
    GK_INLINE V one(const Acc* plane, int64_t offset, int which) const {
      return gather_lanes(plane + offset, at, (I)((exist & which) == which));
    }
    const int64_t row, column;
    const I at, exist;
    const bool neighbours;  // and all of them exist
  };
};

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
