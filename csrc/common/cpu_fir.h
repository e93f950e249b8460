// Weighted sums of streams of numbers: out[i] = sum over t < count of taps[t] * stream[t][i].
//
// An FIR pass down the columns sums rows of an image; one along a row sums the same row at several offsets. Both are
// this. Include from *_cpu.cpp only (see cpu_isa.h).
#pragma once
#include "common/cpu_vec.h"

namespace gk {
namespace GK_ISA {
namespace {

// How far ahead of a pass memory is fetched. The hardware does it too, but starts anew on every page: with rows of 1 KB
// a blur of 256 x 256 float images took 9.0 instead of 14.2 ms with both of these.
constexpr int64_t kFetchAhead = 4096;  // bytes; flat from 1 to 8 KB

template <class Src>
struct Streams {
  const typename Src::Elem* const* stream;
  const typename Src::Acc* taps;
  int64_t count;
  int64_t fresh = 0;            // the last so many streams are read here for the first time: fetch them ahead,
  int64_t ahead = kFetchAhead;  // by so many bytes
};

template <int BYTES, int WRITE, class T>
GK_INLINE void fetch_ahead(const T* p, int64_t distance) {
  const char* at = reinterpret_cast<const char*>(p) + distance;
#pragma GCC unroll 8
  for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(at + i, WRITE);
}

// The streams of a sum in registers. COUNT is their number; 0: any number, left in memory.
template <class Src, int COUNT>
struct Sum {
  using Vec = typename Src::Vec;
  using Elem = typename Src::Elem;
  using Acc = typename Src::Acc;
  const Elem* stream[COUNT];
  Acc tap[COUNT];
  int64_t fresh, ahead;

  GK_INLINE explicit Sum(const Streams<Src>& s, int64_t at) : fresh(s.fresh), ahead(s.ahead) {
#pragma GCC unroll 16
    for (int t = 0; t < COUNT; ++t) stream[t] = s.stream[t] + at, tap[t] = s.taps[t];
  }
  template <int N>
  GK_INLINE void sum(int64_t at, Vec* out) const {
#pragma GCC unroll 16
    for (int t = 0; t < COUNT; ++t)
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const Vec v = Src::load(stream[t] + at + i * Src::lanes);
        out[i] = t ? out[i] + tap[t] * v : tap[t] * v;
      }
  }
  GK_INLINE Vec part(int64_t at, int64_t n) const {
    Vec sum = tap[0] * Src::load(stream[0] + at, n);
#pragma GCC unroll 16
    for (int t = 1; t < COUNT; ++t) sum += tap[t] * Src::load(stream[t] + at, n);
    return sum;
  }
  template <int N>
  GK_INLINE void fetch(int64_t at) const {
    constexpr int kBytes = N * Src::lanes * static_cast<int>(sizeof(Elem));
    if (fresh > 0) fetch_ahead<kBytes, 0>(stream[COUNT - 1] + at, ahead);
    if (COUNT > 1 && fresh > 1) fetch_ahead<kBytes, 0>(stream[COUNT > 1 ? COUNT - 2 : 0] + at, ahead);
  }
};

template <class Src>
struct Sum<Src, 0> {
  using Vec = typename Src::Vec;
  const Streams<Src>& s;
  int64_t from;

