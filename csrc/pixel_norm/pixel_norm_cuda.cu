// pixel_norm on CUDA.
//
// A block owns a tile: in one pass over it threads sum products over channels, in the next they write the outputs. Its
// threads are rows of `lanes` neighbours in memory, each with one vector of columns:
//   planes (inner > 1, NCHW)          columns are pixels; a block's rows are channels of the same pixels, and its sums
//                                     go through shuffles, then through shared memory
//   rows (inner == 1, channels_last)  columns are channels; each row is a pixel, and its sums go through shuffles
// What a thread saw first it keeps in registers; what does not fit is read again, out of the caches. The order of every
// sum is fixed.
#include <initializer_list>
#include <type_traits>

#include "modulate/modulate_vectors.cuh"
#include "pixel_norm/pixel_norm_math.h"
#include "pixel_norm/pixel_norm_params.h"

namespace gk {
namespace {

using Pass = PixelNormPass;

constexpr int kThreads = 256, kWarps = kThreads / 32;

// Vectors of each tensor that a thread keeps: some 32 registers.
template <Pass kPass>
constexpr int kHeld = kPass == Pass::forward    ? 8
                      : kPass == Pass::backward ? 4
                                                : 2;

__device__ __forceinline__ float root(float v) { return sqrtf(v); }
__device__ __forceinline__ double root(double v) { return sqrt(v); }

struct Args {
  PixelNormParams p;
  int lanes_log2;
  int64_t tiles, blocks;  // of an outer index (planes), of all
};

// A thread's vectors of all inputs at one place.
template <class T, Pass kPass, bool kWide>
struct Inputs {
  using A = Accumulator<T>;
  static constexpr int V = kColumns<T, kWide>;
  Vector<T, kWide> x, dy, u;

