// filtered_lrelu on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// A lane of a vector is a plane: as many planes as a vector has lanes go through all steps together, and no step has to
// shuffle along a row. In channels_last the lanes are neighbours in memory; NCHW is transposed where it is read and
// written, at the two smallest images. A tile of output columns is streamed from top to bottom:
//
//   input rows            ring of as many as the up filter spans, converted to pixels of vectors, with bias and zeros
//   up, down the columns  one row                               (a full 2-D filter does this and the next step at once)
//   up, along the row     one intermediate row, which the activation then changes in place
//   down, along the row   ring of as many rows as the down filter has taps; a full 2-D filter has the intermediate rows
//   down the columns      one output row                        in this ring instead, and does both steps at once here
//
// The rings stay in cache. Along a row the sums are over pixels in the first level of it; down the columns the fewest
// columns are summed: those of the input and those of the output.
#include <new>

#include "filtered_lrelu/filtered_lrelu_cpu_mask.h"
#include "filtered_lrelu/filtered_lrelu_cpu_sums.h"
#include "filtered_lrelu/filtered_lrelu_params.h"
#include "upfirdn2d/upfirdn2d_math.h"

namespace gk {
namespace GK_ISA {
namespace {

// The rings of a tile. Narrower tiles overlap more: with 64 KB a full 12 x 12 filter took 1.4 times as long, and nothing
// was gained for separable ones.
constexpr int64_t kTileBytes = 192 * 1024;
constexpr int64_t kTaskRows = 192;  // output rows of a task, some: the filters' overlap should not count
constexpr int64_t kFewTasks = 8;    // where there would be fewer,
constexpr int64_t kLeastRows = 32;  // tasks are smaller, down to this

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
GK_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
GK_INLINE int64_t within(int64_t a, int64_t low, int64_t high) { return min64(max64(a, low), high); }

// One block of memory, handed out in pieces on cache lines. Whoever needs memory says so in a function that is called
// twice: first without a block, to count.
struct Arena {
  char* base = nullptr;
  int64_t used = 0;

  template <class T>
  void take(T*& piece, int64_t n) {
    piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
};

// One axis of a call.
struct Axis {
  int64_t in, mid, out;
  int64_t up, down, up_taps, down_taps;
  int64_t start, offset;

  // The input pixels [first, end) under the up filter at intermediate pixel i, and the first of its taps on one.
  Meeting meeting(int64_t i) const { return first_meeting(i - start, up); }
  int64_t taps_at(const Meeting& m) const { return taps_from(m.tap, up_taps, up); }
  int64_t input_end(int64_t i) const { return floor_div(i - start + up_taps - 1, up) + 1; }
  // The intermediate pixels that the outputs from o on are made of begin here; may lie outside of the image.
  int64_t mid_begin(int64_t o) const { return o * down + offset; }
  int64_t mid_end(int64_t o) const { return (o - 1) * down + down_taps + offset; }  // of the outputs before o
};

// What a tile works on along one axis.
struct Range {
  int64_t out0, out1;
  int64_t mid0, mid1;    // needed, perhaps beyond the image
  int64_t real0, real1;  // of these, inside
  int64_t own0, own1;    // whose mask this tile writes
  int64_t in0, in1;      // inputs under the real ones, perhaps beyond the image

  // `whole`: masks are cut at multiples of this.
  Range(const Axis& a, int64_t o0, int64_t o1, bool masked, int64_t whole) : out0(o0), out1(o1) {
    mid0 = a.mid_begin(o0), mid1 = a.mid_end(o1);
    own0 = own1 = 0;
    if (masked) {
      own0 = o0 == 0 ? 0 : within(ceil_div(mid0, whole) * whole, 0, a.mid);
      own1 = o1 == a.out ? a.mid : within(ceil_div(a.mid_begin(o1), whole) * whole, 0, a.mid);
      if (own0 < own1) mid0 = min64(mid0, own0), mid1 = max64(mid1, own1);
    }
    real0 = within(mid0, 0, a.mid), real1 = within(mid1, real0, a.mid);
    in0 = in1 = 0;
    if (real0 == real1) return;
    in0 = a.meeting(real0).pixel;
    in1 = max64(in0, a.input_end(real1 - 1));
  }
};

// How a call is cut into tasks: planes that share vectors, tiles of columns, bands of rows.
struct Geometry {
  Axis x, y;
  int lanes;
  int64_t channels;  // channels_last: of a task
  int64_t groups;    // of planes
  int64_t tile, tiles, band, bands;

