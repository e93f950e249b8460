// interpolate on CUDA: a block owns a piece of a sample, which has one eps.
//
// Threads stride through the piece, a 16-byte vector at a time where every sample begins at one (kWide), else number by
// number. The sum of a piece goes through shuffles, then through shared memory, in a fixed order.
#include <initializer_list>

#include "interpolate/interpolate_params.h"
#include "modulate/modulate_vectors.cuh"

namespace gk {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Of all threads, in thread 0.
template <class A>
__device__ __forceinline__ A block_sum(A sum) {
  GK_SHARED(A, of_warps, [kWarps]);
#pragma unroll
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += of_warps[w];
  __syncthreads();  // before it is written again
  return sum;
}

template <class T, bool kWide, bool kBackward>
__global__ void __launch_bounds__(kThreads) interpolate_pieces(const InterpolateParams p) {
  using A = Accumulator<T>;
  constexpr int V = kColumns<T, kWide>;
  const int64_t pieces = p.samples * p.chunks;
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    const int64_t sample = piece / p.chunks, start = (piece - sample * p.chunks) * p.chunk;
    const int64_t first = sample * p.inner + start;
    const int64_t left = p.inner - start;
    const int length = static_cast<int>(left < p.chunk ? left : p.chunk);
    const A e = p.eps ? static_cast<const A*>(p.eps)[sample] : A(0), rest = A(1) - e;
    const auto in = [&](const void* data) { return static_cast<const T*>(data) + first; };
    const auto out = [&](void* data) { return static_cast<T*>(data) + first; };
    A sum = 0;
    for (int step = 0; step < length; step += kThreads * V) {
      const Columns c = columns_of<T, kWide>(step, length, threadIdx.x, 8);
      Vector<T, kWide> a, b, g;
      A x[V], y[V], v[V];
      if (!kBackward) {
        a.load(in(p.real), c), b.load(in(p.fake), c);
        a.get(x), b.get(y);
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = e * x[k] + rest * y[k];
        Vector<T, kWide>::store(out(p.y), c, v);
      } else {
        a.clear(), b.clear();
        g.load(in(p.dy), c);
        if (p.partial && p.real) a.load(in(p.real), c);
        if (p.partial && p.fake) b.load(in(p.fake), c);
        A grad[V];
        g.get(grad), a.get(x), b.get(y);
        if (p.d_real) {
#pragma unroll
          for (int k = 0; k < V; ++k) v[k] = e * grad[k];
          Vector<T, kWide>::store(out(p.d_real), c, v);
        }
        if (p.d_fake) {
#pragma unroll
          for (int k = 0; k < V; ++k) v[k] = rest * grad[k];
          Vector<T, kWide>::store(out(p.d_fake), c, v);
        }
#pragma unroll
        for (int k = 0; k < V; ++k) sum += grad[k] * (x[k] - y[k]);
      }
    }
    if (kBackward && p.partial) {
      sum = block_sum(sum);
      if (threadIdx.x == 0) static_cast<A*>(p.partial)[piece] = sum;
    }
  }
}

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

template <class T, bool kBackward>
const char* launch(const InterpolateParams& p, cudaStream_t stream) {
  const int64_t pieces = p.samples * p.chunks;
  if (!pieces) return nullptr;
  if (p.chunk > 0x3fffffff) return "interpolate: a piece has more than 2^30 elements";
  constexpr int k = kPerVector<T>;
  const bool wide = p.inner % k == 0 && p.chunk % k == 0 && aligned({p.real, p.fake, p.y, p.dy, p.d_real, p.d_fake});
  const auto grid = static_cast<unsigned>(pieces < 0x7fffffff ? pieces : 0x7fffffff);
  if (wide)
    GK_LAUNCH((interpolate_pieces<T, true, kBackward>), grid, kThreads, 0, stream, p);
  else
    GK_LAUNCH((interpolate_pieces<T, false, kBackward>), grid, kThreads, 0, stream, p);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <bool kBackward>
const char* launch_any(const InterpolateParams& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch<float, kBackward>(p, s);
    case DType::f64: return launch<double, kBackward>(p, s);
    case DType::f16: return launch<__half, kBackward>(p, s);
    case DType::bf16: return launch<__nv_bfloat16, kBackward>(p, s);
  }
  return "interpolate: unknown dtype";
}

}  // namespace

const char* launch_interpolate(const InterpolateParams& p, void* stream) { return launch_any<false>(p, stream); }
const char* launch_interpolate_backward(const InterpolateParams& p, void* stream) {
  return launch_any<true>(p, stream);
}

}  // namespace gk
