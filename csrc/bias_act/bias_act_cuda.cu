// bias_act on CUDA.
//
// Every tensor is read once and written once, in 16-byte vectors, several of them under way per thread: with bf16 a
// forward element moves 4 bytes and a backward one 6, which leaves an H200 (4.3 TB/s, 30e12 lane instructions a second)
// some 27 and 40 instructions. So nothing is divided per element: a block's threads are a tile of rows and columns,
// columns contiguous in memory, and a thread keeps its columns.
//   planes  (inner > 1, NCHW)                      a row belongs to one channel, columns are positions
//   pixels  (inner == 1, channels_last or [N, C])  a row is a position, columns are channels
//   folded  (inner == 1, few channels, no noise)   a row is a group of positions with all their channels: whole vectors
//   even
//                                                  with 3 channels. With one channel that is a flat tensor, the form of
//                                                  all that needs no channel and no position.
// Forward and double backward (bias_act_tiles) give a block one tile. Backward (bias_act_rectangles) gives it the
// rectangle chunk x channel_chunk whose partial sums it owns. A row's sum goes through warp shuffles when its columns
// are done; a column's sums stay in registers until the rows are done and then go through shared memory. Their order is
// fixed.
//
// kWide: everything is aligned to 16 bytes and cut so; otherwise values are loaded one by one.
#include <type_traits>

#include "bias_act/bias_act_math.h"
#include "bias_act/bias_act_params.h"
#include "bias_act/bias_act_vectors.cuh"
#include "common/cuda_io.cuh"

namespace gk {
namespace {

constexpr int kThreads = 128, kThreadsLog2 = 7;
constexpr int kFoldedColumns = 256, kFoldedChannels = 32;

// Activations that a kernel is compiled for: one of Act, or a switch over some at run time. Those of kCheap are a few
// instructions each; kAny has all, for what is rarely run: float64, unaligned tensors, gain 0.
constexpr int kCheap = -1, kAny = -2;

template <class A>
struct Args {
  BiasActParams p;
  ActSettings<A> s;
  Form form;
  int lanes_log2;     // threads side by side in a row
  int64_t row_pitch;  // elements from row to row
  int64_t columns;    // of a row (folded: without what the last row lacks)
  int64_t elements;
  int64_t rows, tiles_x, tiles;  // bias_act_tiles
  int64_t fold, chunk_rows;      // folded: positions of a row; rows of a chunk
  int64_t blocks;                // bias_act_rectangles
  bool row_sums, column_sums;
};

// 64-bit division takes some 100 instructions and many registers: kernels for whole vectors are not given numbers that
// need it.
template <bool kWide>
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (kWide) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// ---- activations ----------------------------------------------------------------------------------------------------
template <Act kAct>
using ActConstant = std::integral_constant<Act, kAct>;

template <int kAct, class F>
__device__ __forceinline__ void with_act(Act act, F f) {
  if constexpr (kAct >= 0) {
    f(ActConstant<static_cast<Act>(kAct)>{});
  } else {
    if (act == Act::linear) return f(ActConstant<Act::linear>{});
    if (act == Act::relu) return f(ActConstant<Act::relu>{});
    if (act == Act::lrelu) return f(ActConstant<Act::lrelu>{});
    if constexpr (kAct == kAny) {
      if (act == Act::tanh) return f(ActConstant<Act::tanh>{});
      if (act == Act::sigmoid) return f(ActConstant<Act::sigmoid>{});
      if (act == Act::elu) return f(ActConstant<Act::elu>{});
      if (act == Act::selu) return f(ActConstant<Act::selu>{});
      if (act == Act::softplus) return f(ActConstant<Act::softplus>{});
      if (act == Act::swish) return f(ActConstant<Act::swish>{});
    }
  }
}

// What the derivatives of an activation are compiled for: alone it comes with the tensor that it saves when all is as
// usual.
template <int kAct>
constexpr bool kMayHaveY = kAct != static_cast<int>(Act::swish);
template <int kAct>
constexpr bool kMayHaveV = kAct == kAny || kAct == static_cast<int>(Act::swish);

// first[i] *= slope, and second[i] *= curvature if it is not null, of the saved numbers s.
template <int kAct, int N, class A>
__device__ __forceinline__ void multiply_slopes(const Args<A>& a, const A* s, A* first, A* second) {
  if (!a.p.y_saved && !a.p.x) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      first[i] *= a.s.gain;
      if (second) second[i] = 0;
    }
    return;
  }
  with_act<kAct>(a.p.act, [&](auto constant) {
    constexpr Act act = decltype(constant)::value;
    if (kMayHaveY<kAct> && (!kMayHaveV<kAct> || a.p.y_saved)) {
      if constexpr (act != Act::swish) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          first[i] *= slope_from_y<act>(s[i], a.s);
          if (second) second[i] *= curvature_from_y<act>(s[i], a.s);
        }
      }
    } else if constexpr (kMayHaveV<kAct>) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        first[i] *= slope_from_v<act>(s[i], a.s);
        if (second) second[i] *= curvature_from_v<act>(s[i], a.s);
      }
    }
  });
}