  Geometry(const FilteredLreluParams& p, int vector_lanes, int64_t number_bytes) : lanes(vector_lanes) {
    x = {p.x.size[3], p.mid_w, p.y.size[3], p.up_x, p.down_x, p.up_w, p.down_w, p.start_x, p.offset_x};
    y = {p.x.size[2], p.mid_h, p.y.size[2], p.up_y, p.down_y, p.up_h, p.down_h, p.start_y, p.offset_y};
    const int64_t n = p.y.size[0], c = p.y.size[1];
    channels = max64(lanes, kMaskGroup);  // a byte of the mask is one task's
    groups = p.channels_last ? n * ceil_div(c, channels) : ceil_div(n * c, lanes);
    // Bytes of the rings, for each output column: intermediate pixels, and inputs.
    const int64_t rows_in = ceil_div(y.up_taps, y.up) + 1;
    const int64_t mid_rows = p.down_separable || y.down_taps == 1 ? 1 : y.down_taps, out_rows = y.down_taps;
    const int64_t bytes = (rows_in * x.down / x.up + mid_rows * x.down + out_rows) * lanes * number_bytes;
    const int64_t least = ceil_div(2 * x.down_taps, x.down);  // overlap of neighbouring tiles: half of it at most
    const int64_t most = max64(max64(kTileBytes / max64(bytes, 1), least), 4);
    tiles = max64(1, ceil_div(x.out, most));
    tile = ceil_div(x.out, tiles);
    tiles = ceil_div(x.out, max64(tile, 1));
    bands = max64(y.out / kTaskRows, min64(y.out / kLeastRows, ceil_div(kFewTasks, max64(1, groups * tiles))));
    bands = max64(1, bands);
    band = ceil_div(y.out, bands);
    bands = ceil_div(y.out, max64(band, 1));
  }
  int64_t tasks() const { return groups * tiles * bands; }
  Range columns(int64_t t, const FilteredLreluParams& p) const {
    return Range(x, t * tile, min64(x.out, (t + 1) * tile), p.mask_out, p.channels_last ? 1 : kMaskGroup);
  }
  Range rows(int64_t b, const FilteredLreluParams& p) const {
    return Range(y, b * band, min64(y.out, (b + 1) * band), p.mask_out, 1);
  }
};

// Taps in the order in which they are used: those of an up filter sorted by the tap that first meets a pixel.
template <class Acc>
struct Taps {
  bool up_full, down_full;
  bool down_mirrored;                  // the full filter's rows are the same from both ends, as a radial one's are
  Acc *up_x, *up_y, *down_x, *down_y;  // separable
  Acc *up_xy, *down_xy;                // full
  int64_t *up_x_at, *up_y_at, *up_xy_at;
  double *column, *row;  // while they are made

  void take(const FilteredLreluParams& p, Arena& arena) {
    arena.take(up_x, p.up_w);
    arena.take(up_y, p.up_h);
    arena.take(down_x, p.down_w);
    arena.take(down_y, p.down_h);
    arena.take(up_xy, p.up_separable ? 0 : p.up_h * p.up_w);
    arena.take(down_xy, p.down_separable ? 0 : p.down_h * p.down_w);
    arena.take(up_x_at, p.up_x);
    arena.take(up_y_at, p.up_y);
    arena.take(up_xy_at, p.up_x * p.up_y);
    arena.take(column, max64(p.up_h, p.down_h));
    arena.take(row, max64(p.up_w, p.down_w));
  }

  // Of taps that were rounded one by one, relative.
  static constexpr double kTolerance = sizeof(Acc) == 4 ? 2 * 0x1p-23 : 4 * 0x1p-52;
  static bool near(double a, double b) {
    const double off = a > b ? a - b : b - a;
    return off <= kTolerance * (b < 0 ? -b : b);
  }

  // Whether the filter is used as a column times a row, which then are in `column` and `row`.
  bool split(const void* taps, bool separable, int64_t h, int64_t w) {
    const Acc* const t = static_cast<const Acc*>(taps);
    if (taps && !separable) { return factor_taps(t, h, w, kTolerance, column, row); }
    for (int64_t k = 0; k < h; ++k) column[k] = taps ? static_cast<double>(t[k]) : 1;
    for (int64_t k = 0; k < w; ++k) row[k] = taps ? static_cast<double>(t[k]) : 1;
    return true;
  }

