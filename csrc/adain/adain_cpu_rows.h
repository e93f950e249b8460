// What the CPU kernels of adain are made of: units of work as rows of contiguous numbers, what belongs to a channel or to a
// pixel of them, sums, activations. Include from *_cpu.cpp only.
//
// A unit in NCHW is pixels of one channel, cut into rows; in channels_last it is pixels times channels, and a row is the
// channels of a pixel. What belongs to a channel is one number in the one and an array along the row in the other; what
// belongs to a pixel is the opposite, and so are the sums.
#pragma once
#include "adain/adain_params.h"
#include "bias_act/bias_act_cpu.h"

namespace gk {
namespace GK_ISA {
namespace {

// Longest row in NCHW: 16 KB of floats at most, in L1 when the variance follows the mean; and as much as is summed in float
// before doubles go on, 256 numbers a lane. (With 1024 a lane a variance came out wrong by 1e-4 of itself.)
constexpr int64_t kRow = 256 * kFloatLanes;

struct Unit {
  int64_t sample, pixel, channel;      // where it begins
  int64_t pixels, channels;            // how large it is
  int64_t pixel_index, channel_index;  // of its rectangle in its sample
  bool first;                          // it is its rectangle's first
};

template <class T, class Void>
GK_INLINE auto at(Void* data, int64_t i) {
  return offset(static_cast<T*>(data), i);
}

// `v` with 0 beyond the end of the row.
template <class Vec>
GK_INLINE Vec inside(Vec v, Whole) {
  return v;
}
template <class Vec>
GK_INLINE Vec inside(Vec v, Part part) {
  using T = typename Math<Vec>::Scalar;
  T lane[sizeof(Vec) / sizeof(T)];
  store_bits(lane, v);
  return load_bits<Vec>(lane, part.n);
}

// Calls body(row, columns) for every row of a unit.
template <bool kLast, class Body>
GK_INLINE void for_rows(const Unit& unit, Body body) {
  if constexpr (kLast) {
    for (int64_t row = 0; row < unit.pixels; ++row) body(row, unit.channels);
  } else {
    for (int64_t row = 0; row * kRow < unit.pixels; ++row) body(row, min64(kRow, unit.pixels - row * kRow));
  }
}

// A sum along a row. One after the other additions wait for one another: four sums at a time.
template <class S, class Value>
GK_INLINE typename S::Acc sum_of_row(int64_t columns, Value value) {
  using Vec = typename S::Vec;
  constexpr int64_t kStep = S::lanes;
  Vec a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * kStep <= columns; i += 4 * kStep) {
    a += value(i, Whole{}), b += value(i + kStep, Whole{});
    c += value(i + 2 * kStep, Whole{}), d += value(i + 3 * kStep, Whole{});
  }
  for (; i + kStep <= columns; i += kStep) a += value(i, Whole{});
  if (i < columns) b += inside(value(i, Part{columns - i}), Part{columns - i});
  return sum_lanes((a + b) + (c + d));
}

// Where things stand: of a unit, and of its rows.
template <bool kLast>
struct Place {
  int64_t of_image, row_stride;  // elements
  int64_t of_channel, of_pixel;  // in [N, C] and [N, HW]
  int64_t pixel_stride;          // pixels from row to row

  Place(const AdainParams& p, const Unit& unit) {
    of_channel = unit.sample * p.channels + unit.channel, of_pixel = unit.sample * p.pixels + unit.pixel;
    of_image = kLast ? of_pixel * p.channels + unit.channel : of_channel * p.pixels + unit.pixel;
    row_stride = kLast ? p.channels : kRow, pixel_stride = kLast ? 1 : kRow;
  }
};

// A number a channel.
template <class S, bool kLast>
struct PerChannel {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  const Acc* numbers;
  Vec number;

  PerChannel(const void* array, int64_t first, Acc absent = 0) {
    const Acc* here = at<const Acc>(array, first);
    numbers = kLast ? here : nullptr;
    number = Math<Vec>::splat(here && !kLast ? *here : absent);
  }
  template <class Access>
  GK_INLINE Vec load(int64_t i, Access access) const {
    if constexpr (kLast) {
      if (numbers) return GK_ISA::load<Scratch>(numbers + i, access);
    }
    return number;
  }
};

// A number a pixel: of row `row` of a unit.
template <class S, bool kLast>
struct PerPixel {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  const Acc* numbers;
  Vec number;

  PerPixel(const Acc* unit, int64_t first) {
    numbers = kLast ? nullptr : offset(unit, first);
    number = Math<Vec>::splat(kLast && unit ? unit[first] : Acc(0));
  }
  template <class Access>
  GK_INLINE Vec load(int64_t i, Access access) const {
    if constexpr (!kLast) {
      if (numbers) return GK_ISA::load<Scratch>(numbers + i, access);
    }
    return number;
  }
};

// A factor: an image, or a number a channel.
template <class S, bool kLast>
struct Factor {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  const typename S::Elem* image;
  PerChannel<S, kLast> channel;

