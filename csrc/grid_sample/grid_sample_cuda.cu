// grid_sample on CUDA.
//
// A sample's position, its four pixels and their weights are the same for all channels: a thread works them out once and
// then walks along channels. The threads of a block are a rectangle of samples and channels:
//   samples side by side   NCHW, or few channels: neighbours read neighbouring pixels and write neighbouring samples
//   channels side by side  channels_last: neighbours read and write one piece of memory
// Samples alone fill the machine where images are large. Where they are few, more threads take the channels of each; and
// blocks take a chunk of channels each, unless they are summed over (dgrid), which a block does for itself.
//
// The gradient in x is a scatter of atomic integer sums (grid_sample_fixed.cuh) and a second kernel that converts them.
//
// kWide: channels_last in 16-byte vectors. Not where there is a scatter: its traffic is the larger, and one channel a
// thread lets a warp's atomics fall into whole sectors.
#include <type_traits>

#include "common/cuda_io.cuh"
#include "grid_sample/grid_sample_fixed.cuh"
#include "grid_sample/grid_sample_math.h"
#include "grid_sample/grid_sample_params.h"

namespace gk {
namespace {

constexpr int kThreads = 128, kThreadsLog2 = 7;
// Blocks below which a problem is cut finer: eight a multiprocessor of an H200, half of what it holds.
constexpr int64_t kBlocks = 132 * 8;
// Samples side by side, at least: 8 floats are a sector of memory.
constexpr int kLeastSamplesLog2 = 3;
// Steps along channels that pay for a sample's position: it takes about as long as two of them.
constexpr int64_t kLeastSteps = 4;
// Channels up to which a thread takes all of its sample's, whatever the layout.
constexpr int64_t kFewChannels = 4;

struct Args {
  GridSampleParams p;
  int64_t samples, per_image;   // N Ho Wo, Ho Wo
  int64_t sample_tiles, tiles;  // rectangles along samples, and in all
  int64_t chunk;                // channels of a rectangle
  int lanes_log2;               // threads that share a sample
  bool across;                  // these are neighbours
  bool near;                    // sample numbers have 31 bits
  bool pairs;                   // grids can be read two numbers at a time
  int samples_log2;             // 2^samples_log2 >= per_image
};

// ---- a thread's place -----------------------------------------------------------------------------------------------
struct Place {
  int64_t sample;          // may be beyond the last
  int64_t c, c_end, step;  // channels
  int lane;                // of those that share the sample
};

template <int V>
__device__ __forceinline__ Place place(const Args& a, int64_t tile) {
  const int lanes = 1 << a.lanes_log2, samples_log2 = kThreadsLog2 - a.lanes_log2, samples = 1 << samples_log2;
  const int t = threadIdx.x;
  const int lane = a.across ? t & (lanes - 1) : t >> samples_log2;
  const int slot = a.across ? t >> a.lanes_log2 : t & (samples - 1);
  const int64_t chunk = a.sample_tiles == a.tiles ? 0 : tile / a.sample_tiles;
  Place to;
  to.sample = (tile - chunk * a.sample_tiles) * samples + slot;
  to.lane = lane;
  const int64_t c0 = chunk * a.chunk, end = c0 + a.chunk, channels = a.p.x.size[1];
  to.c = c0 + lane * V, to.c_end = end < channels ? end : channels, to.step = static_cast<int64_t>(lanes) * V;
  return to;
}

// Two numbers of each lane summed into lane 0, in an order that only the number of lanes decides. All threads come here.
template <class A>
__device__ __forceinline__ void sum_lanes(const Args& a, int lane, A* exchange, A* v) {
  if (a.lanes_log2 == 0) return;
  const int t = threadIdx.x, pitch = a.across ? 1 : kThreads >> a.lanes_log2;
  exchange[t] = v[0], exchange[kThreads + t] = v[1];
  for (int distance = 1 << a.lanes_log2 >> 1; distance > 0; distance /= 2) {
    __syncthreads();
    if (lane < distance) {
      exchange[t] += exchange[t + distance * pitch];
      exchange[kThreads + t] += exchange[kThreads + t + distance * pitch];
    }
  }
  v[0] = exchange[t], v[1] = exchange[kThreads + t];
  __syncthreads();  // before the next rectangle
}

// ---- a sample -------------------------------------------------------------------------------------------------------
// Pixel k = 2 * row + column of the four around it.
template <class A>
struct Sample {
  int64_t n, oy, ox;
  int64_t low_y, low_x;  // pixel 0
  A ty, tx;              // how far the sample is past it
  unsigned exists;       // bit k