// ---- forward and double backward ------------------------------------------------------------------------------------
template <class T, bool kWide, bool kDouble>
constexpr int kTileVectors = !kWide                       ? 1
                             : sizeof(T) == 4 && !kDouble ? 4
                                                          : 2;

// of_channel[c] and of_position[m], each perhaps null, at a row of a tile; positions repeat after `images` images.
// `before` is the addend of a row above in the same columns, or null.
template <class T, bool kWide, bool kPlanes>
__device__ __forceinline__ void load_addend(const Args<Accumulator<T>>& a, const void* of_channel,
                                            const void* of_position, int64_t images, int64_t row, int64_t column, int n,
                                            const Addend<T, kWide>* before, Addend<T, kWide>& to) {
  const BiasActParams& p = a.p;
  to.has_along = kPlanes ? of_position : of_channel;
  to.has_row = kPlanes ? of_channel : of_position;
  to.row = 0;
  if (kPlanes) {
    if (!to.has_along && !to.has_row) return;
    const int64_t o = quotient<kWide>(row, p.channels);
    if (of_position)
      to.along.load(static_cast<const T*>(of_position) + (o - quotient<kWide>(o, images) * images) * p.inner + column,
                    n);
    if (of_channel && n > 0) to.row = value<T>(of_channel, row - o * p.channels);
  } else {
    if (of_channel && before) to.along = before->along;
    if (of_channel && !before) load_channels<T, kWide>(of_channel, a.form, p.channels, column, n, to.along);
    if (of_position && n > 0) to.row = value<T>(of_position, row - quotient<kWide>(row, images) * images);
  }
}

