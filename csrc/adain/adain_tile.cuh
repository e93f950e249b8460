// adain's CUDA kernels: a block's threads, the part of an image they hold in shared memory, and their sums.
//
// Threads are rows of `lanes` neighbours. A thread has a column of V neighbours in memory, at several slots:
//   planes  (NCHW)           a row of threads has a channel, and its columns and slots are pixels
//   pixels  (channels_last)  all threads have one another's channels: columns are channels, rows and slots are pixels
#pragma once
#include <cstdint>

#include "common/cuda_async.cuh"
#include "common/cuda_io.cuh"

namespace gk {
namespace {

// ---- columns --------------------------------------------------------------------------------------------------------
// V values of T in memory (16-byte vectors, 8-byte ones or single values) from and to the accumulation type.
template <class T, int V>
__device__ __forceinline__ void get_column(const T* from, Accumulator<T>* to) {
  if constexpr (V == 1) {
    to[0] = load_value(from);
  } else if constexpr (V * sizeof(T) == 16) {
    unpack_vector<T>(*reinterpret_cast<const uint4*>(from), to);
  } else {
    static_assert(V * sizeof(T) == 8, "vectors have 8 or 16 bytes");
    const uint2 u = *reinterpret_cast<const uint2*>(from);
    unpack_word<T>(u.x, to), unpack_word<T>(u.y, to + kPerWord<T>);
  }
}
template <class T, int V>
__device__ __forceinline__ void put_column(T* to, const Accumulator<T>* from) {
  if constexpr (V == 1)
    store_value(to, from[0]);
  else if constexpr (V * sizeof(T) == 16)
    store_vector(to, pack_vector<T>(from));
  else
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_word<T>(from), pack_word<T>(from + kPerWord<T>));
}
// The same as it is, from global to shared memory, under way until async_wait<0>().
template <class T, int V>
__device__ __forceinline__ void copy_column(T* to, const T* from) {
  constexpr int kBytes = V * static_cast<int>(sizeof(T));
  if constexpr (kBytes == 16 && V > 1) {
    async_copy<16>(to, from, 1);
  } else if constexpr (kBytes % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kBytes; i += 4)
      async_copy<4>(reinterpret_cast<char*>(to) + i, reinterpret_cast<const char*>(from) + i, 1);
  } else {
    *to = *from;
  }
}
// V numbers of the accumulation type; those of a vector are aligned to 16 bytes.
template <int V, class A>
__device__ __forceinline__ void get_numbers(const A* from, A* to) {
  if constexpr (V % 4 == 0 && sizeof(A) == 4) {
#pragma unroll
    for (int e = 0; e < V; e += 4) {
      const float4 f = *reinterpret_cast<const float4*>(from + e);
      to[e] = f.x, to[e + 1] = f.y, to[e + 2] = f.z, to[e + 3] = f.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < V; ++e) to[e] = from[e];
  }
}
template <int V, class A>
__device__ __forceinline__ void put_numbers(A* to, const A* from) {
  if constexpr (V % 4 == 0 && sizeof(A) == 4) {
#pragma unroll
    for (int e = 0; e < V; e += 4)
      *reinterpret_cast<float4*>(to + e) = make_float4(from[e], from[e + 1], from[e + 2], from[e + 3]);
  } else {
#pragma unroll
    for (int e = 0; e < V; ++e) to[e] = from[e];
  }
}
template <int V, class A>
__device__ __forceinline__ void fill(A* to, A value) {
#pragma unroll
  for (int e = 0; e < V; ++e) to[e] = value;
}

// ---- threads --------------------------------------------------------------------------------------------------------
// Most threads of a block, which bounds a kernel's registers: 65,536 / threads. Planes of 64 KB and more have a block each,
// few of which a multiprocessor holds; in channels_last every thread has numbers of several channels.
template <bool kPlanes, bool kFast>
constexpr int kMaxThreads = !kPlanes ? 128
                            : kFast  ? 512
                                     : 256;
// Most columns (values) of all lanes in channels_last: 128 bytes are as good as more, and the sums of a column need room.
constexpr int kMaxPitch = 64;

template <bool kPlanes>
struct Threads {
  int lanes_log2, lanes, lane, row, rows;

