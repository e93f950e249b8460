// upfirdn2d on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// An image is rows of pixels of `channels` interleaved numbers: NCHW gives N * C images of one channel, channels_last N
// images of C (or of a chunk of C). Every output row is made in two passes that meet in a scratch row which stays in
// cache:
//
//   down the columns:  the input rows under the filter are summed into one row of floats, converted on load;
//   along the row:     each output is a sum of that row at a few offsets.
//
// A filter that is no product of a column and a row skips the sum of the first pass: each input row is converted once
// into a ring of scratch rows, and the second pass sums over all rows of the ring.
//
// Scratch rows are padded with zeros, so that the second pass needs no bounds. It is polyphase: with up/down in lowest
// terms P/D, output q * P + r is the sum over m of taps[r][m] * row[q * D + offset[r][m]]. For one channel the scratch
// row is stored as D subrows (pixel i in subrow i mod D), so that every term is a contiguous load over q, and P phases
// are interleaved on the way out. For several channels the loads are contiguous over the channels as it is.
#include <new>

#include "common/cpu_fir.h"
#include "upfirdn2d/upfirdn2d_math.h"
#include "upfirdn2d/upfirdn2d_params.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int64_t kTaskNumbers = 32 * 1024;  // numbers read or written by one task, at least: some 20 us
constexpr int64_t kRowNumbers = 4096;        // scratch row of one channel: 16 KB of floats, half of a small L1
constexpr int64_t kPixelNumbers = 1024;  // the same of interleaved channels: with the rows under the filter it fits L1
constexpr int64_t kChannels = 2048;      // interleaved channels taken together

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
GK_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// One block of memory, handed out in pieces on cache lines. Whoever needs memory says so in a function that is called
// twice: first without a block, to count. (One allocation, and nothing to clean up if it throws.)
struct Arena {
  char* base = nullptr;
  int64_t used = 0;

  template <class T>
  void take(T*& piece, int64_t n) {
    piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
};

// The images of a call, their sizes, and how they are cut into tasks. Cheap: made anew for every range of tasks.
struct Geometry {
  bool interleaved;  // channels_last
  int64_t channels;  // of an image, at most
  int64_t chunks;    // images per sample (channel by channel, or chunk by chunk)
  int64_t rows;      // output rows of all images
  int64_t rows_per_task;
  int64_t phases, step;  // P and D: groups of P outputs advance by D pixels
  int64_t groups;        // per row, the last one perhaps not whole

  explicit Geometry(const Upfirdn2dParams& p) {
    interleaved = !(p.x.stride[3] == 1 && p.y.stride[3] == 1);
    const int64_t c = p.y.size[1], out_h = p.y.size[2], out_w = p.y.size[3];
    channels = interleaved ? min64(c, kChannels) : 1;
    chunks = channels ? ceil_div(c, channels) : 0;
    rows = p.y.size[0] * chunks * out_h;
    const int64_t common = gcd(p.up_x, p.down_x);
    phases = p.up_x / common, step = p.down_x / common;
    groups = ceil_div(out_w, phases);
    // What a row costs: its outputs, or the part of the inputs that falls to it.
    const int64_t inputs = p.x.size[3] * min64(p.x.size[2], max64(1, p.down_y / p.up_y));
    const int64_t row_numbers = max64(1, max64(out_w, inputs) * channels);
    rows_per_task = max64(1, kTaskNumbers / row_numbers);
  }
  int64_t tasks() const { return ceil_div(rows, rows_per_task); }
};

// Taps sorted into the order in which they are used, reversed and times gain where need be.
template <class Acc>
struct Plan {
  const Geometry& geo;
  bool separable;
  int64_t column_rows;          // most input rows under the filter
  Acc* column;                  // separable: taps down the columns, sorted by the tap that first meets a pixel
  int64_t* column_start;        // [up_y]
  int64_t row_taps;             // taps of a row, all phases together (= tap_w at most)
  Acc* row;                     // [separable ? 1 : tap_h][row_taps], sorted by phase
  int64_t* pixel;               // [row_taps] pixel of the tap, counted from `low` in group 0
  int64_t* offset;              // the same as a place in the scratch row
  int64_t* phase_start;         // [phases + 1]
  int64_t low, span;            // group q reads the pixels [q * step + low, q * step + low + span)
  double *factor_y, *factor_x;  // of a 2-D filter, while the plan is made

