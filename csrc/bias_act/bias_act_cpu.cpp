// bias_act on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// All that depends on the activation is a row kernel: n contiguous elements whose addend (bias plus noise) is a number
// for the whole row plus, or instead, an array of numbers in the accumulation type. It is picked once per call. What
// the row and the addend are follows from the memory form:
//
//   inner large (NCHW):         a row is a piece of a plane; the bias is a number, the noise an array;
//   inner == 1 (channels_last): a row is the channels of a position; the noise is a number, the bias an array;
//   short rows of either:       several rows make one, and bias and noise are written out into an array. Without noise
//   that
//                               array is periodic, and made once.
//
// Backward has the same rows. The row kernel adds g = dy * slope to an array and returns its sum: in NCHW these are
// dnoise and db, in channels_last db and dnoise. Of short rows the array is g itself, which is then summed both ways
// from the cache.
#include "bias_act/bias_act_cpu.h"

#include "bias_act/bias_act_params.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int64_t kTile = 1024;     // numbers of an array that is written out: 4 KB of floats
constexpr int64_t kShortRow = 128;  // below, rows are joined
constexpr int64_t kSlack = 16;      // vectors may write past the end of an array

// What is added to n elements: constant + array[i], the array perhaps null.
template <class Acc>
struct Addend {
  const Acc* array = nullptr;
  Acc constant = 0;
};

// ---- row kernels ---------------------------------------------------------------------------------------------------
template <class S, class Access>
GK_INLINE typename S::Vec add(typename S::Vec v, const Addend<typename S::Acc>& a, int64_t i, Access access) {
  v = v + a.constant;
  return a.array ? v + load<typename ScratchOf<typename S::Acc>::type>(a.array + i, access) : v;
}

template <class S>
struct Rows {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;
  using Scratch = typename ScratchOf<Acc>::type;
  using Settings = ActSettings<Acc>;

  using Forward = void (*)(const Elem* x, Elem* y, int64_t n, Addend<Acc> addend, const Settings& s);
  // Adds g to sums (may be null) and returns the sum of g; dx may be null.
  using Backward = Acc (*)(const Elem* dy, const Elem* saved, Elem* dx, Acc* sums, int64_t n, Addend<Acc> addend,
                           const Settings& s);
  // u, d_dy and d_saved may be null.
  using DoubleBackward = void (*)(const Elem* u, Addend<Acc> u_addend, const Elem* dy, const Elem* saved,
                                  Addend<Acc> addend, Elem* d_dy, Elem* d_saved, int64_t n, const Settings& s);

  template <Act act>
  static void forward(const Elem* x, Elem* y, int64_t n, Addend<Acc> addend, const Settings& settings) {
    const Settings s = settings;
    for_vectors<S>(n, [&](int64_t i, auto access) {
      const Vec v = add<S>(load<S>(x + i, access), addend, i, access);
      store<S>(y + i, act_output<act>(v, s), access);
    });
  }

  template <From from, Act act>
  static Acc backward(const Elem* dy, const Elem* saved, Elem* dx, Acc* sums, int64_t n, Addend<Acc> addend,
                      const Settings& settings) {
    const Settings s = settings;
    Vec total{};
    for_vectors<S>(n, [&](int64_t i, auto access) {
      Vec ref{};
      if constexpr (from != From::nothing) ref = load<S>(saved + i, access);
      if constexpr (from == From::v) ref = add<S>(ref, addend, i, access);
      const Vec g = load<S>(dy + i, access) * slope_of<from, act>(ref, s);
      if (dx) store<S>(dx + i, g, access);
      if (sums) store<Scratch>(sums + i, load<Scratch>(sums + i, access) + g, access);
      total += g;
    });
    return sum_lanes(total);
  }