template <class T, int kAct, bool kWide, bool kPlanes, bool kDouble>
__global__ void __launch_bounds__(kThreads, 5) bias_act_tiles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  constexpr int V = kPerVector<T>, U = kTileVectors<T, kWide, kDouble>;
  const BiasActParams& p = a.p;
  const int lane = threadIdx.x & ((1 << a.lanes_log2) - 1), y0 = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  const void* saved = kDouble && p.y_saved ? p.y_saved : p.x;
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const int64_t tile_y = quotient<kWide>(tile, a.tiles_x);
    const int64_t column = (((tile - tile_y * a.tiles_x) << a.lanes_log2) + lane) * V;
    int64_t at[U];
    int n[U];
    Vector<T, kWide> saved_in[U], u_in[U], dy_in[U];
    Addend<T, kWide> v_addend[U], u_addend[U];
    // All loads before the first store, behind which the compiler would have to leave them.
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t row = tile_y * (height * U) + u * height + y0;
      at[u] = row * a.row_pitch + column;
      const int64_t end = row < a.rows ? a.columns - column : 0, left = a.elements - at[u],
                    least = end < left ? end : left;
      n[u] = static_cast<int>(least < V ? least : V);
      if (saved) saved_in[u].load(static_cast<const T*>(saved) + at[u], n[u]);
      if (kDouble && p.u) u_in[u].load(static_cast<const T*>(p.u) + at[u], n[u]);
      if (kDouble && p.d_saved) dy_in[u].load(static_cast<const T*>(p.dy) + at[u], n[u]);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int64_t row = tile_y * (height * U) + u * height + y0;
      if (!kDouble || kMayHaveV<kAct>)
        load_addend<T, kWide, kPlanes>(a, p.b, p.noise, p.noise_outer, row, column, n[u], u ? v_addend : nullptr,
                                       v_addend[u]);
      if (kDouble)
        load_addend<T, kWide, kPlanes>(a, p.u_b, p.u_noise, p.outer, row, column, n[u], u ? u_addend : nullptr,
                                       u_addend[u]);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      A s[V];
      if (saved) {
        saved_in[u].get(s);
        if (!kDouble || kMayHaveV<kAct>) v_addend[u].add_to(s);
      }
      if constexpr (kDouble) {
        A total[V], second[V];
#pragma unroll
        for (int e = 0; e < V; ++e) total[e] = 0;
        if (p.u) u_in[u].get(total);
        u_addend[u].add_to(total);
        if (p.d_saved) {
          dy_in[u].get(second);
#pragma unroll
          for (int e = 0; e < V; ++e) second[e] *= total[e];
          multiply_slopes<kAct, V>(a, s, total, second);
          dy_in[u].set(second);
          dy_in[u].store(static_cast<T*>(p.d_saved) + at[u], n[u]);
        } else {
          multiply_slopes<kAct, V>(a, s, total, static_cast<A*>(nullptr));
        }
        if (p.d_dy) {
          u_in[u].set(total);
          u_in[u].store(static_cast<T*>(p.d_dy) + at[u], n[u]);
        }
      } else {
        with_act<kAct>(p.act, [&](auto constant) {
          constexpr Act act = decltype(constant)::value;
#pragma unroll
          for (int e = 0; e < V; ++e) s[e] = act_output<act>(s[e], a.s);
        });
        saved_in[u].set(s);
        saved_in[u].store(static_cast<T*>(p.y) + at[u], n[u]);
      }
    }
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------
// A thread's columns: where they lie in row 0, as an offset in memory (kWide: the first stands for all), and how many.
template <class T, bool kWide>
struct Columns {
  int64_t at[kWide ? 1 : kPerVector<T>];
  int n;

  __device__ __forceinline__ void load(const void* base, int64_t row, bool wanted, Vector<T, kWide>& to) const {
    if constexpr (kWide) {
      to.load(static_cast<const T*>(base) + at[0] + row, wanted ? n : 0);
    } else {
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e)
        to.v[e] = wanted && e < n ? value<T>(base, at[e] + row) : Accumulator<T>(0);
    }
  }
  __device__ __forceinline__ void store(void* base, int64_t row, const Accumulator<T>* v) const {
    if constexpr (kWide) {
      Vector<T, true> out;
      out.set(v);
      out.store(static_cast<T*>(base) + at[0] + row, n);
    } else {
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e)
        if (e < n) store_value(static_cast<T*>(base) + at[e] + row, v[e]);
    }
  }
};