  void fill(const FilteredLreluParams& p) {
    const auto ky = [&](int64_t k, int64_t h) { return stored_tap(k, h, p.flip); };
    up_full = !split(p.up_taps, p.up_separable, p.up_h, p.up_w);
    int64_t n = 0;
    for (int64_t first = 0; first < p.up_x; ++first) {
      up_x_at[first] = n;
      for (int64_t k = first; k < p.up_w; k += p.up_x) up_x[n++] = static_cast<Acc>(row[ky(k, p.up_w)] * p.scale);
    }
    n = 0;
    for (int64_t first = 0; first < p.up_y; ++first) {
      up_y_at[first] = n;
      for (int64_t k = first; k < p.up_h; k += p.up_y) up_y[n++] = static_cast<Acc>(column[ky(k, p.up_h)]);
    }
    if (up_full) {
      const Acc* const t = static_cast<const Acc*>(p.up_taps);
      n = 0;
      for (int64_t y = 0; y < p.up_y; ++y)
        for (int64_t x = 0; x < p.up_x; ++x) {
          up_xy_at[y * p.up_x + x] = n;
          for (int64_t i = y; i < p.up_h; i += p.up_y)
            for (int64_t j = x; j < p.up_w; j += p.up_x)
              up_xy[n++] = static_cast<Acc>(t[ky(i, p.up_h) * p.up_w + ky(j, p.up_w)] * p.scale);
        }
    }
    down_full = !split(p.down_taps, p.down_separable, p.down_h, p.down_w);
    for (int64_t k = 0; k < p.down_w; ++k) down_x[k] = static_cast<Acc>(row[ky(k, p.down_w)]);
    for (int64_t k = 0; k < p.down_h; ++k) down_y[k] = static_cast<Acc>(column[ky(k, p.down_h)]);
    if (down_full) {
      const Acc* const t = static_cast<const Acc*>(p.down_taps);
      for (int64_t i = 0; i < p.down_h; ++i)
        for (int64_t j = 0; j < p.down_w; ++j)
          down_xy[i * p.down_w + j] = t[ky(i, p.down_h) * p.down_w + ky(j, p.down_w)];
      down_mirrored = p.down_h % 2 == 0;
      for (int64_t i = 0; i < p.down_h; ++i)
        for (int64_t j = 0; j < p.down_w; ++j)
          down_mirrored = down_mirrored && near(t[i * p.down_w + j], t[(p.down_h - 1 - i) * p.down_w + j]);
    }
  }
};

template <class S>
class Worker {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using V = typename ScratchOf<Acc>::type;
  static constexpr int L = S::lanes;

 public:
  Worker(const FilteredLreluParams& params, const Geometry& geometry)
      : p(params),
        geo(geometry),
        in_slots(ceil_div(p.up_h, p.up_y)),
        half_slots(p.down_h + p.down_y),  // two output rows are summed at once
        slopes(lrelu_slopes<Acc>(p.gain, p.negative_slope)),
        clamp(static_cast<Acc>(p.clamp)) {
    for (int64_t t = 0; t < geo.tiles; ++t) {
      const Range r = geo.columns(t, p);
      in_pitch = max64(in_pitch, pitch(r.in1 - r.in0));
      mid_pitch = max64(mid_pitch, pitch(r.mid1 - r.mid0));
    }
    out_pitch = pitch(geo.tile);
  }

  void take(Arena& arena) {
    taps.take(p, arena);
    // Whether the down filter is full is known only when the taps have been sorted.
    const bool maybe_full = p.down_taps && !p.down_separable;
    arena.take(in_ring, in_slots * in_pitch);
    arena.take(up_rows, p.up_y * in_pitch);
    arena.take(mid_ring, (maybe_full ? p.down_h : 1) * mid_pitch);
    arena.take(half_ring, half_slots * out_pitch);
    arena.take(out_rows, 2 * out_pitch + L * L);  // is transposed in whole blocks
    arena.take(zero_row, max64(in_pitch, max64(mid_pitch, out_pitch)));
    arena.take(rows, max64(in_slots, half_slots));
    arena.take(phases, p.up_x);
    arena.take(codes, p.mask_in || p.mask_out ? mid_pitch / kMaskGroup + 34 * L : 0);
  }

