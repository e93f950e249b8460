// adain on CUDA.
//
// A plane that fits into shared memory is read once and written once: its threads copy it there, all of it under way at
// once and no register taken, sum, and go over it again. A thread reads only what it has copied itself, so that the only
// barriers are those of the sums. Small planes share a block, down to one thread each. Of a larger plane that is one
// rectangle the threads begin the second reading with what is still on chip.
//
// Planes of several rectangles take three launches: sums of the rectangles, numbers of the planes, pixels.
//
// Every sum has a fixed order: slots of a thread, threads of a warp, warps, rectangles.
//
// kFast: vectors, linear or rectifying activations; otherwise values are read one by one, of any activation.
#include "adain/adain_work.cuh"

namespace gk {
namespace {

// Blocks that a multiprocessor should hold at least: without a bound ptxas takes what would be left unused by the largest
// blocks only. These have no spills.
template <Pass kPass, bool kPlanes, bool kFast>
constexpr int kBlocks = !kFast                 ? 1
                        : kPlanes              ? (kPass == Pass::forward ? 2 : 1)
                        : kPass == Pass::twice ? 3
                                               : 4;

template <class T, Pass kPass, bool kPlanes, bool kFast>
__global__ void __launch_bounds__((kMaxThreads<kPlanes, kFast>), (kBlocks<kPass, kPlanes, kFast>))
    adain_tiles(const Args<Accumulator<T>> a) {
  using A = Accumulator<T>;
  using W = Work<T, kPass, kPlanes, kFast>;
  constexpr int V = W::V, C = W::C;
  constexpr bool kForward = kPass == Pass::forward;
  constexpr int kNumbers = kForward ? 3 : kPlanes ? W::kHeld : 1;
  GK_DYNAMIC_SHARED(T, shared);
  GK_SHARED(A, exchange, [kExchange<kPlanes, kNumbers>]);
  const AdainParams& p = a.p;
  const Threads<kPlanes> t(a.lanes_log2);
  W work(a, t, shared);
  Place& place = work.place;
  const int groups = kPlanes ? t.rows : 1, across = kPlanes ? 1 : t.lanes * V;
  const int most = static_cast<int>(p.channel_chunk < p.channels ? p.channel_chunk : p.channels);
  const int turns = (most + across - 1) / across;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * groups; first < a.units;
       first += static_cast<int64_t>(gridDim.x) * groups) {
    const int64_t unit = kPlanes ? first + t.row : first;
    // What is contiguous in memory is next to each other in time.
    const int64_t fast = kPlanes ? p.pixel_chunks : p.channel_chunks,
                  slow = kPlanes ? p.channel_chunks : p.pixel_chunks;
    const int64_t line = quotient<kFast>(unit, fast), rest = unit - line * fast;
    place.sample = quotient<kFast>(line, slow);
    place.chunk = kPlanes ? rest : line - place.sample * slow;
    place.channel_chunk = kPlanes ? line - place.sample * slow : rest;
    place.pixel = place.chunk * p.pixel_chunk;
    place.pixels = static_cast<int>(place.pixel + p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels - place.pixel);
    const int64_t channel = place.channel_chunk * p.channel_chunk;
    const int64_t end = channel + p.channel_chunk < p.channels ? channel + p.channel_chunk : p.channels;
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      place.channel = channel + static_cast<int64_t>(turn) * across + (kPlanes ? 0 : t.lane * V);
      place.first = turn == 0, place.live = unit < a.units && place.channel < end;
      work.load_channels();
      if (a.stage != Stage::apply) {
        if constexpr (kForward) work.load_origin();
        A sums[W::kHeld][C];
#pragma unroll
        for (int k = 0; k < W::kHeld; ++k) fill<C>(sums[k], A(0));
#pragma unroll 1
        for (int j = 0; j < a.tiles; ++j) {
          const Tile tile = work.tile(j);
          work.load(tile);
          if constexpr (kForward)
            work.add_moments(tile, sums);
          else
            work.add_sums(tile, sums);
        }
        if constexpr (kForward)
          reduce<kPlanes, 3, C>(sums, t, exchange, Merge{});
        else
          reduce_sums<kPlanes, W::kHeld, C>(sums, t, exchange);
        if (a.stage == Stage::sums) {
          work.store_partial(sums);
          continue;
        }
        work.finish(sums);
      } else {
        work.load_coefficients();
      }
      if (!a.applies) continue;
      A db[1][C];
      fill<C>(db[0], A(0));
#pragma unroll 1
      for (int j = a.tiles - 1; j >= 0; --j) {
        const Tile tile = work.tile(j);
        if (a.stage == Stage::apply || j < a.tiles - 1) work.load(tile);  // else it is there
        if constexpr (kForward)
          work.apply_forward(tile);
        else
          work.apply_derivative(tile, db);
      }
      if constexpr (!kForward)
        if (p.db_partial) {
          reduce_sums<kPlanes, 1, C>(db, t, exchange);
          const int64_t row = place.sample * p.pixel_chunks + place.chunk;
          work.store(p.db_partial, row * p.channels + place.channel, db[0]);
        }
    }
  }
}