  template <From from, Act act>
  static void double_backward(const Elem* u, Addend<Acc> u_addend, const Elem* dy, const Elem* saved,
                              Addend<Acc> addend, Elem* d_dy, Elem* d_saved, int64_t n, const Settings& settings) {
    const Settings s = settings;
    for_vectors<S>(n, [&](int64_t i, auto access) {
      Vec ref{};
      if constexpr (from != From::nothing) ref = load<S>(saved + i, access);
      if constexpr (from == From::v) ref = add<S>(ref, addend, i, access);
      const Vec total = add<S>(u ? load<S>(u + i, access) : Vec{}, u_addend, i, access);
      // Before anything is written: an output may be an input's memory.
      Vec saved_gradient{};
      if (act_curved(act) && d_saved) {
        saved_gradient = total * load<S>(dy + i, access) * curvature_of<from, act>(ref, s);
      }
      if (d_dy) store<S>(d_dy + i, total * slope_of<from, act>(ref, s), access);
      if (d_saved) store<S>(d_saved + i, saved_gradient, access);
    });
  }
};

template <class S>
typename Rows<S>::Forward forward_row(Act act) {
  return with_act(act, [](auto tag) -> typename Rows<S>::Forward { return &Rows<S>::template forward<tag.act>; });
}
template <class S>
typename Rows<S>::Backward backward_row(const BiasActParams& p) {
  using Row = typename Rows<S>::Backward;
  if (p.y_saved) return with_act(p.act, [](auto tag) -> Row { return &Rows<S>::template backward<From::y, tag.act>; });
  if (p.x) return with_act(p.act, [](auto tag) -> Row { return &Rows<S>::template backward<From::v, tag.act>; });
  return &Rows<S>::template backward<From::nothing, Act::linear>;
}
template <class S>
typename Rows<S>::DoubleBackward double_backward_row(const BiasActParams& p) {
  using Row = typename Rows<S>::DoubleBackward;
  if (p.y_saved)
    return with_act(p.act, [](auto tag) -> Row { return &Rows<S>::template double_backward<From::y, tag.act>; });
  if (p.x) return with_act(p.act, [](auto tag) -> Row { return &Rows<S>::template double_backward<From::v, tag.act>; });
  return &Rows<S>::template double_backward<From::nothing, Act::linear>;
}

// ---- addends -------------------------------------------------------------------------------------------------------
// Memory
// is rows of `length` numbers: row r is position r with all its channels (inner == 1), or plane (o, c) = r of `inner`
// positions. Per row one of bias and noise is a number and the other an array.
template <class S>
class Addends {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Scratch = typename ScratchOf<Acc>::type;
  static constexpr bool kConverted = sizeof(Elem) != sizeof(Acc);

 public:
  Addends(const BiasActParams& p, const void* bias, const void* noise, int64_t noise_outer)
      : b(static_cast<const Elem*>(bias)),
        pixels(static_cast<const Elem*>(noise)),
        noise_rows(noise ? noise_outer : 1),
        channels(p.channels),
        inner(p.inner),
        length(p.inner == 1 ? p.channels : p.inner) {
    const int64_t period = channels * inner;
    if (b && !pixels && length < kShortRow && period <= kTile) {
      write(0, kTile + period);
      periodic = true;
    }
  }

  bool none() const { return !b && !pixels; }

  // Of numbers [j, j + n) of row r; n <= kTile.
  Addend<Acc> of_row(int64_t r, int64_t j, int64_t n) {
    if (none()) return {};
    const Row row = at(inner == 1 ? r : r / channels, inner == 1 ? 0 : r % channels);
    if (!row.array) return {nullptr, row.constant};
    if constexpr (!kConverted) {
      return {reinterpret_cast<const Acc*>(row.array + j), row.constant};
    } else {
      const Elem* from = row.array + j;
      if (from != held || n != held_n) {
        for_vectors<S>(n,
                       [&](int64_t i, auto access) { store<Scratch>(array + i, load<S>(from + i, access), access); });
        held = from, held_n = n;
      }
      return {array, row.constant};
    }
  }

