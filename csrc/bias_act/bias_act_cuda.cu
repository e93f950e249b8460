// bias_act on CUDA.
//
// Every tensor is read once and written once, in 16-byte vectors, several of them under way per thread (kVectors): with bf16 a
// forward element moves 4 bytes and a backward one 6, which leaves an H200 (4.3 TB/s, 30e12 lane instructions a second) some 27
// and 40 instructions. So nothing is divided per element: a block's threads are a tile of rows and columns, columns contiguous
// in memory, and a thread keeps its columns.
//   planes  (inner > 1, NCHW)                      a row belongs to one channel, columns are positions
//   pixels  (inner == 1, channels_last or [N, C])  a row is a position, columns are channels
//   folded  (inner == 1, few channels, no noise)   a row is a group of positions with all their channels: whole vectors even
//                                                  with 3 channels. With one channel that is a flat tensor, the form of all that
//                                                  needs no channel and no position.
// Forward and double backward (bias_act_tiles) give a block one tile. Backward (bias_act_rectangles) gives it the rectangle
// chunk x channel_chunk whose partial sums it owns. A row's sum goes through warp shuffles when its columns are done; a column's
// sums stay in registers until the rows are done and then go through shared memory. Their order is fixed.
//
// kWide: everything is aligned to 16 bytes and cut so; otherwise values are loaded one by one.
#include <type_traits>

#include "bias_act/bias_act_math.h"
#include "bias_act/bias_act_params.h"
#include "common/cuda_io.cuh"

namespace gk {
namespace {

constexpr int kThreads = 128, kThreadsLog2 = 7;
constexpr int kFoldedColumns = 256, kFoldedChannels = 32;

// Activations that a kernel is compiled for: one of Act, or a switch over some at run time. Those of kCheap are a few
// instructions each; kAny has all, for what is rarely run: float64, unaligned tensors, gain 0.
constexpr int kCheap = -1, kAny = -2;

template <class T>
constexpr int kVectors = sizeof(T) == 2 ? 2 : sizeof(T) == 4 ? 4 : 1;

enum class Form : int32_t { planes, pixels, folded };

template <class A>
struct Args {
  BiasActParams p;
  ActSettings<A> s;
  Form form;
  int lanes_log2;     // threads side by side in a row
  int64_t row_pitch;  // elements from row to row
  int64_t columns;    // of a row (folded: without what the last row lacks)
  int64_t elements;
  int64_t rows, tiles_x, tiles;        // bias_act_tiles
  int64_t fold, chunk_rows;            // folded: positions of a row; rows of a chunk
  int64_t blocks;                      // bias_act_rectangles
  bool row_sums, column_sums;
};

// 64-bit division takes some 100 instructions, and numbers that need it are rare.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// ---- vectors --------------------------------------------------------------------------------------------------------
// kPerVector<T> values from p on, of which the first n are wanted (kWide: all, or none); 0 for the others.
template <class T, bool kWide>
__device__ __forceinline__ void load(const void* base, int64_t at, int n, Accumulator<T>* v) {
  constexpr int V = kPerVector<T>;
  const T* p = static_cast<const T*>(base) + at;
  if constexpr (!kWide) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = e < n ? load_value(p + e) : Accumulator<T>(0);
  } else if constexpr (sizeof(T) == 8) {
    const double2 u = n > 0 ? *reinterpret_cast<const double2*>(p) : make_double2(0, 0);
    v[0] = u.x, v[1] = u.y;
  } else {
    unpack_vector<T>(n > 0 ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0), v);
  }
}

template <class T, bool kWide>
__device__ __forceinline__ void store(void* base, int64_t at, int n, const Accumulator<T>* v) {
  constexpr int V = kPerVector<T>;
  T* p = static_cast<T*>(base) + at;
  if constexpr (!kWide) {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < n) store_value(p + e, v[e]);
  } else if constexpr (sizeof(T) == 8) {
    if (n > 0) *reinterpret_cast<double2*>(p) = make_double2(v[0], v[1]);
  } else {
    if (n > 0) store_vector(p, pack_vector<T>(v));
  }
}

