// grid_sample on the CPU, the form for many channels: a vector is the channels of one pixel. A sample is then four vector
// loads whatever its position, and a sum into an image has no conflicts between lanes. Images and tiles are
// [pixel][channels], in the accumulation type, channels padded with zeros to whole vectors (of 4 for up to 4 channels); a
// channels_last image of whole vectors is taken as it is. Include from grid_sample_cpu.cpp only.
#pragma once
#include "grid_sample/grid_sample_cpu_samples.h"

namespace gk {
namespace GK_ISA {
namespace {

// K planes of `lanes` pixels to pixels of K channels, and back. The numbers of all vectors in a row: a perfect shuffle
// makes [a][b] of [2 a'][b] in log2(K) steps.
template <int K, class V>
GK_INLINE void transpose(V (&r)[K]) {
  for (int step = 1; step < K; step *= 2) {
    V t[K];
    for (int j = 0; j < K / 2; ++j) {
      t[2 * j] = interleave_low(r[j], r[j + K / 2]);
      t[2 * j + 1] = interleave_high(r[j], r[j + K / 2]);
    }
    for (int j = 0; j < K; ++j) r[j] = t[j];
  }
}
template <int K, class V>
GK_INLINE void transpose_back(V (&r)[K]) {
  for (int step = 1; step < K; step *= 2) {
    V t[K];
    for (int j = 0; j < K / 2; ++j) {
      t[j] = even_lanes(r[2 * j], r[2 * j + 1]);
      t[j + K / 2] = odd_lanes(r[2 * j], r[2 * j + 1]);
    }
    for (int j = 0; j < K; ++j) r[j] = t[j];
  }
}

template <class V, class Acc>
class Reader {
 public:
  GK_INLINE Reader(const Image<const Acc>& image, const Samples<Acc>& s, int64_t i)
      : column(image.column),
        row(image.row),
        at(s.y[i] * row + s.x[i] * column),
        data(image.data),
        exist(static_cast<int>(s.exist[i])) {}
  GK_INLINE Corners<V> operator()(int64_t c) const {
    if (exist == kFour) {
      const Acc* q = data + at + c;
      return {load_bits<V>(q), load_bits<V>(q + column), load_bits<V>(q + row), load_bits<V>(q + row + column)};
    }
    return {one(kLowX | kLowY, at + c), one(kHighX | kLowY, at + column + c), one(kLowX | kHighY, at + row + c),
            one(kHighX | kHighY, at + row + column + c)};
  }

 private:
  GK_INLINE V one(int which, int64_t offset) const {
    return (exist & which) == which ? load_bits<V>(data + offset) : V{};
  }
  const int64_t column, row, at;
  const Acc* const data;
  const int exist;
};

// The sum of the lanes, in an order that depends on their number only.
template <class Acc, int K, class V>
GK_INLINE Acc sum_lanes(V v) {
  if constexpr (K == 1) {
    return v[0];
  } else if constexpr (K == 2) {
    return v[0] + v[1];
  } else {
    typedef Acc Half __attribute__((vector_size(sizeof(Acc) * (K / 2))));
    Half half[2];
    __builtin_memcpy(half, &v, sizeof(V));
    return sum_lanes<Acc, K / 2>(half[0] + half[1]);
  }
}

// Four channels and one, where a whole vector has more.
typedef float Float4 __attribute__((vector_size(16)));
typedef float Float1 __attribute__((vector_size(4)));
typedef double Double4 __attribute__((vector_size(32)));
typedef double Double1 __attribute__((vector_size(8)));
template <class Acc>
struct NarrowOf {
  using Vec = Float4;
  using One = Float1;
};
template <>
struct NarrowOf<double> {
  using Vec = Double4;
  using One = Double1;
};

// A storage type, and the vector of channels to compute with.
template <class S_, class V_>
struct PixelForm {
  using S = S_;
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Scratch = typename ScratchOf<Acc>::type;
  using V = V_;
  static constexpr int lanes = S::lanes;
  static constexpr bool kScatters = true;
  static constexpr int K = sizeof(V) / sizeof(Acc);
  static constexpr bool simple = K < lanes && sizeof(Elem) == sizeof(Acc);  // few numbers that need no conversion

  static int64_t padded(int64_t channels) { return round_up(channels, K); }
  // Samples of a tile.
  static int64_t tile_samples(int64_t padded) {
    return max64(16, min64(kMostSamples, kTileNumbers / padded / 16 * 16));
  }