  // Of numbers [first, first + n) of memory, across rows; n <= kTile.
  Addend<Acc> of_run(int64_t first, int64_t n) {
    if (none()) return {};
    if (periodic) return {array + first % (channels * inner), 0};
    write(first, n);
    return {array, 0};
  }

 private:
  struct Row {
    const Elem* array;
    Acc constant;
  };
  static Acc number(const Elem* p) { return p ? static_cast<Acc>(S::load(p, 1)[0]) : Acc(0); }

  // Row of outer index o, and channel c where a row is a plane.
  Row at(int64_t o, int64_t c) const {
    const Elem* noise = pixels ? pixels + o % noise_rows * inner : nullptr;
    if (inner == 1) return {b, number(noise)};
    return {noise, number(b ? b + c : nullptr)};
  }

  void write(int64_t first, int64_t n) {
    const int64_t planes = inner == 1 ? 1 : channels;
    int64_t j = first % length, r = first / length, o = r / planes, c = r % planes;
    for (int64_t k = 0; k < n;) {
      const Row row = at(o, c);
      const int64_t stop = min64(length, j + n - k);
      for (; j < stop; j += S::lanes) {
        typename S::Vec v = Math<typename S::Vec>::splat(row.constant);
        if (row.array) v += j + S::lanes <= length ? S::load(row.array + j) : S::load(row.array + j, length - j);
        const int64_t step = min64(S::lanes, stop - j);
        Scratch::store(array + k, v);  // past the row's end too: the next row overwrites it
        k += step;
      }
      j = 0;
      if (++c == planes) c = 0, ++o;
    }
  }

  const Elem *b, *pixels;
  const int64_t noise_rows, channels, inner, length;
  bool periodic = false;
  const Elem* held = nullptr;  // what `array` holds, converted
  int64_t held_n = 0;
  alignas(64) Acc array[2 * kTile + kSlack];
};

// Cuts elements [begin, end) into pieces that have one addend each: run(first, n, addend, addend of the second source).
template <class S, class Run>
void for_pieces(const BiasActParams& p, int64_t begin, int64_t end, Addends<S>& first, Addends<S>& second, Run run) {
  const int64_t length = p.inner == 1 ? p.channels : p.inner;
  if (first.none() && second.none()) {
    run(begin, end - begin, Addend<typename S::Acc>{}, Addend<typename S::Acc>{});
  } else if (length < kShortRow) {
    for (int64_t i = begin; i < end; i += kTile) {
      const int64_t n = min64(kTile, end - i);
      run(i, n, first.of_run(i, n), second.of_run(i, n));
    }
  } else {
    int64_t r = begin / length, j = begin % length;
    for (int64_t i = begin; i < end;) {
      const int64_t n = min64(kTile, min64(length - j, end - i));
      run(i, n, first.of_row(r, j, n), second.of_row(r, j, n));
      i += n, j += n;
      if (j == length) j = 0, ++r;
    }
  }
}

template <class S>
void run_forward(const BiasActParams& p, int64_t begin, int64_t end) {
  using Elem = typename S::Elem;
  const ActSettings<typename S::Acc> s(p.alpha, p.gain, p.clamp);
  const auto row = forward_row<S>(p.act);
  const Elem* x = static_cast<const Elem*>(p.x);
  Elem* y = static_cast<Elem*>(p.y);
  Addends<S> addends(p, p.b, p.noise, p.noise_outer), nothing(p, nullptr, nullptr, 1);
  for_pieces<S>(p, begin, end, addends, nothing,
                [&](int64_t i, int64_t n, auto addend, auto) { row(x + i, y + i, n, addend, s); });
}

