// modulate's CUDA kernels: a thread's columns of a row, in registers.
#pragma once
#include <cstdint>

#include "common/cuda_io.cuh"

namespace gk {
namespace {

// Columns of a thread. kWide: one 16-byte vector, neighbours in memory, of which all are there or none. Else: read one by
// one, as many columns apart as threads lie side by side, so that these read what is side by side, too.
template <class T, bool kWide>
constexpr int kColumns = kWide ? kPerVector<T> : 4;

// Where the columns of a thread lie: the first one, how many of them are there, and the distance between them.
struct Columns {
  int first, live, step;

  __device__ __forceinline__ int at(int e) const { return first + e * step; }
};

template <class T, bool kWide>
__device__ __forceinline__ Columns columns_of(int start, int width, int lane, int lanes_log2) {
  constexpr int V = kColumns<T, kWide>;
  Columns c;
  c.first = start + (kWide ? lane * V : lane);
  c.step = kWide ? 1 : 1 << lanes_log2;
  if (kWide) {
    c.live = c.first < width ? V : 0;
  } else {
    const int left = c.first < width ? (width - c.first + c.step - 1) >> lanes_log2 : 0;
    c.live = left < V ? left : V;
  }
  return c;
}

// An image's columns, as they are in memory: half types take half the registers until they are used. 0 where there are
// none.
template <class T, bool kWide>
struct Vector {
  static constexpr int V = kColumns<T, false>;
  Accumulator<T> v[V];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = 0;
  }
  __device__ __forceinline__ void load(const T* row, const Columns& c) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = e < c.live ? load_value(row + c.at(e)) : Accumulator<T>(0);
  }
  __device__ __forceinline__ void get(Accumulator<T>* to) const {
#pragma unroll
    for (int e = 0; e < V; ++e) to[e] = v[e];
  }
  static __device__ __forceinline__ void store(T* row, const Columns& c, const Accumulator<T>* from) {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < c.live) store_value(row + c.at(e), from[e]);
  }
};
template <class T>
struct Vector<T, true> {
  uint4 u;

  __device__ __forceinline__ void clear() { u = make_uint4(0, 0, 0, 0); }
  __device__ __forceinline__ void load(const T* row, const Columns& c) {
    clear();
    if (c.live) u = *reinterpret_cast<const uint4*>(row + c.first);
  }
  __device__ __forceinline__ void get(float* to) const { unpack_vector<T>(u, to); }
  static __device__ __forceinline__ void store(T* row, const Columns& c, const float* from) {
    if (c.live) store_vector(row + c.first, pack_vector<T>(from));
  }
};
template <>
struct Vector<double, true> {
  double2 u;

  __device__ __forceinline__ void clear() { u = make_double2(0, 0); }
  __device__ __forceinline__ void load(const double* row, const Columns& c) {
    clear();
    if (c.live) u = *reinterpret_cast<const double2*>(row + c.first);
  }
  __device__ __forceinline__ void get(double* to) const { to[0] = u.x, to[1] = u.y; }
  static __device__ __forceinline__ void store(double* row, const Columns& c, const double* from) {
    if (c.live) *reinterpret_cast<double2*>(row + c.first) = make_double2(from[0], from[1]);
  }
};

// A number of each channel or of each pixel at the elements of a thread: one for each of its columns (kAlong), or one for
// its row. [e] is that of element e.
template <class T, bool kWide, bool kAlong>
struct Number {
  using A = Accumulator<T>;
  A v;

  __device__ __forceinline__ A operator[](int) const { return v; }
  // Of a table that has the row's number at `at`, or is null: then it is `absent`.
  __device__ __forceinline__ void load(const void* table, int64_t at, const Columns&, bool row_live, A absent) {
    v = table && row_live ? static_cast<const A*>(table)[at] : absent;
  }
};
template <class T, bool kWide>
struct Number<T, kWide, true> {
  using A = Accumulator<T>;
  static constexpr int V = kColumns<T, kWide>;
  A v[V];

  __device__ __forceinline__ A operator[](int e) const { return v[e]; }
  // Of a table that has the number of column 0 at `at`.
  __device__ __forceinline__ void load(const void* table, int64_t at, const Columns& c, bool, A absent) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = absent;
    if (!table) return;
    const A* from = static_cast<const A*>(table) + at;
    if constexpr (kWide) {
      constexpr int k = kPerVector<A>;
      if (c.live)
#pragma unroll
        for (int e = 0; e < V; e += k) {
          Vector<A, true> vector;
          vector.load(from + e, c);
          vector.get(v + e);
        }
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (e < c.live) v[e] = from[c.at(e)];
    }
  }
};

}  // namespace
}  // namespace gk
