// Vectors of one CPU variant: a register's worth of float or double, loads and stores in every storage type, shuffles.
//
// Include from *_cpu.cpp only. Everything is in an anonymous namespace, so that no variant's code can stand in for
// another's (see cpu_isa.h). The vectors are the compilers' own (GCC, Clang, any architecture); intrinsics appear only
// where those have no form for an instruction: masked access and half-precision conversion.
//
// A storage type S (F32, F64, F16, BF16) has
//   S::Elem, S::Acc          element in memory, number to compute with (double for F64, else float)
//   S::Vec, S::lanes         vector of Acc
//   S::load(p), S::load(p, n)        the latter reads n < lanes elements only and gives 0 in the others
//   S::store(p, v), S::store(p, v, n)
// and stores round to nearest, ties to even; NaN and infinities survive.
#pragma once
#include <cstdint>

#include "common/params.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define GK_VEC_BYTES 64
#define GK_VEC_AVX512 1
#elif defined(__AVX2__) && defined(__F16C__)
#define GK_VEC_BYTES 32
#define GK_VEC_AVX2 1
#else
#define GK_VEC_BYTES 16
#endif
#if defined(GK_VEC_AVX512) || defined(GK_VEC_AVX2)
#include <immintrin.h>
#endif

#define GK_INLINE inline __attribute__((always_inline))

// GK_SHUFFLE(a, b, indices): lanes of a, then of b. GCC before 12 has only the form with a vector of indices.
#if defined(__clang__) || __GNUC__ >= 12
#define GK_SHUFFLE(a, b, mask, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define GK_SHUFFLE(a, b, mask, ...) __builtin_shuffle(a, b, mask{__VA_ARGS__})
#endif

