// adain's CUDA kernels: what a thread does with its part of an image, in each pass.
#pragma once
#include <initializer_list>

#include "adain/adain_formulas.cuh"
#include "adain/adain_tile.cuh"

namespace gk {
namespace {

enum class Pass { forward, backward, twice };

// What a launch does: sums of rectangles, or what follows from them at each pixel; or all, where a plane is one rectangle.
enum class Stage { whole, sums, apply };

template <class A>
struct Args {
  AdainParams p;
  ActNumbers<A> act, pre;
  Stage stage;
  int lanes_log2, slots, tiles;  // of a thread; of a rectangle
  int64_t units;                 // rectangles
  bool applies;                  // anything is wanted at each pixel
};

// 64-bit division takes some 100 instructions: fast kernels are not given numbers that need it.
template <bool kFast>
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (kFast) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Values of a column. The derivatives have sums and numbers for each column in channels_last: 4 fit into registers.
template <class T, Pass kPass, bool kPlanes, bool kFast>
constexpr int kColumn = !kFast                               ? 1
                        : kPass != Pass::forward && !kPlanes ? 4
                                                             : kPerVector<T>;

// A rectangle, less of it in channels_last: the columns of this thread.
struct Place {
  int64_t sample, chunk, channel_chunk, channel;  // indices; the first channel of this thread
  int64_t pixel;                                  // the first one
  int pixels;
  bool first;  // channels of its rectangle
  bool live;   // there is such a channel
};

// The pixels of a thread in one tile: slot i is there if i * step < left.
struct Tile {
  int64_t image, pixel;  // of slot 0: in an image, in a plane
  int left;
};

template <class T, Pass kPass, bool kPlanes, bool kFast>
struct Work {
  using A = Accumulator<T>;
  static constexpr int V = kColumn<T, kPass, kPlanes, kFast>, C = kPlanes ? 1 : V, P = kPlanes ? V : 1;
  static constexpr bool kForward = kPass == Pass::forward, kTwice = kPass == Pass::twice;
  static constexpr int kImages = kForward ? 1 : kTwice ? 3 : 2;  // kept on chip: x, dy, u
  static constexpr int kSums = kForward ? kAdainForwardSums : kTwice ? kAdainDoubleSums : kAdainBackwardSums;
  static constexpr int kCoefficients = kForward ? 0 : kTwice ? kAdainDoubleCoefficients : kAdainBackwardCoefficients;
  // Forward holds count, mean and squares; fast double backward not the sums 5 to 9, which are zero.
  static constexpr int kHeld = kForward ? 3 : kTwice && kFast ? kAdainDoubleSums - 5 : kSums;

  const Args<A>& a;
  const AdainParams& p;
  const Threads<kPlanes>& t;
  T* shared;
  Place place;
  A mean[C], rstd[C], b[C], scale[C], shift[C];
  A u_b[C], u_scale[C], u_shift[C];
  A origin[C];  // what forward's means are relative to
  A coefficient[kCoefficients ? kCoefficients : 1][C];

  __device__ __forceinline__ Work(const Args<A>& args, const Threads<kPlanes>& threads, T* memory)
      : a(args), p(args.p), t(threads), shared(memory) {}

  static __device__ __forceinline__ int of(int e) { return kPlanes ? 0 : e; }     // channel of value e
  static __device__ __forceinline__ int along(int e) { return kPlanes ? e : 0; }  // pixel of value e
  static __device__ __forceinline__ constexpr int held(int k) { return kFast && k > 9 ? k - 5 : k; }
  __device__ __forceinline__ bool writes() const { return place.live && (kPlanes ? t.lane == 0 : t.row == 0); }
  __device__ __forceinline__ int64_t plane() const { return place.sample * p.channels + place.channel; }

  // ---- where ----
  __device__ __forceinline__ int step() const { return kPlanes ? t.lanes * V : t.rows; }
  __device__ __forceinline__ int64_t image_step() const { return kPlanes ? step() : step() * p.channels; }
  __device__ __forceinline__ Tile tile(int j) const {
    const int at = j * a.slots * step() + (kPlanes ? t.lane * V : t.row);
    Tile tile;
    tile.left = place.live ? place.pixels - at : 0;
    tile.pixel = place.pixel + at;
    tile.image =
        kPlanes ? plane() * p.pixels + tile.pixel : (place.sample * p.pixels + tile.pixel) * p.channels + place.channel;
    return tile;
  }
  __device__ __forceinline__ T* slot(int image, int i) const {
    return shared + (static_cast<size_t>(image * a.slots + i) * blockDim.x + threadIdx.x) * V;
  }

