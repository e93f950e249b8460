// modulate on CUDA.
//
// Every image is read once and written once, in 16-byte vectors, several of them under way per thread. A block owns a
// rectangle of one sample, pixel_chunk pixels times channel_chunk channels, and the partial sums of it. Its threads are a
// tile of rows and columns, columns contiguous in memory; they walk down the rows, and a thread keeps its columns:
//   planes  (NCHW)           a row is a channel, columns are pixels
//   pixels  (channels_last)  a row is a pixel, columns are channels
// So one of scale, b and noise is in registers along the walk, and the other is a number of the row. A row's sum goes
// through warp shuffles as soon as its columns are done; a column's sums stay in registers until the rows are done and go
// through shared memory then. Their order is fixed.
//
// Which inputs and outputs there are is looked up at run time: alike in all threads, which costs little beside memory.
//
// kWide: everything is aligned to 16 bytes and cut so; otherwise values are read one by one.
#include <initializer_list>
#include <type_traits>

#include "bias_act/bias_act_math.h"
#include "modulate/modulate_params.h"
#include "modulate/modulate_vectors.cuh"

namespace gk {
namespace {

constexpr int kThreads = 128;

enum class Pass { forward, backward, twice };

// Activations that a kernel is compiled for.
//   cheap   linear, relu, lrelu; derivatives from the output, where it matters
//   curved  the others; derivatives from the tensor that is saved when all is as usual
//   any     all of them from all: what is rarely run, or float64
enum class Kind { cheap, curved, any };

template <class A>
struct Args {
  ModulateParams p;
  ActSettings<A> s;
  int lanes_log2;  // threads side by side in a row
  int64_t blocks;
};

// 64-bit division takes some 100 instructions: kernels for whole vectors are not given numbers that need it.
template <bool kWide>
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (kWide) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Rows that a thread has under way: 32 bytes of each image, in forward 64 of the types that are not halves.
template <class T, Pass kPass, Kind kKind, bool kWide>
constexpr int kRows = !kWide                                         ? (kPass == Pass::forward ? 2 : 1)
                      : kPass == Pass::forward                       ? (sizeof(T) >= 4 ? 4 : 2)
                      : kPass == Pass::twice || kKind != Kind::cheap ? 1
                                                                     : 2;

// Blocks that a multiprocessor should hold at least, which bounds a kernel's registers: 65,536 / (kThreads * kBlocks). Five
// have 60 KiB under way in backward; the long formulas of curved double backward do not fit so many.
template <class T, Pass kPass, Kind kKind, bool kWide>
constexpr int kBlocks = kPass == Pass::twice && kKind != Kind::cheap ? (sizeof(T) == 8 ? 3 : 4)
                        : kWide                                      ? 5
                                                                     : 4;

// ---- activations ----------------------------------------------------------------------------------------------------
template <Act kAct>
using ActConstant = std::integral_constant<Act, kAct>;

template <Kind kKind, class F>
__device__ __forceinline__ void with_act(Act act, F f) {
  if constexpr (kKind != Kind::curved) {
    if (act == Act::linear) return f(ActConstant<Act::linear>{});
    if (act == Act::relu) return f(ActConstant<Act::relu>{});
    if (act == Act::lrelu) return f(ActConstant<Act::lrelu>{});
  }
  if constexpr (kKind != Kind::cheap) {
    if (act == Act::tanh) return f(ActConstant<Act::tanh>{});
    if (act == Act::sigmoid) return f(ActConstant<Act::sigmoid>{});
    if (act == Act::elu) return f(ActConstant<Act::elu>{});
    if (act == Act::selu) return f(ActConstant<Act::selu>{});
    if (act == Act::softplus) return f(ActConstant<Act::softplus>{});
    if (act == Act::swish) return f(ActConstant<Act::swish>{});
  }
}

// The slope of an activation and the slope's derivative, as functions of y or of v.
template <Act kAct, bool kFromY, class A>
struct Slope {
  const ActSettings<A>& s;