  // Whether v's images can be read and written where they lie, and its samples as tiles.
  static bool in_place(const View4& v) {
    return K == lanes && sizeof(Elem) == sizeof(Acc) && v.stride[1] == 1 && v.stride[3] != 1 && v.size[1] % K == 0;
  }
  static bool tile_in_place(const View4& v) { return in_place(v) && v.stride[2] == v.size[3] * v.stride[3]; }
  static Image<Acc> image_of(const View4& v, int64_t n, int64_t c0 = 0) {
    return {static_cast<Acc*>(v.data) + n * v.stride[0] + c0, v.stride[2], v.stride[3], 1};
  }
  static Tile<Acc> tile_of(const View4& v, int64_t n, int64_t first, int64_t c0 = 0) {
    return {static_cast<Acc*>(v.data) + n * v.stride[0] + first * v.stride[3] + c0, v.stride[3]};
  }

  // The same of staged ones: of an image [height][width][padded], and of its pixels from number `first` on as a tile.
  static Image<Acc> staged_image(Acc* data, int64_t width, int64_t, int64_t padded) {
    return {data, width * padded, padded, 1};
  }
  static Tile<Acc> staged_tile(Acc* data, int64_t first, int64_t, int64_t padded) {
    return {data + first * padded, padded};
  }
  static Tile<Acc> own_tile(Acc* data, int64_t padded) { return {data, padded}; }

  // The numbers of vector j of K transposed ones of m pixels: where they are in the tile, and how many there are.
  static GK_INLINE int64_t place(int j, int64_t m, int64_t stride, int64_t* n) {
    if (K == lanes) {
      *n = j < m ? lanes : 0;
      return j * stride;
    }
    *n = min64(lanes, m * K - j * lanes);
    return j * lanes;  // K < lanes: one block of channels, the stride is K
  }

  // Pixels [first, first + count) of image n, channels [c0, c0 + channels), as a tile; zeros up to whole vectors.
  static void stage_in(const View4& v, int64_t n, int64_t first, int64_t count, int64_t c0, int64_t channels,
                       Tile<Acc> to) {
    const auto* image = static_cast<const Elem*>(v.data) + n * v.stride[0] + c0 * v.stride[1];
    for_rows(v, first, count, [&](int64_t at, int64_t done, int64_t length) {
      const auto* row = image + at;
      auto* tile = to.data + done * to.stride;
      if (v.stride[3] != 1) {
        if constexpr (simple) {
          for (int64_t i = 0; i < length; ++i, row += v.stride[3], tile += to.stride)
            for (int64_t c = 0; c < K; ++c) tile[c] = c < channels ? row[c] : Acc(0);
          return;
        }
        for (int64_t i = 0; i < length; ++i, row += v.stride[3], tile += to.stride)
          for (int64_t c = 0; c < channels; c += lanes) {
            const auto x = c + lanes <= channels ? S::load(row + c) : S::load(row + c, channels - c);
            if (K == lanes)
              Scratch::store(tile + c, x);
            else
              Scratch::store(tile + c, x, K);
          }
        return;
      }
      for (int64_t c = 0; c < channels; c += K) {  // outside: no more streams at a time than can be prefetched
        for (int64_t i = 0; i < length; i += lanes) {
          const int64_t m = min64(lanes, length - i);
          typename S::Vec r[K];
          for (int k = 0; k < K; ++k) {
            const auto* plane = row + i + (c + k) * v.stride[1];
            r[k] = c + k >= channels ? typename S::Vec{} : m == lanes ? S::load(plane) : S::load(plane, m);
          }
          transpose<K>(r);
          for (int j = 0; j < K; ++j) {
            int64_t numbers;
            auto* target = tile + i * to.stride + c + place(j, m, to.stride, &numbers);
            if (numbers == lanes)
              Scratch::store(target, r[j]);
            else if (numbers > 0)
              Scratch::store(target, r[j], numbers);
          }
        }
      }
    });
  }

  // The way back: a tile to pixels [first, first + count) of image n, channels [c0, c0 + channels).
  static void stage_out(Tile<Acc> from, const View4& v, int64_t n, int64_t first, int64_t count, int64_t c0,
                        int64_t channels) {
    auto* image = static_cast<Elem*>(v.data) + n * v.stride[0] + c0 * v.stride[1];
    for_rows(v, first, count, [&](int64_t at, int64_t done, int64_t length) {
      auto* row = image + at;
      const auto* tile = from.data + done * from.stride;
      if (v.stride[3] != 1) {
        if constexpr (simple) {
          for (int64_t i = 0; i < length; ++i, row += v.stride[3], tile += from.stride)
            for (int64_t c = 0; c < K; ++c)
              if (c < channels) row[c] = tile[c];
          return;
        }
        for (int64_t i = 0; i < length; ++i, row += v.stride[3], tile += from.stride)
          for (int64_t c = 0; c < channels; c += lanes) {
            if (c + lanes <= channels)
              S::store(row + c, Scratch::load(tile + c));
            else
              S::store(row + c, Scratch::load(tile + c, channels - c), channels - c);
          }
        return;
      }
      for (int64_t c = 0; c < channels; c += K) {  // outside: no more streams at a time than can be prefetched
        for (int64_t i = 0; i < length; i += lanes) {
          const int64_t m = min64(lanes, length - i);
          typename S::Vec r[K];
          for (int j = 0; j < K; ++j) {
            int64_t numbers;
            const auto* source = tile + i * from.stride + c + place(j, m, from.stride, &numbers);
            r[j] = numbers == lanes ? Scratch::load(source)
                   : numbers > 0    ? Scratch::load(source, numbers)
                                    : typename S::Vec{};
          }
          transpose_back<K>(r);
          for (int k = 0; k < K && c + k < channels; ++k) {
            auto* plane = row + i + (c + k) * v.stride[1];
            if (m == lanes)
              S::store(plane, r[k]);
            else
              S::store(plane, r[k], m);
          }
        }
      }
    });
  }