template <class A, int N>
__device__ __forceinline__ void add(A (&v)[N], const A* w) {
#pragma unroll
  for (int e = 0; e < N; ++e) v[e] += w[e];
}
template <class A, int N>
__device__ __forceinline__ void add(A (&v)[N], A w) {
#pragma unroll
  for (int e = 0; e < N; ++e) v[e] += w;
}

template <class T>
__device__ __forceinline__ Accumulator<T> value(const void* base, int64_t at) {
  return load_value(static_cast<const T*>(base) + at);
}

// A per-channel tensor at the columns of a thread, where these are channels.
template <class T, bool kWide>
__device__ __forceinline__ void load_channels(const void* base, Form form, int64_t channels, int64_t column, int n,
                                              Accumulator<T>* v) {
  if (form == Form::pixels) return load<T, kWide>(base, column, n, v);
#pragma unroll
  for (int e = 0; e < kPerVector<T>; ++e)
    v[e] = e < n ? value<T>(base, static_cast<uint32_t>(column + e) % static_cast<uint32_t>(channels)) : Accumulator<T>(0);
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

// What the derivatives of an activation are compiled for: alone it comes with the tensor that it saves when all is as usual.
template <int kAct>
constexpr bool kMayHaveY = kAct != static_cast<int>(Act::swish);
template <int kAct>
constexpr bool kMayHaveV = kAct < 0 || kAct == static_cast<int>(Act::swish);

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
template <class T, int kAct, bool kWide, bool kDouble>
__global__ void __launch_bounds__(kThreads, 6) bias_act_tiles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  constexpr int V = kPerVector<T>, U = kWide ? kVectors<T> : 1;
  const BiasActParams& p = a.p;
  const int lane = threadIdx.x & ((1 << a.lanes_log2) - 1), y0 = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  const void* saved = kDouble && p.y_saved ? p.y_saved : p.x;
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const int64_t tile_y = quotient(tile, a.tiles_x);
    const int64_t column = (((tile - tile_y * a.tiles_x) << a.lanes_log2) + lane) * V;
    int64_t at[U], row[U];
    int n[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      row[u] = tile_y * (height * U) + u * height + y0;
      at[u] = row[u] * a.row_pitch + column;
      const int64_t end = row[u] < a.rows ? a.columns - column : 0, left = a.elements - at[u];
      const int64_t least = end < left ? end : left;
      n[u] = static_cast<int>(least < V ? least : V);
    }
    A s[U][V];
    if (saved) {
#pragma unroll
      for (int u = 0; u < U; ++u) load<T, kWide>(saved, at[u], n[u], s[u]);
    }
    A total[U][V], second[U][V];  // the cotangents; and these times dy
    if constexpr (kDouble) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (p.u) {
          load<T, kWide>(p.u, at[u], n[u], total[u]);
        } else {
#pragma unroll
          for (int e = 0; e < V; ++e) total[u][e] = 0;
        }
      }
