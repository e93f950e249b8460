// adain on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// Every pass is sums over a unit, then numbers of its planes, then pixels: three stages, of which the last reads again what
// the first has read. Where a plane is one rectangle the stages follow one another, plane by plane, out of cache.
#include "adain/adain_cpu_rows.h"

namespace gk {
namespace GK_ISA {
namespace {

// Sum over a plane's rectangles, in their order.
template <class Acc>
double total(const AdainParams& p, int64_t sample, int64_t channel, int sums, int k) {
  const Acc* partial = at<const Acc>(p.partial, (sample * p.pixel_chunks * sums + k) * p.channels + channel);
  double sum = 0;
  for (int64_t i = 0; i < p.pixel_chunks; ++i) sum += partial[i * sums * p.channels];
  return sum;
}

template <class Acc>
Acc* partial_of(const AdainParams& p, const Unit& unit, int sums) {
  return at<Acc>(p.partial, (unit.sample * p.pixel_chunks + unit.pixel_index) * sums * p.channels + unit.channel);
}
template <class Acc>
Acc* coefficients_of(const AdainParams& p, int64_t sample, int64_t channel, int count) {
  return at<Acc>(p.coefficients, sample * count * p.channels + channel);
}
template <class Acc>
double number(const void* array, int64_t i, double absent) {
  return array ? static_cast<double>(static_cast<const Acc*>(array)[i]) : absent;
}

// ---- forward ---------------------------------------------------------------------------------------------------------
template <class S, bool kLast, Mode act, Mode pre>
struct Forward {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;

  // The mean of the first sixteenth of the numbers, then deviations of all from it and their squares: nothing is lost by its
  // not being the mean, but for 16 roundings of the variance at worst, since a sixteenth that is far from the mean makes the
  // variance large itself. Row by row where a row is of one channel.
  static void sums(const AdainParams& p, const Unit& unit) {
    const Place<kLast> place(p, unit);
    const Input<S, kLast, pre> in(p, unit, place);
    Acc* out = partial_of<Acc>(p, unit, kAdainForwardSums);
    if constexpr (kLast) {
      Unit some = unit;
      some.pixels = min64(unit.pixels, unit.pixels / 16 + 4);
      sum_pixels<S, kLast, 1>(out, p.channels, some,
                              [&](int64_t r, int64_t i, auto access, auto add)
                                  __attribute__((always_inline)) { add(0, in.row(r).v(i, access)); });
      const Acc share = Acc(1) / static_cast<Acc>(some.pixels);
      for (int64_t i = 0; i < unit.channels; ++i) out[i] *= share;
      sum_pixels<S, kLast, 2>(out + p.channels, p.channels, unit,
                              [&](int64_t r, int64_t i, auto access, auto add) __attribute__((always_inline)) {
                                const Vec d = in.row(r).v(i, access) - load<Scratch>(out + i, access);
                                add(0, d), add(1, d * d);
                              });
    } else {
      Moments all;
      for_rows<kLast>(unit, [&](int64_t r, int64_t columns) {
        const auto row = in.row(r);
        const int64_t some = min64(columns, columns / 16 + 4 * S::lanes);
        const auto sum = sum_of_row<S>(some, [&](int64_t i, auto access) { return row.v(i, access); });
        const Acc centre = sum / static_cast<Acc>(some);
        // Four sums each: shorter ones, and none waits for itself.
        Vec deviation[4] = {}, square[4] = {};
        const auto add = [&](int k, int64_t i, auto access) __attribute__((always_inline)) {
          const Vec d = inside(row.v(i, access) - centre, access);
          deviation[k] += d, square[k] += d * d;
        };
        int64_t i = 0;
        for (; i + 4 * S::lanes <= columns; i += 4 * S::lanes)
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) add(k, i + k * S::lanes, Whole{});
        for (; i + S::lanes <= columns; i += S::lanes) add(0, i, Whole{});
        if (i < columns) add(1, i, Part{columns - i});
        const auto total = [](const Vec(&v)[4]) { return sum_lanes((v[0] + v[1]) + (v[2] + v[3])); };
        all.merge(Moments(columns, centre, total(deviation), total(square)));
      });
      const Acc centre = static_cast<Acc>(all.mean);
      const double off = all.mean - static_cast<double>(centre);
      out[0] = centre, out[p.channels] = static_cast<Acc>(off * all.count);
      out[2 * p.channels] = static_cast<Acc>(all.squares + off * off * all.count);
    }
  }