  __device__ __forceinline__ Sample(const Args& a, int64_t sample) {
    const GridSampleParams& p = a.p;
    int64_t rest;
    if (a.near) {  // 64-bit division takes some 100 instructions
      const uint32_t s = static_cast<uint32_t>(sample), image = static_cast<uint32_t>(a.per_image),
                     w = static_cast<uint32_t>(p.y.size[3]);
      n = s / image, rest = s % image;
      oy = static_cast<uint32_t>(rest) / w, ox = static_cast<uint32_t>(rest) % w;
    } else {
      n = sample / a.per_image, rest = sample - n * a.per_image;
      oy = rest / p.y.size[3], ox = rest - oy * p.y.size[3];
    }
    A g[2];
    load_pair(a, p.grid, sample, g);
    const Bracket<A> x = bracket(g[0], p.x.size[3]), y = bracket(g[1], p.x.size[2]);
    low_y = y.low, low_x = x.low, ty = y.part, tx = x.part;
    const unsigned columns = (x.has_low ? 1u : 0u) | (x.has_high ? 2u : 0u);
    exists = (y.has_low ? columns : 0u) | (y.has_high ? columns << 2 : 0u);
  }
  static __device__ __forceinline__ void load_pair(const Args& a, const void* from, int64_t i, A* to) {
    using Pair = std::conditional_t<sizeof(A) == 8, double2, float2>;
    if (a.pairs) {
      const Pair v = __ldg(static_cast<const Pair*>(from) + i);
      to[0] = v.x, to[1] = v.y;
    } else {
      to[0] = static_cast<const A*>(from)[2 * i], to[1] = static_cast<const A*>(from)[2 * i + 1];
    }
  }

  // Offsets of channel 0: of pixel 0 in an image, and of the sample in an output.
  __device__ __forceinline__ int64_t pixel(const View4& v) const {
    return n * v.stride[0] + low_y * v.stride[2] + low_x * v.stride[3];
  }
  __device__ __forceinline__ int64_t output(const View4& v) const {
    return n * v.stride[0] + oy * v.stride[2] + ox * v.stride[3];
  }

  // sum_k w_k v_k of the four pixels' values, and its derivatives along x and y.
  __device__ __forceinline__ A mix(A v0, A v1, A v2, A v3) const {
    return (1 - ty) * ((1 - tx) * v0 + tx * v1) + ty * ((1 - tx) * v2 + tx * v3);
  }
  __device__ __forceinline__ A along_x(A v0, A v1, A v2, A v3) const { return (1 - ty) * (v1 - v0) + ty * (v3 - v2); }
  __device__ __forceinline__ A along_y(A v0, A v1, A v2, A v3) const { return (1 - tx) * (v2 - v0) + tx * (v3 - v1); }
  __device__ __forceinline__ A weight(int k) const { return (k & 2 ? ty : 1 - ty) * (k & 1 ? tx : 1 - tx); }
  // Derivative of weight k along (x, y) = v.
  __device__ __forceinline__ A weight_along(int k, const A* v) const {
    const A x = v[0] * (k & 2 ? ty : 1 - ty), y = v[1] * (k & 1 ? tx : 1 - tx);
    return (k & 1 ? x : -x) + (k & 2 ? y : -y);
  }
};

// ---- values in memory -----------------------------------------------------------------------------------------------
template <class T, bool kWide>
constexpr int kValues = kWide ? kPerVector<T> : 1;

// Read-only loads: they may pass the stores and atomics of the channel before.
template <class T, int V>
__device__ __forceinline__ void load_values(const void* base, int64_t at, Accumulator<T>* to) {
  const T* p = static_cast<const T*>(base) + at;
  if constexpr (V == 1) {
    to[0] = static_cast<Accumulator<T>>(__ldg(p));
  } else if constexpr (sizeof(T) == 8) {
    const double2 v = __ldg(reinterpret_cast<const double2*>(p));
    to[0] = v.x, to[1] = v.y;
  } else {
    unpack_vector<T>(__ldg(reinterpret_cast<const uint4*>(p)), to);
  }
}
template <class T, int V>
__device__ __forceinline__ void store_values(void* base, int64_t at, const Accumulator<T>* v) {
  T* p = static_cast<T*>(base) + at;
  if constexpr (V == 1)
    store_value(p, v[0]);
  else if constexpr (sizeof(T) == 8)
    *reinterpret_cast<double2*>(p) = make_double2(v[0], v[1]);
  else
    store_vector(p, pack_vector<T>(v));
}
// The four pixels, `at` being the offset of pixel 0; 0 for those that do not exist.
template <class T, int V>
__device__ __forceinline__ void load_pixels(const View4& view, int64_t at, unsigned exists, Accumulator<T> (*to)[V]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (exists >> k & 1) {
      load_values<T, V>(view.data, at + (k >> 1) * view.stride[2] + (k & 1) * view.stride[3], to[k]);
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) to[k][e] = 0;
    }
  }
}