template <class T, int kAct, bool kWide, bool kPlanes>
__global__ void __launch_bounds__(kThreads, kWide ? 5 : 4) bias_act_rectangles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  constexpr int V = kPerVector<T>, U = kWide ? 2 : 1;
  GK_SHARED(A, exchange, [kThreads * V]);
  const BiasActParams& p = a.p;
  const int lanes = 1 << a.lanes_log2, lane = threadIdx.x & (lanes - 1), y0 = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  const void* saved = p.y_saved ? p.y_saved : p.x;
  const int64_t positions = p.outer * p.inner;
  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    // The rectangle: rows [row0, row1), columns [column0, column0 + width). Both sides are ints.
    const int64_t many = kPlanes ? p.chunks : p.channel_chunks, slow = quotient<kWide>(block, many),
                  fast = block - slow * many;
    const int64_t chunk = kPlanes ? fast : slow, channel_chunk = kPlanes ? slow : fast;
    int64_t row0, column0;
    int rows, width;
    if (a.form == Form::folded) {
      row0 = chunk * a.chunk_rows, rows = static_cast<int>(a.chunk_rows), column0 = 0,
      width = static_cast<int>(a.columns);
    } else {
      const int64_t m0 = chunk * p.chunk, m = m0 + p.chunk < positions ? p.chunk : positions - m0;
      const int64_t c0 = channel_chunk * p.channel_chunk;
      const int64_t c = c0 + p.channel_chunk < p.channels ? p.channel_chunk : p.channels - c0;
      row0 = kPlanes ? c0 : m0, rows = static_cast<int>(kPlanes ? c : m);
      column0 = kPlanes ? m0 : c0, width = static_cast<int>(kPlanes ? m : c);
    }

    A sums[V];  // of columns
#pragma unroll
    for (int e = 0; e < V; ++e) sums[e] = 0;