  // How many numbers, their mean and the sum of their squared deviations from it.
  struct Moments {
    double count = 0, mean = 0, squares = 0;

    Moments() {}
    // Of deviations from a number that is close to the mean.
    Moments(int64_t n, double centre, double deviation, double square) : count(static_cast<double>(n)) {
      const double off = deviation / count;
      mean = centre + off;
      squares = square - off * deviation;
      squares = squares > 0 || squares != squares ? squares : 0;  // no less by rounding
    }
    void merge(const Moments& m) {
      const double both = count + m.count, d = m.mean - mean;
      squares += m.squares + d * d * (count * m.count / both);
      mean += d * (m.count / both);
      count = both;
    }
  };

  // Rectangle by rectangle with the channels in the inner loops, which are vectors then.
  static void finish(const AdainParams& p, int64_t sample, int64_t begin, int64_t end) {
    const Acc* partial = at<const Acc>(p.partial, sample * p.pixel_chunks * kAdainForwardSums * p.channels);
    const double all = static_cast<double>(p.pixels);
    for (int64_t first = begin; first < end; first += kAdainFinish) {
      const int64_t n = min64(kAdainFinish, end - first);
      double mean[kAdainFinish] = {}, squares[kAdainFinish] = {};
      const auto for_rectangles = [&](auto body) {
        for (int64_t i = 0; i < p.pixel_chunks; ++i) {
          const Acc* centre = partial + i * kAdainForwardSums * p.channels + first;
          const double pixels = static_cast<double>(min64(p.pixel_chunk, p.pixels - i * p.pixel_chunk));
          body(pixels, centre, centre + p.channels, centre + 2 * p.channels);
        }
      };
      for_rectangles([&](double pixels, const Acc* centre, const Acc* deviation, const Acc*) {
        for (int64_t c = 0; c < n; ++c) mean[c] += pixels * centre[c] + deviation[c];
      });
      for (int64_t c = 0; c < n; ++c) mean[c] /= all;
      for_rectangles([&](double pixels, const Acc* centre, const Acc* deviation, const Acc* square) {
        const double share = 1 / pixels;
        for (int64_t c = 0; c < n; ++c) {
          const double off = deviation[c] * share, within = square[c] - off * deviation[c];
          const double d = centre[c] + off - mean[c];
          squares[c] += (within < 0 ? 0 : within) + d * d * pixels;  // no less than nothing by rounding
        }
      });
      Acc* means = static_cast<Acc*>(p.mean) + sample * p.channels + first;
      Acc* rstds = static_cast<Acc*>(p.rstd) + sample * p.channels + first;
      for (int64_t c = 0; c < n; ++c) {
        means[c] = static_cast<Acc>(mean[c]);
        rstds[c] = static_cast<Acc>(1 / ::sqrt(squares[c] / all + p.eps));
      }
    }
  }