// ---- numbers of a plane from those of its rectangles ------------------------------------------------------------------
constexpr int kFinishThreads = 64;

template <class A, Pass kPass>
__global__ void __launch_bounds__(kFinishThreads) adain_finish(const AdainParams p) {
  const int64_t planes = p.samples * p.channels, stride = static_cast<int64_t>(gridDim.x) * kFinishThreads;
  for (int64_t plane = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x; plane < planes;
       plane += stride) {
    const int64_t sample = plane / p.channels, channel = plane - sample * p.channels;
    const auto number = [&](const void* table, A absent) {
      return table && !p.spatial ? static_cast<const A*>(table)[plane] : absent;
    };
    const auto put = [&](void* table, A value) {
      if (table && !p.spatial) static_cast<A*>(table)[plane] = value;
    };
    const A pixels = static_cast<A>(p.pixels);
    if constexpr (kPass == Pass::forward) {
      double all[3] = {0, 0, 0};
      for (int64_t i = 0; i < p.pixel_chunks; ++i) {
        const A* from =
            static_cast<const A*>(p.partial) + (sample * p.pixel_chunks + i) * kAdainForwardSums * p.channels + channel;
        const int64_t left = p.pixels - i * p.pixel_chunk;
        const double count = static_cast<double>(left < p.pixel_chunk ? left : p.pixel_chunk);
        const double off = from[p.channels] / count, squares = from[2 * p.channels];
        const double next[3] = {count, from[0] + off, squares - off * off * count};
        Merge{}(all, next);
      }
      static_cast<A*>(p.mean)[plane] = static_cast<A>(all[1]);
      static_cast<A*>(p.rstd)[plane] = rstd_of(static_cast<A>(all[2]), pixels, p.eps);
    } else {
      constexpr bool kTwice = kPass == Pass::twice;
      constexpr int kSums = kTwice ? kAdainDoubleSums : kAdainBackwardSums;
      constexpr int kNumbers = kTwice ? kAdainDoubleCoefficients : kAdainBackwardCoefficients;
      double all[kSums] = {};
      for (int64_t i = 0; i < p.pixel_chunks; ++i) {
        const A* from = static_cast<const A*>(p.partial) + (sample * p.pixel_chunks + i) * kSums * p.channels + channel;
#pragma unroll
        for (int k = 0; k < kSums; ++k) all[k] += from[k * p.channels];
      }
      A sums[kSums], out[kNumbers];
#pragma unroll
      for (int k = 0; k < kSums; ++k) sums[k] = static_cast<A>(all[k]);
      const A s = number(p.scale, A(1));
      if constexpr (kTwice) {
        const A r = static_cast<const A*>(p.rstd)[plane];
        A d_shift, d_scale;
        finish_double_backward(sums, p.spatial, s, number(p.u_scale, A(0)), number(p.u_shift, A(0)), r, pixels, out,
                               &d_shift, &d_scale);
        put(p.dshift, d_shift), put(p.dscale, d_scale);
      } else {
        finish_backward(sums, s, A(1) / pixels, out);
        put(p.dshift, sums[0]), put(p.dscale, sums[1]);
      }
#pragma unroll
      for (int k = 0; k < kNumbers; ++k)
        static_cast<A*>(p.coefficients)[(sample * kNumbers + k) * p.channels + channel] = out[k];
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

// Dynamic shared memory that a block may have beside the exchange, whose room is at most 8 KiB.
int64_t shared_limit() {
#if defined(GK_CUDA_ON_CPU)
  return (227 - 8) << 10;
#else
  int device = 0, bytes = 48 << 10;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes - (8 << 10);
#endif
}

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Bytes of an image that a thread has under way at least, if there are so many: eight blocks then cover the latency of
// memory. A tile of a plane that does not fit is as large as lets two blocks share a multiprocessor.
constexpr int kThreadBytes = 128, kStagedBytes = 64;

// The threads of a block and the slots of a thread, for rectangles of so many pixels.
struct Shape {
  int lanes_log2, threads;
  int64_t slots, tiles;

  int64_t bytes(int of_column) const { return slots * threads * of_column; }
};

Shape shape_of_planes(int64_t columns, int value_bytes, int most_lanes) {
  const int64_t most = kThreadBytes / value_bytes;  // columns of a thread
  int log2 = 0;
  const auto lanes = [&] { return int64_t{1} << log2; };
  while (log2 < 2 && lanes() < columns) ++log2;  // 64 bytes side by side, at least
  while (log2 < 3 && lanes() * most / 2 < columns) ++log2;
  while (log2 < 5 && lanes() * most < columns) ++log2;
  if (log2 == 5 && lanes() * most < columns) log2 = 7;
  while (log2 >= 7 && lanes() < most_lanes && lanes() * most < columns) ++log2;
  return {log2, log2 > 5 ? 1 << log2 : 128, ceil_div(columns, lanes()), 1};
}

Shape shape_of_pixels(int64_t columns, int64_t pixels, int value_bytes, int most_lanes_log2) {
  int log2 = 0, threads = 128;
  while (log2 < most_lanes_log2 && int64_t{1} << log2 < columns) ++log2;
  const int64_t most = kThreadBytes / value_bytes;
  if (ceil_div(pixels, threads / 2 >> log2) <= most / 2) threads /= 2;
  return {log2, threads, ceil_div(pixels, threads >> log2), 1};
}

template <class T, Pass kPass, bool kPlanes, bool kFast>
const char* launch_layout(const AdainParams& params, cudaStream_t stream) {
  using A = Accumulator<T>;
  using W = Work<T, kPass, kPlanes, kFast>;
  constexpr int kColumnBytes = W::V * static_cast<int>(sizeof(T));
  Args<A> a{};
  AdainParams& p = a.p;
  p = params;
  a.act = act_numbers<kFast, A>(p.act, p.alpha, p.gain);
  a.pre = act_numbers<kFast, A>(p.pre_act, p.pre_alpha, 1);
  const bool spatial = p.spatial && (p.dscale || p.dshift), reduces = p.dnoise_partial || p.db_partial;
  a.applies = kPass == Pass::forward || p.d_dy || p.dx || reduces || spatial;
  if (kPass == Pass::twice && !(p.dx || p.dscale || p.dshift || reduces)) p.dy = nullptr;
  const int64_t pixels = p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels;
  const int64_t channels = p.channel_chunk < p.channels ? p.channel_chunk : p.channels;

  a.stage = p.pixel_chunks == 1 ? Stage::whole : Stage::sums;
  const int64_t limit = shared_limit(), columns = ceil_div(kPlanes ? pixels : channels, W::V);
  Shape shape;
  if constexpr (kPlanes) {
    // A plane that has a multiprocessor to itself takes more threads; else 256 of them leave room for other blocks.
    const int64_t of_plane = columns * kColumnBytes * W::kImages;
    const bool alone = a.stage == Stage::whole && of_plane > limit / 2 && of_plane <= limit;
    shape = shape_of_planes(columns, kColumnBytes, alone ? kMaxThreads<kPlanes, kFast> : 256);
  } else {
    constexpr int kMostLanesLog2 = W::V == 1 ? 5 : W::V == 4 ? 4 : 3;
    static_assert((W::V << kMostLanesLog2) <= kMaxPitch, "columns for which reduce() has room");
    shape = shape_of_pixels(columns, pixels, kColumnBytes, kMostLanesLog2);
    // 64 bytes side by side are less good than 128, but better than a second reading.
    if (a.stage == Stage::whole && shape.bytes(kColumnBytes * W::kImages) > limit / 2 &&
        kColumnBytes << shape.lanes_log2 > 64)
      shape = shape_of_pixels(columns, pixels, kColumnBytes, shape.lanes_log2 - 1);
  }
  const int64_t of_slot = int64_t{shape.threads} * kColumnBytes * W::kImages;
  a.lanes_log2 = shape.lanes_log2;
  const int64_t wanted = a.stage == Stage::whole ? limit : of_slot * ceil_div(kStagedBytes, kColumnBytes);
  if (shape.slots * of_slot > wanted) {
    const int64_t most = (a.stage == Stage::whole ? limit / 2 : wanted) / of_slot;
    shape.tiles = ceil_div(shape.slots, most), shape.slots = ceil_div(shape.slots, shape.tiles);
  }
  a.slots = static_cast<int>(shape.slots), a.tiles = static_cast<int>(shape.tiles);
  // Only sums over channels need to know which channels belong together.
  if (!p.dnoise_partial) {
    p.channel_chunk = kPlanes ? 1 : int64_t{W::V} << a.lanes_log2;
    p.channel_chunks = ceil_div(p.channels, p.channel_chunk);
  }
  a.units = p.samples * p.pixel_chunks * p.channel_chunks;
  if (kFast && a.units >= int64_t{1} << 31) return "adain: more than 2^31 rectangles";

  const auto kernel = adain_tiles<T, kPass, kPlanes, kFast>;
  const int64_t bytes = shape.slots * of_slot;
  if (bytes > 40 << 10) {  // with the exchange more than 48 KiB
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  const auto grid_of = [](int64_t blocks) { return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff); };
  const unsigned grid = grid_of(ceil_div(a.units, kPlanes ? shape.threads >> a.lanes_log2 : 1));
  GK_LAUNCH(kernel, grid, shape.threads, static_cast<size_t>(bytes), stream, a);
  if (const char* error = last_error()) return error;
  if (a.stage == Stage::whole) return nullptr;
  GK_LAUNCH((adain_finish<A, kPass>), grid_of(ceil_div(p.samples * p.channels, kFinishThreads)), kFinishThreads, 0,
            stream, p);
  if (const char* error = last_error()) return error;
  if (!a.applies) return nullptr;
  a.stage = Stage::apply;
  GK_LAUNCH(kernel, grid, shape.threads, static_cast<size_t>(bytes), stream, a);
  return last_error();
}

template <class T, Pass kPass>
const char* launch(const AdainParams& p, cudaStream_t stream) {
  if (!p.samples || !p.channels || !p.pixels) return nullptr;
  constexpr int64_t kMost = int64_t{1} << 30;
  if ((p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels) > kMost ||
      (p.channel_chunk < p.channels ? p.channel_chunk : p.channels) > kMost)
    return "adain: chunks of more than 2^30";
  if constexpr (sizeof(T) < 8) {
    constexpr int V = kPerVector<T>;
    const int64_t pitch = p.channels_last ? p.channels : p.pixels,
                  chunk = p.channels_last ? p.channel_chunk : p.pixel_chunk;
    const bool fast = !act_curved(p.act) && !act_curved(p.pre_act) && pitch % V == 0 &&
                      (chunk % V == 0 || chunk >= pitch) &&
                      p.samples * p.pixel_chunks * p.channels < int64_t{1} << 31 &&
                      aligned({p.x, p.scale, p.shift, p.noise, p.b, p.mean, p.rstd, p.y, p.partial, p.coefficients}) &&
                      aligned({p.dy, p.dx, p.dscale, p.dshift, p.dnoise_partial, p.db_partial}) &&
                      aligned({p.u, p.u_scale, p.u_shift, p.u_noise, p.u_b, p.d_dy});
    if (fast)
      return p.channels_last ? launch_layout<T, kPass, false, true>(p, stream)
                             : launch_layout<T, kPass, true, true>(p, stream);
  }
  return p.channels_last ? launch_layout<T, kPass, false, false>(p, stream)
                         : launch_layout<T, kPass, true, false>(p, stream);
}

template <Pass kPass>
const char* launch_any(const AdainParams& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case DType::f32: return launch<float, kPass>(p, s);
    case DType::f64: return launch<double, kPass>(p, s);
    case DType::f16: return launch<__half, kPass>(p, s);
    case DType::bf16: return launch<__nv_bfloat16, kPass>(p, s);
  }
  return "adain: unknown dtype";
}

}  // namespace

const char* launch_adain(const AdainParams& p, void* stream) { return launch_any<Pass::forward>(p, stream); }
const char* launch_adain_backward(const AdainParams& p, void* stream) { return launch_any<Pass::backward>(p, stream); }
const char* launch_adain_double_backward(const AdainParams& p, void* stream) {
  return launch_any<Pass::twice>(p, stream);
}

}  // namespace gk