#pragma unroll 1
    for (int top = 0; top < rows; top += height * U) {
      A row_sum[U];
#pragma unroll
      for (int u = 0; u < U; ++u) row_sum[u] = 0;
#pragma unroll 1
      for (int start = 0; start < width; start += lanes * V) {
        const int64_t column = column0 + start + lane * V;
        const int left = width - start - lane * V;
        Columns<T, kWide> columns;
        columns.n = left < V ? left : V;
        int64_t o = 0, i = 0;
        columns.at[0] = column;
        if (kPlanes) {
          o = quotient<kWide>(column, p.inner), i = column - o * p.inner;
          columns.at[0] += o * (p.channels - 1) * p.inner;
        }
        if constexpr (!kWide) {  // positions may go on in the next image
          int64_t next = i;
#pragma unroll
          for (int e = 1; e < V; ++e) {
            columns.at[e] = columns.at[e - 1] + 1;
            if (kPlanes && ++next == p.inner) next = 0, columns.at[e] += (p.channels - 1) * p.inner;
          }
        }
        Vector<T, kWide> dy_in[U], saved_in[U];
        bool wanted[U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
          const int y = top + u * height + y0;
          const int64_t at = (row0 + y) * a.row_pitch;
          wanted[u] = y < rows;
          if (a.form == Form::folded) {  // the last row may be shorter
            const int64_t rest = a.elements - at - column;
            wanted[u] = wanted[u] && rest > 0;
            if (!kWide && rest < columns.n) columns.n = static_cast<int>(rest);
          }
          columns.load(p.dy, at, wanted[u], dy_in[u]);
          if (saved) columns.load(saved, at, wanted[u], saved_in[u]);
        }
        Addend<T, kWide> addend[U];
        if (kMayHaveV<kAct> && (p.b || p.noise)) {  // v = x + noise + b
          Vector<T, kWide> along;
          if (kPlanes && p.noise) {
            int64_t image = o - quotient<kWide>(o, p.noise_outer) * p.noise_outer;
            if constexpr (kWide) {
              along.load(static_cast<const T*>(p.noise) + image * p.inner + i, columns.n);
            } else {
              int64_t next = i;
#pragma unroll
              for (int e = 0; e < V; ++e) {
                along.v[e] = e < columns.n ? value<T>(p.noise, image * p.inner + next) : A(0);
                if (++next == p.inner) next = 0, image = image + 1 == p.noise_outer ? 0 : image + 1;
              }
            }
          } else if (!kPlanes && p.b) {
            load_channels<T, kWide>(p.b, a.form, p.channels, column, columns.n, along);
          }
#pragma unroll
          for (int u = 0; u < U; ++u) {
            const int64_t row = row0 + top + u * height + y0;
            addend[u].along = along;
            addend[u].has_along = kPlanes ? p.noise : p.b;
            addend[u].has_row = kPlanes ? p.b : p.noise;
            addend[u].row = 0;
            if (wanted[u] && addend[u].has_row)
              addend[u].row = kPlanes ? value<T>(p.b, row)
                                      : value<T>(p.noise, row - quotient<kWide>(row, p.noise_outer) * p.noise_outer);
          }
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
          if (!wanted[u]) continue;
          A g[V], s[V];
          dy_in[u].get(g);
          if (saved) saved_in[u].get(s);
          if (kMayHaveV<kAct> && (p.b || p.noise)) addend[u].add_to(s);
          multiply_slopes<kAct, V>(a, s, g, static_cast<A*>(nullptr));
          if (p.dx) columns.store(p.dx, (row0 + top + u * height + y0) * a.row_pitch, g);
#pragma unroll
          for (int e = 0; e < V; ++e) {
            if (e >= columns.n) g[e] = 0;  // it may be NaN: 0 times a slope of nothing
            row_sum[u] += g[e];
            sums[e] += g[e];
          }
        }
      }
      if (a.row_sums) {
        for (int distance = lanes / 2; distance > 0; distance /= 2)
#pragma unroll
          for (int u = 0; u < U; ++u) row_sum[u] += __shfl_xor_sync(0xffffffffu, row_sum[u], distance);
        if (lane == 0) {
#pragma unroll
          for (int u = 0; u < U; ++u) {
            const int y = top + u * height + y0;
            if (y >= rows) continue;
            if (kPlanes)
              static_cast<A*>(p.db_partial)[chunk * p.channels + row0 + y] = row_sum[u];
            else
              static_cast<A*>(p.dnoise_partial)[channel_chunk * positions + row0 + y] = row_sum[u];
          }
        }
      }
    }
    if (a.column_sums) {
      const int pitch = lanes * V;
#pragma unroll
      for (int e = 0; e < V; ++e) exchange[y0 * pitch + lane * V + e] = sums[e];
      __syncthreads();
      for (int j = threadIdx.x; j < width; j += kThreads) {
        A sum = 0;
        for (int y = 0; y < height; ++y) sum += exchange[y * pitch + j];
        if (a.form == Form::folded)
          exchange[j] = sum;
        else if (kPlanes)
          static_cast<A*>(p.dnoise_partial)[channel_chunk * positions + column0 + j] = sum;
        else
          static_cast<A*>(p.db_partial)[chunk * p.channels + column0 + j] = sum;
      }
      __syncthreads();
      if (a.form == Form::folded) {
        for (int c = threadIdx.x; c < p.channels; c += kThreads) {
          A sum = 0;
          for (int j = c; j < width; j += static_cast<int>(p.channels)) sum += exchange[j];
          static_cast<A*>(p.db_partial)[chunk * p.channels + c] = sum;
        }
        __syncthreads();  // before the next rectangle
      }
    }
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------
const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

unsigned grid_of(int64_t blocks) { return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff); }

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

// Lanes (their logarithm, at most `most`) for rows of so many vectors: 4 at least, which are 64 bytes, if there are so
// many; beyond that what leaves fewest lanes idle.
int lanes_for(int64_t vectors, int most) {
  int log2 = 0;
  while (log2 < most && int64_t{1} << log2 < vectors) ++log2;
  const auto lanes = [&](int i) { return ceil_div(vectors, int64_t{1} << i) << i; };
  int best = log2;
  for (int i = log2 - 1; i >= 2; --i)
    if (lanes(i) < lanes(best) - lanes(best) / 8) best = i;
  return best;
}

// Positions of a folded row, or 0 where rows are channels as they are.
int64_t fold_of(int64_t channels, int64_t inner, int vector, bool by_position) {
  if (inner != 1 || by_position || channels > kFoldedChannels || (channels % vector == 0 && channels >= 2 * vector))
    return 0;
  int64_t step = 1;
  while (step * channels % vector) ++step;
  return kFoldedColumns / channels / step * step;
}