template <class S>
void run_double_backward(const BiasActParams& p, int64_t begin, int64_t end) {
  using Elem = typename S::Elem;
  const ActSettings<typename S::Acc> s(p.alpha, p.gain, p.clamp);
  const auto row = double_backward_row<S>(p);
  const Elem* u = static_cast<const Elem*>(p.u);
  const Elem* dy = static_cast<const Elem*>(p.dy);
  const Elem* saved = static_cast<const Elem*>(p.y_saved ? p.y_saved : p.x);
  Elem* d_dy = static_cast<Elem*>(p.d_dy);
  Elem* d_saved = static_cast<Elem*>(p.d_saved);
  const bool v = p.x && !p.y_saved;
  Addends<S> u_addends(p, p.u_b, p.u_noise, p.outer),
      addends(p, v ? p.b : nullptr, v ? p.noise : nullptr, p.noise_outer);
  for_pieces<S>(p, begin, end, u_addends, addends, [&](int64_t i, int64_t n, auto u_addend, auto addend) {
    row(offset(u, i), u_addend, dy + i, offset(saved, i), addend, offset(d_dy, i), offset(d_saved, i), n, s);
  });
}

// ---- backward ------------------------------------------------------------------------------------------------------
template <class S>
class BackwardRun {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Scratch = typename ScratchOf<Acc>::type;

 public:
  explicit BackwardRun(const BiasActParams& params)
      : p(params),
        s(p.alpha, p.gain, p.clamp),
        row(backward_row<S>(p)),
        dy(static_cast<const Elem*>(p.dy)),
        saved(static_cast<const Elem*>(p.y_saved ? p.y_saved : p.x)),
        dx(static_cast<Elem*>(p.dx)),
        dnoise(static_cast<Acc*>(p.dnoise_partial)),
        positions(p.outer * p.inner),
        length(p.inner == 1 ? p.channels : p.inner),
        addends(p, p.y_saved ? nullptr : p.b, p.y_saved ? nullptr : p.noise, p.noise_outer) {}

  void chunk(int64_t index) {
    const int64_t first = index * p.chunk, last = min64(positions, first + p.chunk);
    db = offset(static_cast<Acc*>(p.db_partial), index * p.channels);
    for (int64_t c = 0; db && c < p.channels; ++c) db[c] = 0;
    for (int64_t q = 0; dnoise && q < p.channel_chunks; ++q)
      for (int64_t m = first; m < last; ++m) dnoise[q * positions + m] = 0;
    if (p.inner == 1) {
      if (length >= kShortRow)
        for (int64_t m = first; m < last; ++m) pixel(m);
      else if (db && !dnoise)
        short_pixels(first * length, last * length);
      else
        short_rows(first * length, last * length);
      return;
    }
    const int64_t plane = p.channels * p.inner;
    for (int64_t m = first; m < last;) {
      const int64_t o = m / p.inner, i = m % p.inner;
      if (length < kShortRow && i == 0 && last - m >= p.inner) {
        const int64_t planes = (last - m) / p.inner;
        short_rows(o * plane, (o + planes) * plane);
        m += planes * p.inner;
      } else {
        const int64_t n = min64(p.inner - i, last - m);
        for (int64_t c = 0; c < p.channels; ++c) plane_row(o, c, i, n);
        m += n;
      }
    }
  }

 private:
  Acc do_row(int64_t at, int64_t n, Acc* sums, Addend<Acc> addend) {
    return row(dy + at, offset(saved, at), offset(dx, at), sums, n, addend, s);
  }

  // Positions [i, i + n) of plane (o, c).
  void plane_row(int64_t o, int64_t c, int64_t i, int64_t n) {
    const int64_t r = o * p.channels + c;
    Acc* sums = offset(dnoise, c / p.channel_chunk * positions + o * p.inner);
    Acc total = 0;
    const int64_t most = addends.none() ? n : kTile;
    for (int64_t end = i + n; i < end; i += most) {
      const int64_t part = min64(most, end - i);
      total += do_row(r * p.inner + i, part, offset(sums, i), addends.of_row(r, i, part));
    }
    if (db) db[c] += total;
  }

