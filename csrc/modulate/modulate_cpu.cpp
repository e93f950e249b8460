// modulate on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// A rectangle of pixels and channels is rows of contiguous numbers, some distance apart: in NCHW a row is pixels of a
// channel, in channels_last it is the channels of a pixel. What belongs to a channel or to a pixel is then one number
// for a whole row, or an array along the row, and so are the sums. With that both layouts are the same loops:
//
//                    a number a row             an array along the row
//   NCHW             scale, b, their sums       noise, its sums
//   channels_last    noise, its sums            scale, b, their sums
//
// Sums of a row stay in a register; arrays of sums are in L1 or close to it, for that is how long rows are. Pixels of few
// channels make short rows: several are joined, with what belongs to them written out into arrays (see Joined).
#include "modulate/modulate_cpu.h"

namespace gk {
namespace GK_ISA {
namespace {

// Where sums go: a number a row, or added to an array along the rows. Each may be null.
template <class S>
struct Sums {
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  Acc *of_rows, *of_columns;

  GK_INLINE bool wanted() const { return of_rows || of_columns; }
  template <class Access>
  GK_INLINE void add(Vec v, int64_t i, Access access) const {
    if (of_columns) store<Scratch>(of_columns + i, load<Scratch>(of_columns + i, access) + v, access);
  }
  GK_INLINE void end_row(Vec total, int64_t row) const {
    if (of_rows) of_rows[row] = sum_lanes(total);
  }
};

template <class Acc>
void clear(Acc* array, int64_t n) {
  for (int64_t i = 0; array && i < n; ++i) array[i] = 0;
}

// Rows with all that belongs to them: what a kernel is given.
template <class S>
struct Rows {
  int64_t rows, columns, first, stride;  // elements [first + r * stride, first + r * stride + columns)
  Lines<S> lines, cotangents;
  Sums<S> sums, products;
};

// ---- kernels: several rows ---------------------------------------------------------------------------------------------
template <class S>
struct Kernels {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Settings = ActSettings<Acc>;
  using Kernel = void (*)(const ModulateParams& p, const Rows<S>& r, const Settings& settings);

  template <Act act>
  static void forward(const ModulateParams& p, const Rows<S>& r, const Settings& settings) {
    const Settings s = settings;
    for (int64_t row = 0; row < r.rows; ++row) {
      const int64_t first = r.first + row * r.stride;
      const Elem* x = at<const Elem>(p.x, first);
      Elem* y = at<Elem>(p.y, first);
      const Line<S> line = r.lines[row];
      for_vectors<S>(r.columns, [&](int64_t i, auto access) {
        const Vec v = line.apply(load<S>(x + i, access), i, access);
        store<S>(y + i, act_output<act>(v, s), access);
      });
    }
  }

  // What the slope is a function of: the output, or v, of which x is loaded already.
  template <From from, class Access>
  static GK_INLINE Vec reference(const Elem* y, Vec x, const Line<S>& line, int64_t i, Access access) {
    if constexpr (from == From::y) return load<S>(y + i, access);
    if constexpr (from == From::v) return line.apply(x, i, access);
    return Vec{};
  }

  template <From from, Act act>
  static void backward(const ModulateParams& p, const Rows<S>& r, const Settings& settings) {
    const Settings s = settings;
    const Sums<S> sums = r.sums, products = r.products;
    const bool needs_x = from == From::v || p.dscale_partial;
    for (int64_t row = 0; row < r.rows; ++row) {
      const int64_t first = r.first + row * r.stride;
      const Elem* dy = at<const Elem>(p.dy, first);
      const Elem* y = at<const Elem>(p.y_saved, first);
      const Elem* x = needs_x ? at<const Elem>(p.x, first) : nullptr;
      Elem* dx = at<Elem>(p.dx, first);
      const Line<S> line = r.lines[row];
      Vec sum{}, product_sum{};
      for_vectors<S>(r.columns, [&](int64_t i, auto access) {
        const Vec value = x ? load<S>(x + i, access) : Vec{};
        const Vec g = load<S>(dy + i, access) * slope_of<from, act>(reference<from>(y, value, line, i, access), s);
        if (dx) store<S>(dx + i, line.times(g, i, access), access);
        sums.add(g, i, access);
        sum += g;
        if (products.wanted()) {
          const Vec product = g * value;
          products.add(product, i, access);
          product_sum += product;
        }
      });
      sums.end_row(sum, row), products.end_row(product_sum, row);
    }
  }