  static void apply(const AdainParams& p, const Unit& unit) {
    const Place<kLast> place(p, unit);
    const Input<S, kLast, pre> in(p, unit, place);
    const Function<S, act> f(p.act, p.alpha, p.gain);
    const PerChannel<S, kLast> mean(p.mean, place.of_channel), rstd(p.rstd, place.of_channel);
    const Factor<S, kLast> scale(p, p.scale, place, 1), shift(p, p.shift, place);
    auto* y = at<typename S::Elem>(p.y, place.of_image);
    for_rows<kLast>(unit, [&](int64_t r, int64_t columns) {
      const auto row = in.row(r);
      const int64_t first = r * place.row_stride;
      for_vectors<S>(columns, [&](int64_t i, auto access) {
        const Vec n = (row.v(i, access) - mean.load(i, access)) * rstd.load(i, access);
        const Vec a = n * scale.load(i, first, access) + shift.load(i, first, access);
        store<S>(y + first + i, f.value(a), access);
      });
    });
  }
};

// ---- backward --------------------------------------------------------------------------------------------------------
template <class S, bool kLast, Mode act, Mode pre>
struct Backward {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  static constexpr int kSums = kAdainBackwardSums, kNumbers = kAdainBackwardCoefficients;

  static bool per_pixel(const AdainParams& p) {
    return p.dx || p.dnoise_partial || p.db_partial || (p.spatial && (p.dscale || p.dshift));
  }

  static void sums(const AdainParams& p, const Unit& unit) {
    const Place<kLast> place(p, unit);
    const Input<S, kLast, pre> in(p, unit, place);
    const Function<S, act> f(p.act, p.alpha, p.gain);
    const PerChannel<S, kLast> mean(p.mean, place.of_channel), rstd(p.rstd, place.of_channel);
    const Factor<S, kLast> scale(p, p.scale, place, 1), shift(p, p.shift, place);
    const auto* dy = at<const typename S::Elem>(p.dy, place.of_image);
    const auto body = [&](int64_t r, int64_t i, auto access, auto add) __attribute__((always_inline)) {
      const int64_t first = r * place.row_stride;
      const Vec n = (in.row(r).v(i, access) - mean.load(i, access)) * rstd.load(i, access);
      const Vec s = scale.load(i, first, access);
      Vec g = load<S>(dy + first + i, access) * f.slope(n * s + shift.load(i, first, access));
      if (p.spatial) g *= s;
      add(0, g), add(1, g * n);
    };
    sum_pixels<S, kLast, kSums>(partial_of<Acc>(p, unit, kSums), p.channels, unit, body);
  }

  static void finish(const AdainParams& p, int64_t sample, int64_t begin, int64_t end) {
    const double share = 1 / static_cast<double>(p.pixels);
    for (int64_t c = begin; c < end; ++c) {
      const int64_t plane = sample * p.channels + c;
      const double g = total<Acc>(p, sample, c, kSums, 0), gn = total<Acc>(p, sample, c, kSums, 1);
      const double s = p.spatial ? 1 : number<Acc>(p.scale, plane, 1);
      if (!p.spatial && p.dshift) static_cast<Acc*>(p.dshift)[plane] = static_cast<Acc>(g);
      if (!p.spatial && p.dscale) static_cast<Acc*>(p.dscale)[plane] = static_cast<Acc>(gn);
      Acc* out = coefficients_of<Acc>(p, sample, c, kNumbers);
      out[0] = static_cast<Acc>(s * g * share), out[p.channels] = static_cast<Acc>(s * gn * share);
    }
  }