  // ---- loads ----
  __device__ __forceinline__ void numbers(const void* table, int64_t at, A* to, A absent) const {
    if (table && place.live)
      get_numbers<C>(static_cast<const A*>(table) + at, to);
    else
      fill<C>(to, absent);
  }
  // What belongs to the channels, but for what the sums will tell.
  __device__ __forceinline__ void load_channels() {
    const int64_t at = plane();
    numbers(p.b, place.channel, b, A(0));
    numbers(p.spatial ? nullptr : p.scale, at, scale, A(1));
    numbers(p.spatial ? nullptr : p.shift, at, shift, A(0));
    if (!kForward || a.stage == Stage::apply) numbers(p.mean, at, mean, A(0)), numbers(p.rstd, at, rstd, A(0));
    if constexpr (kTwice) {
      numbers(p.u_b, place.channel, u_b, A(0));
      numbers(p.spatial ? nullptr : p.u_scale, at, u_scale, A(0));
      numbers(p.spatial ? nullptr : p.u_shift, at, u_shift, A(0));
    }
  }
  // The rectangle's first value: means of threads, less that, are rounded as deviations are, however far from 0 they lie.
  __device__ __forceinline__ void load_origin() {
    fill<C>(origin, A(0));
    if (!place.live) return;
    const int64_t image = kPlanes ? plane() * p.pixels + place.pixel
                                  : (place.sample * p.pixels + place.pixel) * p.channels + place.channel;
    get_column<T, C>(static_cast<const T*>(p.x) + image, origin);
    const A noise = p.noise ? static_cast<const A*>(p.noise)[noise_row() * p.pixels + place.pixel] : A(0);
#pragma unroll
    for (int c = 0; c < C; ++c) origin[c] = act_value<kFast>(origin[c] + noise + b[c], a.pre);
  }
  __device__ __forceinline__ int64_t noise_row() const {
    return p.noise ? place.sample - quotient<kFast>(place.sample, p.noise_samples) * p.noise_samples : 0;
  }
  __device__ __forceinline__ void load_coefficients() {
#pragma unroll
    for (int k = 0; k < kCoefficients; ++k)
      numbers(p.coefficients, (place.sample * kCoefficients + k) * p.channels + place.channel, coefficient[k], A(0));
  }
  __device__ __forceinline__ void load(const Tile& tile) const {
    const void* const images[3] = {p.x, p.dy, p.u};
    const int64_t further = image_step();
#pragma unroll
    for (int k = 0; k < kImages; ++k) {
      const T* from = static_cast<const T*>(images[k]);
      if (!from) continue;
      from += tile.image;
#pragma unroll 4
      for (int i = 0; i < a.slots; ++i)
        if (i * step() < tile.left) copy_column<T, V>(slot(k, i), from + i * further);
    }
    async_commit();
    async_wait<0>();  // every thread reads what it has copied itself: no barrier
  }
  // A number a pixel, 0 where there is none.
  __device__ __forceinline__ void per_pixel(const void* table, int64_t at, A* to) const {
    if (table)
      get_numbers<P>(static_cast<const A*>(table) + at, to);
    else
      fill<P>(to, A(0));
  }
  __device__ __forceinline__ void factor(const void* image, int64_t at, const A* of_channel, A* to) const {
    if (p.spatial && image) {
      get_column<T, V>(static_cast<const T*>(image) + at, to);
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) to[e] = of_channel[of(e)];
    }
  }
  // q of slot i.
  __device__ __forceinline__ void load_q(int i, const Tile& tile, A* q) const {
    A noise[P];
    per_pixel(p.noise, noise_row() * p.pixels + tile.pixel + i * step(), noise);
    get_column<T, V>(slot(0, i), q);
#pragma unroll
    for (int e = 0; e < V; ++e) q[e] = q[e] + noise[along(e)] + b[of(e)];
  }
  __device__ __forceinline__ A normal(A q, int e) const {
    return (act_value<kFast>(q, a.pre) - mean[of(e)]) * rstd[of(e)];
  }
  // U of slot i.
  __device__ __forceinline__ void load_u(int i, const Tile& tile, A* u) const {
    A noise[P];
    per_pixel(p.u_noise, place.sample * p.pixels + tile.pixel + i * step(), noise);
    if (p.u)
      get_column<T, V>(slot(2, i), u);
    else
      fill<V>(u, A(0));
#pragma unroll
    for (int e = 0; e < V; ++e) u[e] = u[e] + noise[along(e)] + u_b[of(e)];
  }