  void prepare() {
    taps.fill(p);
    const int64_t n = max64(in_pitch, max64(mid_pitch, out_pitch));
    for (int64_t i = 0; i < n; ++i) zero_row[i] = 0;
  }

  void task(int64_t t) {
    const int64_t group = t / (geo.tiles * geo.bands), rest = t % (geo.tiles * geo.bands);
    const Range columns = geo.columns(rest % geo.tiles, p), lines = geo.rows(rest / geo.tiles, p);
    if (!p.channels_last) {
      const int64_t planes = p.y.size[0] * p.y.size[1], first = group * L;
      set_planes(first, min64(L, planes - first));
      return tile(columns, lines);
    }
    const int64_t chunks = ceil_div(p.y.size[1], geo.channels);
    sample = group / chunks;
    const int64_t begin = group % chunks * geo.channels, end = min64(begin + geo.channels, p.y.size[1]);
    for (channel = begin; channel < end; channel += L) {
      set_channels(min64(L, end - channel));
      tile(columns, lines);
    }
  }

 private:
  // Every up_x-th pixel of an intermediate row, from one of the first up_x on: the first tap and how many there are, the
  // first input pixel under them, counted from the tile's, and how many such pixels there are.
  struct Phase {
    int64_t tap, count, at, results;
  };

  // An odd number of pixels: the rows of a ring must not all meet in the same few sets of a cache.
  static int64_t pitch(int64_t pixels) { return (pixels | 1) * L; }

  // Lanes without a plane repeat the last one's; they are never stored.
  void set_planes(int64_t first, int64_t n) {
    lanes = n;
    for (int l = 0; l < L; ++l) {
      const int64_t at = first + min64(l, n - 1), s = at / p.y.size[1], c = at % p.y.size[1];
      plane[l] = at;
      x_plane[l] = static_cast<const Elem*>(p.x.data) + s * p.x.stride[0] + c * p.x.stride[1];
      y_plane[l] = static_cast<Elem*>(p.y.data) + s * p.y.stride[0] + c * p.y.stride[1];
      bias[l] = p.bias ? static_cast<const Acc*>(p.bias)[c] : Acc(0);
      set_factors(l, at);
    }
  }
  void set_channels(int64_t n) {
    lanes = n;
    x_plane[0] = static_cast<const Elem*>(p.x.data) + sample * p.x.stride[0] + channel;
    y_plane[0] = static_cast<Elem*>(p.y.data) + sample * p.y.stride[0] + channel;
    for (int l = 0; l < L; ++l) {
      bias[l] = p.bias && l < n ? static_cast<const Acc*>(p.bias)[channel + l] : Acc(0);
      set_factors(l, sample * p.y.size[1] + channel + min64(l, n - 1));
    }
  }
  void set_factors(int l, int64_t at) {
    factor_in[l] = p.factor_in ? static_cast<const Acc*>(p.factor_in)[at] : Acc(1);
    factor_out[l] = p.factor_out ? static_cast<const Acc*>(p.factor_out)[at] : Acc(1);
  }

  void tile(const Range& cx, const Range& cy) {
    // The margins beyond the images stay zero all the way down.
    for (int64_t i = 0; i < in_slots * in_pitch; ++i) in_ring[i] = 0;
    for (int64_t i = 0; i < p.up_y * in_pitch; ++i) up_rows[i] = 0;
    for (int64_t i = 0; i < (taps.down_full ? p.down_h : 1) * mid_pitch; ++i) mid_ring[i] = 0;
    for (int64_t k = 0; k < min64(p.up_x, cx.real1 - cx.real0); ++k) {
      const Meeting m = geo.x.meeting(cx.real0 + k);
      phases[k] = {m.tap, geo.x.taps_at(m), m.pixel - cx.in0, ceil_div(cx.real1 - cx.real0 - k, p.up_x)};
    }
    next_in = next_up = INT64_MIN;
    next_mid = cy.real0;
    for (int64_t o = cy.out0; o < cy.out1;) {
      const int64_t n = cx.out1 - cx.out0, begin = geo.y.mid_begin(o);
      if (!taps.down_full && o + 1 < cy.out1 && p.down_h == 12 && p.down_y == 2) {
        gather_rows(cx, cy, begin, p.down_h + p.down_y);
        sum_row_pairs<V, 12, 2>(rows, taps.down_y, nullptr, n, out_rows, out_rows + out_pitch);
        store_row(o++, cx, out_rows);
        store_row(o++, cx, out_rows + out_pitch);
        continue;
      }
      gather_rows(cx, cy, begin, p.down_h);
      if (taps.down_full)
        sum_windows<V>({rows, p.down_h, taps.down_xy, p.down_w, p.down_x, taps.down_mirrored}, 0, n, out_rows, 1);
      else
        sum_rows<V>(rows, p.down_h, taps.down_y, n, out_rows);
      store_row(o++, cx, out_rows);
    }
    for (; next_mid < cy.own1; ++next_mid) make_mid(cx, cy, next_mid);
  }