  GK_INLINE explicit Sum(const Streams<Src>& streams, int64_t at) : s(streams), from(at) {}
  template <int N>
  GK_INLINE void sum(int64_t at, Vec* out) const {
    Vec sum[N] = {};
    for (int64_t t = 0; t < s.count; ++t) {
      const typename Src::Elem* p = s.stream[t] + from + at;
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) sum[i] += s.taps[t] * Src::load(p + i * Src::lanes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) out[i] = sum[i];
  }
  GK_INLINE Vec part(int64_t at, int64_t n) const {
    Vec sum = {};
    for (int64_t t = 0; t < s.count; ++t) sum += s.taps[t] * Src::load(s.stream[t] + from + at, n);
    return sum;
  }
  template <int N>
  GK_INLINE void fetch(int64_t at) const {
    constexpr int kBytes = N * Src::lanes * static_cast<int>(sizeof(typename Src::Elem));
    for (int64_t t = s.count - s.fresh; t < s.count; ++t) fetch_ahead<kBytes, 0>(s.stream[t] + from + at, s.ahead);
  }
};

// Calls body with the Sum that fits: counts that resampling filters often have are compiled in.
template <class Src, class Body>
GK_INLINE void with_sum(const Streams<Src>& s, int64_t at, const Body& body) {
  switch (s.count) {
    case 1: return body(Sum<Src, 1>(s, at));
    case 2: return body(Sum<Src, 2>(s, at));
    case 3: return body(Sum<Src, 3>(s, at));
    case 4: return body(Sum<Src, 4>(s, at));
    case 6: return body(Sum<Src, 6>(s, at));
    default: return body(Sum<Src, 0>(s, at));
  }
}

// Whether a row has a vector's length to spare at its end, as scratch memory does: a source is then read and a target
// written (with zeros, if the source is an exact row) in whole vectors up to the end. Rows of a tensor are exact.
enum class Row { exact, spare };

// out[0 .. n) of type Dst. An exact target is memory not touched lately, which is fetched `store_ahead` bytes ahead.
template <class Src, Row SOURCE, class Dst, Row TARGET>
void sum_streams(const Streams<Src>& s, int64_t at, int64_t n, typename Dst::Elem* out,
                 int64_t store_ahead = kFetchAhead) {
  constexpr int L = Src::lanes;
  with_sum(s, at, [&](const auto& sum) {
    typename Src::Vec v[4];
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
      sum.template fetch<4>(i);
      if (TARGET == Row::exact) fetch_ahead<4 * L * sizeof(typename Dst::Elem), 1>(out + i, store_ahead);
      sum.template sum<4>(i, v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) Dst::store(out + i + j * L, v[j]);
    }
    for (; i + L <= n; i += L) {
      if (TARGET == Row::exact) fetch_ahead<1, 1>(out + i, store_ahead);
      sum.template sum<1>(i, v);
      Dst::store(out + i, v[0]);
    }
    if (i == n) return;
    if (SOURCE == Row::spare)
      sum.template sum<1>(i, v);
    else
      v[0] = sum.part(i, n - i);
    if (TARGET == Row::spare)
      Dst::store(out + i, v[0]);
    else
      Dst::store(out + i, v[0], n - i);
  });
}

// The same from an exact row into two spare ones in turn: first[i] = out[2 * i], second[i] = out[2 * i + 1].
template <class Src>
void sum_streams_dealt(const Streams<Src>& s, int64_t at, int64_t n, typename Src::Acc* first,
                       typename Src::Acc* second) {
  using Dst = typename ScratchOf<typename Src::Acc>::type;
  constexpr int L = Src::lanes;
  with_sum(s, at, [&](const auto& sum) {
    typename Src::Vec v[4];
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
      sum.template fetch<4>(i);
      sum.template sum<4>(i, v);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        Dst::store(first + i / 2 + j * L, even_lanes(v[2 * j], v[2 * j + 1]));
        Dst::store(second + i / 2 + j * L, odd_lanes(v[2 * j], v[2 * j + 1]));
      }
    }
    for (; i < n; i += 2 * L) {
      const int64_t rest = n - i;
      v[1] = typename Src::Vec{};
      if (rest >= L)
        sum.template sum<1>(i, v);
      else
        v[0] = sum.part(i, rest);
      if (rest >= 2 * L)
        sum.template sum<1>(i + L, v + 1);
      else if (rest > L)
        v[1] = sum.part(i + L, rest - L);
      Dst::store(first + i / 2, even_lanes(v[0], v[1]));
      Dst::store(second + i / 2, odd_lanes(v[0], v[1]));
    }
  });
}

// Two sums of spare rows in turn, into an exact one: out[2 * i] = sum of `evens` at i, out[2 * i + 1] = sum of `odds`
// at i.
template <class Dst>
void sum_streams_interleaved(const Streams<typename ScratchOf<typename Dst::Acc>::type>& evens,
                             const Streams<typename ScratchOf<typename Dst::Acc>::type>& odds, int64_t n,
                             typename Dst::Elem* out, int64_t store_ahead) {
  constexpr int L = Dst::lanes;
  const auto pass = [&](const auto& even, const auto& odd) {
    typename Dst::Vec a[2], b[2];
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
      fetch_ahead<4 * L * sizeof(typename Dst::Elem), 1>(out + i, store_ahead);
      even.template sum<2>(i / 2, a);
      odd.template sum<2>(i / 2, b);
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        Dst::store(out + i + 2 * j * L, interleave_low(a[j], b[j]));
        Dst::store(out + i + (2 * j + 1) * L, interleave_high(a[j], b[j]));
      }
    }
    for (; i < n; i += 2 * L) {
      even.template sum<1>(i / 2, a);
      odd.template sum<1>(i / 2, b);
      const auto low = interleave_low(a[0], b[0]), high = interleave_high(a[0], b[0]);
      const int64_t rest = n - i;
      if (rest >= L)
        Dst::store(out + i, low);
      else
        Dst::store(out + i, low, rest);
      if (rest >= 2 * L)
        Dst::store(out + i + L, high);
      else if (rest > L)
        Dst::store(out + i + L, high, rest - L);
    }
  };
  using Src = typename ScratchOf<typename Dst::Acc>::type;
  if (evens.count == 2 && odds.count == 2)
    pass(Sum<Src, 2>(evens, 0), Sum<Src, 2>(odds, 0));
  else if (evens.count == 6 && odds.count == 6)
    pass(Sum<Src, 6>(evens, 0), Sum<Src, 6>(odds, 0));
  else
    pass(Sum<Src, 0>(evens, 0), Sum<Src, 0>(odds, 0));
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