  // All channels of position m (inner == 1).
  void pixel(int64_t m) {
    for (int64_t c = 0; c < p.channels;) {
      const int64_t q = c / p.channel_chunk, stop = dnoise ? min64(p.channels, (q + 1) * p.channel_chunk) : p.channels;
      const int64_t n = min64(stop - c, addends.none() ? stop - c : kTile);
      const Acc total = do_row(m * p.channels + c, n, offset(db, c), addends.of_row(m, c, n));
      if (dnoise) dnoise[q * positions + m] += total;
      c += n;
    }
  }

  // Whole pixels of few channels: the bias gradient is summed in an array of several pixels, which is folded in the
  // end.
  void short_pixels(int64_t begin, int64_t end) {
    const int64_t whole = kTile / length * length;
    for (int64_t i = 0; i < whole; ++i) g[i] = 0;
    for (int64_t at = begin; at < end; at += whole) {
      const int64_t n = min64(whole, end - at);
      do_row(at, n, g, addends.of_run(at, n));
    }
    for (int64_t i = 0; i < whole; i += length)
      for (int64_t c = 0; c < length; ++c) db[c] += g[i + c];
  }

  // Whole rows: g is written out, and summed along and across the rows.
  void short_rows(int64_t begin, int64_t end) {
    const int64_t whole = kTile / length * length;
    const bool sums = db || dnoise;
    for (int64_t at = begin; at < end; at += whole) {
      const int64_t n = min64(whole, end - at);
      for (int64_t i = 0; sums && i < n; ++i) g[i] = 0;
      do_row(at, n, sums ? g : nullptr, addends.of_run(at, n));
      const int64_t planes = p.inner == 1 ? 1 : p.channels;
      int64_t o = at / length / planes, c = at / length % planes;
      for (int64_t i = 0; sums && i < n; i += length) {
        if (p.inner == 1)
          sum_pixel(o, g + i);
        else
          sum_plane(o, c, g + i);
        if (++c == planes) c = 0, ++o;
      }
    }
  }

  void sum_pixel(int64_t m, const Acc* numbers) {
    if (db) accumulate(db, numbers);
    for (int64_t q = 0; dnoise && q < p.channel_chunks; ++q) {
      const int64_t c = q * p.channel_chunk;
      dnoise[q * positions + m] = sum(numbers + c, min64(p.channel_chunk, p.channels - c));
    }
  }

  void sum_plane(int64_t o, int64_t c, const Acc* numbers) {
    if (db) db[c] += sum(numbers, length);
    if (dnoise) accumulate(dnoise + c / p.channel_chunk * positions + o * p.inner, numbers);
  }

  void accumulate(Acc* to, const Acc* numbers) const {
    for_vectors<Scratch>(length, [&](int64_t i, auto access) {
      store<Scratch>(to + i, load<Scratch>(to + i, access) + load<Scratch>(numbers + i, access), access);
    });
  }
  static Acc sum(const Acc* numbers, int64_t n) {
    typename S::Vec total{};
    for_vectors<Scratch>(n, [&](int64_t i, auto access) { total += load<Scratch>(numbers + i, access); });
    return sum_lanes(total);
  }

  const BiasActParams& p;
  const ActSettings<Acc> s;
  const typename Rows<S>::Backward row;
  const Elem *dy, *saved;
  Elem* dx;
  Acc* db = nullptr;  // of the chunk
  Acc* dnoise;
  const int64_t positions, length;
  Addends<S> addends;
  alignas(64) Acc g[kTile + kSlack];
};

template <class S>
void run_backward(const BiasActParams& p, int64_t begin, int64_t end) {
  BackwardRun<S> run(p);
  for (int64_t i = begin; i < end; ++i) run.chunk(i);
}

}  // namespace

void bias_act_cpu(const BiasActParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_forward<decltype(s)>(p, begin, end); });
}

void bias_act_backward_cpu(const BiasActParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_backward<decltype(s)>(p, begin, end); });
}

void bias_act_double_backward_cpu(const BiasActParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) { run_double_backward<decltype(s)>(p, begin, end); });
}

}  // namespace GK_ISA
}  // namespace gk