  // Puts n rows from intermediate row `begin` on into `rows`, as the last step needs them; makes those not made yet.
  void gather_rows(const Range& cx, const Range& cy, int64_t begin, int64_t n) {
    if (!p.mask_out) next_mid = max64(next_mid, begin);
    for (; next_mid < min64(begin + n, p.mid_h); ++next_mid) make_mid(cx, cy, next_mid);
    const int64_t slots = taps.down_full ? p.down_h : half_slots, step = taps.down_full ? mid_pitch : out_pitch;
    const Acc* const ring = taps.down_full ? mid_ring + skipped(cx) : half_ring;
    ring_rows(ring, slots, step, begin, n, p.mid_h);
  }

  // Rows [begin, begin + n) of an image of `height` rows, of which row i is in slot i % slots of a ring; zeros beyond it.
  // (Slots are counted on, not divided for: rows may be short.)
  void ring_rows(const Acc* ring, int64_t slots, int64_t step, int64_t begin, int64_t n, int64_t height) {
    for (int64_t k = 0, slot = begin - floor_div(begin, slots) * slots; k < n; ++k) {
      rows[k] = begin + k >= 0 && begin + k < height ? ring + slot * step : zero_row;
      if (++slot == slots) slot = 0;
    }
  }

  // Where in an intermediate row the first output's window begins.
  int64_t skipped(const Range& cx) const { return (geo.x.mid_begin(cx.out0) - cx.mid0) * L; }

  void make_mid(const Range& cx, const Range& cy, int64_t i) {
    Acc* const mid = mid_ring + (taps.down_full ? i % p.down_h * mid_pitch : 0);
    Acc* const real = mid + (cx.real0 - cx.mid0) * L;
    const Meeting my = geo.y.meeting(i);
    const int64_t n = geo.y.taps_at(my);
    for (next_in = max64(next_in, max64(my.pixel, 0)); next_in < min64(my.pixel + n, p.x.size[2]); ++next_in)
      load_row(next_in, cx);
    ring_rows(in_ring, in_slots, in_pitch, my.pixel, n, p.x.size[2]);
    if (!taps.up_full) sum_up_rows(cx, i, my, n);
    const Acc* const up_row = up_rows + my.tap * in_pitch;
    for (int64_t k = 0; k < min64(p.up_x, cx.real1 - cx.real0); ++k) {
      const Phase& x = phases[k];
      const Window<Acc> window =
          taps.up_full ? Window<Acc>{rows, n, taps.up_xy + taps.up_xy_at[my.tap * p.up_x + x.tap], x.count, 1}
                       : Window<Acc>{&up_row, 1, taps.up_x + taps.up_x_at[x.tap], x.count, 1};
      sum_windows<V>(window, x.at, x.results, real + k * L, p.up_x);
    }
    const bool own = i >= cy.own0 && i < cy.own1 && cx.own0 < cx.own1;
    if (p.mask_in) read_mask(cx, i);
    activate_row<V>(p.mask_in ? Mask::read
                    : own     ? Mask::write
                              : Mask::none,
                    real, cx.real0, cx.real1, slopes, clamp, codes);
    if (own) write_mask(cx, i);
    if (taps.down_full) return;
    const Acc* const mid_row = mid + skipped(cx);
    sum_windows<V>({&mid_row, 1, taps.down_x, p.down_w, p.down_x}, 0, cx.out1 - cx.out0,
                   half_ring + i % half_slots * out_pitch, 1);
  }