  template <From from, Act act>
  static void double_backward(const ModulateParams& p, const Rows<S>& r, const Settings& settings) {
    const Settings s = settings;
    const Sums<S> products = r.products;
    const bool needs_x = from == From::v || p.u_scale;
    const bool needs_dy = (act_curved(act) && p.d_saved) || p.d_x || p.d_scale_partial;
    for (int64_t row = 0; row < r.rows; ++row) {
      const int64_t first = r.first + row * r.stride;
      const Elem* dy = needs_dy ? at<const Elem>(p.dy, first) : nullptr;
      const Elem* y = at<const Elem>(p.y_saved, first);
      const Elem* x = needs_x ? at<const Elem>(p.x, first) : nullptr;
      const Elem* u = at<const Elem>(p.u, first);
      Elem* d_dy = at<Elem>(p.d_dy, first);
      Elem* d_saved = at<Elem>(p.d_saved, first);
      Elem* d_x = at<Elem>(p.d_x, first);
      const Line<S> line = r.lines[row], cotangent = r.cotangents[row];
      Vec product_sum{};
      for_vectors<S>(r.columns, [&](int64_t i, auto access) {
        const Vec value = x ? load<S>(x + i, access) : Vec{};
        const Vec ref = reference<from>(y, value, line, i, access);
        const Vec slope = slope_of<from, act>(ref, s);
        const Vec dy_value = dy ? load<S>(dy + i, access) : Vec{};
        const Vec g = dy_value * slope;
        // Without u_scale its factor is 1: then it must have nothing to multiply.
        Vec total = cotangent.apply(p.u_scale ? value : Vec{}, i, access);
        if (u) {
          const Vec given = load<S>(u + i, access);
          total += line.times(given, i, access);
          if (products.wanted()) {
            const Vec product = given * g;
            products.add(product, i, access);
            product_sum += product;
          }
        }
        if (d_dy) store<S>(d_dy + i, total * slope, access);
        if (d_saved) {
          Vec curved{};
          if constexpr (act_curved(act)) curved = total * dy_value * curvature_of<from, act>(ref, s);
          store<S>(d_saved + i, curved, access);
        }
        if (d_x) store<S>(d_x + i, cotangent.times(g, i, access), access);
      });
      products.end_row(product_sum, row);
    }
  }
};

// ---- rectangles ----------------------------------------------------------------------------------------------------
template <class S>
void do_rows(const ModulateParams& p, const Rectangle& r, typename Kernels<S>::Kernel kernel,
             const ActSettings<typename S::Acc>& settings) {
  const Numbers<typename S::Acc> n(p, r);
  if (p.channels_last) {
    clear(n.channel_sums, r.channels), clear(n.channel_products, r.channels);
    kernel(p,
           {r.pixels, r.channels, (r.sample * p.pixels + r.pixel) * p.channels + r.channel, p.channels,
            Lines<S>{nullptr, n.noise, n.scale, n.b}, Lines<S>{nullptr, n.u_noise, n.u_scale, n.u_b},
            Sums<S>{n.pixel_sums, n.channel_sums}, Sums<S>{nullptr, n.channel_products}},
           settings);
  } else {
    clear(n.pixel_sums, r.pixels);
    kernel(p,
           {r.channels, r.pixels, (r.sample * p.channels + r.channel) * p.pixels + r.pixel, p.pixels,
            Lines<S>{n.scale, n.b, nullptr, n.noise}, Lines<S>{n.u_scale, n.u_b, nullptr, n.u_noise},
            Sums<S>{n.channel_sums, n.pixel_sums}, Sums<S>{n.channel_products, nullptr}},
           settings);
  }
}

constexpr int64_t kJoined = 1024;  // numbers of a joined row, at most: 4 KB of floats for each array

// Whole pixels of few channels, channels_last: several in a row, with arrays for what belongs to them.
template <class S>
class Joined {
  using Acc = typename S::Acc;
  using Settings = ActSettings<Acc>;

 public:
  Joined(const ModulateParams& params, typename Kernels<S>::Kernel kernel_, const Settings& settings_)
      : p(params), c(p.channels), kernel(kernel_), settings(settings_) {}