  Plan(const Upfirdn2dParams& p, const Geometry& g) : geo(g), column_rows(ceil_div(p.tap_h, p.up_y)), row_taps(0) {
    low = INT64_MAX;
    int64_t high = INT64_MIN;
    for (int64_t r = 0; r < g.phases; ++r) {
      const Meeting m = first_meeting(r * p.down_x - p.pad_x0, p.up_x);
      const int64_t count = taps_from(m.tap, p.tap_w, p.up_x);
      row_taps += count;
      if (count) low = min64(low, m.pixel), high = max64(high, m.pixel + count);
    }
    if (high < low) low = high = 0;
    span = high - low;
  }

  void take(const Upfirdn2dParams& p, Arena& arena) {
    arena.take(column, p.tap_h);
    arena.take(column_start, p.up_y + 1);
    arena.take(row, row_taps * p.tap_h);
    arena.take(pixel, row_taps);
    arena.take(offset, row_taps);
    arena.take(phase_start, geo.phases + 1);
    arena.take(factor_y, p.tap_h);
    arena.take(factor_x, p.tap_w);
  }

  void fill(const Upfirdn2dParams& p) {
    const Acc* taps = static_cast<const Acc*>(p.taps);
    const Acc* taps_y = static_cast<const Acc*>(p.taps_y);
    const Acc* taps_x = static_cast<const Acc*>(p.taps_x);
    if (!taps) {
      separable = true;
      for (int64_t k = 0; k < p.tap_h; ++k) factor_y[k] = taps_y ? taps_y[k] : 1;
      for (int64_t k = 0; k < p.tap_w; ++k) factor_x[k] = taps_x ? taps_x[k] : 1;
    } else {
      const double tolerance = sizeof(Acc) == 4 ? 2 * 0x1p-23 : 4 * 0x1p-52;
      separable = factor_taps(taps, p.tap_h, p.tap_w, tolerance, factor_y, factor_x);
    }
    // Down the columns.
    int64_t n = 0;
    for (int64_t first = 0; first < p.up_y; ++first) {
      column_start[first] = n;
      for (int64_t k = first; k < p.tap_h; k += p.up_y)
        column[n++] = separable ? static_cast<Acc>(factor_y[p.flip ? k : p.tap_h - 1 - k]) : Acc(1);
    }
    column_start[p.up_y] = n;
    // Along the row.
    n = 0;
    for (int64_t r = 0; r < geo.phases; ++r) {
      phase_start[r] = n;
      const Meeting m = first_meeting(r * p.down_x - p.pad_x0, p.up_x);
      int64_t at = m.pixel - low;
      for (int64_t k = m.tap; k < p.tap_w; k += p.up_x, ++n, ++at) {
        const int64_t kx = p.flip ? k : p.tap_w - 1 - k;
        pixel[n] = at;
        if (separable) {
          row[n] = static_cast<Acc>(factor_x[kx] * p.gain);
        } else {
          for (int64_t k2 = 0; k2 < p.tap_h; ++k2) {
            const int64_t ky = p.flip ? k2 : p.tap_h - 1 - k2;
            row[k2 * row_taps + n] = static_cast<Acc>(taps[ky * p.tap_w + kx] * p.gain);
          }
        }
      }
    }
    phase_start[geo.phases] = n;
  }
};

template <class S>
void fill_zeros(typename S::Elem* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = 0;  // all storage types: bits 0 are the number 0
}

// ---- output rows of images: scratch memory and the two passes -------------------------------------------------------
template <class S>
class Worker {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Scratch = typename ScratchOf<Acc>::type;

 public:
  Worker(const Upfirdn2dParams& params, const Geometry& geometry)
      : p(params),
        geo(geometry),
        plan(params, geometry),
        tile_groups(choose_tile()),
        tile_pixels((tile_groups - 1) * geo.step + plan.span),
        slots(1),
        subrow(align(ceil_div(tile_pixels, geo.step) + kSlack)),
        pitch(geo.interleaved ? align(tile_pixels * geo.channels + kSlack) : subrow * geo.step),
        split_pitch(align(tile_groups * geo.channels + kSlack)) {}

  void take(Arena& arena) {
    plan.take(p, arena);
    // Whether the filter is separable is known only when the plan has been filled in: reckon with a ring.
    const int64_t most = p.taps ? plan.column_rows : 1;
    arena.take(scratch, pitch * most);
    arena.take(slot_row, most);
    arena.take(input_rows, plan.column_rows);
    arena.take(streams, plan.row_taps * plan.column_rows);
    arena.take(stream_taps, plan.row_taps * plan.column_rows);
    arena.take(whole, !geo.interleaved && geo.step > 2 ? tile_pixels + kSlack : 0);
    arena.take(split,
               mix_pixels() || geo.phases > 2 ? geo.phases * (split_pitch + tile_groups * geo.channels) + kSlack : 0);
  }