  // out = the samples' values; sums_x, sums_y = the sums over channels of dy times their slopes in the position.
  template <bool kValue, bool kSlope>
  static void gather(const Samples<Acc>& s, Image<const Acc> image, int64_t padded, Tile<Acc> out, Tile<Acc> dy,
                     Acc* sums_x, Acc* sums_y) {
    for (int64_t i = 0; i < s.count; ++i) {
      const Reader<V, Acc> read(image, s, i);
      const Acc x1 = s.part_x[i], x0 = 1 - x1, y1 = s.part_y[i], y0 = 1 - y1;
      V sum_x{}, sum_y{};
      for (int64_t c = 0; c < padded; c += K) {
        const Corners<V> v = read(c);
        if (kValue)
          store_bits(out.data + i * out.stride + c,
                     v.v00 * (x0 * y0) + v.v01 * (x1 * y0) + (v.v10 * (x0 * y1) + v.v11 * (x1 * y1)));
        if (kSlope) {
          const V g = load_bits<V>(dy.data + i * dy.stride + c);
          sum_x += g * (v.top() * y0 + v.bottom() * y1);
          sum_y += g * (v.left() * x0 + v.right() * x1);
        }
      }
      if (kSlope) sums_x[i] = sum_lanes<Acc, K>(sum_x), sums_y[i] = sum_lanes<Acc, K>(sum_y);
    }
  }

  // out (+)= the samples' slopes along (along_x, along_y); mixed = the sums over channels of dy times the mixed second
  // derivative in the position. out or dy may be absent.
  static void gather_slopes(const Samples<Acc>& s, Image<const Acc> image, int64_t padded, const Acc* along_x,
                            const Acc* along_y, Tile<Acc> out, bool add, Tile<Acc> dy, Acc* mixed) {
    for (int64_t i = 0; i < s.count; ++i) {
      const Reader<V, Acc> read(image, s, i);
      const Acc x1 = s.part_x[i], x0 = 1 - x1, y1 = s.part_y[i], y0 = 1 - y1;
      V sum{};
      for (int64_t c = 0; c < padded; c += K) {
        const Corners<V> v = read(c);
        if (out.data) {
          Acc* target = out.data + i * out.stride + c;
          const V slope = (v.top() * y0 + v.bottom() * y1) * along_x[i] + (v.left() * x0 + v.right() * x1) * along_y[i];
          store_bits(target, add ? load_bits<V>(target) + slope : slope);
        }
        if (dy.data) sum += load_bits<V>(dy.data + i * dy.stride + c) * (v.bottom() - v.top());
      }
      if (dy.data) mixed[i] = sum_lanes<Acc, K>(sum);
    }
  }

  // Adds every sample's dy to its four pixels, times their weights; or, with a direction, times the weights' slopes in it.
  template <bool kSlope>
  static void scatter(const Samples<Acc>& s, Tile<Acc> dy, const Acc* along_x, const Acc* along_y, Image<Acc> image,
                      int64_t padded) {
    for (int64_t i = 0; i < s.count; ++i) {
      const Acc x1 = s.part_x[i], x0 = 1 - x1, y1 = s.part_y[i], y0 = 1 - y1;
      Acc w00 = x0 * y0, w01 = x1 * y0, w10 = x0 * y1, w11 = x1 * y1;
      if (kSlope) {
        const Acc u = along_x[i], v = along_y[i];
        w00 = -(y0 * u) - x0 * v, w01 = y0 * u - x1 * v, w10 = x0 * v - y1 * u, w11 = y1 * u + x1 * v;
      }
      const int64_t at = s.y[i] * image.row + s.x[i] * image.column;
      const auto add = [&](int which, int64_t offset, Acc weight) {
        if (!s.exists(i, which)) return;
        for (int64_t c = 0; c < padded; c += K) {
          Acc* target = image.data + offset + c;
          store_bits(target, load_bits<V>(target) + load_bits<V>(dy.data + i * dy.stride + c) * weight);
        }
      };
      add(kLowX | kLowY, at, w00);
      add(kHighX | kLowY, at + image.column, w01);
      add(kLowX | kHighY, at + image.row, w10);
      add(kHighX | kHighY, at + image.row + image.column, w11);
    }
  }
};

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