  void operator()(const Rectangle& r) {
    const int64_t most = kJoined / c, first = (r.sample * p.pixels + r.pixel) * c;
    const Numbers<Acc> n(p, r);
    const Acc* factors = repeat(scale, n.scale);
    const Acc* u_factors = repeat(u_scale, n.u_scale);
    const Acc* addends = repeat(addend, n.b);
    const Acc* u_addends = repeat(u_addend, n.u_b);
    Acc* g = n.channel_sums || n.pixel_sums ? sums : nullptr;
    Acc* gx = n.channel_products ? products : nullptr;
    clear(g, kJoined), clear(gx, kJoined), clear(n.channel_sums, c), clear(n.channel_products, c);
    for (int64_t pixel = 0; pixel < r.pixels; pixel += most) {
      const int64_t pixels = min64(most, r.pixels - pixel);
      if (n.noise) addends = spread(addend, n.b, n.noise + pixel, pixels);
      if (n.u_noise) u_addends = spread(u_addend, n.u_b, n.u_noise + pixel, pixels);
      kernel(p,
             {1, pixels * c, first + pixel * c, 0, Lines<S>{nullptr, nullptr, factors, addends},
              Lines<S>{nullptr, nullptr, u_factors, u_addends}, Sums<S>{nullptr, g}, Sums<S>{nullptr, gx}},
             settings);
      if (!n.pixel_sums) continue;
      for (int64_t i = 0; i < pixels; ++i) {
        Acc total = 0;
        for (int64_t k = 0; k < c; ++k) total += g[i * c + k];
        n.pixel_sums[pixel + i] = total;
      }
      fold(n.channel_sums, g, pixels * c), clear(g, pixels * c);
    }
    if (!n.pixel_sums) fold(n.channel_sums, g, most * c);
    fold(n.channel_products, gx, most * c);
  }

 private:
  // One number a channel for every pixel of a row.
  const Acc* repeat(Acc* array, const Acc* numbers) const {
    if (!numbers) return nullptr;
    for (int64_t i = 0; i + c <= kJoined; i += c)
      for (int64_t k = 0; k < c; ++k) array[i + k] = numbers[k];
    return array;
  }
  // b[channel] + noise[pixel].
  const Acc* spread(Acc* array, const Acc* b, const Acc* noise, int64_t pixels) const {
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t k = 0; k < c; ++k) array[i * c + k] = (b ? b[k] : Acc(0)) + noise[i];
    return array;
  }
  void fold(Acc* to, const Acc* array, int64_t n) const {
    for (int64_t i = 0; to && i < n; i += c)
      for (int64_t k = 0; k < c; ++k) to[k] += array[i + k];
  }

  const ModulateParams& p;
  const int64_t c;
  const typename Kernels<S>::Kernel kernel;
  const Settings& settings;
  alignas(64) Acc scale[kJoined], u_scale[kJoined], addend[kJoined], u_addend[kJoined], sums[kJoined],
      products[kJoined];
};

template <class S>
void run(const ModulateParams& p, int64_t begin, int64_t end, typename Kernels<S>::Kernel kernel) {
  const ActSettings<typename S::Acc> settings(p.alpha, p.gain, p.clamp);
  // Pixels of less than two vectors, or with a rest that weighs, are joined.
  const bool few = p.channels < 2 * S::lanes || (p.channels < 64 && p.channels % S::lanes);
  if (p.channels_last && p.channel_chunks == 1 && few) {
    Joined<S> joined(p, kernel, settings);
    for (int64_t i = begin; i < end; ++i) joined(rectangle(p, i));
  } else {
    for (int64_t i = begin; i < end; ++i) do_rows<S>(p, rectangle(p, i), kernel, settings);
  }
}

// Calls f with a Tag of the activation and what its slope is a function of.
template <From from>
struct Source {
  static constexpr From value = from;
};
template <class F>
auto with_source(const ModulateParams& p, F f) {
  if (p.y_saved) return with_act(p.act, [&](auto tag) { return f(tag, Source<From::y>{}); });
  if (p.x && !(p.act == Act::linear && p.clamp < 0))
    return with_act(p.act, [&](auto tag) { return f(tag, Source<From::v>{}); });
  return f(Tag<Act::linear>{}, Source<From::nothing>{});
}

template <class S>
void run_forward(const ModulateParams& p, int64_t begin, int64_t end) {
  using Kernel = typename Kernels<S>::Kernel;
  run<S>(p, begin, end, with_act(p.act, [](auto tag) -> Kernel { return &Kernels<S>::template forward<tag.act>; }));
}
template <class S>
void run_backward(const ModulateParams& p, int64_t begin, int64_t end) {
  using Kernel = typename Kernels<S>::Kernel;
  run<S>(p, begin, end, with_source(p, [](auto tag, auto from) -> Kernel {
           return &Kernels<S>::template backward<from.value, tag.act>;
         }));
}
template <class S>
void run_double_backward(const ModulateParams& p, int64_t begin, int64_t end) {
  using Kernel = typename Kernels<S>::Kernel;
  run<S>(p, begin, end, with_source(p, [](auto tag, auto from) -> Kernel {
           return &Kernels<S>::template double_backward<from.value, tag.act>;
         }));
}

}  // namespace

void modulate_cpu(const ModulateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_forward<decltype(s)>(p, begin, end); });
}

void modulate_backward_cpu(const ModulateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_backward<decltype(s)>(p, begin, end); });
}

void modulate_double_backward_cpu(const ModulateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_double_backward<decltype(s)>(p, begin, end); });
}

}  // namespace GK_ISA
}  // namespace gk