  __device__ __forceinline__ explicit Threads(int lanes_log2_) : lanes_log2(lanes_log2_), lanes(1 << lanes_log2_) {
    const int thread = static_cast<int>(threadIdx.x);
    lane = thread & (lanes - 1), row = thread >> lanes_log2, rows = static_cast<int>(blockDim.x) >> lanes_log2;
  }
};

struct Add {
  static constexpr int kNumbers = 1;
  template <class A>
  __device__ __forceinline__ void operator()(A* a, const A* b) const {
    a[0] += b[0];
  }
};
// Count, mean and sum of squared deviations of two sets (Chan et al. 1979).
struct Merge {
  static constexpr int kNumbers = 3;
  template <class A>
  __device__ __forceinline__ void operator()(A* a, const A* b) const {
    const A both = a[0] + b[0], share = both > A(0) ? b[0] / both : A(0), d = b[1] - a[1];
    a[1] += d * share;
    a[2] += b[2] + d * d * (a[0] * share);
    a[0] = both;
  }
};

// Room for reduce(), with the most warps: of planes each has one number of a kind, else one of each column.
template <bool kPlanes, int kNumbers>
constexpr int kExchange = kPlanes ? 16 * kNumbers : 4 * kMaxPitch * kNumbers;

// Combines the numbers of C columns of all threads that have the same channel, in a fixed order; all of them get the result.
// numbers[k][column]: K sums, or the three of Merge. All threads of the block must call it.
template <bool kPlanes, int K, int C, class A, class Combine>
__device__ __forceinline__ void reduce(A (&numbers)[K][C], const Threads<kPlanes>& t, A* exchange, Combine combine) {
  constexpr int kStep = Combine::kNumbers;
  static_assert(K % kStep == 0, "whole sets of numbers");
  const int thread = static_cast<int>(threadIdx.x), in_warp = thread & 31;
  const int end = kPlanes && t.lanes < 32 ? t.lanes : 32;
  for (int distance = kPlanes ? 1 : t.lanes; distance < end; distance *= 2)
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int k = 0; k < K; k += kStep) {
        A mine[kStep], other[kStep];
#pragma unroll
        for (int j = 0; j < kStep; ++j) {
          const A there = __shfl_xor_sync(0xffffffffu, numbers[k + j][c], distance), here = numbers[k + j][c];
          const bool second = in_warp & distance;  // the same order in both lanes: the same bits
          mine[j] = second ? there : here, other[j] = second ? here : there;
        }
        combine(mine, other);
#pragma unroll
        for (int j = 0; j < kStep; ++j) numbers[k + j][c] = mine[j];
      }
  const int warps = static_cast<int>(blockDim.x) >> 5;
  if (kPlanes ? t.lanes <= 32 : warps == 1) return;
  const int pitch = kPlanes ? 1 : t.lanes * C, column = kPlanes ? 0 : t.lane * C;
  if (in_warp < (kPlanes ? 1 : t.lanes))
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int c = 0; c < C; ++c) exchange[(k * warps + (thread >> 5)) * pitch + column + c] = numbers[k][c];
  __syncthreads();
#pragma unroll
  for (int c = 0; c < C; ++c)
#pragma unroll
    for (int k = 0; k < K; k += kStep) {
      A all[kStep], next[kStep];
#pragma unroll
      for (int j = 0; j < kStep; ++j) all[j] = exchange[(k + j) * warps * pitch + column + c];
#pragma unroll 1
      for (int warp = 1; warp < warps; ++warp) {
#pragma unroll
        for (int j = 0; j < kStep; ++j) next[j] = exchange[((k + j) * warps + warp) * pitch + column + c];
        combine(all, next);
      }
#pragma unroll
      for (int j = 0; j < kStep; ++j) numbers[k + j][c] = all[j];
    }
  __syncthreads();  // before it is written again
}

// Sums: of planes all at once, else one after the other, which the exchange has room for.
template <bool kPlanes, int K, int C, class A>
__device__ __forceinline__ void reduce_sums(A (&sums)[K][C], const Threads<kPlanes>& t, A* exchange) {
  if constexpr (kPlanes) {
    reduce<kPlanes, K, C>(sums, t, exchange, Add{});
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      A one[1][C];
#pragma unroll
      for (int c = 0; c < C; ++c) one[0][c] = sums[k][c];
      reduce<kPlanes, 1, C>(one, t, exchange, Add{});
#pragma unroll
      for (int c = 0; c < C; ++c) sums[k][c] = one[0][c];
    }
  }
}

}  // namespace
}  // namespace gk
