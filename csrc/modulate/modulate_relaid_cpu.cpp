// modulate on the CPU from one layout into the other: x is NCHW and y channels_last, or the reverse.
//
// Convolutions are faster in channels_last, so images are turned on the way in and out of them, and what has to be done to
// them anyway is done meanwhile. Lines of x (pixels of a channel, channels of a pixel) are across those of y: squares of
// as many lines as a vector has lanes are transposed in registers, by log2(lanes) rounds of interleaving.
#include "modulate/modulate_cpu.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int64_t kLines = 64;  // lines of y taken together: four cache lines of each line of x
// Lines of NCHW are a plane apart, and more of them than the hardware follows: they are fetched so many numbers ahead,
// whether they are read or written. (4 x 64 x 128^2 floats, one thread: scaled into channels_last in 1.8 instead of 4.2 ms, a
// layer's end back into NCHW in 2.8 instead of 5.9; a copy takes 1.6.)
constexpr int64_t kAhead = kLines;

// v[i] lane j becomes v[j] lane i. One round sends row i to 2 i, and 2 i + 1 for its upper half, of its half of the rows.
template <int LANES, class Vec>
GK_INLINE void transpose(Vec (&v)[LANES]) {
#pragma GCC unroll 4
  for (int round = 1; round < LANES; round *= 2) {
    Vec w[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; ++i) {
      w[2 * i] = interleave_low(v[i], v[i + LANES / 2]);
      w[2 * i + 1] = interleave_high(v[i], v[i + LANES / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) v[i] = w[i];
  }
}

// How many lines a square has along one axis, and how they are accessed.
template <class S>
struct All {
  static constexpr int64_t n = S::lanes;
  Whole access;
};
struct Some {
  int64_t n;
  Part access;
};

// A rectangle of an image: lines of y, of which line r begins at y + r * y_stride. Its number i is number r of line i of x,
// which begins at x + i * x_stride.
template <class S, Act act, bool TO_LAST>
struct Turn {
  using Elem = typename S::Elem;
  const Elem* x;
  Elem* y;
  int64_t x_stride, y_stride;
  Lines<S> lines;
  const ActSettings<typename S::Acc>& settings;

  template <class Down, class Along>
  GK_INLINE void square(int64_t row, int64_t column, Down down, Along along) const {
    constexpr int L = S::lanes;
    typename S::Vec v[L] = {};
    const Elem* from = x + column * x_stride + row;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (i < along.n) {
        if (TO_LAST) __builtin_prefetch(from + i * x_stride + kAhead, 0);
        v[i] = load<S>(from + i * x_stride, down.access);
      }
    transpose<L>(v);
    Elem* to = y + row * y_stride + column;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (i < down.n) {
        const Line<S> line = lines[row + i];
        if (!TO_LAST) __builtin_prefetch(to + i * y_stride + kAhead, 1);
        store<S>(to + i * y_stride, act_output<act>(line.apply(v[i], column, along.access), settings), along.access);
      }
  }

  void rectangle(int64_t rows, int64_t columns) const {
    constexpr int L = S::lanes;
    // Planes of 2^n pixels meet in few sets of a cache, which cannot hold many lines of y in NCHW at a time.
    constexpr int64_t kBand = TO_LAST ? kLines : L;
    for (int64_t band = 0; band < rows; band += kBand) {
      const int64_t end = min64(rows, band + kBand);
      for (int64_t column = 0; column < columns; column += L)
        for (int64_t row = band; row < end; row += L) {
          const int64_t down = min64(end - row, L), along = min64(columns - column, L);
          if (down == L && along == L)
            square(row, column, All<S>{}, All<S>{});
          else if (along == L)
            square(row, column, Some{down, {down}}, All<S>{});
          else if (down == L)
            square(row, column, All<S>{}, Some{along, {along}});
          else
            square(row, column, Some{down, {down}}, Some{along, {along}});
        }
    }
  }
};

template <class S>
void run(const ModulateParams& p, int64_t begin, int64_t end) {
  using Acc = typename S::Acc;
  using Elem = typename S::Elem;
  const ActSettings<Acc> settings(p.alpha, p.gain, p.clamp);
  with_act(p.act, [&](auto tag) {
    for (int64_t i = begin; i < end; ++i) {
      const Rectangle r = rectangle(p, i);
      const Numbers<Acc> n(p, r);
      const int64_t sample = r.sample * p.channels * p.pixels;
      const int64_t nchw = sample + r.channel * p.pixels + r.pixel, last = sample + r.pixel * p.channels + r.channel;
      const Elem* x = at<const Elem>(p.x, p.channels_last ? nchw : last);
      Elem* y = at<Elem>(p.y, p.channels_last ? last : nchw);
      if (p.channels_last)
        Turn<S, tag.act, true>{x, y, p.pixels, p.channels, Lines<S>{nullptr, n.noise, n.scale, n.b}, settings}
            .rectangle(r.pixels, r.channels);
      else
        Turn<S, tag.act, false>{x, y, p.channels, p.pixels, Lines<S>{n.scale, n.b, nullptr, n.noise}, settings}
            .rectangle(r.channels, r.pixels);
    }
  });
}

}  // namespace

void modulate_relaid_cpu(const ModulateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run<decltype(s)>(p, begin, end); });
}

}  // namespace GK_ISA
}  // namespace gk
