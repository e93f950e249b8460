// Sums of pixels for filtered_lrelu on the CPU. A pixel is one vector here, each lane a plane of its own, so both axes
// are summed alike: whole aligned loads, taps that all lanes share. Include from *_cpu.cpp only (see common/cpu_isa.h).
//
// Every sum begins with zero and adds its terms in the order of the taps, whatever the number of results that are made
// together: the compiler has one way only to fuse products and sums, and results do not depend on how work is cut.
#pragma once
#include "common/cpu_vec.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int kRegisters = GK_VEC_BYTES == 64 ? 32 : 16;  // of vectors

// out[m] = sum over r < rows, k < count of taps[r * count + k] * row[r][m * step + k], pixels all.
template <class Acc>
struct Window {
  const Acc* const* row;
  int64_t rows;
  const Acc* taps;
  int64_t count, step;
  bool mirrored = false;  // rows from the two ends on have the same taps, and are an even number
};

// (Zero is subtracted, not added: x - 0 is x for every x, and compilers know it.)
template <class V>
GK_INLINE typename V::Vec splat(typename V::Acc a) {
  return a - typename V::Vec{};
}

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls body(first, size) for blocks of WIDE of n results, size.value being a constant. One result after another would
// wait for its own additions: what is left over is made in a whole block, with some results before it once more, or in
// smaller blocks of LESS (two of them, at most).
template <int WIDE, int LESS = WIDE, class Body>
GK_INLINE void in_blocks(int64_t n, const Body& body) {
  static_assert(LESS <= WIDE && WIDE <= 2 * LESS);
  int64_t i = 0;
  for (; n - i > 2 * LESS || n - i == WIDE; i += WIDE) body(i, Size<WIDE>{});
  if (LESS < WIDE && n >= WIDE && n - i > LESS && n - i < WIDE) return body(n - WIDE, Size<WIDE>{});
  for (; n - i >= LESS; i += LESS) body(i, Size<LESS>{});
  if (i == n) return;
  if (n >= LESS) return body(n - LESS, Size<LESS>{});
  for (; i < n; ++i) body(i, Size<1>{});
}

// One row's part of B results, or that of the sum of two rows: a pixel is loaded once for all of them.
template <class V, int COUNT, int STEP, bool TWO, int B>
GK_INLINE void add_window(typename V::Vec (&sum)[B], const typename V::Vec (&tap)[COUNT], const typename V::Acc* p,
                          const typename V::Acc* other) {
#pragma GCC unroll 64
  for (int j = 0; j < COUNT + (B - 1) * STEP; ++j) {
    typename V::Vec v = V::load(p + j * V::lanes);
    if (TWO) v += V::load(other + j * V::lanes);
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b)
      if (j >= b * STEP && j - b * STEP < COUNT) sum[b] += tap[j - b * STEP] * v;
  }
}

template <class V, int COUNT>
GK_INLINE void load_taps(typename V::Vec (&tap)[COUNT], const typename V::Acc* taps) {
#pragma GCC unroll 32
  for (int k = 0; k < COUNT; ++k) tap[k] = splat<V>(taps[k]);
}

template <class V, int COUNT, int STEP>
void sum_windows_fixed(const Window<typename V::Acc>& w, int64_t at, int64_t n, typename V::Acc* out,
                       int64_t out_step) {
  using Vec = typename V::Vec;
  constexpr int L = V::lanes;
  // Sums and taps have to share the registers: 32 of them, or 16. With several rows the more sums, the better: their
  // taps are loaded anew for each.
  constexpr int WIDE = COUNT > 12 ? 4 : 8;
  constexpr int MOST = WIDE == 8 && kRegisters == 32 ? 12 : WIDE;
  const int64_t to = out_step * L;
  if (w.rows == 1) {  // the taps stay in registers
    Vec tap[COUNT];
    load_taps<V>(tap, w.taps);
    const typename V::Acc* const p = w.row[0] + at * L;
    in_blocks<WIDE>(n, [&](int64_t i, auto size) {
      Vec sum[size.value] = {};
      add_window<V, COUNT, STEP, false>(sum, tap, p + i * STEP * L, nullptr);
#pragma GCC unroll 8
      for (int b = 0; b < size.value; ++b) V::store(out + (i + b) * to, sum[b]);
    });
    return;
  }
  in_blocks<MOST, WIDE>(n, [&](int64_t i, auto size) {
    const int64_t from = (at + i * STEP) * L;
    Vec tap[COUNT], sum[size.value] = {};
    if (w.mirrored) {
      for (int64_t r = 0; r < w.rows / 2; ++r) {
        load_taps<V>(tap, w.taps + r * COUNT);
        add_window<V, COUNT, STEP, true>(sum, tap, w.row[r] + from, w.row[w.rows - 1 - r] + from);
      }
    } else {
      for (int64_t r = 0; r < w.rows; ++r) {
        load_taps<V>(tap, w.taps + r * COUNT);
        add_window<V, COUNT, STEP, false>(sum, tap, w.row[r] + from, nullptr);
      }
    }
#pragma GCC unroll 16
    for (int b = 0; b < size.value; ++b) V::store(out + (i + b) * to, sum[b]);
  });
}

