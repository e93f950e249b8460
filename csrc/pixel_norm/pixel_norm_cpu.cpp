// pixel_norm on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// Two passes over a tile of pixels that stays in cache between them: sums over channels, then the outputs.
//   inner > 1 (NCHW)           a channel's pixels are a row: one sum a pixel, in arrays along the rows
//   inner == 1 (channels_last) a pixel's channels are a row: one sum a row, in registers
// The sums of a pixel are made in an order that depends on the number of channels only.
#include <math.h>

#include "common/cpu_vec.h"
#include "pixel_norm/pixel_norm_math.h"
#include "pixel_norm/pixel_norm_params.h"

namespace gk {
namespace GK_ISA {
namespace {

using Pass = PixelNormPass;

constexpr int64_t kPixels = 1024;  // of a tile, at most: arrays of 4 KB of floats

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
GK_INLINE float root(float v) { return ::sqrtf(v); }
GK_INLINE double root(double v) { return ::sqrt(v); }

// Loads and stores of n < lanes numbers, or of a whole vector where n is lanes.
template <class S>
GK_INLINE typename S::Vec load(const typename S::Elem* p, int64_t n) {
  return n == S::lanes ? S::load(p) : S::load(p, n);
}
template <class S>
GK_INLINE void store(typename S::Elem* p, typename S::Vec v, int64_t n) {
  if (n == S::lanes)
    S::store(p, v);
  else
    S::store(p, v, n);
}

template <class S, Pass pass>
struct Kernel {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  static constexpr int sums = pixel_norm_sums<pass>;

  // Where the numbers of one row begin.
  struct Row {
    const Elem *x, *dy, *u;
    Elem *out, *d_dy;

    Row(const PixelNormParams& p, int64_t at)
        : x(static_cast<const Elem*>(p.x) + at),
          dy(pass == Pass::forward ? nullptr : static_cast<const Elem*>(p.dy) + at),
          u(pass == Pass::twice ? static_cast<const Elem*>(p.u) + at : nullptr),
          out(static_cast<Elem*>(pass == Pass::forward    ? p.y
                                 : pass == Pass::backward ? p.dx
                                                          : p.d_x) +
              at),
          d_dy(pass == Pass::twice && p.d_dy ? static_cast<Elem*>(p.d_dy) + at : nullptr) {}

    GK_INLINE void add(Vec* to, int64_t i, int64_t n) const {
      const Vec none{};
      pixel_norm_add<pass, Vec>(to, load<S>(x + i, n), pass == Pass::forward ? none : load<S>(dy + i, n),
                                pass == Pass::twice ? load<S>(u + i, n) : none);
    }
    // The outputs at i from the coefficients there.
    GK_INLINE void write(const Vec* c, int64_t i, int64_t n) const {
      const Vec v = load<S>(x + i, n);
      if constexpr (pass == Pass::forward) {
        store<S>(out + i, c[0] * v, n);
      } else if constexpr (pass == Pass::backward) {
        store<S>(out + i, c[0] * load<S>(dy + i, n) + c[1] * v, n);
      } else {
        const Vec given = load<S>(u + i, n), g = load<S>(dy + i, n);
        if (d_dy) store<S>(d_dy + i, c[0] * given + c[1] * v, n);
        store<S>(out + i, c[1] * g + c[2] * given + c[3] * v, n);
      }
    }
  };

  static GK_INLINE void coefficients(const PixelNormParams& p, Acc* c) {
    pixel_norm_coefficients<pass, Acc>(c, c, Acc(1) / static_cast<Acc>(p.channels), static_cast<Acc>(p.eps),
                                       [](Acc v) { return root(v); });
  }