  static void apply(const AdainParams& p, const Unit& unit) {
    if (!per_pixel(p)) return;
    using Elem = typename S::Elem;
    const Place<kLast> place(p, unit);
    const Input<S, kLast, pre> in(p, unit, place);
    const Function<S, act> f(p.act, p.alpha, p.gain);
    const PerChannel<S, kLast> mean(p.mean, place.of_channel), rstd(p.rstd, place.of_channel);
    const Factor<S, kLast> scale(p, p.scale, place, 1), shift(p, p.shift, place);
    const int64_t numbers = unit.sample * kNumbers * p.channels + unit.channel;
    const PerChannel<S, kLast> mean_d(p.coefficients, numbers), mean_dn(p.coefficients, numbers + p.channels);
    const auto* dy = at<const Elem>(p.dy, place.of_image);
    Elem* dx = at<Elem>(p.dx, place.of_image);
    Elem* dscale = p.spatial ? at<Elem>(p.dscale, place.of_image) : nullptr;
    Elem* dshift = p.spatial ? at<Elem>(p.dshift, place.of_image) : nullptr;
    GradientSums<S, kLast> gradient_sums(p, unit, place);
    const bool reduces = p.dnoise_partial || p.db_partial;
    for_rows<kLast>(unit, [&](int64_t r, int64_t columns) {
      const auto row = in.row(r);
      const int64_t first = r * place.row_stride, pixel = r * place.pixel_stride;
      for_vectors<S>(columns, [&](int64_t i, auto access) {
        const Vec q = row.q(i, access), factor = rstd.load(i, access);
        const Vec n = (in.p.value(q) - mean.load(i, access)) * factor;
        const Vec s = scale.load(i, first, access);
        const Vec g = load<S>(dy + first + i, access) * f.slope(n * s + shift.load(i, first, access));
        if (dshift) store<S>(dshift + first + i, g, access);
        if (dscale) store<S>(dscale + first + i, g * n, access);
        const Vec projected = g * s - mean_d.load(i, access) - n * mean_dn.load(i, access);
        const Vec dq = projected * factor * in.p.slope(q);
        if (dx) store<S>(dx + first + i, dq, access);
        if (reduces) gradient_sums.add(dq, pixel, i, access);
      });
      gradient_sums.end_row(pixel);
    });
    gradient_sums.end();
  }
};

// ---- double backward ---------------------------------------------------------------------------------------------------
template <class S, bool kLast, Mode act, Mode pre>
struct DoubleBackward {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Elem = typename S::Elem;
  static constexpr int kSums = kAdainDoubleSums, kNumbers = kAdainDoubleCoefficients;

  // Whether anything but d_dy is wanted, and with it dy.
  static bool needs_dy(const AdainParams& p) {
    return p.dx || p.dscale || p.dshift || p.dnoise_partial || p.db_partial;
  }

  // What both pixel passes look at.
  struct Pixels {
    const AdainParams& p;
    const Place<kLast> place;
    const Input<S, kLast, pre> in;
    const Function<S, act> f;
    const PerChannel<S, kLast> mean, rstd, u_b;
    const Factor<S, kLast> scale, shift, u_scale, u_shift;
    const Elem *dy, *u;
    const Acc* u_noise;

    Pixels(const AdainParams& params, const Unit& unit)
        : p(params),
          place(p, unit),
          in(p, unit, place),
          f(p.act, p.alpha, p.gain),
          mean(p.mean, place.of_channel),
          rstd(p.rstd, place.of_channel),
          u_b(p.u_b, unit.channel),
          scale(p, p.scale, place, 1),
          shift(p, p.shift, place),
          u_scale(p, p.u_scale, place),
          u_shift(p, p.u_shift, place),
          dy(needs_dy(p) ? at<const Elem>(p.dy, place.of_image) : nullptr),
          u(at<const Elem>(p.u, place.of_image)),
          u_noise(at<const Acc>(p.u_noise, place.of_pixel)) {}

    template <class Access>
    GK_INLINE Vec total(int64_t i, int64_t first, const PerPixel<S, kLast>& noise, Access access) const {
      const Vec given = u ? load<S>(u + first + i, access) : Vec{};
      return given + noise.load(i, access) + u_b.load(i, access);
    }
  };

  static void sums(const AdainParams& p, const Unit& unit) {
    const Pixels px(p, unit);
    if (px.dy && (px.f.curved || p.spatial)) return sums<kSums>(p, unit, px);
    constexpr int kFew = 5;  // the others are zero
    Acc* out = partial_of<Acc>(p, unit, kSums);
    for (int k = kFew; k < kSums; ++k)
      for (int64_t i = 0; i < unit.channels; ++i) out[k * p.channels + i] = 0;
    sums<kFew>(p, unit, px);
  }