#pragma unroll
      for (int u = 0; u < U; ++u)
        if (p.d_saved) load<T, kWide>(p.dy, at[u], n[u], second[u]);
    }

    if (a.form == Form::planes) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (n[u] <= 0) continue;
        const int64_t o = quotient(row[u], p.channels), c = row[u] - o * p.channels;
        A w[V];
        if (p.noise) {
          load<T, kWide>(p.noise, (o - quotient(o, p.noise_outer) * p.noise_outer) * p.inner + column, n[u], w);
          add(s[u], w);
        }
        if (p.b) add(s[u], value<T>(p.b, c));
        if constexpr (kDouble) {
          if (p.u_b) add(total[u], value<T>(p.u_b, c));
          if (p.u_noise) {
            load<T, kWide>(p.u_noise, o * p.inner + column, n[u], w);
            add(total[u], w);
          }
        }
      }
    } else {
      if (p.noise || (kDouble && p.u_noise)) {
#pragma unroll
        for (int u = 0; u < U; ++u) {
          if (n[u] <= 0) continue;
          if (p.noise) add(s[u], value<T>(p.noise, row[u] - quotient(row[u], p.noise_outer) * p.noise_outer));
          if (kDouble && p.u_noise) add(total[u], value<T>(p.u_noise, row[u]));
        }
      }
      A w[V];
      if (p.b) {
        load_channels<T, kWide>(p.b, a.form, p.channels, column, n[0], w);
#pragma unroll
        for (int u = 0; u < U; ++u) add(s[u], w);
      }
      if (kDouble && p.u_b) {
        load_channels<T, kWide>(p.u_b, a.form, p.channels, column, n[0], w);
#pragma unroll
        for (int u = 0; u < U; ++u) add(total[u], w);
      }
    }

    if constexpr (kDouble) {
      if (p.d_saved) {
#pragma unroll
        for (int u = 0; u < U; ++u)
#pragma unroll
          for (int e = 0; e < V; ++e) second[u][e] *= total[u][e];
        multiply_slopes<kAct, U * V>(a, s[0], total[0], second[0]);
#pragma unroll
        for (int u = 0; u < U; ++u) store<T, kWide>(p.d_saved, at[u], n[u], second[u]);
      } else {
        multiply_slopes<kAct, U * V>(a, s[0], total[0], static_cast<A*>(nullptr));
      }
      if (p.d_dy) {
#pragma unroll
        for (int u = 0; u < U; ++u) store<T, kWide>(p.d_dy, at[u], n[u], total[u]);
      }
    } else {
      with_act<kAct>(p.act, [&](auto constant) {
        constexpr Act act = decltype(constant)::value;
#pragma unroll
        for (int i = 0; i < U * V; ++i) s[i / V][i % V] = act_output<act>(s[i / V][i % V], a.s);
      });
#pragma unroll
      for (int u = 0; u < U; ++u) store<T, kWide>(p.y, at[u], n[u], s[u]);
    }
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------
// A thread's columns: where they lie in row 0 (with kWide the first stands for all), and how many there are.
template <class T, bool kWide>
struct Columns {
  int64_t at[kWide ? 1 : kPerVector<T>];
  int n;
};

template <class T, bool kWide, class F>
__device__ __forceinline__ void each_column(const Columns<T, kWide>& c, F f) {
#pragma unroll
  for (int e = 0; e < kPerVector<T>; ++e)
    if (e < c.n) f(e, c.at[e]);
}

template <class T, bool kWide>
__device__ __forceinline__ void load_row(const void* base, const Columns<T, kWide>& c, int64_t row, bool wanted,
                                         Accumulator<T>* v) {
  if constexpr (kWide) {
    load<T, true>(base, c.at[0] + row, wanted ? c.n : 0, v);
  } else {
#pragma unroll
    for (int e = 0; e < kPerVector<T>; ++e) v[e] = wanted && e < c.n ? value<T>(base, c.at[e] + row) : Accumulator<T>(0);
  }
}