  // `pixels` neighbours from element `first` on, whose channels are p.inner apart.
  static void planes(const PixelNormParams& p, int64_t first, int64_t pixels) {
    alignas(64) Acc c[sums][kPixels];
    constexpr int64_t kTogether = 4;  // channels, between which the sums stay in registers
    for (int64_t channel = 0; channel < p.channels; channel += kTogether) {
      const int64_t together = min64(kTogether, p.channels - channel);
      for (int64_t i = 0; i < pixels; i += S::lanes) {
        const int64_t n = min64(S::lanes, pixels - i);
        Vec total[sums]{};
        if (together == kTogether) {
          for (int64_t k = 0; k < kTogether; ++k) Row(p, first + (channel + k) * p.inner).add(total, i, n);
        } else {
          for (int64_t k = 0; k < together; ++k) Row(p, first + (channel + k) * p.inner).add(total, i, n);
        }
        for (int s = 0; s < sums; ++s)
          Scratch::store(c[s] + i, channel ? Scratch::load(c[s] + i) + total[s] : total[s]);
      }
    }
    for (int64_t i = 0; i < pixels; ++i) {
      Acc of_pixel[sums];
      for (int s = 0; s < sums; ++s) of_pixel[s] = c[s][i];
      coefficients(p, of_pixel);
      for (int s = 0; s < sums; ++s) c[s][i] = of_pixel[s];
    }
    for (int64_t channel = 0; channel < p.channels; ++channel) {
      const Row row(p, first + channel * p.inner);
      for (int64_t i = 0; i < pixels; i += S::lanes) {
        Vec here[sums];
        for (int s = 0; s < sums; ++s) here[s] = Scratch::load(c[s] + i);
        row.write(here, i, min64(S::lanes, pixels - i));
      }
    }
  }

  // One pixel, whose channels are contiguous from element `first` on.
  static void pixel(const PixelNormParams& p, int64_t first) {
    const Row row(p, first);
    constexpr int64_t kChains = 4;  // sums at a time, for additions wait for one another
    Vec total[kChains][sums]{};
    int64_t i = 0;
    for (; i + kChains * S::lanes <= p.channels; i += kChains * S::lanes)
      for (int64_t k = 0; k < kChains; ++k) row.add(total[k], i + k * S::lanes, S::lanes);
    for (; i < p.channels; i += S::lanes) row.add(total[0], i, min64(S::lanes, p.channels - i));
    Acc c[sums];
    for (int s = 0; s < sums; ++s) {
      const Vec all = (total[0][s] + total[1][s]) + (total[2][s] + total[3][s]);
      Acc sum = 0;
      for (int lane = 0; lane < S::lanes; ++lane) sum += all[lane];
      c[s] = sum;
    }
    coefficients(p, c);
    Vec here[sums];
    for (int s = 0; s < sums; ++s) here[s] = Vec{} + c[s];
    for (i = 0; i + S::lanes <= p.channels; i += S::lanes) row.write(here, i, S::lanes);
    if (i < p.channels) row.write(here, i, p.channels - i);
  }

  static void run(const PixelNormParams& p, int64_t begin, int64_t end) {
    if (p.inner == 1) {
      const int64_t last = min64(end * p.chunk, p.outer);
      for (int64_t o = begin * p.chunk; o < last; ++o) pixel(p, o * p.channels);
      return;
    }
    const int64_t across = (p.inner + p.chunk - 1) / p.chunk;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t o = piece / across, start = piece % across * p.chunk, stop = min64(start + p.chunk, p.inner);
      for (int64_t i = start; i < stop; i += kPixels) planes(p, o * p.channels * p.inner + i, min64(kPixels, stop - i));
    }
  }
};

template <Pass pass>
void run(const PixelNormParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { Kernel<decltype(s), pass>::run(p, begin, end); });
}

}  // namespace

void pixel_norm_cpu(const PixelNormParams& p, int64_t begin, int64_t end) { run<Pass::forward>(p, begin, end); }
void pixel_norm_backward_cpu(const PixelNormParams& p, int64_t begin, int64_t end) {
  run<Pass::backward>(p, begin, end);
}
void pixel_norm_double_backward_cpu(const PixelNormParams& p, int64_t begin, int64_t end) {
  run<Pass::twice>(p, begin, end);
}

}  // namespace GK_ISA
}  // namespace gk