  __device__ __forceinline__ void load(const PixelNormParams& p, int64_t at, const Columns& columns, bool live) {
    x.clear(), dy.clear(), u.clear();
    if (!live) return;
    x.load(static_cast<const T*>(p.x) + at, columns);
    if (kPass != Pass::forward) dy.load(static_cast<const T*>(p.dy) + at, columns);
    if (kPass == Pass::twice) u.load(static_cast<const T*>(p.u) + at, columns);
  }
  // sums[k][e]: of column e.
  template <int kSums>
  __device__ __forceinline__ void add(A (&sums)[kSums][V]) const {
    A a[V], b[V], c[V];
    x.get(a), dy.get(b), u.get(c);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      A of_column[kSums] = {};
      pixel_norm_add<kPass, A>(of_column, a[e], b[e], c[e]);
#pragma unroll
      for (int k = 0; k < kSums; ++k) sums[k][e] += of_column[k];
    }
  }
  template <int kSums>
  __device__ __forceinline__ void write(const PixelNormParams& p, int64_t at, const Columns& columns, bool live,
                                        const A (&c)[kSums][V]) const {
    if (!live) return;
    A a[V], b[V], d[V], out[V];
    x.get(a), dy.get(b), u.get(d);
    const auto store = [&](void* to) { Vector<T, kWide>::store(static_cast<T*>(to) + at, columns, out); };
#pragma unroll
    for (int e = 0; e < V; ++e)
      if constexpr (kPass == Pass::forward)
        out[e] = c[0][e] * a[e];
      else if constexpr (kPass == Pass::backward)
        out[e] = c[0][e] * b[e] + c[1][e] * a[e];
      else
        out[e] = c[1][e] * b[e] + c[2][e] * d[e] + c[3][e] * a[e];
    store(kPass == Pass::forward ? p.y : kPass == Pass::backward ? p.dx : p.d_x);
    if constexpr (kPass == Pass::twice) {
      if (!p.d_dy) return;
#pragma unroll
      for (int e = 0; e < V; ++e) out[e] = c[0][e] * d[e] + c[1][e] * a[e];
      store(p.d_dy);
    }
  }
};

// The sum over lanes of a group of `from` to `to` neighbouring lanes, in all of them.
template <class A>
__device__ __forceinline__ A shuffled(A sum, int from, int to) {
  for (int distance = from; distance < to; distance *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// Blocks on a multiprocessor, at least: two leave 128 registers, into which double backward does not fit, nor backward of
// half types as nvcc compiles it for sm_100.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kTightBackward = true;
#else
constexpr bool kTightBackward = false;
#endif
template <class T, Pass kPass>
constexpr int kBlocks =
    kPass == Pass::twice || sizeof(T) == 8 || (kTightBackward && kPass == Pass::backward && sizeof(T) == 2) ? 1 : 2;

template <class T, Pass kPass, bool kWide, bool kPlanes>
__global__ void __launch_bounds__(kThreads, (kBlocks<T, kPass>)) pixel_norm_tiles(const Args a) {
  using A = Accumulator<T>;
  constexpr int V = kColumns<T, kWide>, kSums = pixel_norm_sums<kPass>, kHold = kHeld<kPass>;
  const PixelNormParams& p = a.p;
  const int lanes = 1 << a.lanes_log2, lane = threadIdx.x & (lanes - 1), y = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  const A inverse = A(1) / static_cast<A>(p.channels), eps = static_cast<A>(p.eps);
  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    // Step j of a thread: planes: channel y + j * height. Rows: columns from j * lanes * V on, of row y.
    const int64_t outer = kPlanes ? block / a.tiles : block * height + y;
    const int64_t start = kPlanes ? (block - outer * a.tiles) * lanes * V : 0;
    const int64_t left = p.inner - start, tile = lanes * V;
    const Columns fixed =
        columns_of<T, kWide>(0, static_cast<int>(left < tile ? left : tile), lane, a.lanes_log2);  // planes
    const int64_t base = outer * p.channels * p.inner + start;
    const int64_t stride = kPlanes ? height : tile, steps = (p.channels + stride - 1) / stride;
    const auto at = [&](int64_t j) { return kPlanes ? base + (y + j * height) * p.inner : base + j * tile; };
    const auto live = [&](int64_t j) { return kPlanes ? y + j * height < p.channels : j < steps && outer < p.outer; };
    const auto columns = [&](int64_t j) {
      if (kPlanes) return fixed;
      const int64_t rest = p.channels - j * tile;
      return columns_of<T, kWide>(0, static_cast<int>(rest < tile ? (rest > 0 ? rest : 0) : tile), lane, a.lanes_log2);
    };

    A sums[kSums][V];
#pragma unroll
    for (int k = 0; k < kSums; ++k)
#pragma unroll
      for (int e = 0; e < V; ++e) sums[k][e] = 0;
    Inputs<T, kPass, kWide> held[kHold];
#pragma unroll
    for (int j = 0; j < kHold; ++j) held[j].load(p, at(j), columns(j), live(j));
#pragma unroll
    for (int j = 0; j < kHold; ++j) held[j].add(sums);
#pragma unroll 1
    for (int64_t j = kHold; j < steps; ++j) {
      Inputs<T, kPass, kWide> more;
      more.load(p, at(j), columns(j), live(j));
      more.add(sums);
    }

    if constexpr (kPlanes) {
      GK_SHARED(A, exchange, [kWarps * 32 * V]);
      const int pitch = lanes * V, warp = threadIdx.x / 32;
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
#pragma unroll
        for (int e = 0; e < V; ++e) {
          sums[k][e] = shuffled(sums[k][e], lanes, 32);
          if (static_cast<int>(threadIdx.x % 32) < lanes) exchange[warp * pitch + e * lanes + lane] = sums[k][e];
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < V; ++e) {
          A sum = 0;
#pragma unroll
          for (int w = 0; w < kWarps; ++w) sum += exchange[w * pitch + e * lanes + lane];
          sums[k][e] = sum;
        }
        __syncthreads();  // before it is written again
      }
    } else {
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        A sum = 0;
#pragma unroll
        for (int e = 0; e < V; ++e) sum += sums[k][e];
        sum = shuffled(sum, 1, lanes);
#pragma unroll
        for (int e = 0; e < V; ++e) sums[k][e] = sum;
      }
    }
#pragma unroll
    for (int e = 0; e < V; ++e) {
      A c[kSums];
#pragma unroll
      for (int k = 0; k < kSums; ++k) c[k] = sums[k][e];
      pixel_norm_coefficients<kPass, A>(c, c, inverse, eps, [](A v) { return root(v); });
#pragma unroll
      for (int k = 0; k < kSums; ++k) sums[k][e] = c[k];
    }

#pragma unroll
    for (int j = 0; j < kHold; ++j) held[j].write(p, at(j), columns(j), live(j), sums);
#pragma unroll 1
    for (int64_t j = kHold; j < steps; ++j) {
      Inputs<T, kPass, kWide> more;
      more.load(p, at(j), columns(j), live(j));
      more.write(p, at(j), columns(j), live(j), sums);
    }
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------
bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

template <class T, Pass kPass, bool kWide>
const char* launch_form(Args& a, cudaStream_t stream) {
  const PixelNormParams& p = a.p;
  constexpr int V = kColumns<T, kWide>;
  const bool planes = p.inner > 1;
  // Planes: 8 lanes of vectors are 128 bytes of a channel, and leave 32 channels at a time. Rows: up to a warp each.
  const int most = planes ? 3 : 5;
  const int64_t width = planes ? p.inner : p.channels;
  a.lanes_log2 = 0;
  while (a.lanes_log2 < most && (int64_t{1} << a.lanes_log2) * V < width) ++a.lanes_log2;
  const int64_t tile = (int64_t{1} << a.lanes_log2) * V, height = kThreads >> a.lanes_log2;
  a.tiles = planes ? (p.inner + tile - 1) / tile : 1;
  a.blocks = planes ? p.outer * a.tiles : (p.outer + height - 1) / height;
  const auto grid = static_cast<unsigned>(a.blocks < 0x7fffffff ? a.blocks : 0x7fffffff);
  if (planes)
    GK_LAUNCH((pixel_norm_tiles<T, kPass, kWide, true>), grid, kThreads, 0, stream, a);
  else
    GK_LAUNCH((pixel_norm_tiles<T, kPass, kWide, false>), grid, kThreads, 0, stream, a);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class T, Pass kPass>
const char* launch(const PixelNormParams& p, cudaStream_t stream) {
  Args a{};
  a.p = p;
  if (!p.outer || !p.channels || !p.inner) return nullptr;
  const bool wide =
      (p.inner > 1 ? p.inner : p.channels) % kPerVector<T> == 0 && aligned({p.x, p.y, p.dy, p.dx, p.u, p.d_dy, p.d_x});
  return wide ? launch_form<T, kPass, true>(a, stream) : launch_form<T, kPass, false>(a, stream);
}

template <Pass kPass>
const char* launch_any(const PixelNormParams& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch<float, kPass>(p, s);
    case DType::f64: return launch<double, kPass>(p, s);
    case DType::f16: return launch<__half, kPass>(p, s);
    case DType::bf16: return launch<__nv_bfloat16, kPass>(p, s);
  }
  return "pixel_norm: unknown dtype";
}

}  // namespace

const char* launch_pixel_norm(const PixelNormParams& p, void* stream) { return launch_any<Pass::forward>(p, stream); }
const char* launch_pixel_norm_backward(const PixelNormParams& p, void* stream) {
  return launch_any<Pass::backward>(p, stream);
}
const char* launch_pixel_norm_double_backward(const PixelNormParams& p, void* stream) {
  return launch_any<Pass::twice>(p, stream);
}

}  // namespace gk