  Factor(const AdainParams& p, const void* data, const Place<kLast>& place, Acc absent = 0)
      : image(p.spatial ? at<const typename S::Elem>(data, place.of_image) : nullptr),
        channel(p.spatial ? nullptr : data, place.of_channel, absent) {}
  template <class Access>
  GK_INLINE Vec load(int64_t i, int64_t row, Access access) const {  // row: elements before the row
    return image ? GK_ISA::load<S>(image + row + i, access) : channel.load(i, access);
  }
};

template <int n>
struct Number {
  static constexpr int value = n;
};

// Sums over the pixels of a unit, for each of its channels: kCount of them, in arrays of numbers a channel, `distance` apart.
template <class S, bool kLast, int kCount>
class Sums {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;

 public:
  Sums(Acc* out, int64_t distance, int64_t channels) : out_(out), distance_(distance) {
    if constexpr (kLast) {
      for (int k = 0; k < kCount; ++k)
        for (int64_t i = 0; out && i < channels; ++i) out[k * distance + i] = 0;
    }
    (void)channels;
  }
  template <class Access>
  GK_INLINE void add(int k, Vec v, int64_t i, Access access) {
    if constexpr (kLast) {
      Acc* here = out_ + k * distance_ + i;
      store<Scratch>(here, load<Scratch>(here, access) + v, access);
    } else {
      lanes_[k] += inside(v, access);
    }
  }
  GK_INLINE void end_row() {
    if constexpr (!kLast)
      for (int k = 0; k < kCount; ++k) totals_[k] += sum_lanes(lanes_[k]), lanes_[k] = Vec{};
  }
  void end() {
    if constexpr (!kLast)
      for (int k = 0; out_ && k < kCount; ++k) out_[k * distance_] = static_cast<Acc>(totals_[k]);
  }

 private:
  Acc* out_;
  int64_t distance_;
  Vec lanes_[kLast ? 1 : kCount] = {};
  double totals_[kLast ? 1 : kCount] = {};
};

// Sums over the pixels of a unit, as above: body(row, i, access, add) says add(k, v) for every vector. In channels_last a
// few vectors go down all the rows together, if their sums fit into the registers; else rows are read whole.
template <class S, bool kLast, int kCount, class Body>
GK_INLINE void sum_pixels(typename S::Acc* out, int64_t distance, const Unit& unit, Body body) {
  using Vec = typename S::Vec;
  constexpr int kBlock = (GK_VEC_BYTES == 64 ? 16 : 8) / kCount;  // vectors; of 32 or 16 registers
  if constexpr (kLast && kBlock >= 4) {
    using Scratch = typename ScratchOf<typename S::Acc>::type;
    const auto block = [&](int64_t first, auto many, auto access) __attribute__((always_inline)) {
      constexpr int B = decltype(many)::value;
      Vec sum[B][kCount] = {};
      for (int64_t row = 0; row < unit.pixels; ++row) {
#pragma GCC unroll 16
        for (int b = 0; b < B; ++b)
          body(row, first + b * S::lanes, access, [&](int k, Vec v) __attribute__((always_inline)) { sum[b][k] += v; });
      }
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b)
#pragma GCC unroll 2
        for (int k = 0; k < kCount; ++k) store<Scratch>(out + k * distance + first + b * S::lanes, sum[b][k], access);
    };
    int64_t i = 0;
    for (; i + kBlock * S::lanes <= unit.channels; i += kBlock * S::lanes) block(i, Number<kBlock>{}, Whole{});
    for (; i + S::lanes <= unit.channels; i += S::lanes) block(i, Number<1>{}, Whole{});
    if (i < unit.channels) block(i, Number<1>{}, Part{unit.channels - i});
  } else {
    Sums<S, kLast, kCount> sums(out, distance, unit.channels);
    for_rows<kLast>(unit, [&](int64_t row, int64_t columns) {
      for_vectors<S>(columns, [&](int64_t i, auto access) __attribute__((always_inline)) {
        body(row, i, access, [&](int k, Vec v) __attribute__((always_inline)) { sums.add(k, v, i, access); });
      });
      sums.end_row();
    });
    sums.end();
  }
}

// ---- activations ---------------------------------------------------------------------------------------------------
// Linear and rectifiers are compiled in; the others are chosen for every vector, which is little beside their arithmetic.
enum class Mode { linear, rectifier, any };
template <Mode mode>
struct Chosen {
  static constexpr Mode value = mode;
};

template <class V, class F>
GK_INLINE V switch_act(Act act, F f) {
  switch (act) {
    case Act::relu: return f(Tag<Act::relu>{});
    case Act::lrelu: return f(Tag<Act::lrelu>{});
    case Act::tanh: return f(Tag<Act::tanh>{});
    case Act::sigmoid: return f(Tag<Act::sigmoid>{});
    case Act::elu: return f(Tag<Act::elu>{});
    case Act::selu: return f(Tag<Act::selu>{});
    case Act::softplus: return f(Tag<Act::softplus>{});
    case Act::swish: return f(Tag<Act::swish>{});
    case Act::linear: break;
  }
  return f(Tag<Act::linear>{});
}

template <class S, Mode mode>
struct Function {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  Act act;
  ActSettings<Acc> s;
  bool curved;