template <class A>
__device__ __forceinline__ void store_gradient(const Args& a, int64_t sample, const A* g) {
  A* to = static_cast<A*>(a.p.dgrid) + 2 * sample;
  to[0] = g[0] * (A(a.p.x.size[3]) / 2), to[1] = g[1] * (A(a.p.x.size[2]) / 2);
}

// ---- kernels --------------------------------------------------------------------------------------------------------
template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) grid_sample_forward(const Args a) {
  using A = Accumulator<T>;
  // Channels whose pixels are under way at once: 16 numbers, or 4 vectors.
  constexpr int V = kValues<T, kWide>, kAtOnce = kWide ? 1 : 4;
  const GridSampleParams& p = a.p;
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const Place at = place<V>(a, tile);
    if (at.sample >= a.samples) continue;
    const Sample<A> s(a, at.sample);
    const int64_t in = s.pixel(p.x), out = s.output(p.y);
    for (int64_t c = at.c; c < at.c_end; c += kAtOnce * at.step) {
      A x[kAtOnce][4][V];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t cu = c + u * at.step;
        load_pixels<T, V>(p.x, in + cu * p.x.stride[1], cu < at.c_end ? s.exists : 0u, x[u]);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t cu = c + u * at.step;
        if (cu >= at.c_end) continue;
        A y[V];
#pragma unroll
        for (int e = 0; e < V; ++e) y[e] = s.mix(x[u][0][e], x[u][1][e], x[u][2][e], x[u][3][e]);
        store_values<T, V>(p.y.data, out + cu * p.y.stride[1], y);
      }
    }
  }
}

// The four contributions of one channel to dx, `at` being the offset of pixel 0.
template <class A>
__device__ __forceinline__ void scatter(const GridSampleParams& p, const FixedPoint<A>& fixed, int64_t at,
                                        unsigned exists, const A* weights, A dy) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (exists >> k & 1)
      fixed.add(p.dx_fixed + at + (k >> 1) * p.dx.stride[2] + (k & 1) * p.dx.stride[3], weights[k] * dy);
}

template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) grid_sample_backward(const Args a) {
  using A = Accumulator<T>;
  constexpr int V = kValues<T, kWide>;
  GK_SHARED(A, exchange, [2 * kThreads]);
  const GridSampleParams& p = a.p;
  const FixedPoint<A> fixed(kWide || !p.dx_fixed ? nullptr : p.bound, a.samples_log2);
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const Place at = place<V>(a, tile);
    A sums[2] = {0, 0};
    if (at.sample < a.samples) {
      const Sample<A> s(a, at.sample);
      const int64_t in = s.pixel(p.x), out = s.output(p.y), to = s.pixel(p.dx);
      A weights[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) weights[k] = s.weight(k);
#pragma unroll(kWide ? 1 : 2)
      for (int64_t c = at.c; s.exists && c < at.c_end; c += at.step) {
        A dy[V];
        load_values<T, V>(p.y.data, out + c * p.y.stride[1], dy);
        if (p.dgrid) {
          A x[4][V];
          load_pixels<T, V>(p.x, in + c * p.x.stride[1], s.exists, x);
#pragma unroll
          for (int e = 0; e < V; ++e) {
            sums[0] += dy[e] * s.along_x(x[0][e], x[1][e], x[2][e], x[3][e]);
            sums[1] += dy[e] * s.along_y(x[0][e], x[1][e], x[2][e], x[3][e]);
          }
        }
        if (!kWide && fixed.sums) scatter(p, fixed, to + c * p.dx.stride[1], s.exists, weights, dy[0]);
      }
    }
    if (p.dgrid) {
      sum_lanes(a, at.lane, &exchange[0], sums);
      if (at.lane == 0 && at.sample < a.samples) store_gradient(a, at.sample, sums);
    }
  }
}

