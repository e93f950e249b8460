// grad_norm_penalty on CUDA: sums of pieces, totals of samples, and the gradient piece by piece.
//
// A block owns a piece of a sample, and strides through it a 16-byte vector at a time where every sample begins at one
// (kWide), else number by number. A warp makes the total of a sample, in double. The order of every sum is fixed.
#include <initializer_list>

#include "grad_norm_penalty/grad_norm_penalty_math.h"
#include "grad_norm_penalty/grad_norm_penalty_params.h"
#include "modulate/modulate_vectors.cuh"

namespace gk {
namespace {

using Params = GradNormPenaltyParams;

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ float root(float v) { return sqrtf(v); }
__device__ __forceinline__ double root(double v) { return sqrt(v); }

template <class A>
__device__ __forceinline__ A warp_sum(A sum) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// Where a piece lies.
struct Piece {
  int64_t sample, first;
  int length;
};
__device__ __forceinline__ Piece piece_of(const Params& p, int64_t index) {
  Piece piece;
  piece.sample = index / p.chunks;
  const int64_t start = (index - piece.sample * p.chunks) * p.chunk, left = p.inner - start;
  piece.first = piece.sample * p.inner + start;
  piece.length = static_cast<int>(left < p.chunk ? left : p.chunk);
  return piece;
}

template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) grad_norm_penalty_sums(const Params p) {
  using A = Accumulator<T>;
  constexpr int V = kColumns<T, kWide>;
  GK_SHARED(A, of_warps, [kWarps]);
  const int64_t pieces = p.samples * p.chunks;
  for (int64_t index = blockIdx.x; index < pieces; index += gridDim.x) {
    const Piece piece = piece_of(p, index);
    const T* grad = static_cast<const T*>(p.grad) + piece.first;
    const T* u = p.u ? static_cast<const T*>(p.u) + piece.first : nullptr;
    A sums[V];
#pragma unroll
    for (int e = 0; e < V; ++e) sums[e] = 0;
#pragma unroll 4
    for (int step = 0; step < piece.length; step += kThreads * V) {
      const Columns c = columns_of<T, kWide>(step, piece.length, threadIdx.x, 8);
      Vector<T, kWide> g, v;
      g.load(grad, c);
      if (u)
        v.load(u, c);
      else
        v = g;
      A a[V], b[V];
      g.get(a), v.get(b);
#pragma unroll
      for (int e = 0; e < V; ++e) sums[e] += a[e] * b[e];
    }
    A sum = 0;
#pragma unroll
    for (int e = 0; e < V; ++e) sum += sums[e];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += of_warps[w];
      static_cast<A*>(p.partial)[index] = sum;
    }
    __syncthreads();  // before it is written again
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) grad_norm_penalty_totals(const Params p) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const A center = static_cast<A>(p.center), weight = static_cast<A>(p.weight);
  const auto root_of = [](A v) { return root(v); };
  for (int64_t base = blockIdx.x * int64_t{kWarps}; base < p.samples; base += gridDim.x * int64_t{kWarps}) {
    const int64_t sample = base + warp;
    const bool live = sample < p.samples;
    double sum = 0;
    if (live)
      for (int64_t i = lane; i < p.chunks; i += 32) sum += static_cast<const A*>(p.partial)[sample * p.chunks + i];
    const A total = static_cast<A>(warp_sum(sum));
    if (!live || lane) continue;
    A* squares = static_cast<A*>(p.squares) + sample;
    if (!p.u) {
      *squares = total;
      static_cast<A*>(p.penalty)[sample] = grad_norm_penalty_value(total, center, weight, root_of);
    } else {
      static_cast<A*>(p.products)[sample] = total;
      if (p.d_dp) static_cast<A*>(p.d_dp)[sample] = grad_norm_penalty_slope(*squares, center, weight, root_of) * total;
    }
  }
}

template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) grad_norm_penalty_scale(const Params p) {
  using A = Accumulator<T>;
  constexpr int V = kColumns<T, kWide>;
  const A center = static_cast<A>(p.center), weight = static_cast<A>(p.weight);
  const auto root_of = [](A v) { return root(v); };
  const int64_t pieces = p.samples * p.chunks;
  for (int64_t index = blockIdx.x; index < pieces; index += gridDim.x) {
    const Piece piece = piece_of(p, index);
    const A squares = static_cast<const A*>(p.squares)[piece.sample], dp = static_cast<const A*>(p.dp)[piece.sample];
    const A slope = dp * grad_norm_penalty_slope(squares, center, weight, root_of);
    A along = 0;
    if (p.u && p.products) {
      const A product = static_cast<const A*>(p.products)[piece.sample];
      along = dp * grad_norm_penalty_along(squares, product, center, weight, root_of);
    }
    // What the slope multiplies, and what is added to it.
    const T* from = static_cast<const T*>(p.u ? p.u : p.grad) + piece.first;
    const T* more = p.u && p.products ? static_cast<const T*>(p.grad) + piece.first : nullptr;
    T* out = static_cast<T*>(p.out) + piece.first;
#pragma unroll 4
    for (int step = 0; step < piece.length; step += kThreads * V) {
      const Columns c = columns_of<T, kWide>(step, piece.length, threadIdx.x, 8);
      Vector<T, kWide> a, b;
      a.load(from, c), b.clear();
      if (more) b.load(more, c);
      A x[V], y[V];
      a.get(x), b.get(y);
#pragma unroll
      for (int e = 0; e < V; ++e) x[e] = more ? slope * x[e] + along * y[e] : slope * x[e];
      Vector<T, kWide>::store(out, c, x);
    }
  }
}

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

unsigned grid_of(int64_t blocks) { return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff); }

// What a launch consists of: partial sums and totals, the gradient, or both in this order.
template <class T, bool kWide>
void run(const Params& p, cudaStream_t stream) {
  const unsigned grid = grid_of(p.samples * p.chunks);
  if (p.partial) {
    GK_LAUNCH((grad_norm_penalty_sums<T, kWide>), grid, kThreads, 0, stream, p);
    GK_LAUNCH(grad_norm_penalty_totals<Accumulator<T>>, grid_of((p.samples + kWarps - 1) / kWarps), kThreads, 0, stream,
              p);
  }
  if (p.out) GK_LAUNCH((grad_norm_penalty_scale<T, kWide>), grid, kThreads, 0, stream, p);
}

template <class T>
const char* launch(const Params& p, cudaStream_t stream) {
  if (!p.samples || !p.inner) return nullptr;
  if (p.chunk > 0x3fffffff) return "grad_norm_penalty: a piece has more than 2^30 elements";
  constexpr int k = kPerVector<T>;
  if (p.inner % k == 0 && p.chunk % k == 0 && aligned({p.grad, p.u, p.out}))
    run<T, true>(p, stream);
  else
    run<T, false>(p, stream);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* launch_any(const Params& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch<float>(p, s);
    case DType::f64: return launch<double>(p, s);
    case DType::f16: return launch<__half>(p, s);
    case DType::bf16: return launch<__nv_bfloat16>(p, s);
  }
  return "grad_norm_penalty: unknown dtype";
}

}  // namespace

// The parameters say which of the stages there are.
const char* launch_grad_norm_penalty(const Params& p, void* stream) { return launch_any(p, stream); }
const char* launch_grad_norm_penalty_backward(const Params& p, void* stream) { return launch_any(p, stream); }
const char* launch_grad_norm_penalty_double_backward(const Params& p, void* stream) { return launch_any(p, stream); }

}  // namespace gk