  void prepare() {
    plan.fill(p);
    slots = plan.separable ? 1 : plan.column_rows;
    if (tile_groups < geo.groups) {  // what comes next is the same part of the next row
      load_ahead = max64(1, p.down_y / p.up_y) * p.x.stride[2] * sizeof(Elem);
      store_ahead = p.y.stride[2] * sizeof(Elem);
    }
    if (geo.interleaved) return;  // offsets wait for set_channels
    for (int64_t i = 0; i < plan.row_taps; ++i)
      plan.offset[i] = plan.pixel[i] % geo.step * subrow + plan.pixel[i] / geo.step;
    if (plan.separable) gather_streams({0, 0}, 0, 1);
  }

  // Output rows [begin, end) of all images together.
  void run(int64_t begin, int64_t end) {
    const int64_t out_h = p.y.size[2];
    for (int64_t row = begin; row < end;) {
      const int64_t image = row / out_h, first = row % out_h, last = min64(out_h, first + end - row);
      const int64_t sample = image / geo.chunks, c = image % geo.chunks * geo.channels;
      const Elem* x = static_cast<const Elem*>(p.x.data) + sample * p.x.stride[0] + c * p.x.stride[1];
      Elem* y = static_cast<Elem*>(p.y.data) + sample * p.y.stride[0] + c * p.y.stride[1];
      set_channels(min64(geo.channels, p.y.size[1] - c));
      for (int64_t q = 0; q < geo.groups; q += tile_groups)
        tile(x, y, q, min64(geo.groups, q + tile_groups), first, last);
      row += last - first;
    }
  }

 private:
  static constexpr int64_t kSlack = 8 * S::lanes;  // scratch rows are read and written past their ends
  static int64_t align(int64_t n) { return (n + 15) / 16 * 16; }

  // Whether pixels have too few channels to make each phase's pixels one by one.
  bool mix_pixels() const {
    return geo.interleaved && geo.phases > 1 && geo.step == 1 && geo.channels <= 8 && p.y.stride[3] == geo.channels;
  }

  int64_t choose_tile() const {
    const int64_t numbers = geo.interleaved ? kPixelNumbers : kRowNumbers;
    const int64_t pixels = max64(numbers / max64(geo.channels, 1), 2 * plan.span);  // the overlap must not dominate
    const int64_t tile = max64(1, min64(pixels / geo.step, numbers * 2 / geo.phases));
    return geo.groups <= tile + tile / 4 ? max64(geo.groups, 1) : tile;
  }

  void set_channels(int64_t n) {
    if (n == channels) return;
    channels = n;
    zeroed_low = INT64_MIN;
    if (!geo.interleaved) return;
    for (int64_t i = 0; i < plan.row_taps; ++i) plan.offset[i] = plan.pixel[i] * n;
    if (plan.separable) gather_streams({0, 0}, 0, 1);
  }

  void tile(const Elem* x, Elem* y, int64_t q0, int64_t q1, int64_t first_row, int64_t last_row) {
    const int64_t low = q0 * geo.step + plan.low, pixels = (q1 - q0 - 1) * geo.step + plan.span;
    const int64_t from = min64(max64(low, 0), p.x.size[3]), to = max64(min64(low + pixels, p.x.size[3]), from);
    const int64_t out0 = q0 * geo.phases, outputs = min64(q1 * geo.phases, p.y.size[3]) - out0;
    if (low != zeroed_low || pixels != zeroed_pixels) {
      for (int64_t i = 0; i < pitch * slots; ++i) scratch[i] = 0;
      zeroed_low = low, zeroed_pixels = pixels;
    }
    for (int64_t i = 0; i < slots; ++i) slot_row[i] = -1;
    int64_t newest = INT64_MIN / 2;
    Meeting m = first_meeting(first_row * p.down_y - p.pad_y0, p.up_y);
    for (int64_t oy = first_row; oy < last_row; ++oy, advance(m)) {
      Elem* out = y + oy * p.y.stride[2] + out0 * p.y.stride[3];
      const int64_t taps = plan.column_start[m.tap + 1] - plan.column_start[m.tap];
      const int64_t skip = max64(0, -m.pixel), stop = min64(taps, p.x.size[2] - m.pixel);
      if (skip >= stop || from >= to) {
        zero_row(out, outputs);
        continue;
      }
      if (plan.separable) {
        for (int64_t t = skip; t < stop; ++t) input_rows[t - skip] = x + (m.pixel + t) * p.x.stride[2];
        const int64_t last = m.pixel + stop - 1;
        column_sum(plan.column + plan.column_start[m.tap] + skip, stop - skip, min64(last - newest, stop - skip), from,
                   to, low, scratch);
        newest = last;
      } else {
        for (int64_t t = skip; t < stop; ++t) {
          const int64_t row = m.pixel + t, slot = row % slots;
          if (slot_row[slot] != row) {
            input_rows[0] = x + row * p.x.stride[2];
            column_sum(plan.column, 1, 1, from, to, low, scratch + slot * pitch);  // a tap of 1
            slot_row[slot] = row;
          }
        }
        gather_streams(m, skip, stop);
      }
      row_sum(stop - skip, outputs, out);
    }
  }

