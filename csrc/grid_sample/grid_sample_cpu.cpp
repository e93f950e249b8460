// grid_sample on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// Images are first staged, unless they can be read where they lie: rewritten in the accumulation type and in the layout of
// one of two forms, pixels for many channels and planes for few. What belongs to samples (dy, and the outputs of the forward
// pass) is staged in tiles that stay in the cache.
//
// Threads share samples where results belong to samples, and (image, channels) where they are summed into images, each
// sample in turn: no sum depends on how many threads there are.
#include <initializer_list>

#include "grid_sample/grid_sample_cpu_pixels.h"
#include "grid_sample/grid_sample_cpu_planes.h"
#include "grid_sample/grid_sample_params.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int64_t kStageBytes = 4 << 20;  // images are staged in groups of at least one image, up to this size
constexpr int64_t kSumBytes = 8 << 20;    // likewise the channels that are summed at a time
constexpr int64_t kFewChannels = 8;       // up to which planes are gathered from

// What every pass over samples knows.
template <class F>
struct Pass {
  using Acc = typename F::Acc;

  Pass(const GridSampleParams& params, ParallelFor threads)
      : p(params),
        parallel(threads),
        images(p.x.size[0]),
        channels(p.x.size[1]),
        height(p.x.size[2]),
        width(p.x.size[3]),
        samples(p.y.size[2] * p.y.size[3]),
        padded(F::padded(channels)) {}

  // Half the size of the image: what a slope in the position is multiplied by to be one in the grid.
  Acc scale_x() const { return static_cast<Acc>(width) / 2; }
  Acc scale_y() const { return static_cast<Acc>(height) / 2; }

  // u_grid of the samples from number `at` of the array on, as directions of the position.
  void direction(int64_t at, int64_t count, Acc* along_x, Acc* along_y) const {
    const Acc* u = static_cast<const Acc*>(p.u_grid) + at;
    for (int64_t i = 0; i < count; ++i) along_x[i] = u[2 * i] * scale_x(), along_y[i] = u[2 * i + 1] * scale_y();
  }

  const GridSampleParams& p;
  const ParallelFor parallel;
  const int64_t images, channels, height, width, samples, padded;
};

// Forward, and what backward and double backward write for samples: values and their gradient in the grid. `value` is
// the image whose values and slopes count, `sloped` the one whose slopes along u_grid do; each may be absent.
template <class F>
class GatherPass : Pass<F> {
  using Base = Pass<F>;
  using Base::channels, Base::height, Base::images, Base::p, Base::padded, Base::parallel, Base::samples, Base::width;
  using typename Base::Acc;

 public:
  GatherPass(const GridSampleParams& params, ParallelFor threads, const View4& value_image, const View4& sloped_image,
             const View4& output, void* grid_gradient)
      : Base(params, threads),
        value(value_image),
        sloped(sloped_image),
        out(output),
        dgrid(static_cast<Acc*>(grid_gradient)),
        out_here(out.data && F::tile_in_place(out)),
        dy_here(F::tile_in_place(p.y)),
        tile(F::tile_samples(padded)) {}

  const char* run() const {
    if (!out.data && !dgrid) return nullptr;
    const int64_t numbers = height * width * padded;
    const int64_t group = max64(1, min64(images, kStageBytes / (numbers * static_cast<int64_t>(sizeof(Acc)))));
    const int64_t of_value = staged(value) ? group * numbers : 0, of_sloped = staged(sloped) ? group * numbers : 0;
    Acc* const memory = of_value + of_sloped ? allocate<Acc>(of_value + of_sloped) : nullptr;
    if (of_value + of_sloped && !memory) return kNoMemory;
    const char* error = nullptr;
    for (int64_t first = 0; first < images && !error; first += group)
      error = some_images(first, min64(group, images - first), memory, memory + of_value);
    std::free(memory);
    return error;
  }

 private:
  static bool staged(const View4& v) { return v.data && !F::in_place(v); }

  // Images [first, first + count), staged in the given memory.
  const char* some_images(int64_t first, int64_t count, Acc* value_stage, Acc* sloped_stage) const {
    if (staged(value)) stage(value, value_stage, first, count);
    if (staged(sloped)) stage(sloped, sloped_stage, first, count);
    const int64_t block = tile * max64(1, kTaskNumbers / (tile * padded)), blocks = (samples + block - 1) / block;
    return for_tasks(parallel, count * blocks, [&](int64_t task) {
      const int64_t i = task / blocks, begin = task % blocks * block;
      return range(first + i, begin, min64(samples, begin + block), image(value, value_stage, first, i),
                   image(sloped, sloped_stage, first, i));
    });
  }