// Whether 32-bit division does for these numbers.
bool near(std::initializer_list<int64_t> numbers) {
  for (int64_t number : numbers)
    if (number >= int64_t{1} << 31) return false;
  return true;
}

// f(constant of kAct, constant of kWide) for what is compiled.
template <class T, class F>
const char* choose(const BiasActParams& p, bool wide, bool derivative, F f) {
  const bool usual = !derivative || (p.act == Act::swish ? !p.y_saved : !p.x);
#define GK_CASE(act)                                                                                  \
  case Act::act:                                                                                      \
    if (usual) return f(std::integral_constant<int, static_cast<int>(Act::act)>{}, std::true_type{}); \
    break
  if (wide && sizeof(T) <= 4) {
    if constexpr (sizeof(T) <= 4) {
      switch (p.act) {
        case Act::linear:
        case Act::relu:
        case Act::lrelu:
          if (usual) return f(std::integral_constant<int, kCheap>{}, std::true_type{});
          break;
          GK_CASE(tanh);
          GK_CASE(sigmoid);
          GK_CASE(elu);
          GK_CASE(selu);
          GK_CASE(softplus);
          GK_CASE(swish);
      }
    }
  }
#undef GK_CASE
  if (wide && sizeof(T) == 8) {
    if constexpr (sizeof(T) == 8) return f(std::integral_constant<int, kAny>{}, std::true_type{});
  }
  return f(std::integral_constant<int, kAny>{}, std::false_type{});
}

template <class T, bool kDouble>
const char* launch_tiles(const BiasActParams& given, cudaStream_t stream) {
  constexpr int V = kPerVector<T>;
  Args<Accumulator<T>> a{};
  a.p = given;
  BiasActParams& p = a.p;
  a.s = ActSettings<Accumulator<T>>(p.alpha, p.gain, p.clamp);
  if (kDouble && p.y_saved) p.b = p.noise = nullptr;  // they make v, which is not asked for
  a.elements = p.outer * p.channels * p.inner;
  const bool by_channel = p.b || (kDouble && p.u_b), by_position = p.noise || (kDouble && p.u_noise);
  if (!by_channel && !by_position) p.outer = a.elements, p.channels = p.inner = 1;
  const int64_t fold = fold_of(p.channels, p.inner, V, by_position);
  int most = 5;
  bool wide = aligned({p.x, p.y, p.y_saved, p.dy, p.u, p.d_dy, p.d_saved}) && a.elements % V == 0;
  if (fold) {
    a.form = Form::folded, a.rows = ceil_div(p.outer, fold), a.columns = fold * p.channels, most = kThreadsLog2;
  } else if (p.inner == 1) {
    a.form = Form::pixels, a.rows = p.outer, a.columns = p.channels;
    wide = wide && aligned({p.b, p.u_b});
  } else {
    a.form = Form::planes, a.rows = p.outer * p.channels, a.columns = p.inner;
    wide = wide && aligned({p.noise, p.u_noise});
  }
  wide = wide && a.columns % V == 0;
  a.row_pitch = a.columns;
  a.lanes_log2 = lanes_for(ceil_div(a.columns, V), most);
  a.tiles_x = ceil_div(a.columns, V << a.lanes_log2);
  wide = wide && near({a.rows, a.tiles_x, a.tiles_x * ceil_div(a.rows, kThreads >> a.lanes_log2), p.inner});
  return choose<T>(p, wide, kDouble, [&](auto act, auto is_wide) {
    constexpr int kAct = decltype(act)::value;
    constexpr bool kWide = decltype(is_wide)::value;
    a.tiles = a.tiles_x * ceil_div(a.rows, (kThreads >> a.lanes_log2) * kTileVectors<T, kWide, kDouble>);
    if (a.form == Form::planes)
      GK_LAUNCH((bias_act_tiles<T, kAct, kWide, true, kDouble>), grid_of(a.tiles), kThreads, 0, stream, a);
    else
      GK_LAUNCH((bias_act_tiles<T, kAct, kWide, false, kDouble>), grid_of(a.tiles), kThreads, 0, stream, a);
    return launched();
  });
}