  // From one output row's first_meeting to the next one's, mostly without a division: rows may be short.
  void advance(Meeting& m) const {
    m.tap -= p.down_y;
    if (m.tap >= 0) return;
    m.tap += p.up_y, ++m.pixel;
    if (m.tap >= 0) return;
    const int64_t more = ceil_div(-m.tap, p.up_y);
    m.tap += more * p.up_y, m.pixel += more;
  }

  // Pixels [from, to) of the `count` rows in input_rows, summed into a scratch row that begins with pixel `low`.
  void column_sum(const Acc* taps, int64_t count, int64_t fresh, int64_t from, int64_t to, int64_t low, Acc* out) {
    const Streams<S> rows{input_rows, taps, count, fresh, load_ahead};
    const int64_t at = from - low, n = to - from;
    if (geo.interleaved) {
      if (p.x.stride[3] == channels) {
        sum_streams<S, Row::exact, Scratch, Row::spare>(rows, from * channels, n * channels, out + at * channels);
      } else {
        for (int64_t i = 0; i < n; ++i)
          sum_streams<S, Row::exact, Scratch, Row::spare>(rows, (from + i) * p.x.stride[3], channels,
                                                          out + (at + i) * channels);
      }
    } else if (geo.step == 1) {
      sum_streams<S, Row::exact, Scratch, Row::spare>(rows, from, n, out + at);
    } else if (geo.step == 2) {
      Acc* first = out + at % 2 * subrow + at / 2;
      Acc* second = out + (at + 1) % 2 * subrow + (at + 1) / 2;
      sum_streams_dealt<S>(rows, from, n, first, second);
    } else {
      sum_streams<S, Row::exact, Scratch, Row::spare>(rows, from, n, whole);
      for (int64_t i = 0; i < min64(geo.step, n); ++i) {
        Acc* sub = out + (at + i) % geo.step * subrow + (at + i) / geo.step;
        for (int64_t j = i; j < n; j += geo.step) *sub++ = whole[j];
      }
    }
  }

  // The streams that the second pass sums, phase by phase: taps of a phase on the first row, on the second, ...
  void gather_streams(const Meeting& m, int64_t skip, int64_t stop) {
    int64_t n = 0;
    for (int64_t r = 0; r < geo.phases; ++r)
      for (int64_t t = skip; t < stop; ++t) {
        const Acc* row = scratch + (plan.separable ? 0 : (m.pixel + t) % slots * pitch);
        const Acc* taps = plan.row + (plan.separable ? 0 : (m.tap + t * p.up_y) * plan.row_taps);
        for (int64_t k = plan.phase_start[r]; k < plan.phase_start[r + 1]; ++k, ++n)
          streams[n] = row + plan.offset[k], stream_taps[n] = taps[k];
      }
  }

  Streams<Scratch> phase(int64_t r, int64_t rows) const {
    if (plan.separable) rows = 1;
    const int64_t first = plan.phase_start[r] * rows;
    return {streams + first, stream_taps + first, (plan.phase_start[r + 1] - plan.phase_start[r]) * rows};
  }