  void stage(const View4& v, Acc* to, int64_t first, int64_t count) const {
    const int64_t plane = height * width, piece = round_up(max64(1, kTaskNumbers / padded), F::lanes);
    const int64_t pieces = (plane + piece - 1) / piece;
    for_tasks(parallel, count * pieces, [&](int64_t task) {
      const int64_t i = task / pieces, at = task % pieces * piece;
      const Tile<Acc> target = F::staged_tile(to + i * plane * padded, at, plane, padded);
      F::stage_in(v, first + i, at, min64(piece, plane - at), 0, channels, target);
      return true;
    });
  }

  // Image first + i.
  Image<const Acc> image(const View4& v, Acc* stage, int64_t first, int64_t i) const {
    if (!v.data) return {nullptr, 0, 0, 0};
    const int64_t plane = height * width;
    const Image<Acc> from =
        staged(v) ? F::staged_image(stage + i * plane * padded, width, plane, padded) : F::image_of(v, first + i);
    return {from.data, from.row, from.column, from.channel};
  }

  // Samples [begin, end) of image n; false if there is no memory.
  bool range(int64_t n, int64_t begin, int64_t end, Image<const Acc> from_value, Image<const Acc> from_sloped) const {
    const int64_t numbers = tile * padded, tiles = (out.data && !out_here) + (dgrid && !dy_here);
    Acc* const memory = tiles ? allocate<Acc>(tiles * numbers) : nullptr;
    if (tiles && !memory) return false;
    Samples<Acc> s;
    Acc along_x[kMostSamples], along_y[kMostSamples], sums_x[kMostSamples], sums_y[kMostSamples], mixed[kMostSamples];
    for (int64_t first = begin; first < end; first += tile) {
      const int64_t count = min64(tile, end - first), at = 2 * (n * samples + first);
      Acc* next = memory;
      Tile<Acc> to{nullptr, 0}, dy{nullptr, 0};
      if (out.data) {
        to = out_here ? F::tile_of(out, n, first) : F::own_tile(next, padded);
        if (!out_here) next += numbers;
      }
      if (dgrid) {
        dy = dy_here ? F::tile_of(p.y, n, first) : F::own_tile(next, padded);
        if (!dy_here) F::stage_in(p.y, n, first, count, 0, channels, dy);
      }
      locate<Acc>(p, n, first, count, s);
      if (value.data) {
        if (to.data && dy.data)
          F::template gather<true, true>(s, from_value, padded, to, dy, sums_x, sums_y);
        else if (to.data)
          F::template gather<true, false>(s, from_value, padded, to, dy, sums_x, sums_y);
        else
          F::template gather<false, true>(s, from_value, padded, to, dy, sums_x, sums_y);
      }
      if (sloped.data) {
        Base::direction(at, count, along_x, along_y);
        F::gather_slopes(s, from_sloped, padded, along_x, along_y, to, value.data != nullptr, dy, mixed);
      }
      if (to.data && !out_here) F::stage_out(to, out, n, first, count, 0, channels);
      for (int64_t i = 0; dgrid && i < count; ++i) {
        Acc x = value.data ? sums_x[i] : Acc(0), y = value.data ? sums_y[i] : Acc(0);
        if (sloped.data) x += along_y[i] * mixed[i], y += along_x[i] * mixed[i];
        dgrid[at + 2 * i] = x * Base::scale_x(), dgrid[at + 2 * i + 1] = y * Base::scale_y();
      }
    }
    std::free(memory);
    return true;
  }

  const View4 value, sloped, out;
  Acc* const dgrid;
  const bool out_here, dy_here;
  const int64_t tile;
};

// What backward and double backward sum into images: dx, of the weights or of their slopes along u_grid.
template <class F>
class ScatterPass : Pass<F> {
  using Base = Pass<F>;
  using Base::channels, Base::height, Base::images, Base::p, Base::padded, Base::parallel, Base::samples, Base::width;
  using typename Base::Acc;

 public:
  using Base::Base;

  const char* run() const {
    if (!p.dx.data) return nullptr;
    const int64_t pair = 2 * F::K * height * width * static_cast<int64_t>(sizeof(Acc));
    const int64_t block = min64(padded, pair <= kSumBytes ? 2 * F::K : F::K), blocks = (padded + block - 1) / block;
    return for_tasks(parallel, images * blocks, [&](int64_t task) {
      const int64_t c0 = task % blocks * block;
      return sum(task / blocks, c0, min64(block, channels - c0));
    });
  }