  // ---- sums of a tile ----
  // Deviations from the first value that the thread has there: one of the plane's, so that little cancels.
  __device__ __forceinline__ void add_moments(const Tile& tile, A (&sums)[kHeld][C]) const {
    A pivot[C], first[C], second[C];
    fill<C>(pivot, A(0)), fill<C>(first, A(0)), fill<C>(second, A(0));
    int count = 0;
#pragma unroll 1
    for (int i = 0; i * step() < tile.left && i < a.slots; ++i) {
      A v[V];
      load_q(i, tile, v);
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] = act_value<kFast>(v[e], a.pre);
      if (!i)
#pragma unroll
        for (int c = 0; c < C; ++c) pivot[c] = v[c];
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const A d = v[e] - pivot[of(e)];
        first[of(e)] += d, second[of(e)] += d * d;
      }
      count += P;
    }
    if (!count) return;
    const A n = static_cast<A>(count), share = A(1) / n;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const A squares = second[c] - first[c] * first[c] * share;
      A all[3] = {sums[0][c], sums[1][c], sums[2][c]};
      const A here[3] = {n, (pivot[c] - origin[c]) + first[c] * share, squares < A(0) ? A(0) : squares};
      Merge{}(all, here);
#pragma unroll
      for (int k = 0; k < 3; ++k) sums[k][c] = all[k];
    }
  }

  __device__ __forceinline__ void add_sums(const Tile& tile, A (&sums)[kHeld][C]) const {
    const int64_t further = image_step();
    const auto add = [&](int k, int e, A value) { sums[held(k)][of(e)] += value; };
    const bool curved = !kFast && act_curved(a.act.act), slopes = a.act.act != Act::linear;
#pragma unroll 1
    for (int i = 0; i * step() < tile.left && i < a.slots; ++i) {
      const int64_t at = tile.image + i * further;
      A q[V], u[V], dy[V], s[V], shifts[V];
      load_q(i, tile, q);
      if constexpr (kTwice) load_u(i, tile, u);
      if (!kTwice || p.dy) {
        get_column<T, V>(slot(1, i), dy);
        factor(p.scale, at, scale, s);
        if (slopes) factor(p.shift, at, shift, shifts);
      } else {
        fill<V>(dy, A(0));
      }
      if constexpr (kTwice) {
#pragma unroll
        for (int e = 0; e < V; ++e) {
          const A n = normal(q[e], e);
          u[e] *= act_slope<kFast>(q[e], a.pre), q[e] = n;
          add(2, e, u[e]), add(3, e, u[e] * n);
        }
        if (!p.dy) continue;
      }
      A g[V], second[V];
      fill<V>(second, A(0));
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const A n = kTwice ? q[e] : normal(q[e], e);
        g[e] = dy[e] * a.act.s.gain;
        if (slopes) {
          const A f = n * s[e] + shifts[e];
          g[e] = dy[e] * act_slope<kFast>(f, a.act);
          if (curved) second[e] = dy[e] * act_curvature<kFast>(f, a.act);
        }
        const A d = p.spatial ? g[e] * s[e] : g[e];
        add(0, e, d), add(1, e, d * n);
        if constexpr (kTwice) add(4, e, d * u[e]);
      }
      if constexpr (kTwice) {
        if (!curved && !p.spatial) continue;
        A us[V], ut[V];
        if (p.spatial) factor(p.u_scale, at, u_scale, us), factor(p.u_shift, at, u_shift, ut);
#pragma unroll
        for (int e = 0; e < V; ++e) {
          const A n = q[e], w = u[e];
          A l = p.spatial ? g[e] * us[e] : A(0);
          if constexpr (!kFast) {
            if (curved) {
              A m = second[e];
              if (p.spatial) {
                m *= s[e];
                l += m * (us[e] * n + ut[e]);
                m *= s[e];
              }
              add(5, e, m), add(6, e, m * n), add(7, e, m * n * n), add(8, e, m * w), add(9, e, m * n * w);
            }
          }
          if (p.spatial) add(10, e, l), add(11, e, l * n);
        }
      }
    }
  }

  // ---- between the passes ----
  __device__ __forceinline__ void store(void* table, int64_t at, const A* from) const {
    if (table && writes()) put_numbers<C>(static_cast<A*>(table) + at, from);
  }
  __device__ __forceinline__ void store_partial(A (&sums)[kHeld][C]) const {
    A none[C];
    fill<C>(none, A(0));
    if constexpr (kForward) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        // The mean as it can be written, and what the deviations are from that.
        const A close = origin[c] + sums[1][c], off = (origin[c] - close) + sums[1][c], count = sums[0][c];
        sums[0][c] = close, sums[1][c] = off * count, sums[2][c] += off * off * count;
      }
    }
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      const int64_t row = (place.sample * p.pixel_chunks + place.chunk) * kSums + k;
      const bool zero = kTwice && kFast && k >= 5 && k <= 9;
      store(p.partial, row * p.channels + place.channel, zero ? none : sums[zero ? 0 : held(k)]);
    }
  }
  // What the finish kernels do, from the sums of all.
  __device__ __forceinline__ void finish(const A (&sums)[kHeld][C]) {
    A first[C], second[C];
    const A pixels = static_cast<A>(p.pixels);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      if constexpr (kForward) {
        mean[c] = sums[1][c] + origin[c], rstd[c] = rstd_of(sums[2][c], pixels, p.eps);
      } else {
        A m[kSums], out[kCoefficients];
#pragma unroll
        for (int k = 0; k < kSums; ++k)
          m[k] =
              kTwice && kFast && k >= 5 && k <= 9 ? A(0) : sums[kTwice && kFast && k >= 5 && k <= 9 ? 0 : held(k)][c];
        const A s = scale[c];  // 1 if it is an image
        if constexpr (kTwice) {
          finish_double_backward(m, p.spatial, s, u_scale[c], u_shift[c], rstd[c], pixels, out, &first[c], &second[c]);
        } else {
          first[c] = m[0], second[c] = m[1];
          finish_backward(m, s, A(1) / pixels, out);
        }
#pragma unroll
        for (int k = 0; k < kCoefficients; ++k) coefficient[k][c] = out[k];
      }
    }
    if constexpr (kForward)
      store(p.mean, plane(), mean), store(p.rstd, plane(), rstd);
    else if (!p.spatial)
      store(p.dshift, plane(), first), store(p.dscale, plane(), second);
  }

  // ---- pixels of a tile ----
  __device__ __forceinline__ void put(void* image, int64_t at, const A* from) const {
    if (image) put_column<T, V>(static_cast<T*>(image) + at, from);
  }

  __device__ __forceinline__ void apply_forward(const Tile& tile) const {
    const int64_t further = image_step();
#pragma unroll 1
    for (int i = 0; i * step() < tile.left && i < a.slots; ++i) {
      const int64_t at = tile.image + i * further;
      A y[V], s[V], shifts[V];
      load_q(i, tile, y);
      factor(p.scale, at, scale, s), factor(p.shift, at, shift, shifts);
#pragma unroll
      for (int e = 0; e < V; ++e) y[e] = act_value<kFast>(normal(y[e], e) * s[e] + shifts[e], a.act);
      put(p.y, at, y);
    }
  }

  // Adds the gradient in q of slot i to the sums over channels and over pixels. All threads of a warp must call it.
  __device__ __forceinline__ void add_gradient(int i, const Tile& tile, const A* dq, bool live, A (&db)[1][C]) const {
#pragma unroll
    for (int e = 0; e < V; ++e) db[0][of(e)] += dq[e];
    if (!p.dnoise_partial) return;
    A* to = static_cast<A*>(p.dnoise_partial) + (place.channel_chunk * p.samples + place.sample) * p.pixels +
            tile.pixel + i * step();
    // Channels of a rectangle come one after the other to the same thread.
    if constexpr (kPlanes) {
      if (!live) return;
      A all[V];
      if (place.first)
        fill<V>(all, A(0));
      else
        get_numbers<V>(to, all);
#pragma unroll
      for (int e = 0; e < V; ++e) all[e] += dq[e];
      put_numbers<V>(to, all);
    } else {
      A sum = 0;
#pragma unroll
      for (int e = 0; e < V; ++e) sum += dq[e];
      for (int distance = t.lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if (live && t.lane == 0) *to = place.first ? sum : *to + sum;
    }
  }

  __device__ __forceinline__ void apply_derivative(const Tile& tile, A (&db)[1][C]) const {
    const int64_t further = image_step();
    const bool reduces = p.dnoise_partial || p.db_partial, through_q = p.dx || reduces;
    const bool curved = !kFast && act_curved(a.act.act), pre_curved = !kFast && act_curved(a.pre.act);
#pragma unroll 1
    for (int i = 0; i < a.slots; ++i) {
      const bool live = i * step() < tile.left;
      A dq[V];
      fill<V>(dq, A(0));
      if (live) {
        const int64_t at = tile.image + i * further;
        A q[V], dy[V], s[V], shifts[V];
        load_q(i, tile, q);
        factor(p.scale, at, scale, s), factor(p.shift, at, shift, shifts);
        if (!kTwice || p.dy)
          get_column<T, V>(slot(1, i), dy);
        else
          fill<V>(dy, A(0));
        if constexpr (!kTwice) {
          A g[V], gn[V];
#pragma unroll
          for (int e = 0; e < V; ++e) {
            const A n = normal(q[e], e);
            g[e] = dy[e] * act_slope<kFast>(n * s[e] + shifts[e], a.act), gn[e] = g[e] * n;
            const A projected = g[e] * s[e] - coefficient[0][of(e)] - n * coefficient[1][of(e)];
            dq[e] = projected * rstd[of(e)] * act_slope<kFast>(q[e], a.pre);
          }
          if (p.spatial) put(p.dshift, at, g), put(p.dscale, at, gn);
        } else {
          A u[V], us[V], ut[V], out[V];
          load_u(i, tile, u);
          factor(p.u_scale, at, u_scale, us), factor(p.u_shift, at, u_shift, ut);
          A ks[V], ds[V];  // gradients of shift and scale
          fill<V>(ks, A(0)), fill<V>(ds, A(0));
#pragma unroll
          for (int e = 0; e < V; ++e) {
            const int c = of(e);
            const A n = normal(q[e], e), p1 = act_slope<kFast>(q[e], a.pre), w = u[e] * p1, r = rstd[c];
            const A f = n * s[e] + shifts[e], f1 = act_slope<kFast>(f, a.act);
            const A pw = (w - coefficient[2][c] - n * coefficient[3][c]) * r;  // r P(W)
            const A h = s[e] * pw + us[e] * n + ut[e];
            out[e] = h * f1;
            if (!p.dy) continue;
            const A g = dy[e] * f1, d = g * s[e], k = curved ? h * dy[e] * act_curvature<kFast>(f, a.act) : A(0);
            ks[e] = k, ds[e] = k * n + g * pw;
            const A dn = k * s[e] + g * us[e] - (w * coefficient[1][c] + d * coefficient[3][c]) * r;
            dq[e] = (dn - coefficient[4][c] - n * coefficient[5][c]) * r * p1;
            if (pre_curved)
              dq[e] += u[e] * r * (d - coefficient[0][c] - n * coefficient[1][c]) * act_curvature<kFast>(q[e], a.pre);
          }
          put(p.d_dy, at, out);
          if (p.spatial) put(p.dshift, at, ks), put(p.dscale, at, ds);
        }
        if (through_q) put(p.dx, at, dq);
      }
      if (reduces) add_gradient(i, tile, dq, live, db);
    }
  }
};

}  // namespace
}  // namespace gk