  void row_sum(int64_t rows, int64_t outputs, Elem* y) {
    if (geo.interleaved) {
      if (geo.phases == 1 && geo.step == 1 && p.y.stride[3] == channels) {
        sum_streams<Scratch, Row::spare, S, Row::exact>(phase(0, rows), 0, outputs * channels, y, store_ahead);
        return;
      }
      if (mix_pixels())
        return channels <= 4 ? interleave_phases<4>(rows, outputs, y) : interleave_phases<8>(rows, outputs, y);
      for (int64_t r = 0; r < geo.phases; ++r) {
        const Streams<Scratch> terms = phase(r, rows);
        for (int64_t i = r, at = 0; i < outputs; i += geo.phases, at += geo.step * channels)
          sum_streams<Scratch, Row::spare, S, Row::exact>(terms, at, channels, y + i * p.y.stride[3], store_ahead);
      }
    } else if (geo.phases == 1) {
      sum_streams<Scratch, Row::spare, S, Row::exact>(phase(0, rows), 0, outputs, y, store_ahead);
    } else if (geo.phases == 2) {
      sum_streams_interleaved<S>(phase(0, rows), phase(1, rows), outputs, y, store_ahead);
    } else {
      interleave_phases<1>(rows, outputs, y);
    }
  }

  // Any number of phases of pixels of few channels: each phase into a row of its own, then pixel by pixel into y. WIDTH
  // numbers are copied per pixel; those beyond its channels are overwritten by the next pixel's.
  template <int WIDTH>
  void interleave_phases(int64_t rows, int64_t outputs, Elem* y) {
    const int64_t groups = ceil_div(outputs, geo.phases), numbers = outputs * channels;
    for (int64_t r = 0; r < geo.phases; ++r)
      sum_streams<Scratch, Row::spare, Scratch, Row::spare>(phase(r, rows), 0, groups * channels,
                                                            split + r * split_pitch);
    Acc* const mixed = split + geo.phases * split_pitch;
    Acc* to = mixed;
    for (int64_t q = 0; q < groups; ++q)
      for (int64_t r = 0; r < geo.phases; ++r, to += channels)
        __builtin_memcpy(to, split + r * split_pitch + q * channels, WIDTH * sizeof(Acc));
    int64_t i = 0;
    for (; i + S::lanes <= numbers; i += S::lanes) {
      fetch_ahead<1, 1>(y + i, store_ahead);
      S::store(y + i, Scratch::load(mixed + i));
    }
    if (i < numbers) S::store(y + i, Scratch::load(mixed + i), numbers - i);
  }

  void zero_row(Elem* y, int64_t outputs) {
    if (!geo.interleaved || p.y.stride[3] == channels) {
      fill_zeros<S>(y, outputs * channels);
    } else {
      for (int64_t i = 0; i < outputs; ++i) fill_zeros<S>(y + i * p.y.stride[3], channels);
    }
  }

  const Upfirdn2dParams& p;
  const Geometry& geo;
  Plan<Acc> plan;
  const int64_t tile_groups;    // groups of outputs per tile
  const int64_t tile_pixels;    // pixels that they need
  int64_t slots;                // scratch rows
  const int64_t subrow, pitch;  // numbers of a subrow, of a scratch row
  const int64_t split_pitch;    // and of a phase in `split`
  Acc* scratch;
  int64_t* slot_row;  // the input row that a scratch row holds, or -1
  const Elem** input_rows;
  const Acc** streams;  // of the second pass, see gather_streams
  Acc* stream_taps;
  Acc *whole, *split;  // a row before it is cut into subrows; phases before they are interleaved
  int64_t load_ahead = kFetchAhead, store_ahead = kFetchAhead;
  int64_t channels = 0;                               // of the image at hand
  int64_t zeroed_low = INT64_MIN, zeroed_pixels = 0;  // the tile that the zeros in scratch belong to
};

template <class S>
void run_rows(const Upfirdn2dParams& p, const Geometry& geo, int64_t begin, int64_t end) {
  Worker<S> worker(p, geo);
  Arena arena;
  worker.take(arena);
  arena.base = static_cast<char*>(::operator new(arena.used, std::align_val_t{64}));
  arena.used = 0;
  worker.take(arena);
  worker.prepare();
  worker.run(begin, end);
  ::operator delete(arena.base, std::align_val_t{64});
}

}  // namespace

int64_t upfirdn2d_cpu_tasks(const Upfirdn2dParams& p) { return Geometry(p).tasks(); }

void upfirdn2d_cpu(const Upfirdn2dParams& p, int64_t begin, int64_t end) {
  const Geometry geo(p);
  const int64_t from = begin * geo.rows_per_task, to = min64(geo.rows, end * geo.rows_per_task);
  if (from >= to) return;
  with_dtype(p.dtype, [&](auto s) { run_rows<decltype(s)>(p, geo, from, to); });
}

}  // namespace GK_ISA
}  // namespace gk