namespace gk {
namespace GK_ISA {
namespace {

typedef float FloatVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef double DoubleVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef uint32_t UIntVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef int64_t LongVec __attribute__((vector_size(GK_VEC_BYTES)));
typedef uint16_t ShortVec __attribute__((vector_size(GK_VEC_BYTES / 2)));  // as many lanes as FloatVec

constexpr int kFloatLanes = GK_VEC_BYTES / 4, kDoubleLanes = GK_VEC_BYTES / 8;

template <class V, class T>
GK_INLINE V load_bits(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V, class T>
GK_INLINE void store_bits(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Partial access without masks: through a buffer, so that nothing outside of the n elements is touched.
template <class V, class T>
GK_INLINE V load_bits(const T* p, int64_t n) {
  T whole[sizeof(V) / sizeof(T)] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_bits<V>(whole);
}
template <class V, class T>
GK_INLINE void store_bits(T* p, V v, int64_t n) {
  T whole[sizeof(V) / sizeof(T)];
  store_bits(whole, v);
  for (int64_t i = 0; i < n; ++i) p[i] = whole[i];
}

// ---- interleaving: a0 b0 a1 b1 ... and back -------------------------------------------------------------------------
#if GK_VEC_BYTES == 64
GK_INLINE FloatVec interleave_low(FloatVec a, FloatVec b) {
  return GK_SHUFFLE(a, b, IntVec, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
GK_INLINE FloatVec interleave_high(FloatVec a, FloatVec b) {
  return GK_SHUFFLE(a, b, IntVec, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
GK_INLINE FloatVec even_lanes(FloatVec a, FloatVec b) {
  return GK_SHUFFLE(a, b, IntVec, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
GK_INLINE FloatVec odd_lanes(FloatVec a, FloatVec b) {
  return GK_SHUFFLE(a, b, IntVec, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#define GK_SHUFFLE8 DoubleVec
#define GK_SHUFFLE8_MASK LongVec
#elif GK_VEC_BYTES == 32
#define GK_SHUFFLE8 FloatVec
#define GK_SHUFFLE8_MASK IntVec
#define GK_SHUFFLE4 DoubleVec
#define GK_SHUFFLE4_MASK LongVec
#else
#define GK_SHUFFLE4 FloatVec
#define GK_SHUFFLE4_MASK IntVec
GK_INLINE DoubleVec interleave_low(DoubleVec a, DoubleVec b) { return GK_SHUFFLE(a, b, LongVec, 0, 2); }
GK_INLINE DoubleVec interleave_high(DoubleVec a, DoubleVec b) { return GK_SHUFFLE(a, b, LongVec, 1, 3); }
GK_INLINE DoubleVec even_lanes(DoubleVec a, DoubleVec b) { return GK_SHUFFLE(a, b, LongVec, 0, 2); }
GK_INLINE DoubleVec odd_lanes(DoubleVec a, DoubleVec b) { return GK_SHUFFLE(a, b, LongVec, 1, 3); }
#endif
#if defined(GK_SHUFFLE8)
GK_INLINE GK_SHUFFLE8 interleave_low(GK_SHUFFLE8 a, GK_SHUFFLE8 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE8_MASK, 0, 8, 1, 9, 2, 10, 3, 11);
}
GK_INLINE GK_SHUFFLE8 interleave_high(GK_SHUFFLE8 a, GK_SHUFFLE8 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE8_MASK, 4, 12, 5, 13, 6, 14, 7, 15);
}
GK_INLINE GK_SHUFFLE8 even_lanes(GK_SHUFFLE8 a, GK_SHUFFLE8 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE8_MASK, 0, 2, 4, 6, 8, 10, 12, 14);
}
GK_INLINE GK_SHUFFLE8 odd_lanes(GK_SHUFFLE8 a, GK_SHUFFLE8 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE8_MASK, 1, 3, 5, 7, 9, 11, 13, 15);
}
#endif
#if defined(GK_SHUFFLE4)
GK_INLINE GK_SHUFFLE4 interleave_low(GK_SHUFFLE4 a, GK_SHUFFLE4 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE4_MASK, 0, 4, 1, 5);
}
GK_INLINE GK_SHUFFLE4 interleave_high(GK_SHUFFLE4 a, GK_SHUFFLE4 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE4_MASK, 2, 6, 3, 7);
}
GK_INLINE GK_SHUFFLE4 even_lanes(GK_SHUFFLE4 a, GK_SHUFFLE4 b) {
  return GK_SHUFFLE(a, b, GK_SHUFFLE4_MASK, 0, 2, 4, 6);
}
GK_INLINE GK_SHUFFLE4 odd_lanes(GK_SHUFFLE4 a, GK_SHUFFLE4 b) { return GK_SHUFFLE(a, b, GK_SHUFFLE4_MASK, 1, 3, 5, 7); }
#endif
#undef GK_SHUFFLE8
#undef GK_SHUFFLE8_MASK
#undef GK_SHUFFLE4
#undef GK_SHUFFLE4_MASK

// ---- 16-bit numbers -------------------------------------------------------------------------------------------------
#if defined(GK_VEC_AVX512)
constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of its own uninitialised variables in the forms without a mask
#endif
GK_INLINE UIntVec widen(ShortVec h) {
#if defined(GK_VEC_AVX512)
  return (UIntVec)_mm512_maskz_cvtepu16_epi32(kAll, (__m256i)h);
#elif defined(GK_VEC_AVX2)
  return (UIntVec)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, UIntVec);
#endif
}

// The low 16 bits of every lane; the high ones are 0.
GK_INLINE ShortVec narrow(UIntVec u) {
#if defined(GK_VEC_AVX512)
  return (ShortVec)_mm512_maskz_cvtepi32_epi16(kAll, (__m512i)u);
#elif defined(GK_VEC_AVX2)
  const __m256i packed = _mm256_packus_epi32((__m256i)u, (__m256i)u);  // each half of the register by itself
  return (ShortVec)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(u, ShortVec);
#endif
}

GK_INLINE FloatVec from_bf16(ShortVec h) { return (FloatVec)(widen(h) << 16); }

GK_INLINE ShortVec to_bf16(FloatVec v) {
  const UIntVec u = (UIntVec)v;
  const UIntVec rounded = u + 0x7fffu + ((u >> 16) & 1u);  // ties go to the even neighbour
  // A NaN must not round up to infinity or to zero: keep its payload's head and make it quiet.
  return narrow((v == v ? rounded : (u | 0x400000u)) >> 16);
}

GK_INLINE FloatVec from_f16(ShortVec h) {
#if defined(GK_VEC_AVX512)
  return (FloatVec)_mm512_maskz_cvtph_ps(kAll, (__m256i)h);
#elif defined(GK_VEC_AVX2)
  return (FloatVec)_mm256_cvtph_ps((__m128i)h);
#else
  const UIntVec w = widen(h), sign = (w & 0x8000u) << 16, magnitude = (w & 0x7fffu) << 13;
  const UIntVec normal = magnitude + ((127u - 15u) << 23);
  // Below 2^-14 the exponent field is 0: put 2^-14 in front of the fraction and subtract it again, which is exact.
  const UIntVec tiny = (UIntVec)((FloatVec)(magnitude + (113u << 23)) - (FloatVec)(UIntVec{} + (113u << 23)));
  UIntVec bits = magnitude < (1u << 23) ? tiny : normal;
  bits = magnitude >= (31u << 23) ? (magnitude | 0x7f800000u) : bits;  // infinity, NaN
  return (FloatVec)(bits | sign);
#endif
}

GK_INLINE ShortVec to_f16(FloatVec v) {
#if defined(GK_VEC_AVX512)
  return (ShortVec)_mm512_maskz_cvtps_ph(kAll, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(GK_VEC_AVX2)
  return (ShortVec)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
  const UIntVec u = (UIntVec)v, sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  const UIntVec rounded = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14: adding 0.5 leaves multiples of 2^-24, the smallest half, in the float's last bits, rounded to even.
  const UIntVec tiny = (UIntVec)((FloatVec)magnitude + 0.5f) - (126u << 23);
  UIntVec bits = magnitude < (113u << 23) ? tiny : rounded;
  bits = magnitude >= (143u << 23) ? UIntVec{} + 0x7c00u : bits;                     // 2^16 and above
  bits = magnitude > 0x7f800000u ? (0x7e00u | ((magnitude >> 13) & 0x3ffu)) : bits;  // NaN
  return narrow(bits | sign);
#endif
}

// ---- storage types --------------------------------------------------------------------------------------------------
GK_INLINE ShortVec load_shorts(const uint16_t* p, int64_t n) {
#if defined(GK_VEC_AVX512)
  return (ShortVec)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
  return load_bits<ShortVec>(p, n);
#endif
}
GK_INLINE void store_shorts(uint16_t* p, ShortVec v, int64_t n) {
#if defined(GK_VEC_AVX512)
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)v);
#else
  store_bits(p, v, n);
#endif
}

struct F32 {
  using Elem = float;
  using Acc = float;
  using Vec = FloatVec;
  static constexpr int lanes = kFloatLanes;
  static GK_INLINE Vec load(const Elem* p) { return load_bits<Vec>(p); }
  static GK_INLINE void store(Elem* p, Vec v) { store_bits(p, v); }
#if defined(GK_VEC_AVX512)
  static GK_INLINE Vec load(const Elem* p, int64_t n) {
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
  }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
  }
#else
  static GK_INLINE Vec load(const Elem* p, int64_t n) { return load_bits<Vec>(p, n); }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) { store_bits(p, v, n); }
#endif
};

struct F64 {
  using Elem = double;
  using Acc = double;
  using Vec = DoubleVec;
  static constexpr int lanes = kDoubleLanes;
  static GK_INLINE Vec load(const Elem* p) { return load_bits<Vec>(p); }
  static GK_INLINE void store(Elem* p, Vec v) { store_bits(p, v); }
#if defined(GK_VEC_AVX512)
  static GK_INLINE Vec load(const Elem* p, int64_t n) {
    return (Vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
  }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
  }
#else
  static GK_INLINE Vec load(const Elem* p, int64_t n) { return load_bits<Vec>(p, n); }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) { store_bits(p, v, n); }
#endif
};

struct F16 {
  using Elem = uint16_t;
  using Acc = float;
  using Vec = FloatVec;
  static constexpr int lanes = kFloatLanes;
  static GK_INLINE Vec load(const Elem* p) { return from_f16(load_bits<ShortVec>(p)); }
  static GK_INLINE Vec load(const Elem* p, int64_t n) { return from_f16(load_shorts(p, n)); }
  static GK_INLINE void store(Elem* p, Vec v) { store_bits(p, to_f16(v)); }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) { store_shorts(p, to_f16(v), n); }
};

struct BF16 {
  using Elem = uint16_t;
  using Acc = float;
  using Vec = FloatVec;
  static constexpr int lanes = kFloatLanes;
  static GK_INLINE Vec load(const Elem* p) { return from_bf16(load_bits<ShortVec>(p)); }
  static GK_INLINE Vec load(const Elem* p, int64_t n) { return from_bf16(load_shorts(p, n)); }
  static GK_INLINE void store(Elem* p, Vec v) { store_bits(p, to_bf16(v)); }
  static GK_INLINE void store(Elem* p, Vec v, int64_t n) { store_shorts(p, to_bf16(v), n); }
};

// Storage of the accumulation type itself: for scratch rows.
template <class Acc>
struct ScratchOf {
  using type = F32;
};
template <>
struct ScratchOf<double> {
  using type = F64;
};

// Calls run with a value of the storage type S: run(F32{}) and so on.
template <class Run>
GK_INLINE void with_dtype(DType dtype, Run run) {
  switch (dtype) {
    case DType::f32: return run(F32{});
    case DType::f64: return run(F64{});
    case DType::f16: return run(F16{});
    case DType::bf16: return run(BF16{});
  }
}

}  // namespace
}  // namespace GK_ISA
}  // namespace gk