  // The rows in `rows` up-sampled down the columns: intermediate row i's. Those of the next phases are under the same
  // input rows: two are made at once, the second for the next call.
  void sum_up_rows(const Range& cx, int64_t i, const Meeting& m, int64_t n) {
    if (i == next_up) return;
    const int64_t from = within(cx.in0, 0, p.x.size[3]), to = within(cx.in1, from, p.x.size[3]);
    const int64_t margin = (from - cx.in0) * L;
    for (int64_t r = 0; r < n; ++r) rows[r] += margin;
    Acc* const out = up_rows + m.tap * in_pitch + margin;
    if (n == 6 && m.tap > 0 && p.up_h == 6 * p.up_y) {
      sum_row_pairs<V, 6, 0>(rows, taps.up_y + taps.up_y_at[m.tap], taps.up_y + taps.up_y_at[m.tap - 1], to - from, out,
                             out - in_pitch);
      next_up = i + 1;
    } else {
      sum_rows<V>(rows, n, taps.up_y + taps.up_y_at[m.tap], to - from, out);
    }
  }

  // Asks for a row of pixels in channels_last that will be needed a row later: where there are many channels they are a
  // page apart, where the hardware fetches nothing ahead. WRITE: they will be overwritten.
  template <int WRITE>
  static void fetch_pixels(const Elem* pixels, int64_t n, int64_t stride) {
    for (int64_t i = 0; i < n; ++i) __builtin_prefetch(pixels + i * stride, WRITE, 3);
  }

  void load_row(int64_t j, const Range& cx) {
    const int64_t from = within(cx.in0, 0, p.x.size[3]), to = within(cx.in1, from, p.x.size[3]);
    Acc* out = in_ring + j % in_slots * in_pitch + (from - cx.in0) * L;
    const typename V::Vec b = V::load(bias), f = V::load(factor_in);
    if (p.channels_last) {
      const Elem* x = x_plane[0] + j * p.x.stride[2] + from * p.x.stride[3];
      if (j + 1 < p.x.size[2]) fetch_pixels<0>(x + p.x.stride[2], to - from, p.x.stride[3]);
      if (lanes == L)
        for (int64_t i = from; i < to; ++i, x += p.x.stride[3], out += L) V::store(out, S::load(x) * f + b);
      else
        for (int64_t i = from; i < to; ++i, x += p.x.stride[3], out += L) V::store(out, S::load(x, lanes) * f + b);
      return;
    }
    load_planes(j * p.x.stride[2], from, to, out, p.factor_in ? typename V::Vec{} : b);
    if (p.factor_in)
      for (int64_t i = 0; i < to - from; ++i) V::store(out + i * L, V::load(out + i * L) * f + b);
  }

  // Pixels [from, to) of rows `at` numbers from the beginning of their planes, plus b. (A factor here took 15 % of the time
  // of all calls: transposing needs all registers.)
  void load_planes(int64_t at, int64_t from, int64_t to, Acc* out, typename V::Vec b) {
    typename V::Vec v[L];
    int64_t i = from;
    for (; i + L <= to; i += L) {
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) v[l] = S::load(x_plane[l] + at + i);
      transpose<V>(v);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) V::store(out + ((i - from) + l) * L, v[l] + b);
    }
    if (i == to) return;
    for (int l = 0; l < L; ++l) v[l] = S::load(x_plane[l] + at + i, to - i);
    transpose<V>(v);
    for (int64_t l = 0; l < to - i; ++l) V::store(out + ((i - from) + l) * L, v[l] + b);
  }

  void store_row(int64_t o, const Range& cx, Acc* row) {
    const int64_t n = cx.out1 - cx.out0;
    const typename V::Vec f = V::load(factor_out);
    if (p.channels_last) {
      Elem* y = y_plane[0] + o * p.y.stride[2] + cx.out0 * p.y.stride[3];
      if (o + 1 < p.y.size[2]) fetch_pixels<1>(y + p.y.stride[2], n, p.y.stride[3]);
      if (lanes == L)
        for (int64_t i = 0; i < n; ++i, y += p.y.stride[3]) S::store(y, V::load(row + i * L) * f);
      else
        for (int64_t i = 0; i < n; ++i, y += p.y.stride[3]) S::store(y, V::load(row + i * L) * f, lanes);
      return;
    }
    if (p.factor_out)
      for (int64_t i = 0; i < n; ++i) V::store(row + i * L, V::load(row + i * L) * f);
    const int64_t at = o * p.y.stride[2] + cx.out0;
    typename V::Vec v[L];
    for (int64_t i = 0; i < n; i += L) {
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) v[l] = V::load(row + (i + l) * L);
      transpose<V>(v);
      if (n - i >= L)
        for (int64_t l = 0; l < lanes; ++l) S::store(y_plane[l] + at + i, v[l]);
      else
        for (int64_t l = 0; l < lanes; ++l) S::store(y_plane[l] + at + i, v[l], n - i);
    }
  }