  template <int kCount>
  static GK_INLINE void sums(const AdainParams& p, const Unit& unit, const Pixels& px) {
    const bool curved = kCount == kSums && px.f.curved, spatial = kCount == kSums && p.spatial;
    const Elem* dy = px.dy;
    const auto body = [&](int64_t r, int64_t i, auto access, auto add) __attribute__((always_inline)) {
      const int64_t first = r * px.place.row_stride;
      const PerPixel<S, kLast> noise(px.u_noise, r * px.place.pixel_stride);
      const Vec q = px.in.row(r).q(i, access);
      const Vec n = (px.in.p.value(q) - px.mean.load(i, access)) * px.rstd.load(i, access);
      const Vec w = px.total(i, first, noise, access) * px.in.p.slope(q);
      add(2, w), add(3, w * n);
      if (!dy) return;
      const Vec s = px.scale.load(i, first, access), a = n * s + px.shift.load(i, first, access);
      const Vec dy_value = load<S>(dy + first + i, access), g = dy_value * px.f.slope(a);
      const Vec d = spatial ? g * s : g;
      add(0, d), add(1, d * n), add(4, d * w);
      if constexpr (kCount == kSums) {
        Vec l{};
        if (spatial) l = g * px.u_scale.load(i, first, access);
        if (curved) {
          Vec e = dy_value * px.f.curvature(a);
          if (spatial) {
            e *= s;
            l += e * (px.u_scale.load(i, first, access) * n + px.u_shift.load(i, first, access));
            e *= s;
          }
          const Vec en = e * n;
          add(5, e), add(6, en), add(7, en * n), add(8, e * w), add(9, en * w);
        }
        if (spatial) add(10, l), add(11, l * n);
      }
    };
    sum_pixels<S, kLast, kCount>(partial_of<Acc>(p, unit, kSums), p.channels, unit, body);
  }
  static GK_INLINE int64_t rows(const Unit& unit) { return kLast ? unit.pixels : (unit.pixels + kRow - 1) / kRow; }
  static GK_INLINE int64_t length(const Unit& unit, int64_t r) {
    return kLast ? unit.channels : min64(kRow, unit.pixels - r * kRow);
  }

  static void finish(const AdainParams& p, int64_t sample, int64_t begin, int64_t end) {
    const double share = 1 / static_cast<double>(p.pixels);
    for (int64_t c = begin; c < end; ++c) {
      const int64_t plane = sample * p.channels + c;
      double m[kSums];
      for (int k = 0; k < kSums; ++k) m[k] = total<Acc>(p, sample, c, kSums, k) * share;
      const double r = static_cast<const Acc*>(p.rstd)[plane];
      const double s = p.spatial ? 1 : number<Acc>(p.scale, plane, 1);
      const double us = p.spatial ? 0 : number<Acc>(p.u_scale, plane, 0);
      const double ut = p.spatial ? 0 : number<Acc>(p.u_shift, plane, 0);
      const double w = m[2], wn = m[3];
      // Means of K, K n: with images as factors of K s and K s n, less what L has.
      const double k = s * r * (m[8] - w * m[5] - wn * m[6]) + us * m[6] + ut * m[5];
      const double kn = s * r * (m[9] - w * m[6] - wn * m[7]) + us * m[7] + ut * m[6];
      const double gpw = m[4] - m[0] * w - m[1] * wn;  // of G P(W), or of D P(W)
      if (!p.spatial && p.dshift) static_cast<Acc*>(p.dshift)[plane] = static_cast<Acc>(k / share);
      if (!p.spatial && p.dscale) static_cast<Acc*>(p.dscale)[plane] = static_cast<Acc>((kn + r * gpw) / share);
      const double d = s * m[0], dn = s * m[1];
      const double e0 = p.spatial ? k + m[10] : s * k + us * m[0], e1 = p.spatial ? kn + m[11] : s * kn + us * m[1];
      const double numbers[kNumbers] = {d, dn, w, wn, e0 - r * (w * dn + d * wn), e1 - 2 * r * dn * wn + r * s * gpw};
      Acc* out = coefficients_of<Acc>(p, sample, c, kNumbers);
      for (int j = 0; j < kNumbers; ++j) out[j * p.channels] = static_cast<Acc>(numbers[j]);
    }
  }