template <class T>
const char* launch_rectangles(const BiasActParams& given, cudaStream_t stream) {
  constexpr int V = kPerVector<T>;
  Args<Accumulator<T>> a{};
  a.p = given;
  BiasActParams& p = a.p;
  a.s = ActSettings<Accumulator<T>>(p.alpha, p.gain, p.clamp);
  if (p.y_saved || !p.x) p.b = p.noise = nullptr;
  a.elements = p.outer * p.channels * p.inner;
  const bool sums = p.db_partial || p.dnoise_partial;
  if (!sums && !p.b && !p.noise) {  // a flat tensor in pieces of 16 rows
    p.outer = a.elements, p.channels = p.inner = 1, p.channel_chunk = p.channel_chunks = 1;
    p.chunk = 16 * fold_of(1, 1, V, false), p.chunks = ceil_div(a.elements, p.chunk);
  }
  const int64_t fold = fold_of(p.channels, p.inner, V, p.noise || p.dnoise_partial);
  bool wide = aligned({p.x, p.y_saved, p.dy, p.dx});
  int64_t columns;  // of a rectangle
  int most = 5;
  if (fold && p.chunk % fold == 0 && p.channel_chunk >= p.channels) {
    a.form = Form::folded, a.columns = columns = a.row_pitch = fold * p.channels, a.chunk_rows = p.chunk / fold;
    wide = wide && a.elements % V == 0;
    a.column_sums = p.db_partial, most = kThreadsLog2;
  } else if (p.inner == 1) {
    a.form = Form::pixels, columns = p.channel_chunk < p.channels ? p.channel_chunk : p.channels,
    a.row_pitch = p.channels;
    wide = wide && aligned({p.b}) && p.channels % V == 0 && p.channel_chunk % V == 0;
    a.row_sums = p.dnoise_partial, a.column_sums = p.db_partial;
  } else {
    a.form = Form::planes, columns = p.chunk, a.row_pitch = p.inner;
    wide = wide && aligned({p.noise}) && p.inner % V == 0 && p.chunk % V == 0;
    a.row_sums = p.db_partial, a.column_sums = p.dnoise_partial;
  }
  const int64_t vectors = ceil_div(columns, V);
  a.lanes_log2 = lanes_for(vectors, most);
  if (a.column_sums) {  // a thread has one vector of columns
    while (a.lanes_log2 < most && int64_t{1} << a.lanes_log2 < vectors) ++a.lanes_log2;
    if (int64_t{1} << a.lanes_log2 < vectors) return "chunks are too wide for the columns of a block";
  }
  a.blocks = p.chunks * p.channel_chunks;
  wide = wide && near({a.blocks, p.outer * p.inner, p.noise_outer});
  return choose<T>(p, wide, true, [&](auto act, auto is_wide) {
    constexpr int kAct = decltype(act)::value;
    constexpr bool kWide = decltype(is_wide)::value;
    if (a.form == Form::planes)
      GK_LAUNCH((bias_act_rectangles<T, kAct, kWide, true>), grid_of(a.blocks), kThreads, 0, stream, a);
    else
      GK_LAUNCH((bias_act_rectangles<T, kAct, kWide, false>), grid_of(a.blocks), kThreads, 0, stream, a);
    return launched();
  });
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

const char* launch_bias_act(const BiasActParams& p, void* stream) {
  return with_type(p.dtype,
                   [&](auto t) { return launch_tiles<decltype(t), false>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_bias_act_backward(const BiasActParams& p, void* stream) {
  return with_type(p.dtype,
                   [&](auto t) { return launch_rectangles<decltype(t)>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_bias_act_double_backward(const BiasActParams& p, void* stream) {
  return with_type(p.dtype,
                   [&](auto t) { return launch_tiles<decltype(t), true>(p, static_cast<cudaStream_t>(stream)); });
}

}  // namespace gk
