// Storage types inside CUDA kernels: accumulation type, and 4-byte words of memory to floats and back.
#pragma once
#include <cstdint>

#include "common/launch.h"

namespace gk {
namespace {

// What a kernel sums in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class T>
__device__ __forceinline__ Accumulator<T> load_value(const T* p) {
  return static_cast<Accumulator<T>>(*p);
}
__device__ __forceinline__ void store_value(float* p, float v) { *p = v; }
__device__ __forceinline__ void store_value(double* p, double v) { *p = v; }
__device__ __forceinline__ void store_value(__half* p, float v) { *p = __float2half_rn(v); }
__device__ __forceinline__ void store_value(__nv_bfloat16* p, float v) { *p = __float2bfloat16_rn(v); }

// One 4-byte word holds kPerWord values, the one at the lower address in its low half.
template <class T>
constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));

template <class T>
__device__ __forceinline__ void unpack_word(uint32_t word, float* v);
template <>
__device__ __forceinline__ void unpack_word<float>(uint32_t word, float* v) {
  v[0] = __uint_as_float(word);
}
template <>
__device__ __forceinline__ void unpack_word<__nv_bfloat16>(uint32_t word, float* v) {
  v[0] = __uint_as_float(word << 16);
  v[1] = __uint_as_float(word & 0xffff0000u);
}
template <>
__device__ __forceinline__ void unpack_word<__half>(uint32_t word, float* v) {
  __half2_raw raw;
  raw.x = static_cast<unsigned short>(word & 0xffffu);
  raw.y = static_cast<unsigned short>(word >> 16);
  const float2 f = __half22float2(__half2(raw));
  v[0] = f.x, v[1] = f.y;
}

template <class T>
__device__ __forceinline__ uint32_t pack_word(const float* v);
template <>
__device__ __forceinline__ uint32_t pack_word<float>(const float* v) {
  return __float_as_uint(v[0]);
}
template <>
__device__ __forceinline__ uint32_t pack_word<__nv_bfloat16>(const float* v) {
  const __nv_bfloat162_raw raw = __floats2bfloat162_rn(v[0], v[1]);
  return static_cast<uint32_t>(raw.x) | static_cast<uint32_t>(raw.y) << 16;
}
template <>
__device__ __forceinline__ uint32_t pack_word<__half>(const float* v) {
  const __half2_raw raw = __floats2half2_rn(v[0], v[1]);
  return static_cast<uint32_t>(raw.x) | static_cast<uint32_t>(raw.y) << 16;
}

// 16 bytes of values: 4 floats, 8 halves.
template <class T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

template <class T>
__device__ __forceinline__ void unpack_vector(const uint4& u, float* v) {
  constexpr int k = kPerWord<T>;
  unpack_word<T>(u.x, v), unpack_word<T>(u.y, v + k), unpack_word<T>(u.z, v + 2 * k), unpack_word<T>(u.w, v + 3 * k);
}
template <class T>
__device__ __forceinline__ uint4 pack_vector(const float* v) {
  constexpr int k = kPerWord<T>;
  return make_uint4(pack_word<T>(v), pack_word<T>(v + k), pack_word<T>(v + 2 * k), pack_word<T>(v + 3 * k));
}

// A 16-byte store to global memory, whatever the compiler would rather merge or split.
__device__ __forceinline__ void store_vector(void* to, const uint4& u) {
#if defined(GK_CUDA_ON_CPU)
  *static_cast<uint4*>(to) = u;
#else
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(u.x), "r"(u.y), "r"(u.z), "r"(u.w) : "memory");
#endif
}

}  // namespace
}  // namespace gk