 private:
  // Channels [c0, c0 + count) of image n; false if there is no memory.
  bool sum(int64_t n, int64_t c0, int64_t count) const {
    const int64_t numbers = round_up(count, F::K), tile = F::tile_samples(numbers);
    const bool here = F::in_place(p.dx), dy_here = F::tile_in_place(p.y);
    // Rows that are whole pages apart are kept off each other: the processor tells a load from an earlier store by the
    // offset in the page, and would wait for the sample's upper pixels before it reads its lower ones.
    const int64_t page = 4096 / sizeof(Acc), row = width * numbers + (width * numbers % page ? 0 : page / 64);
    const int64_t of_sums = here ? 0 : height * row, of_dy = dy_here ? 0 : tile * numbers;
    Acc* const memory = of_sums + of_dy ? allocate<Acc>(of_sums + of_dy) : nullptr;
    if (of_sums + of_dy && !memory) return false;
    Image<Acc> to{memory, row, numbers, 1};
    if (here) to = F::image_of(p.dx, n, c0);
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        for (int64_t c = 0; c < numbers; c += F::K)
          store_bits(to.data + y * to.row + x * to.column + c, typename F::V{});
    Samples<Acc> s;
    Acc along_x[kMostSamples], along_y[kMostSamples];
    for (int64_t first = 0; first < samples; first += tile) {
      const int64_t some = min64(tile, samples - first);
      const Tile<Acc> dy = dy_here ? F::tile_of(p.y, n, first, c0) : Tile<Acc>{memory + of_sums, numbers};
      if (!dy_here) F::stage_in(p.y, n, first, some, c0, count, dy);
      locate<Acc>(p, n, first, some, s);
      if (p.u_grid) {
        Base::direction(2 * (n * samples + first), some, along_x, along_y);
        F::template scatter<true>(s, dy, along_x, along_y, to, numbers);
      } else {
        F::template scatter<false>(s, dy, along_x, along_y, to, numbers);
      }
    }
    for (int64_t y = 0; !here && y < height; ++y)
      F::stage_out(Tile<Acc>{to.data + y * row, numbers}, p.dx, n, y * width, width, c0, count);
    std::free(memory);
    return true;
  }
};

// Calls body(form) for the storage type: the form of pixels, or that of planes if `planes` and there are few channels.
template <class S, class Body>
const char* with_lanes(const GridSampleParams& p, bool planes, Body body) {
  using Narrow = typename NarrowOf<typename S::Acc>::Vec;
  const int64_t channels = p.x.size[1];
  if (planes && channels <= kFewChannels && PlaneForm<S>::fits(p.x) && PlaneForm<S>::fits(p.u_x))
    return body(PlaneForm<S>{});
  if (channels == 1) return body(PixelForm<S, typename NarrowOf<typename S::Acc>::One>{});
  if constexpr (sizeof(Narrow) < sizeof(typename S::Vec))
    if (channels <= 4) return body(PixelForm<S, Narrow>{});
  return body(PixelForm<S, typename S::Vec>{});
}
template <class Body>
const char* with_form(const GridSampleParams& p, bool planes, Body body) {
  switch (p.dtype) {
    case DType::f64: return with_lanes<F64>(p, planes, body);
    case DType::f16: return with_lanes<F16>(p, planes, body);
    case DType::bf16: return with_lanes<BF16>(p, planes, body);
    case DType::f32: break;
  }
  return with_lanes<F32>(p, planes, body);
}

const char* gather(const GridSampleParams& p, ParallelFor parallel, const View4& value, const View4& sloped,
                   const View4& out, void* dgrid) {
  return with_form(p, true,
                   [&](auto form) { return GatherPass<decltype(form)>(p, parallel, value, sloped, out, dgrid).run(); });
}
const char* scatter(const GridSampleParams& p, ParallelFor parallel) {
  return with_form(p, false, [&](auto form) -> const char* {
    if constexpr (decltype(form)::kScatters) return ScatterPass<decltype(form)>(p, parallel).run();
    return nullptr;
  });
}

// Of one pixel in a row: whatever its stride is, it serves as 1.
View4 normalized(View4 v) {
  if (v.size[3] == 1 && v.stride[1] != 1) v.stride[3] = 1;
  return v;
}
GridSampleParams normalized(GridSampleParams p) {
  for (View4* v : {&p.x, &p.y, &p.u_x, &p.d_dy, &p.dx}) *v = normalized(*v);
  return p;
}

}  // namespace

const char* grid_sample_cpu(const GridSampleParams& params, ParallelFor parallel) {
  const GridSampleParams p = normalized(params);
  return gather(p, parallel, p.x, View4{}, p.y, nullptr);
}

const char* grid_sample_backward_cpu(const GridSampleParams& params, ParallelFor parallel) {
  const GridSampleParams p = normalized(params);
  const char* error = scatter(p, parallel);
  return error ? error : gather(p, parallel, p.x, View4{}, View4{}, p.dgrid);
}

const char* grid_sample_double_backward_cpu(const GridSampleParams& params, ParallelFor parallel) {
  const GridSampleParams p = normalized(params);
  const char* error = scatter(p, parallel);
  return error ? error : gather(p, parallel, p.u_x, p.u_grid ? p.x : View4{}, p.d_dy, p.dgrid);
}

}  // namespace GK_ISA
}  // namespace gk