  Function(Act act_, double alpha, double gain)
      : act(act_), s(act_ == Act::relu ? 0 : alpha, gain, -1), curved(mode == Mode::any && act_curved(act_)) {}

  GK_INLINE Vec value(Vec v) const {
    if constexpr (mode == Mode::linear) return v * s.gain;
    if constexpr (mode == Mode::rectifier) {
      const Vec negative = act == Act::relu ? Vec{} : v * s.alpha;  // not 0 times an infinity
      return (v < Acc(0) ? negative : v) * s.gain;
    }
    return switch_act<Vec>(act, [&](auto tag) __attribute__((always_inline)) {
      return act_forward<decltype(tag)::act>(v, s.alpha) * s.gain;
    });
  }
  GK_INLINE Vec slope(Vec v) const {
    const Vec gain = Math<Vec>::splat(s.gain);
    if constexpr (mode == Mode::linear) return gain;
    if constexpr (mode == Mode::rectifier) return v > Acc(0) ? gain : gain * s.alpha;
    return switch_act<Vec>(
        act, [&](auto tag) __attribute__((always_inline)) { return slope_from_v<decltype(tag)::act>(v, s); });
  }
  GK_INLINE Vec curvature(Vec v) const {
    if constexpr (mode != Mode::any) return Vec{};
    return switch_act<Vec>(
        act, [&](auto tag) __attribute__((always_inline)) { return curvature_from_v<decltype(tag)::act>(v, s); });
  }
};

// ---- what every pass begins with -------------------------------------------------------------------------------------
// q and v of a unit.
template <class S, bool kLast, Mode pre>
struct Input {
  using Vec = typename S::Vec;
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  const Elem* x;
  const Acc* noise;
  int64_t row_stride, pixel_stride;
  PerChannel<S, kLast> b;
  Function<S, pre> p;

  Input(const AdainParams& params, const Unit& unit, const Place<kLast>& place)
      : x(at<const Elem>(params.x, place.of_image)),
        noise(at<const Acc>(params.noise,
                            params.noise ? unit.sample % params.noise_samples * params.pixels + unit.pixel : 0)),
        row_stride(place.row_stride),
        pixel_stride(place.pixel_stride),
        b(params.b, unit.channel),
        p(params.pre_act, params.pre_alpha, 1) {}

  struct Row {
    const Input& in;
    const Elem* x;
    PerPixel<S, kLast> noise;
    template <class Access>
    GK_INLINE Vec q(int64_t i, Access access) const {
      return load<S>(x + i, access) + in.b.load(i, access) + noise.load(i, access);
    }
    template <class Access>
    GK_INLINE Vec v(int64_t i, Access access) const {
      return in.p.value(q(i, access));
    }
  };
  GK_INLINE Row row(int64_t r) const { return {*this, x + r * row_stride, {noise, r * pixel_stride}}; }
};

// Sums of the gradient in q: over channels at each pixel, and over pixels for each channel.
template <class S, bool kLast>
class GradientSums {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;

 public:
  GradientSums(const AdainParams& p, const Unit& unit, const Place<kLast>& place)
      : pixels_(at<Acc>(p.dnoise_partial, unit.channel_index * p.samples * p.pixels + place.of_pixel)),
        first_(unit.first),
        channels_wanted_(p.db_partial != nullptr),
        channels_(at<Acc>(p.db_partial, (unit.sample * p.pixel_chunks + unit.pixel_index) * p.channels + unit.channel),
                  0, unit.channels) {}
  template <class Access>
  GK_INLINE void add(Vec v, int64_t pixel, int64_t i, Access access) {
    if (channels_wanted_) channels_.add(0, v, i, access);
    if (!pixels_) return;
    if constexpr (kLast) {
      row_ += inside(v, access);
    } else {
      Acc* here = pixels_ + pixel + i;
      store<Scratch>(here, first_ ? v : load<Scratch>(here, access) + v, access);
    }
  }
  GK_INLINE void end_row(int64_t pixel) {
    if (channels_wanted_) channels_.end_row();
    if constexpr (kLast) {
      if (pixels_) pixels_[pixel] = sum_lanes(row_);
      row_ = Vec{};
    }
  }
  void end() { channels_.end(); }

 private:
  Acc* pixels_;
  bool first_, channels_wanted_;
  Sums<S, kLast, 1> channels_;
  Vec row_{};
};

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