  // Row i of the mask, from its first byte on; in channels_last at the lanes' channels.
  int64_t mask_row(int64_t image, int64_t i) const {
    if (p.channels_last) return (image * p.mid_h + i) * p.mid_w * mask_bytes(p.y.size[1]) + channel / kMaskGroup;
    return (image * p.mid_h + i) * mask_bytes(p.mid_w);
  }
  int code_shift() const { return static_cast<int>(channel % kMaskGroup) * 2; }

  void read_mask(const Range& cx, int64_t i) {
    if (cx.real0 == cx.real1) return;
    if (p.channels_last) {
      read_pixels<L>(codes, cx.real0, cx.real1, p.mask_in + mask_row(sample, i), mask_bytes(p.y.size[1]), lanes,
                     code_shift());
      return;
    }
    const int64_t first = cx.real0 / kMaskGroup;
    const uint8_t* row[L];
    for (int l = 0; l < L; ++l) row[l] = p.mask_in + mask_row(plane[l], i) + first;
    read_rows<L>(codes, mask_bytes(cx.real1) - first, row);
  }

  void write_mask(const Range& cx, int64_t i) {
    const int64_t first = cx.real0 / kMaskGroup;  // the group that codes begin with
    if (p.channels_last) {
      write_pixels<L>(codes + (cx.own0 / kMaskGroup - first) * L, cx.own0, cx.own1, p.mask_out + mask_row(sample, i),
                      mask_bytes(p.y.size[1]), lanes, code_shift());
      return;
    }
    const int64_t own = cx.own0 / kMaskGroup;
    uint8_t* row[L];
    for (int l = 0; l < L; ++l) row[l] = p.mask_out + mask_row(plane[l], i) + own;
    write_rows<L>(codes + (own - first) * L, mask_bytes(cx.own1) - own, row, lanes);
  }

  const FilteredLreluParams& p;
  const Geometry& geo;
  Taps<Acc> taps;
  const int64_t in_slots, half_slots;
  int64_t in_pitch = 0, mid_pitch = 0, out_pitch = 0;
  const LreluSlopes<Acc> slopes;
  const Acc clamp;
  Acc *in_ring, *up_rows, *mid_ring, *half_ring, *out_rows, *zero_row;
  const Acc** rows;
  Phase* phases;  // of the tile at hand
  uint8_t* codes;
  int64_t next_in = 0;  // the first input row that the ring has not had
  int64_t next_mid = 0;
  int64_t next_up = 0;  // the intermediate row whose columns have been summed with its predecessor's
  // The planes at hand.
  int64_t lanes = 0, sample = 0, channel = 0;
  int64_t plane[L];
  const Elem* x_plane[L];
  Elem* y_plane[L];
  Acc bias[L], factor_in[L], factor_out[L];
};

template <class S>
Geometry geometry(const FilteredLreluParams& p) {
  return Geometry(p, S::lanes, sizeof(typename S::Acc));
}

template <class S>
void run_tasks(const FilteredLreluParams& p, int64_t begin, int64_t end) {
  const Geometry geo = geometry<S>(p);
  Worker<S> worker(p, geo);
  Arena arena;
  worker.take(arena);
  arena.base = static_cast<char*>(::operator new(arena.used, std::align_val_t{64}));
  arena.used = 0;
  worker.take(arena);
  worker.prepare();
  for (int64_t t = begin; t < end; ++t) worker.task(t);
  ::operator delete(arena.base, std::align_val_t{64});
}

}  // namespace

int64_t filtered_lrelu_cpu_tasks(const FilteredLreluParams& p) {
  return (p.dtype == DType::f64 ? geometry<F64>(p) : geometry<F32>(p)).tasks();
}

void filtered_lrelu_cpu(const FilteredLreluParams& p, int64_t begin, int64_t end) {
  if (begin >= end) return;
  with_dtype(p.dtype, [&](auto s) { run_tasks<decltype(s)>(p, begin, end); });
}

}  // namespace GK_ISA
}  // namespace gk