template <class T, int kAct, bool kWide>
__global__ void __launch_bounds__(kThreads, kWide ? 6 : 4) bias_act_rectangles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  constexpr int V = kPerVector<T>, U = kWide ? kVectors<T> : 1;
  GK_SHARED(A, exchange, [kThreads * V]);
  const BiasActParams& p = a.p;
  const int lanes = 1 << a.lanes_log2, lane = threadIdx.x & (lanes - 1), y0 = threadIdx.x >> a.lanes_log2;
  const int height = kThreads >> a.lanes_log2;
  const bool planes = a.form == Form::planes;
  const void* saved = p.y_saved ? p.y_saved : p.x;
  const int64_t positions = p.outer * p.inner;
  for (int64_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    // The rectangle: rows [row0, row1), columns [column0, column1).
    const int64_t many = planes ? p.chunks : p.channel_chunks, slow = quotient(block, many), fast = block - slow * many;
    const int64_t chunk = planes ? fast : slow, channel_chunk = planes ? slow : fast;
    const int64_t m0 = chunk * p.chunk, m_end = m0 + p.chunk, m1 = m_end < positions ? m_end : positions;
    const int64_t c0 = channel_chunk * p.channel_chunk, c_end = c0 + p.channel_chunk;
    const int64_t c1 = c_end < p.channels ? c_end : p.channels;
    int64_t row0, row1, column0, column1;
    if (planes) {
      row0 = c0, row1 = c1, column0 = m0, column1 = m1;
    } else if (a.form == Form::pixels) {
      row0 = m0, row1 = m1, column0 = c0, column1 = c1;
    } else {
      row0 = chunk * a.chunk_rows, row1 = row0 + a.chunk_rows, column0 = 0, column1 = a.columns;
    }

    A sums[V];  // of columns
#pragma unroll
    for (int e = 0; e < V; ++e) sums[e] = 0;
#pragma unroll 1
    for (int64_t row = row0; row < row1; row += height * U) {
      A row_sum[U];
#pragma unroll
      for (int u = 0; u < U; ++u) row_sum[u] = 0;
#pragma unroll 1
      for (int64_t start = column0; start < column1; start += lanes * V) {
        const int64_t column = start + lane * V, left = column1 - column;
        Columns<T, kWide> columns;
        columns.n = static_cast<int>(left < V ? (left < 0 ? 0 : left) : V);
        int64_t o = 0, i = 0;
        if (planes) {
          o = quotient(column, p.inner), i = column - o * p.inner;
          columns.at[0] = o * p.channels * p.inner + i;
        } else {
          columns.at[0] = column;
        }
        if constexpr (!kWide) {  // positions may go on in the next image
          int64_t next = i;
#pragma unroll
          for (int e = 1; e < V; ++e) {
            columns.at[e] = columns.at[e - 1] + 1;
            if (planes && ++next == p.inner) next = 0, columns.at[e] += (p.channels - 1) * p.inner;
          }
        }

        A g[U][V], s[U][V];
        bool wanted[U];
        int64_t at[U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
          const int64_t r = row + u * height + y0;
          at[u] = r * a.row_pitch;
          wanted[u] = r < row1;
          if (a.form == Form::folded) {  // the last row may be shorter
            const int64_t rest = a.elements - at[u] - column;
            wanted[u] = wanted[u] && rest > 0;
            if (!kWide && rest < columns.n) columns.n = static_cast<int>(rest < 0 ? 0 : rest);
          }
          load_row<T, kWide>(p.dy, columns, at[u], wanted[u], g[u]);
        }
        if (saved) {
#pragma unroll
          for (int u = 0; u < U; ++u) load_row<T, kWide>(saved, columns, at[u], wanted[u], s[u]);
        }
        if (p.x && (p.b || p.noise)) {  // v = x + noise + b
          A w[V];
          if (p.noise) {
            if (!planes) {
#pragma unroll
              for (int u = 0; u < U; ++u) {
                const int64_t m = row + u * height + y0;
                if (wanted[u]) add(s[u], value<T>(p.noise, m - quotient(m, p.noise_outer) * p.noise_outer));
              }
            } else {
              int64_t image = o - quotient(o, p.noise_outer) * p.noise_outer;
              if constexpr (kWide) {
                load<T, true>(p.noise, image * p.inner + i, columns.n, w);
              } else {
                int64_t next = i;
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  w[e] = e < columns.n ? value<T>(p.noise, image * p.inner + next) : A(0);
                  if (++next == p.inner) next = 0, image = image + 1 == p.noise_outer ? 0 : image + 1;
                }
              }
#pragma unroll
              for (int u = 0; u < U; ++u) add(s[u], w);
            }
          }
          if (p.b) {
            if (planes) {
#pragma unroll
              for (int u = 0; u < U; ++u)
                if (wanted[u]) add(s[u], value<T>(p.b, row + u * height + y0));
            } else {
              load_channels<T, kWide>(p.b, a.form, p.channels, column, columns.n, w);
#pragma unroll
              for (int u = 0; u < U; ++u) add(s[u], w);
            }
          }
        }
        multiply_slopes<kAct, U * V>(a, s[0], g[0], static_cast<A*>(nullptr));
#pragma unroll
        for (int u = 0; u < U; ++u) {
          if (wanted[u]) {  // elsewhere g is 0 times a slope, which may be NaN
            if (p.dx) {
              if constexpr (kWide)
                store<T, true>(p.dx, columns.at[0] + at[u], columns.n, g[u]);
              else
                each_column(columns, [&](int e, int64_t c) { store_value(static_cast<T*>(p.dx) + c + at[u], g[u][e]); });
            }
#pragma unroll
            for (int e = 0; e < V; ++e) {
              if (e < columns.n) {
                row_sum[u] += g[u][e];
                sums[e] += g[u][e];
              }
            }
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
            const int64_t r = row + u * height + y0;
            if (r >= row1) continue;
            if (planes)
              static_cast<A*>(p.db_partial)[chunk * p.channels + r] = row_sum[u];
            else
              static_cast<A*>(p.dnoise_partial)[channel_chunk * positions + r] = row_sum[u];
          }
        }
      }
    }
    if (a.column_sums) {
      const int width = lanes * V;
#pragma unroll
      for (int e = 0; e < V; ++e) exchange[y0 * width + lane * V + e] = sums[e];
      __syncthreads();
      for (int j = threadIdx.x; j < width; j += kThreads) {
        A sum = 0;
        for (int y = 0; y < height; ++y) sum += exchange[y * width + j];
        if (a.form == Form::folded)
          exchange[j] = sum;
        else if (column0 + j < column1 && planes)
          static_cast<A*>(p.dnoise_partial)[channel_chunk * positions + column0 + j] = sum;
        else if (column0 + j < column1)
          static_cast<A*>(p.db_partial)[chunk * p.channels + column0 + j] = sum;
      }
      if (a.form == Form::folded) {
        __syncthreads();
        for (int c = threadIdx.x; c < p.channels; c += kThreads) {
          A sum = 0;
          for (int j = c; j < a.columns; j += static_cast<int>(p.channels)) sum += exchange[j];
          static_cast<A*>(p.db_partial)[chunk * p.channels + c] = sum;
        }
      }
      __syncthreads();  // before the next rectangle
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

// Lanes (their logarithm, at most `most`) for rows of so many vectors: 4 at least, which are 64 bytes, if there are so many;
// beyond that what leaves fewest lanes idle.
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
  if (inner != 1 || by_position || channels > kFoldedChannels || (channels % vector == 0 && channels >= 2 * vector)) return 0;
  int64_t step = 1;
  while (step * channels % vector) ++step;
  return kFoldedColumns / channels / step * step;
}