template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) grid_sample_double_backward(const Args a) {
  using A = Accumulator<T>;
  constexpr int V = kValues<T, kWide>;
  GK_SHARED(A, exchange, [2 * kThreads]);
  const GridSampleParams& p = a.p;
  const FixedPoint<A> fixed(kWide || !p.dx_fixed ? nullptr : p.bound, a.samples_log2);
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const Place at = place<V>(a, tile);
    A sums[2] = {0, 0};
    if (at.sample < a.samples) {
      const Sample<A> s(a, at.sample);
      const int64_t in = s.pixel(p.x), in_u = s.pixel(p.u_x), to = s.pixel(p.dx);
      const int64_t out = s.output(p.y), out_d = s.output(p.d_dy);
      A v[2] = {0, 0};  // u_grid in pixels
      if (p.u_grid && s.exists) {
        Sample<A>::load_pair(a, p.u_grid, at.sample, v);
        v[0] *= A(p.x.size[3]) / 2, v[1] *= A(p.x.size[2]) / 2;
      }
      A weights[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) weights[k] = s.weight_along(k, v);
#pragma unroll 1
      for (int64_t c = at.c; c < at.c_end; c += at.step) {
        A x[4][V], u[4][V], dy[V] = {}, d_dy[V];
        load_pixels<T, V>(p.x, in + c * p.x.stride[1], p.u_grid ? s.exists : 0u, x);
        load_pixels<T, V>(p.u_x, in_u + c * p.u_x.stride[1], p.u_x.data ? s.exists : 0u, u);
        if (p.dgrid || p.dx_fixed) load_values<T, V>(p.y.data, out + c * p.y.stride[1], dy);
#pragma unroll
        for (int e = 0; e < V; ++e) {
          d_dy[e] = s.mix(u[0][e], u[1][e], u[2][e], u[3][e]) + v[0] * s.along_x(x[0][e], x[1][e], x[2][e], x[3][e]) +
                    v[1] * s.along_y(x[0][e], x[1][e], x[2][e], x[3][e]);
          if (p.dgrid && s.exists) {
            const A twist = (x[0][e] - x[1][e]) - (x[2][e] - x[3][e]);  // their mixed derivative
            sums[0] += dy[e] * (s.along_x(u[0][e], u[1][e], u[2][e], u[3][e]) + v[1] * twist);
            sums[1] += dy[e] * (s.along_y(u[0][e], u[1][e], u[2][e], u[3][e]) + v[0] * twist);
          }
        }
        if (p.d_dy.data) store_values<T, V>(p.d_dy.data, out_d + c * p.d_dy.stride[1], d_dy);
        if (!kWide && fixed.sums && p.u_grid) scatter(p, fixed, to + c * p.dx.stride[1], s.exists, weights, dy[0]);
      }
    }
    if (p.dgrid) {
      sum_lanes(a, at.lane, &exchange[0], sums);
      if (at.lane == 0 && at.sample < a.samples) store_gradient(a, at.sample, sums);
    }
  }
}

// dx is dense: sum i is its element i.
template <class T>
__global__ void __launch_bounds__(kThreads) grid_sample_finish(const Args a, int64_t elements) {
  const FixedPoint<Accumulator<T>> fixed(a.p.bound, a.samples_log2);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements; i += step)
    store_value(static_cast<T*>(a.p.dx.data) + i,
                fixed.value(__ldg(reinterpret_cast<const long long*>(a.p.dx_fixed) + i)));
}

// ---- launching ------------------------------------------------------------------------------------------------------
const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

unsigned grid_of(int64_t blocks) { return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff); }

int64_t elements_of(const View4& v) { return v.size[0] * v.size[1] * v.size[2] * v.size[3]; }

// Whether a tensor (one that is absent, too) can be read or written in vectors of `vector` channels.
bool vectors(const View4& v, int vector) {
  if (!v.data) return true;
  bool whole = v.stride[1] == 1 && v.size[1] % vector == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  for (int i : {0, 2, 3}) whole = whole && v.stride[i] % vector == 0;
  return whole;
}