// Any number of taps, and any step.
template <class V, int B>
GK_INLINE void sum_windows_any(const Window<typename V::Acc>& w, int64_t from, typename V::Acc* out, int64_t to) {
  typename V::Vec sum[B] = {};
  for (int64_t r = 0; r < w.rows; ++r) {
    const typename V::Acc *p = w.row[r] + from, *const taps = w.taps + r * w.count;
    for (int64_t k = 0; k < w.count; ++k, p += V::lanes) {
      const typename V::Vec tap = splat<V>(taps[k]);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sum[b] += tap * V::load(p + b * w.step * V::lanes);
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) V::store(out + b * to, sum[b]);
}
template <class V>
void sum_windows_any(const Window<typename V::Acc>& w, int64_t at, int64_t n, typename V::Acc* out, int64_t out_step) {
  const int64_t to = out_step * V::lanes, step = w.step * V::lanes;
  int64_t from = at * V::lanes;
  for (; n >= 4; n -= 4, from += 4 * step, out += 4 * to) sum_windows_any<V, 4>(w, from, out, to);
  for (; n > 0; --n, from += step, out += to) sum_windows_any<V, 1>(w, from, out, to);
}

// n results, the first of them from pixel `at` of the rows on, to every out_step-th pixel of out. The windows of
// resampling by 2 and by 4 with 6 taps per phase are compiled in.
template <class V>
void sum_windows(const Window<typename V::Acc>& w, int64_t at, int64_t n, typename V::Acc* out, int64_t out_step) {
  if (w.count == 6 && w.step == 1)
    sum_windows_fixed<V, 6, 1>(w, at, n, out, out_step);
  else if (w.count == 12 && w.step == 2)
    sum_windows_fixed<V, 12, 2>(w, at, n, out, out_step);
  else if (w.count == 24 && w.step == 4)
    sum_windows_fixed<V, 24, 4>(w, at, n, out, out_step);
  else if (w.count == 1 && w.step == 1)
    sum_windows_fixed<V, 1, 1>(w, at, n, out, out_step);
  else
    sum_windows_any<V>(w, at, n, out, out_step);
}

// out[m] = sum over r < rows of taps[r] * row[r][m]: down the columns. COUNT 0: any number of rows.
template <class V, int COUNT>
void sum_rows_fixed(const typename V::Acc* const* row, int64_t rows, const typename V::Acc* taps, int64_t n,
                    typename V::Acc* out) {
  using Vec = typename V::Vec;
  constexpr int L = V::lanes, FIXED = COUNT ? COUNT : 1;
  Vec tap[FIXED];
  if (COUNT) load_taps<V>(tap, taps);
  in_blocks<8>(n, [&](int64_t first, auto size) {
    constexpr int B = size.value;
    const int64_t at = first * L;
    Vec sum[B] = {};
    if constexpr (COUNT > 0) {
#pragma GCC unroll 32
      for (int r = 0; r < COUNT; ++r)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[b] += tap[r] * V::load(row[r] + at + b * L);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        const Vec any = splat<V>(taps[r]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[b] += any * V::load(row[r] + at + b * L);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) V::store(out + at + b * L, sum[b]);
  });
}

template <class V>
void sum_rows(const typename V::Acc* const* row, int64_t rows, const typename V::Acc* taps, int64_t n,
              typename V::Acc* out) {
  switch (rows) {
    case 1: return sum_rows_fixed<V, 1>(row, rows, taps, n, out);
    case 6: return sum_rows_fixed<V, 6>(row, rows, taps, n, out);
    case 12: return sum_rows_fixed<V, 12>(row, rows, taps, n, out);
    case 24: return sum_rows_fixed<V, 24>(row, rows, taps, n, out);
    default: return sum_rows_fixed<V, 0>(row, rows, taps, n, out);
  }
}

// Two results from one load: first[m] = sum over r < COUNT of a[r] * row[r][m], and second[m] the same of b[r] and
// row[r + STEP]. (Two phases of an up filter, which are under the same rows: STEP 0; two output rows: STEP rows apart.)
template <class V, int COUNT, int STEP>
void sum_row_pairs(const typename V::Acc* const* row, const typename V::Acc* a, const typename V::Acc* b, int64_t n,
                   typename V::Acc* first, typename V::Acc* second) {
  using Vec = typename V::Vec;
  constexpr int L = V::lanes;
  Vec tap_a[COUNT], tap_b[STEP ? 1 : COUNT];
  load_taps<V>(tap_a, a);
  if (STEP == 0) load_taps<V>(tap_b, b);
  in_blocks<kRegisters == 32 ? 6 : 4>(n, [&](int64_t begin, auto size) {
    constexpr int B = size.value;
    const int64_t at = begin * L;
    Vec sum[B] = {}, other[B] = {};
#pragma GCC unroll 32
    for (int r = 0; r < COUNT + STEP; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < B; ++i) {
        const Vec v = V::load(row[r] + at + i * L);
        if (r < COUNT) sum[i] += tap_a[r] * v;
        if (r >= STEP) other[i] += (STEP ? tap_a[STEP ? r - STEP : 0] : tap_b[STEP ? 0 : r]) * v;
      }
#pragma GCC unroll 8
    for (int i = 0; i < B; ++i) V::store(first + at + i * L, sum[i]), V::store(second + at + i * L, other[i]);
  });
}

// Lanes become rows: v[i][j] = v[j][i]. One step puts v[i] and v[i + half] in turn, which moves the highest bit of a
// number's place to the lowest; after as many steps as a lane's number has bits, rows and lanes have changed roles.
template <class V>
GK_INLINE void transpose(typename V::Vec (&v)[V::lanes]) {
  constexpr int L = V::lanes;
#pragma GCC unroll 4
  for (int step = 1; step < L; step *= 2) {
    typename V::Vec u[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      u[2 * i] = interleave_low(v[i], v[i + L / 2]);
      u[2 * i + 1] = interleave_high(v[i], v[i + L / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = u[i];
  }
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
