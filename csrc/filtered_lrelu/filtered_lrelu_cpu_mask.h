// The activation of filtered_lrelu on rows of pixels (one vector a pixel, each lane a plane), and its masks.
//
// Between the two stand codes: a byte holds four pixels of one lane, `codes[group * lanes + lane]`, with group g the
// pixels 4 * g .. 4 * g + 3. That is what a mask of NCHW holds, but with lanes and groups exchanged; in channels_last a
// byte is four lanes of one pixel. Include from *_cpu.cpp only (see common/cpu_isa.h).
#pragma once
#include "filtered_lrelu/filtered_lrelu_cpu_sums.h"
#include "filtered_lrelu/filtered_lrelu_math.h"

namespace gk {
namespace GK_ISA {
namespace {

typedef uint64_t ULongVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef uint8_t ByteVec __attribute__((vector_size(16)));
typedef uint32_t WordVec __attribute__((vector_size(16)));
typedef uint8_t FloatLaneBytes __attribute__((vector_size(kFloatLanes)));
typedef uint8_t DoubleLaneBytes __attribute__((vector_size(kDoubleLanes)));

// Bits and bytes of as many lanes as a vector has.
template <class V>
struct Codes {
  using Bits = UIntVec;
  using Bytes = FloatLaneBytes;
};
template <>
struct Codes<F64> {
  using Bits = ULongVec;
  using Bytes = DoubleLaneBytes;
};

// A vector's codes, a byte each. (Compilers know how to convert the vectors, but make single numbers of them.)
template <class V>
GK_INLINE typename Codes<V>::Bits load_codes(const uint8_t* p) {
  using Bytes = typename Codes<V>::Bytes;
#if defined(GK_VEC_AVX512)
  if constexpr (sizeof(Bytes) == 16) return (UIntVec)_mm512_maskz_cvtepu8_epi32(kAll, (__m128i)load_bits<Bytes>(p));
#elif defined(GK_VEC_AVX2)
  if constexpr (sizeof(Bytes) == 8) return (UIntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#endif
  return __builtin_convertvector(load_bits<Bytes>(p), typename Codes<V>::Bits);
}
template <class V>
GK_INLINE void store_codes(uint8_t* p, typename Codes<V>::Bits bits) {
  using Bytes = typename Codes<V>::Bytes;
#if defined(GK_VEC_AVX512)
  if constexpr (sizeof(Bytes) == 16) return store_bits(p, _mm512_maskz_cvtepi32_epi8(kAll, (__m512i)bits));
#elif defined(GK_VEC_AVX2)
  if constexpr (sizeof(Bytes) == 8) {
    const __m128i shorts = (__m128i)narrow(bits);
    return _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(shorts, shorts));
  }
#endif
  store_bits(p, __builtin_convertvector(bits, Bytes));
}

enum class Mask { none, write, read };

template <class V>
struct Activation {
  typename V::Vec positive, negative;  // slopes
  typename V::Vec clamp, minus_clamp;
  typename V::Vec factor;  // lane i: of code i % 4
};

// The lower or upper of two; b where that is NaN.
template <class Vec>
GK_INLINE Vec lower(Vec a, Vec b) {
#if defined(GK_VEC_AVX512)
  if constexpr (sizeof(a[0]) == 4) return (Vec)_mm512_maskz_min_ps(kAll, (__m512)a, (__m512)b);
#endif
  return a < b ? a : b;
}
template <class Vec>
GK_INLINE Vec upper(Vec a, Vec b) {
#if defined(GK_VEC_AVX512)
  if constexpr (sizeof(a[0]) == 4) return (Vec)_mm512_maskz_max_ps(kAll, (__m512)a, (__m512)b);
#endif
  return a > b ? a : b;
}

// One pixel, whose code is the two bits `shift` of bits.
template <class V, Mask MASK, bool CLAMP>
GK_INLINE typename V::Vec activate_pixel(typename V::Vec t, const Activation<V>& act, typename Codes<V>::Bits& bits,
                                         int shift) {
  using Vec = typename V::Vec;
  using Bits = typename Codes<V>::Bits;
  if constexpr (MASK == Mask::read) {
#if defined(GK_VEC_AVX512)
    if constexpr (sizeof(act.factor[0]) == 4)  // the index's lowest four bits count
      return t * (Vec)_mm512_maskz_permutexvar_ps(kAll, (__m512i)(bits >> shift), (__m512)act.factor);
#endif
    const Vec factor = (bits & (Bits{} + (kMaskNegative << shift))) != 0 ? act.negative : act.positive;
    return t * ((bits & (Bits{} + (kMaskClamped << shift))) != 0 ? Vec{} : factor);
  } else {
    Vec a = t * (t <= 0 ? act.negative : act.positive);
    if constexpr (MASK == Mask::write) {
      Bits code = t <= 0 ? Bits{} + (kMaskNegative << shift) : Bits{};
      if (CLAMP) code = (a > act.clamp) | (a < act.minus_clamp) ? Bits{} + (kMaskClamped << shift) : code;
      bits |= code;
    }
    if (CLAMP) {
      a = lower(act.clamp, a);
      a = upper(act.minus_clamp, a);
    }
    return a;
  }
}

// Pixels [begin, end) in place: pixel i at row + (i - begin) * lanes. codes: those of the group that `begin` is in come
// first.
template <class V, Mask MASK, bool CLAMP>
void activate_row_fixed(typename V::Acc* row, int64_t begin, int64_t end, LreluSlopes<typename V::Acc> slopes,
                        typename V::Acc clamp, uint8_t* codes) {
  Activation<V> act{splat<V>(slopes.positive), splat<V>(slopes.negative), splat<V>(clamp), splat<V>(-clamp), {}};
  for (int i = 0; i < V::lanes; ++i) act.factor[i] = lrelu_factor(static_cast<uint32_t>(i), slopes);
  using Bits = typename Codes<V>::Bits;
  constexpr int L = V::lanes;
  for (int64_t i = begin; i < end; codes += L) {
    const int64_t first = i % kMaskGroup, last = end - i + first < kMaskGroup ? end - i + first : kMaskGroup;
    Bits bits = {};
    if constexpr (MASK == Mask::read) bits = load_codes<V>(codes);
    if (first == 0 && last == kMaskGroup) {
#pragma GCC unroll 4
      for (int s = 0; s < kMaskGroup; ++s, row += L)
        V::store(row, activate_pixel<V, MASK, CLAMP>(V::load(row), act, bits, 2 * s));
    } else {
      for (int64_t s = first; s < last; ++s, row += L)
        V::store(row, activate_pixel<V, MASK, CLAMP>(V::load(row), act, bits, 2 * static_cast<int>(s)));
    }
    if constexpr (MASK == Mask::write) store_codes<V>(codes, bits);
    i += last - first;
  }
}

template <class V>
void activate_row(Mask mask, typename V::Acc* row, int64_t begin, int64_t end, LreluSlopes<typename V::Acc> slopes,
                  typename V::Acc clamp, uint8_t* codes) {
  const auto run = mask == Mask::read    ? activate_row_fixed<V, Mask::read, false>
                   : mask == Mask::write ? clamp >= 0 ? activate_row_fixed<V, Mask::write, true>
                                                      : activate_row_fixed<V, Mask::write, false>
                   : clamp >= 0          ? activate_row_fixed<V, Mask::none, true>
                                         : activate_row_fixed<V, Mask::none, false>;
  run(row, begin, end, slopes, clamp, codes);
}

// ---- NCHW: every lane has a row of bytes of its own -----------------------------------------------------------------
// n < 16 bytes.
GK_INLINE ByteVec load_some(const uint8_t* p, int64_t n) {
#if defined(GK_VEC_AVX512)
  return (ByteVec)_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
#else
  uint8_t whole[16] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_bits<ByteVec>(whole);
#endif
}
GK_INLINE void store_some(uint8_t* p, ByteVec v, int64_t n) {
#if defined(GK_VEC_AVX512)
  _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m128i)v);
#else
  uint8_t whole[16];
  store_bits(whole, v);
  for (int64_t i = 0; i < n; ++i) p[i] = whole[i];
#endif
}

// [from][to] bytes of a block of 16 x COUNT become [to][from], by `STEPS` exchanges of the highest bit of a place to
// the lowest (see transpose): STEPS is log2 of what the places' first index counts.
template <int COUNT, int STEPS>
GK_INLINE void turn_bytes(ByteVec* v) {
#pragma GCC unroll 4
  for (int step = 0; step < STEPS; ++step) {
    ByteVec u[COUNT];
#pragma GCC unroll 8
    for (int i = 0; i < COUNT / 2; ++i) {
      const ByteVec a = v[i], b = v[i + COUNT / 2];
      u[2 * i] = GK_SHUFFLE(a, b, ByteVec, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      u[2 * i + 1] = GK_SHUFFLE(a, b, ByteVec, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; ++i) v[i] = u[i];
  }
}

// Codes of `groups` groups to one row of mask bytes per lane; and back. Codes have room for 16 groups more.
template <int L>
void write_rows(const uint8_t* codes, int64_t groups, uint8_t* const* row, int64_t rows) {
  for (int64_t g = 0; g < groups; g += 16, codes += 16 * L) {
    ByteVec v[L];
    for (int i = 0; i < L; ++i) v[i] = load_bits<ByteVec>(codes + 16 * i);
    turn_bytes<L, 4>(v);
    const int64_t n = groups - g;
    for (int64_t l = 0; l < rows; ++l) n >= 16 ? store_bits(row[l] + g, v[l]) : store_some(row[l] + g, v[l], n);
  }
}
template <int L>
void read_rows(uint8_t* codes, int64_t groups, const uint8_t* const* row) {
  for (int64_t g = 0; g < groups; g += 16, codes += 16 * L) {
    ByteVec v[L];
    const int64_t n = groups - g;
    for (int l = 0; l < L; ++l) v[l] = n >= 16 ? load_bits<ByteVec>(row[l] + g) : load_some(row[l] + g, n);
    turn_bytes<L, L == 16 ? 4 : L == 8 ? 3 : L == 4 ? 2 : 1>(v);
    for (int i = 0; i < L; ++i) store_bits(codes + 16 * i, v[i]);
  }
}

// ---- channels_last: a byte holds four lanes of a pixel --------------------------------------------------------------
// Four bytes of four codes, [lane][pixel] <-> [pixel][lane]: the halves of places that differ are exchanged, first the
// lower bits of the two indices (places 6 bits apart), then the higher ones (12 bits).
template <class Word>
GK_INLINE Word turn_codes(Word x) {
  Word t = ((x >> 6) ^ x) & 0x00cc00ccu;
  x ^= t ^ (t << 6);
  t = ((x >> 12) ^ x) & 0x0000f0f0u;
  return x ^ t ^ (t << 12);
}

// Pixels [begin, end) of a row of the mask, `pitch` bytes each, of which the lanes have the first `lanes` codes from
// `shift` bits of mask[0] on. Codes begin with the group that `begin` is in. shift is not 0 only where a vector has two
// lanes: then its byte was begun by the vector before.
template <int L>
void write_pixels(const uint8_t* codes, int64_t begin, int64_t end, uint8_t* mask, int64_t pitch, int64_t lanes,
                  int shift) {
  constexpr int WORDS = (L + 3) / 4;
  const int64_t bytes = mask_bytes(lanes);
  uint32_t keep[WORDS];
  for (int64_t w = 0; w < WORDS; ++w) {
    const int64_t n = lanes - 4 * w;
    keep[w] = n >= 4 ? ~0u : n > 0 ? 0x01010101u * ((1u << 2 * n) - 1) : 0;
  }
  for (int64_t i = begin; i < end; codes += L) {
    uint8_t turned[4][WORDS];  // [pixel][byte]
    if constexpr (L == 16) {
      WordVec x = load_bits<WordVec>(codes);
      x = turn_codes(x) & load_bits<WordVec>(keep);
      const ByteVec v = (ByteVec)x;
      store_bits(&turned[0][0], GK_SHUFFLE(v, v, ByteVec, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    } else {
      for (int w = 0; w < WORDS; ++w) {
        uint32_t x = 0;
        __builtin_memcpy(&x, codes + 4 * w, L < 4 ? L : 4);
        x = turn_codes(x) & keep[w];
        for (int s = 0; s < 4; ++s) turned[s][w] = static_cast<uint8_t>(x >> 8 * s);
      }
    }
    for (int64_t s = i % kMaskGroup; s < kMaskGroup && i < end; ++s, ++i) {
      uint8_t* const to = mask + i * pitch;
      if (L < 4)
        to[0] = static_cast<uint8_t>(shift ? to[0] | turned[s][0] << shift : turned[s][0]);
      else if (bytes == WORDS)
        __builtin_memcpy(to, turned[s], WORDS);
      else
        for (int64_t b = 0; b < bytes; ++b) to[b] = turned[s][b];
    }
  }
}
template <int L>
void read_pixels(uint8_t* codes, int64_t begin, int64_t end, const uint8_t* mask, int64_t pitch, int64_t lanes,
                 int shift) {
  constexpr int WORDS = (L + 3) / 4;
  const int64_t bytes = mask_bytes(lanes);
  for (int64_t i = begin; i < end; codes += L) {
    if constexpr (L == 16) {
      if (i % kMaskGroup == 0 && end - i >= kMaskGroup && bytes == WORDS) {
        uint32_t pixel[4];
        for (int s = 0; s < 4; ++s, ++i) __builtin_memcpy(pixel + s, mask + i * pitch, 4);
        const ByteVec v = (ByteVec)WordVec{pixel[0], pixel[1], pixel[2], pixel[3]};
        const ByteVec u = GK_SHUFFLE(v, v, ByteVec, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        store_bits(codes, turn_codes((WordVec)u));
        continue;
      }
    }
    uint8_t turned[4][WORDS] = {};
    for (int64_t s = i % kMaskGroup; s < kMaskGroup && i < end; ++s, ++i) {
      const uint8_t* const from = mask + i * pitch;
      if (bytes == WORDS)
        __builtin_memcpy(turned[s], from, WORDS);
      else
        for (int64_t b = 0; b < bytes; ++b) turned[s][b] = from[b];
    }
    for (int w = 0; w < WORDS; ++w) {
      uint32_t x = 0;
      for (int s = 0; s < 4; ++s) x |= static_cast<uint32_t>(turned[s][w] >> shift) << 8 * s;
      x = turn_codes(x);
      __builtin_memcpy(codes + 4 * w, &x, L < 4 ? L : 4);
    }
  }
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