// f(constant of kAct, constant of kWide) for what is compiled.
template <class T, class F>
const char* choose(const BiasActParams& p, bool wide, bool derivative, F f) {
  const bool usual = !derivative || (p.act == Act::swish ? !p.y_saved : !p.x);
#define GK_CASE(act)                                                                                                  \
  case Act::act:                                                                                                      \
    if (usual) return f(std::integral_constant<int, static_cast<int>(Act::act)>{}, std::true_type{});                 \
    break
  if (wide && sizeof(T) <= 4) {
    if constexpr (sizeof(T) <= 4) {
      switch (p.act) {
        case Act::linear:
        case Act::relu:
        case Act::lrelu: return f(std::integral_constant<int, kCheap>{}, std::true_type{});
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
  return choose<T>(p, wide, kDouble, [&](auto act, auto is_wide) {
    constexpr int kAct = decltype(act)::value;
    constexpr bool kWide = decltype(is_wide)::value;
    a.tiles = a.tiles_x * ceil_div(a.rows, (kThreads >> a.lanes_log2) * (kWide ? kVectors<T> : 1));
    GK_LAUNCH((bias_act_tiles<T, kAct, kWide, kDouble>), grid_of(a.tiles), kThreads, 0, stream, a);
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
    a.form = Form::pixels, columns = p.channel_chunk < p.channels ? p.channel_chunk : p.channels, a.row_pitch = p.channels;
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
  return choose<T>(p, wide, true, [&](auto act, auto is_wide) {
    constexpr int kAct = decltype(act)::value;
    constexpr bool kWide = decltype(is_wide)::value;
    GK_LAUNCH((bias_act_rectangles<T, kAct, kWide>), grid_of(a.blocks), kThreads, 0, stream, a);
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
  return with_type(p.dtype, [&](auto t) { return launch_tiles<decltype(t), false>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_bias_act_backward(const BiasActParams& p, void* stream) {
  return with_type(p.dtype, [&](auto t) { return launch_rectangles<decltype(t)>(p, static_cast<cudaStream_t>(stream)); });
}
const char* launch_bias_act_double_backward(const BiasActParams& p, void* stream) {
  return with_type(p.dtype, [&](auto t) { return launch_tiles<decltype(t), true>(p, static_cast<cudaStream_t>(stream)); });
}

}  // namespace gk