// Cuts the problem into rectangles; `summed` over channels: all of a sample's stay in one block.
Args cut(const GridSampleParams& p, int vector, bool summed) {
  Args a{};
  a.p = p;
  a.per_image = p.y.size[2] * p.y.size[3], a.samples = p.y.size[0] * a.per_image;
  a.near = a.samples < int64_t{1} << 31;
  const uintptr_t grids = reinterpret_cast<uintptr_t>(p.grid) | reinterpret_cast<uintptr_t>(p.u_grid);
  a.pairs = grids % (p.dtype == DType::f64 ? 16 : 8) == 0;
  while (a.samples_log2 < 62 && int64_t{1} << a.samples_log2 < a.per_image) ++a.samples_log2;
  const int64_t channels = p.x.size[1], steps = ceil_div(channels, vector);
  a.across = p.x.stride[1] == 1 && channels > kFewChannels;
  const auto tiles = [&] { return ceil_div(a.samples, kThreads >> a.lanes_log2); };
  if (a.across)
    while (a.lanes_log2 < 5 && int64_t{1} << a.lanes_log2 < steps) ++a.lanes_log2;
  const int most = a.across ? kThreadsLog2 : kThreadsLog2 - kLeastSamplesLog2;
  while (tiles() < kBlocks && a.lanes_log2 < most && int64_t{2} << a.lanes_log2 <= steps) ++a.lanes_log2;
  a.sample_tiles = tiles(), a.chunk = channels;
  int64_t chunks = 1;
  if (!summed && a.sample_tiles > 0 && channels > 0) {
    const int64_t turns = ceil_div(steps, int64_t{1} << a.lanes_log2);
    const int64_t wanted = ceil_div(kBlocks, a.sample_tiles), worth = ceil_div(turns, kLeastSteps);
    a.chunk = ceil_div(turns, wanted < worth ? wanted : worth) * vector << a.lanes_log2;
    chunks = ceil_div(channels, a.chunk);
  }
  a.tiles = channels > 0 || summed ? a.sample_tiles * chunks : 0;
  return a;
}

template <class T>
const char* launch_forward(const GridSampleParams& p, cudaStream_t stream) {
  constexpr int V = kPerVector<T>;
  const bool wide = vectors(p.x, V) && vectors(p.y, V);
  const Args a = cut(p, wide ? V : 1, false);
  if (a.tiles == 0) return nullptr;
  if (wide)
    GK_LAUNCH((grid_sample_forward<T, true>), grid_of(a.tiles), kThreads, 0, stream, a);
  else
    GK_LAUNCH((grid_sample_forward<T, false>), grid_of(a.tiles), kThreads, 0, stream, a);
  return launched();
}

template <class T, bool kDouble>
const char* launch_derivative(const GridSampleParams& p, cudaStream_t stream) {
  constexpr int V = kPerVector<T>;
  if (p.dx.data && !(p.dx_fixed && p.bound)) return "the gradient in x needs dx_fixed and bound";
  const bool wide =
      !p.dx.data && vectors(p.x, V) && vectors(p.y, V) && (!kDouble || (vectors(p.u_x, V) && vectors(p.d_dy, V)));
  Args a = cut(p, wide ? V : 1, p.dgrid);
  if (!p.dx.data) a.p.dx_fixed = nullptr;
  if (a.tiles > 0) {
    if constexpr (kDouble) {
      if (wide)
        GK_LAUNCH((grid_sample_double_backward<T, true>), grid_of(a.tiles), kThreads, 0, stream, a);
      else
        GK_LAUNCH((grid_sample_double_backward<T, false>), grid_of(a.tiles), kThreads, 0, stream, a);
    } else {
      if (wide)
        GK_LAUNCH((grid_sample_backward<T, true>), grid_of(a.tiles), kThreads, 0, stream, a);
      else
        GK_LAUNCH((grid_sample_backward<T, false>), grid_of(a.tiles), kThreads, 0, stream, a);
    }
    if (const char* error = launched()) return error;
  }
  const int64_t elements = p.dx.data ? elements_of(p.dx) : 0;
  if (elements == 0) return nullptr;
  GK_LAUNCH(grid_sample_finish<T>, grid_of(ceil_div(elements, 4 * kThreads)), kThreads, 0, stream, a, elements);
  return launched();
}

template <class F>
const char* with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::f16: return f(__half{});
    case DType::bf16: return f(__nv_bfloat16{});
  }
  return "unknown dtype";
}

}  // namespace

const char* launch_grid_sample(const GridSampleParams& p, void* stream) {
  return with_type(p.dtype, [&](auto t) { return launch_forward<decltype(t)>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_grid_sample_backward(const GridSampleParams& p, void* stream) {
  return with_type(p.dtype,
                   [&](auto t) { return launch_derivative<decltype(t), false>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_grid_sample_double_backward(const GridSampleParams& p, void* stream) {
  return with_type(p.dtype,
                   [&](auto t) { return launch_derivative<decltype(t), true>(p, static_cast<cudaStream_t>(stream)); });
}

}  // namespace gk