  static void apply(const AdainParams& p, const Unit& unit) {
    const bool through_q = p.dx || p.dnoise_partial || p.db_partial;
    if (!p.d_dy && !through_q && !p.spatial) return;
    const Pixels px(p, unit);
    const int64_t numbers = unit.sample * kNumbers * p.channels + unit.channel;
    const auto coefficient = [&](int k) { return PerChannel<S, kLast>(p.coefficients, numbers + k * p.channels); };
    const auto c0 = coefficient(0), c1 = coefficient(1), c2 = coefficient(2), c3 = coefficient(3), c4 = coefficient(4),
               c5 = coefficient(5);
    const Elem* dy = px.dy;
    Elem* d_dy = at<Elem>(p.d_dy, px.place.of_image);
    Elem* dx = at<Elem>(p.dx, px.place.of_image);
    Elem* d_scale = p.spatial ? at<Elem>(p.dscale, px.place.of_image) : nullptr;
    Elem* d_shift = p.spatial ? at<Elem>(p.dshift, px.place.of_image) : nullptr;
    GradientSums<S, kLast> gradient_sums(p, unit, px.place);
    const bool reduces = p.dnoise_partial || p.db_partial, curved = px.f.curved, pre_curved = px.in.p.curved;
    for (int64_t r = 0; r < rows(unit); ++r) {
      const int64_t columns = length(unit, r);
      const auto row = px.in.row(r);
      const int64_t first = r * px.place.row_stride, pixel = r * px.place.pixel_stride;
      const PerPixel<S, kLast> noise(px.u_noise, pixel);
      for_vectors<S>(columns, [&](int64_t i, auto access) {
        const Vec q = row.q(i, access), factor = px.rstd.load(i, access);
        const Vec n = (px.in.p.value(q) - px.mean.load(i, access)) * factor;
        const Vec p1 = px.in.p.slope(q), all = px.total(i, first, noise, access), w = all * p1;
        const Vec s = px.scale.load(i, first, access), a = n * s + px.shift.load(i, first, access), f1 = px.f.slope(a);
        const Vec mean_w = c2.load(i, access), mean_wn = c3.load(i, access);
        const Vec pw = (w - mean_w - n * mean_wn) * factor;  // r P(W)
        const Vec us = px.u_scale.load(i, first, access);
        const Vec h = s * pw + us * n + px.u_shift.load(i, first, access);
        if (d_dy) store<S>(d_dy + first + i, h * f1, access);
        if (!dy) return;
        const Vec dy_value = load<S>(dy + first + i, access), g = dy_value * f1, d = g * s;
        Vec k{};
        if (curved) k = h * dy_value * px.f.curvature(a);
        if (d_shift) store<S>(d_shift + first + i, k, access);
        if (d_scale) store<S>(d_scale + first + i, k * n + g * pw, access);
        if (!through_q) return;
        const Vec mean_d = c0.load(i, access), mean_dn = c1.load(i, access);
        const Vec dn = k * s + g * us - (w * mean_dn + d * mean_wn) * factor;
        Vec dq = (dn - c4.load(i, access) - n * c5.load(i, access)) * factor * p1;
        if (pre_curved) dq += all * factor * (d - mean_d - n * mean_dn) * px.in.p.curvature(q);
        if (dx) store<S>(dx + first + i, dq, access);
        if (reduces) gradient_sums.add(dq, pixel, i, access);
      });
      gradient_sums.end_row(pixel);
    }
    gradient_sums.end();
  }
};

// ---- stages --------------------------------------------------------------------------------------------------------------
template <bool kLast, class Body>
void for_units(const AdainParams& p, int64_t index, Body body) {
  Unit unit;
  unit.channel_index = index % p.channel_chunks;
  unit.pixel_index = index / p.channel_chunks % p.pixel_chunks;
  unit.sample = index / p.channel_chunks / p.pixel_chunks;
  unit.pixel = unit.pixel_index * p.pixel_chunk, unit.pixels = min64(p.pixel_chunk, p.pixels - unit.pixel);
  const int64_t begin = unit.channel_index * p.channel_chunk, end = min64(begin + p.channel_chunk, p.channels);
  if constexpr (kLast) {
    unit.channel = begin, unit.channels = end - begin, unit.first = true;
    body(unit);
  } else {
    unit.channels = 1;
    for (unit.channel = begin; unit.channel < end; ++unit.channel) {
      unit.first = unit.channel == begin;
      body(unit);
    }
  }
}

template <class Pass, bool kLast>
void run_stage(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  if (stage == AdainStage::finish) {
    const int64_t pieces = (p.channels + kAdainFinish - 1) / kAdainFinish;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kAdainFinish;
      Pass::finish(p, i / pieces, first, min64(first + kAdainFinish, p.channels));
    }
    return;
  }
  // The last stage begins with what the first one has read last, which is the likeliest to be in cache.
  const bool back = stage == AdainStage::apply;
  for (int64_t i = begin; i < end; ++i)
    for_units<kLast>(p, back ? begin + end - 1 - i : i, [&](const Unit& unit) {
      if (stage != AdainStage::apply) Pass::sums(p, unit);
      if (stage == AdainStage::whole) Pass::finish(p, unit.sample, unit.channel, unit.channel + unit.channels);
      if (stage != AdainStage::sums) Pass::apply(p, unit);
    });
}

template <template <class, bool, Mode, Mode> class Pass, class S, Mode act, Mode pre>
void with_layout(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  if (p.channels_last) return run_stage<Pass<S, true, act, pre>, true>(p, stage, begin, end);
  return run_stage<Pass<S, false, act, pre>, false>(p, stage, begin, end);
}

Mode mode_of(Act act) {
  return act == Act::linear ? Mode::linear : act == Act::relu || act == Act::lrelu ? Mode::rectifier : Mode::any;
}

// Floats have code of their own for the activations that matter; the other types choose as they go.
template <template <class, bool, Mode, Mode> class Pass>
void run(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::f64: return with_layout<Pass, F64, Mode::any, Mode::any>(p, stage, begin, end);
    case DType::f16: return with_layout<Pass, F16, Mode::any, Mode::any>(p, stage, begin, end);
    case DType::bf16: return with_layout<Pass, BF16, Mode::any, Mode::any>(p, stage, begin, end);
    case DType::f32: break;
  }
  const Mode act = mode_of(p.act), pre = mode_of(p.pre_act);
  const auto with_pre = [&](auto chosen) {
    constexpr Mode mode = decltype(chosen)::value;
    if (pre == Mode::linear) return with_layout<Pass, F32, mode, Mode::linear>(p, stage, begin, end);
    if (pre == Mode::rectifier) return with_layout<Pass, F32, mode, Mode::rectifier>(p, stage, begin, end);
    return with_layout<Pass, F32, mode, Mode::any>(p, stage, begin, end);
  };
  if (act == Mode::linear) return with_pre(Chosen<Mode::linear>{});
  if (act == Mode::rectifier) return with_pre(Chosen<Mode::rectifier>{});
  return with_pre(Chosen<Mode::any>{});
}

}  // namespace

void adain_cpu(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  run<Forward>(p, stage, begin, end);
}
void adain_backward_cpu(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  run<Backward>(p, stage, begin, end);
}
void adain_double_backward_cpu(const AdainParams& p, AdainStage stage, int64_t begin, int64_t end) {
  run<DoubleBackward>(p, stage, begin, end);
}

}  // namespace GK_ISA
}  // namespace gk
