// bias_act's CUDA kernels: vectors of values in registers, and what is added to them.
#pragma once
#include <cstdint>

#include "common/cuda_io.cuh"

namespace gk {
namespace {

// What rows and columns are, see bias_act_cuda.cu.
enum class Form : int32_t { planes, pixels, folded };

// kPerVector<T> values as they are in memory: half types take half the registers until they are used. Not kWide: loaded
// one by one, and kept as they are summed.
template <class T, bool kWide>
struct Vector {
  static constexpr int V = kPerVector<T>;
  Accumulator<T> v[V];
  __device__ __forceinline__ void get(Accumulator<T>* to) const {
#pragma unroll
    for (int e = 0; e < V; ++e) to[e] = v[e];
  }
  __device__ __forceinline__ void set(const Accumulator<T>* from) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = from[e];
  }
  // The first n from p on; 0 for the others.
  __device__ __forceinline__ void load(const T* p, int n) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = e < n ? load_value(p + e) : Accumulator<T>(0);
  }
  __device__ __forceinline__ void store(T* p, int n) const {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < n) store_value(p + e, v[e]);
  }
};
template <class T>
struct Vector<T, true> {  // of n there are all, or none
  uint4 u;
  __device__ __forceinline__ void get(float* to) const { unpack_vector<T>(u, to); }
  __device__ __forceinline__ void set(const float* from) { u = pack_vector<T>(from); }
  __device__ __forceinline__ void load(const T* p, int n) {
    u = n > 0 ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void store(T* p, int n) const {
    if (n > 0) store_vector(p, u);
  }
};
template <>
struct Vector<double, true> {
  double2 u;
  __device__ __forceinline__ void get(double* to) const { to[0] = u.x, to[1] = u.y; }
  __device__ __forceinline__ void set(const double* from) { u = make_double2(from[0], from[1]); }
  __device__ __forceinline__ void load(const double* p, int n) {
    u = n > 0 ? *reinterpret_cast<const double2*>(p) : make_double2(0, 0);
  }
  __device__ __forceinline__ void store(double* p, int n) const {
    if (n > 0) *reinterpret_cast<double2*>(p) = u;
  }
};

template <class T>
__device__ __forceinline__ Accumulator<T> value(const void* base, int64_t at) {
  return load_value(static_cast<const T*>(base) + at);
}

// A per-channel tensor at the columns of a thread, where these are channels.
template <class T, bool kWide>
__device__ __forceinline__ void load_channels(const void* base, Form form, int64_t channels, int64_t column, int n,
                                              Vector<T, kWide>& to) {
  if (form == Form::pixels) return to.load(static_cast<const T*>(base) + column, n);
  Accumulator<T> v[kPerVector<T>];
#pragma unroll
  for (int e = 0; e < kPerVector<T>; ++e)
    v[e] =
        e < n ? value<T>(base, static_cast<uint32_t>(column + e) % static_cast<uint32_t>(channels)) : Accumulator<T>(0);
  to.set(v);
}

// What is added to a row: a per-channel and a per-position tensor, one of which varies along the row.
template <class T, bool kWide>
struct Addend {
  Vector<T, kWide> along;
  Accumulator<T> row;
  bool has_along, has_row;  // alike in all threads
  __device__ __forceinline__ void add_to(Accumulator<T>* v) const {
    Accumulator<T> w[kPerVector<T>];
    if (has_along) {
      along.get(w);
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) v[e] += w[e];
    }
    if (has_row) {
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) v[e] += row;
    }
  }
};

}  // namespace
}  // namespace gk