  __device__ __forceinline__ A first(A t) const {
    if constexpr (kFromY)
      return slope_from_y<kAct>(t, s);
    else
      return slope_from_v<kAct>(t, s);
  }
  __device__ __forceinline__ A second(A t) const {
    if constexpr (kFromY)
      return curvature_from_y<kAct>(t, s);
    else
      return curvature_from_v<kAct>(t, s);
  }
};

// f(Slope, whether it is of y).
template <Kind kKind, class A, class F>
__device__ __forceinline__ void with_slope(const Args<A>& a, F f) {
  if constexpr (kKind == Kind::cheap) {
    f(Slope<Act::lrelu, true, A>{a.s}, std::true_type{});  // see launch()
  } else {
    with_act<kKind>(a.p.act, [&](auto constant) {
      constexpr Act act = decltype(constant)::value;
      if constexpr (act != Act::swish)
        if (kKind == Kind::curved || a.p.y_saved) return f(Slope<act, true, A>{a.s}, std::true_type{});
      if constexpr (kKind == Kind::any || act == Act::swish) return f(Slope<act, false, A>{a.s}, std::false_type{});
    });
  }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------
// What the elements of a thread have from their channel and from their pixel.
template <class T, bool kWide, bool kAlong, bool kNeedV, bool kTwice>
struct OfChannel {
  Number<T, kWide, kAlong> scale, b, u_scale, u_b;

  // Channel c of sample n; kAlong: of column 0.
  __device__ __forceinline__ void load(const ModulateParams& p, int64_t n, int64_t c, const Columns& columns,
                                       bool live) {
    scale.load(p.scale, n * p.channels + c, columns, live, 1);
    if (kNeedV) b.load(p.b, c, columns, live, 0);
    if (kTwice) u_scale.load(p.u_scale, n * p.channels + c, columns, live, 0);
    if (kTwice) u_b.load(p.u_b, c, columns, live, 0);
  }
};
template <class T, bool kWide, bool kAlong, bool kNeedV, bool kTwice>
struct OfPixel {
  Number<T, kWide, kAlong> noise, u_noise;

  // A pixel at `pixel` of the cotangent and at `at` of the noise.
  __device__ __forceinline__ void load(const ModulateParams& p, int64_t at, int64_t pixel, const Columns& columns,
                                       bool live) {
    if (kNeedV) noise.load(p.noise, at, columns, live, 0);
    if (kTwice) u_noise.load(p.u_noise, pixel, columns, live, 0);
  }
};

// exchange[row of threads][column] summed over the rows, into to[column].
template <class T, bool kWide, class A>
__device__ __forceinline__ void store_column_sums(A* exchange, const A* sums, const Columns& columns, int start,
                                                  int width, int lanes, int y0, A* to) {
  constexpr int V = kColumns<T, kWide>;
  const int pitch = lanes * V, height = kThreads / lanes;
#pragma unroll
  for (int e = 0; e < V; ++e) exchange[y0 * pitch + columns.at(e) - start] = sums[e];
  __syncthreads();
  for (int j = threadIdx.x; j < pitch && start + j < width; j += kThreads) {
    A sum = 0;
    for (int y = 0; y < height; ++y) sum += exchange[y * pitch + j];
    to[start + j] = sum;
  }
  __syncthreads();  // before it is written again
}

template <class T, Pass kPass, Kind kKind, bool kWide, bool kPlanes>
__global__ void __launch_bounds__(kThreads, (kBlocks<T, kPass, kKind, kWide>))
    modulate_rectangles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  constexpr int V = kColumns<T, kWide>, U = kRows<T, kPass, kKind, kWide>;
  constexpr bool kForward = kPass == Pass::forward, kTwice = kPass == Pass::twice;
  constexpr bool kNeedV = kForward || kKind != Kind::cheap;
  // Sums over pixels, of which each channel has its own (dscale, db; d_scale), and over channels (dnoise).
  constexpr int kOfChannel = kForward ? 0 : kTwice ? 1 : 2, kOfPixel = kPass == Pass::backward ? 1 : 0;
  constexpr int kRowSums = kPlanes ? kOfChannel : kOfPixel, kColumnSums = kPlanes ? kOfPixel : kOfChannel;
  const ModulateParams& p = a.p;
  const int lanes = 1 << a.lanes_log2, lane = threadIdx.x & (lanes - 1), y0 = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    // The rectangle; what is contiguous in memory is next to each other in time.
    const int64_t fast = kPlanes ? p.pixel_chunks : p.channel_chunks,
                  slow = kPlanes ? p.channel_chunks : p.pixel_chunks;
    const int64_t line = quotient<kWide>(block, fast), n = quotient<kWide>(line, slow);
    const int64_t chunk = kPlanes ? block - line * fast : line - n * slow;
    const int64_t channel_chunk = kPlanes ? line - n * slow : block - line * fast;
    const int64_t p0 = chunk * p.pixel_chunk, c0 = channel_chunk * p.channel_chunk;
    const int pixels = static_cast<int>(p0 + p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels - p0);
    const int channels = static_cast<int>(c0 + p.channel_chunk < p.channels ? p.channel_chunk : p.channels - c0);
    const int rows = kPlanes ? channels : pixels, width = kPlanes ? pixels : channels;
    const int64_t pitch = kPlanes ? p.pixels : p.channels;
    const int64_t origin = kPlanes ? (n * p.channels + c0) * p.pixels + p0 : (n * p.pixels + p0) * p.channels + c0;
    const int64_t u_noise0 = n * p.pixels + p0;
    const int64_t noise0 = p.noise ? (n - quotient<kWide>(n, p.noise_samples) * p.noise_samples) * p.pixels + p0 : 0;

#pragma unroll 1
    for (int start = 0; start < width; start += lanes * V) {
      const Columns columns = columns_of<T, kWide>(start, width, lane, a.lanes_log2);
      OfChannel<T, kWide, !kPlanes, kNeedV, kTwice> of_channel[kPlanes ? U : 1];
      OfPixel<T, kWide, kPlanes, kNeedV, kTwice> of_pixel[kPlanes ? 1 : U];
      if (kPlanes)
        of_pixel[0].load(p, noise0, u_noise0, columns, true);
      else
        of_channel[0].load(p, n, c0, columns, true);
      A column_sums[kColumnSums ? kColumnSums : 1][V];
#pragma unroll
      for (int k = 0; k < kColumnSums; ++k)
#pragma unroll
        for (int e = 0; e < V; ++e) column_sums[k][e] = 0;

#pragma unroll 1
      for (int top = 0; top < rows; top += height * U) {
        // All loads before the first store, behind which the compiler would have to leave them.
        Vector<T, kWide> x_in[U], y_in[U], dy_in[U], u_in[U];
        A row_sums[kRowSums ? kRowSums : 1][U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
          const int row = top + u * height + y0;
          const bool live = row < rows;
          const int64_t at = origin + row * pitch;
          const auto load = [&](Vector<T, kWide>& to, const void* image) {
            to.clear();
            if (image && live) to.load(static_cast<const T*>(image) + at, columns);
          };
          load(x_in[u], p.x);
          if constexpr (!kForward) load(y_in[u], p.y_saved), load(dy_in[u], p.dy);
          if constexpr (kTwice) load(u_in[u], p.u);
#pragma unroll
          for (int k = 0; k < kRowSums; ++k) row_sums[k][u] = 0;
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
          const int row = top + u * height + y0;
          if (kPlanes)
            of_channel[kPlanes ? u : 0].load(p, n, c0 + row, columns, row < rows);
          else
            of_pixel[kPlanes ? 0 : u].load(p, noise0 + row, u_noise0 + row, columns, row < rows);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
          const int row = top + u * height + y0;
          const int64_t at = origin + row * pitch;
          const auto& channel = of_channel[kPlanes ? u : 0];
          const auto& pixel = of_pixel[kPlanes ? 0 : u];
          if (row >= rows) continue;
          const auto store = [&](void* image, const A* from) {
            if (image) Vector<T, kWide>::store(static_cast<T*>(image) + at, columns, from);
          };
          A x[V];
          x_in[u].get(x);
          if constexpr (kForward) {
#pragma unroll
            for (int e = 0; e < V; ++e) x[e] = x[e] * channel.scale[e] + pixel.noise[e] + channel.b[e];
            with_act<kKind>(p.act, [&](auto constant) {
#pragma unroll
              for (int e = 0; e < V; ++e) x[e] = act_output<decltype(constant)::value>(x[e], a.s);
            });
            store(p.y, x);
          } else {
            A y[V], dy[V];
            y_in[u].get(y), dy_in[u].get(dy);
            const auto sum = [&](int k, int e, A value) {
              if (kPlanes == (k < kOfChannel))
                row_sums[kPlanes ? k : 0][u] += value;
              else
                column_sums[kPlanes ? 0 : k][e] += value;
            };
            const auto saved = [&](int e, auto of_y) {
              if constexpr (decltype(of_y)::value)
                return y[e];
              else
                return x[e] * channel.scale[e] + pixel.noise[e] + channel.b[e];
            };
            if constexpr (!kTwice) {
              A dx[V];
              with_slope<kKind>(a, [&](auto slope, auto of_y) {
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  A g = dy[e] * slope.first(saved(e, of_y));
                  if (e >= columns.live) g = 0;  // it may be NaN: 0 times the slope of nothing
                  dx[e] = g * channel.scale[e];
                  sum(0, e, g * x[e]), sum(1, e, g), sum(2, e, g);
                }
              });
              store(p.dx, dx);
            } else {
              A du[V], d_dy[V], d_saved[V], d_x[V];
              u_in[u].get(du);
              with_slope<kKind>(a, [&](auto slope, auto of_y) {
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  const A s = saved(e, of_y), first = slope.first(s);
                  const A all =
                      du[e] * channel.scale[e] + channel.u_scale[e] * x[e] + pixel.u_noise[e] + channel.u_b[e];
                  A g = dy[e] * first;
                  if (e >= columns.live) g = 0;
                  d_dy[e] = all * first;
                  d_saved[e] = all * dy[e] * slope.second(s);
                  d_x[e] = channel.u_scale[e] * g;
                  sum(0, e, du[e] * g);
                }
              });
              store(p.d_dy, d_dy), store(p.d_saved, d_saved), store(p.d_x, d_x);
            }
          }
        }
        if constexpr (kRowSums > 0) {
          // [k] of the sums' outputs. Columns of later starts are added by the thread that wrote the former.
          void* const outputs[2] = {kPlanes ? (kTwice ? p.d_scale_partial : p.dscale_partial) : p.dnoise_partial,
                                    kPlanes ? p.db_partial : nullptr};
          const int64_t first = kPlanes ? (n * p.pixel_chunks + chunk) * p.channels + c0
                                        : (channel_chunk * p.samples + n) * p.pixels + p0;
#pragma unroll
          for (int k = 0; k < kRowSums; ++k) {
            if (!outputs[k]) continue;
            for (int distance = lanes / 2; distance > 0; distance /= 2)
#pragma unroll
              for (int u = 0; u < U; ++u) row_sums[k][u] += __shfl_xor_sync(0xffffffffu, row_sums[k][u], distance);
            if (lane) continue;
#pragma unroll
            for (int u = 0; u < U; ++u) {
              const int row = top + u * height + y0;
              if (row >= rows) continue;
              A* to = static_cast<A*>(outputs[k]) + first + row;
              *to = start ? *to + row_sums[k][u] : row_sums[k][u];
            }
          }
        }
      }
      if constexpr (kColumnSums > 0) {
        GK_SHARED(A, exchange, [kThreads * V]);
        void* const outputs[2] = {kPlanes ? p.dnoise_partial : (kTwice ? p.d_scale_partial : p.dscale_partial),
                                  kPlanes ? nullptr : p.db_partial};
        const int64_t first =
            kPlanes ? (channel_chunk * p.samples + n) * p.pixels + p0 : (n * p.pixel_chunks + chunk) * p.channels + c0;
#pragma unroll
        for (int k = 0; k < kColumnSums; ++k)
          if (outputs[k])
            store_column_sums<T, kWide>(exchange, column_sums[k], columns, start, width, lanes, y0,
                                        static_cast<A*>(outputs[k]) + first);
      }
    }
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

// Lanes (their logarithm) for rows of so many vectors, at most a warp: 4 at least, which are 64 bytes, if there are so
// many; beyond that what leaves fewest lanes idle.
int lanes_for(int64_t vectors) {
  int log2 = 0;
  while (log2 < 5 && int64_t{1} << log2 < vectors) ++log2;
  const auto lanes = [&](int i) { return ceil_div(vectors, int64_t{1} << i) << i; };
  int best = log2;
  for (int i = log2 - 1; i >= 2; --i)
    if (lanes(i) < lanes(best) - lanes(best) / 8) best = i;
  return best;
}

template <class T, Pass kPass, Kind kKind, bool kWide>
const char* launch_kind(Args<Accumulator<T>>& a, cudaStream_t stream) {
  const ModulateParams& p = a.p;
  const int64_t chunk = p.channels_last ? p.channel_chunk : p.pixel_chunk,
                all = p.channels_last ? p.channels : p.pixels;
  a.lanes_log2 = lanes_for(ceil_div(chunk < all ? chunk : all, kColumns<T, kWide>));
  const auto grid = static_cast<unsigned>(a.blocks < 0x7fffffff ? a.blocks : 0x7fffffff);
  if (p.channels_last)
    GK_LAUNCH((modulate_rectangles<T, kPass, kKind, kWide, false>), grid, kThreads, 0, stream, a);
  else
    GK_LAUNCH((modulate_rectangles<T, kPass, kKind, kWide, true>), grid, kThreads, 0, stream, a);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class T, Pass kPass>
const char* launch(const ModulateParams& p, cudaStream_t stream) {
  using A = Accumulator<T>;
  Args<A> a{};
  a.p = p;
  a.s = ActSettings<A>(p.alpha, p.gain, p.clamp);
  a.blocks = p.samples * p.pixel_chunks * p.channel_chunks;
  if (!a.blocks || !p.pixels || !p.channels) return nullptr;
  constexpr int64_t kMost = int64_t{1} << 30;
  if (p.pixel_chunk > kMost || p.channel_chunk > kMost) return "modulate: chunks of more than 2^30";
  constexpr int V = kPerVector<T>;
  const int64_t pitch = p.channels_last ? p.channels : p.pixels,
                chunk = p.channels_last ? p.channel_chunk : p.pixel_chunk;
  const bool wide = pitch % V == 0 && (chunk % V == 0 || chunk >= pitch) && a.blocks < int64_t{1} << 31 &&
                    aligned({p.x, p.y, p.y_saved, p.dy, p.dx, p.u, p.d_dy, p.d_saved, p.d_x}) &&
                    aligned({p.scale, p.noise, p.b, p.u_scale, p.u_noise, p.u_b});
  if constexpr (sizeof(T) == 8) {
    return wide ? launch_kind<T, kPass, Kind::any, true>(a, stream)
                : launch_kind<T, kPass, Kind::any, false>(a, stream);
  } else {
    if (kPass == Pass::forward && wide)
      return act_curved(p.act) ? launch_kind<T, kPass, Kind::curved, true>(a, stream)
                               : launch_kind<T, kPass, Kind::cheap, true>(a, stream);
    const bool flat = p.act == Act::linear && p.clamp < 0;  // then it is the same from whatever is saved
    const bool usual = p.act == Act::swish ? !p.y_saved : p.y_saved || flat;
    if (!wide || !usual) return launch_kind<T, kPass, Kind::any, false>(a, stream);
    if (act_curved(p.act)) return launch_kind<T, kPass, Kind::curved, true>(a, stream);
    // The slopes of linear and relu are those of an lrelu; without y they are taken at 0, on the side of alpha.
    if (p.act != Act::lrelu) a.s.alpha = p.act == Act::linear ? 1 : 0;
    return launch_kind<T, kPass, Kind::cheap, true>(a, stream);
  }
}

template <Pass kPass>
const char* launch_any(const ModulateParams& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch<float, kPass>(p, s);
    case DType::f64: return launch<double, kPass>(p, s);
    case DType::f16: return launch<__half, kPass>(p, s);
    case DType::bf16: return launch<__nv_bfloat16, kPass>(p, s);
  }
  return "modulate: unknown dtype";
}

}  // namespace

const char* launch_modulate(const ModulateParams& p, void* stream) { return launch_any<Pass::forward>(p, stream); }
const char* launch_modulate_backward(const ModulateParams& p, void* stream) {
  return launch_any<Pass::backward>(p, stream);
}
const char* launch_modulate_double_backward(const ModulateParams& p, void* stream) {
  return launch_any<Pass::twice>(p, stream);
}

}  // namespace gk
