// Random arguments for the CPU kernels, without torch, to be run under the sanitizers: cpu_driver SEED CASES.
//
// Every tensor is an allocation of its exact size at an odd place, so that AddressSanitizer sees a step outside of it. Every
// case runs twice: in one piece over outputs of 0xff bytes (NaN), and cut at random places over several threads (what
// ThreadSanitizer watches) over outputs of zeros. Both must give the same bytes: then every element was written, none was read
// before, and cuts and threads make no difference. Compiled with one -DGK_STRESS_<op> for every op that is linked.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "adain/adain_params.h"
#include "bias_act/bias_act_params.h"
#include "filtered_lrelu/filtered_lrelu_params.h"
#include "grad_norm_penalty/grad_norm_penalty_params.h"
#include "grid_sample/grid_sample_params.h"
#include "interpolate/interpolate_params.h"
#include "modulate/modulate_params.h"
#include "modulated_conv2d/modulated_conv2d_params.h"
#include "pixel_norm/pixel_norm_params.h"
#include "upfirdn2d/upfirdn2d_params.h"

namespace {

using namespace gk;
using namespace gk::GK_ISA;

std::mt19937_64 random_bits;

int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }
bool flag() { return integer(0, 1); }
double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_bits); }

int64_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }
DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// ---- memory: what a case has allocated ---------------------------------------------------------------------------------
struct Output {
  char* data;
  int64_t bytes;
};
std::vector<std::unique_ptr<char[]>> allocations;
std::vector<Output> outputs;

char* allocate(int64_t numel, int64_t element) {
  const int64_t shift = element * integer(0, 3);
  allocations.emplace_back(new char[shift + numel * element]);
  return allocations.back().get() + shift;
}

// Numbers between -2 and 2, or positive ones.
void* input(int64_t numel, DType dtype, bool positive = false) {
  char* data = allocate(numel, size_of(dtype));
  for (int64_t i = 0; i < numel; ++i) {
    const double value = positive ? real(0.5, 2) : real(-2, 2);
    if (dtype == DType::f64) {
      std::memcpy(data + 8 * i, &value, 8);
      continue;
    }
    const float number = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    if (dtype == DType::f32) {
      std::memcpy(data + 4 * i, &bits, 4);
      continue;
    }
    const int exponent = static_cast<int>((bits >> 23) & 255) - 127 + 15;
    const uint32_t f16 = exponent < 1 ? 0 : static_cast<uint32_t>(exponent) << 10 | ((bits >> 13) & 1023);
    const uint16_t half = static_cast<uint16_t>(dtype == DType::bf16 ? bits >> 16 : (bits >> 16 & 0x8000) | f16);
    std::memcpy(data + 2 * i, &half, 2);
  }
  return data;
}
void* maybe(int64_t numel, DType dtype) { return flag() ? input(numel, dtype) : nullptr; }

void* output(int64_t numel, DType dtype) {
  char* data = allocate(numel, size_of(dtype));
  outputs.push_back({data, numel * size_of(dtype)});
  return data;
}
void* maybe_output(int64_t numel, DType dtype) { return flag() ? output(numel, dtype) : nullptr; }
// Written and read within a case, and not compared: what is not used of it may stay as it was.
void* scratch(int64_t numel, DType dtype) { return allocate(numel, size_of(dtype)); }

// ---- a case, run twice ---------------------------------------------------------------------------------------------------
using Run = std::function<void(int64_t begin, int64_t end)>;
struct Stage {
  int64_t tasks;
  Run run;
};

void threaded(int64_t tasks, const Run& run) {
  std::vector<int64_t> cuts{0};
  while (cuts.back() < tasks) cuts.push_back(cuts.back() + integer(1, tasks));
  cuts.back() = tasks;
  std::vector<std::thread> threads;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) threads.emplace_back([&, i] { run(cuts[i], cuts[i + 1]); });
  for (std::thread& t : threads) t.join();
}

void fill(int byte) {
  for (const Output& o : outputs) std::memset(o.data, byte, static_cast<size_t>(o.bytes));
}

void check(const char* what, const std::vector<Stage>& stages) {
  fill(0xff);
  for (const Stage& s : stages)
    if (s.tasks) s.run(0, s.tasks);
  std::vector<std::vector<char>> first;
  for (const Output& o : outputs) first.emplace_back(o.data, o.data + o.bytes);
  fill(0);
  for (const Stage& s : stages) threaded(s.tasks, s.run);
  for (size_t i = 0; i < outputs.size(); ++i)
    if (std::memcmp(first[i].data(), outputs[i].data, first[i].size())) {
      size_t at = 0;
      while (first[i][at] == outputs[i].data[at]) ++at;
      std::printf(
          "%s: output %zu differs at byte %zu of %zu: not written, or read before, or not the same in other cuts\n",
          what, i, at, first[i].size());
      std::exit(1);
    }
}

DType any_dtype() { return static_cast<DType>(integer(0, 3)); }
Act any_act() { return static_cast<Act>(integer(0, static_cast<int64_t>(Act::swish))); }
int64_t any_size(int64_t most) { return flag() ? integer(1, 5) : integer(1, most); }
int64_t pieces(int64_t size, int64_t chunk) { return (size + chunk - 1) / chunk; }

// [N, C, H, W], dense in one layout.
View4 view(void* data, int64_t n, int64_t c, int64_t h, int64_t w, bool last) {
  View4 v{data, {n, c, h, w}, {c * h * w, h * w, w, 1}};
  if (last) v.stride[1] = 1, v.stride[2] = w * c, v.stride[3] = c;
  return v;
}

// ---- the ops: one function each, with a random case ------------------------------------------------------------------------
#if defined(GK_STRESS_pixel_norm)
void stress_pixel_norm() {
  PixelNormParams p{};
  p.dtype = any_dtype();
  p.outer = any_size(40), p.channels = any_size(70), p.inner = flag() ? 1 : any_size(100), p.eps = 1e-8;
  p.chunk = p.inner == 1 ? integer(1, p.outer) : integer(1, p.inner);
  p.pieces = p.inner == 1 ? pieces(p.outer, p.chunk) : p.outer * pieces(p.inner, p.chunk);
  const int64_t numel = p.outer * p.channels * p.inner;
  p.x = input(numel, p.dtype);
  const int64_t kind = integer(0, 2);
  if (kind > 0) p.dy = input(numel, p.dtype);
  if (kind == 0) p.y = output(numel, p.dtype);
  if (kind == 1) p.dx = output(numel, p.dtype);
  if (kind == 2) p.u = input(numel, p.dtype), p.d_dy = maybe_output(numel, p.dtype), p.d_x = output(numel, p.dtype);
  const auto run = kind == 0 ? pixel_norm_cpu : kind == 1 ? pixel_norm_backward_cpu : pixel_norm_double_backward_cpu;
  check("pixel_norm", {{p.pieces, [&](int64_t b, int64_t e) { run(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_interpolate)
void stress_interpolate() {
  InterpolateParams p{};
  p.dtype = any_dtype(), p.samples = any_size(6), p.inner = any_size(5000), p.chunk = integer(1, p.inner);
  p.chunks = pieces(p.inner, p.chunk);
  const int64_t numel = p.samples * p.inner;
  p.eps = input(p.samples, wide(p.dtype));
  p.real = input(numel, p.dtype), p.fake = input(numel, p.dtype);
  const bool forward = flag();
  if (forward) {
    p.y = output(numel, p.dtype);
  } else {
    p.dy = input(numel, p.dtype);
    p.d_real = maybe_output(numel, p.dtype), p.d_fake = maybe_output(numel, p.dtype);
    p.partial = maybe_output(p.samples * p.chunks, wide(p.dtype));
    if (flag()) p.fake = nullptr;
    if (!p.partial && flag()) p.real = nullptr;
  }
  const auto run = forward ? interpolate_cpu : interpolate_backward_cpu;
  check("interpolate", {{p.samples * p.chunks, [&](int64_t b, int64_t e) { run(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_grad_norm_penalty)
void stress_grad_norm_penalty() {
  GradNormPenaltyParams p{};
  p.dtype = any_dtype(), p.samples = any_size(6), p.inner = any_size(5000), p.chunk = integer(1, p.inner);
  p.chunks = pieces(p.inner, p.chunk), p.center = flag() ? 0 : 1, p.weight = real(-1, 2);
  const int64_t numel = p.samples * p.inner;
  const DType acc = wide(p.dtype);
  p.grad = input(numel, p.dtype);
  const int64_t kind = integer(0, 2);
  const Stage sums{p.samples * p.chunks, [&](int64_t b, int64_t e) { grad_norm_penalty_sums_cpu(p, b, e); }};
  const Stage totals{p.samples, [&](int64_t b, int64_t e) { grad_norm_penalty_totals_cpu(p, b, e); }};
  const Stage scale{p.samples * p.chunks, [&](int64_t b, int64_t e) { grad_norm_penalty_scale_cpu(p, b, e); }};
  if (kind != 1) p.partial = output(p.samples * p.chunks, acc);
  if (kind == 0) {
    p.squares = output(p.samples, acc), p.penalty = output(p.samples, acc);
    return check("grad_norm_penalty", {sums, totals});
  }
  p.squares = input(p.samples, acc, true), p.dp = input(p.samples, acc);
  p.out = output(numel, p.dtype);
  if (kind == 1) return check("grad_norm_penalty_backward", {scale});
  p.u = input(numel, p.dtype), p.products = output(p.samples, acc), p.d_dp = maybe_output(p.samples, acc);
  check("grad_norm_penalty_double_backward", {sums, totals, scale});
}
#endif

#if defined(GK_STRESS_modulate)
void stress_modulate() {
  ModulateParams p{};
  p.dtype = any_dtype(), p.act = any_act(), p.channels_last = flag();
  p.samples = integer(1, 3), p.channels = any_size(70), p.pixels = any_size(300);
  p.alpha = 0.2, p.gain = 1.5, p.clamp = flag() ? -1 : 1;
  const DType acc = wide(p.dtype);
  const int64_t image = p.samples * p.channels * p.pixels, rows = p.samples * p.channels;
  p.pixel_chunk = integer(1, p.pixels), p.channel_chunk = p.channels_last ? p.channels : integer(1, p.channels);
  p.pixel_chunks = pieces(p.pixels, p.pixel_chunk), p.channel_chunks = pieces(p.channels, p.channel_chunk);
  p.scale = maybe(rows, acc), p.b = maybe(p.channels, acc), p.noise_samples = flag() ? 1 : p.samples;
  p.noise = maybe(p.noise_samples * p.pixels, acc);
  const int64_t kind = integer(0, 3), sums = p.samples * p.pixel_chunks * p.channels;
  p.x = input(image, p.dtype);
  if (kind < 2) {
    p.y = output(image, p.dtype);
  } else {
    p.dy = input(image, p.dtype);
    if (p.act != Act::swish && flag()) p.y_saved = input(image, p.dtype);
  }
  if (kind == 2) {
    p.dx = maybe_output(image, p.dtype);
    p.dscale_partial = maybe_output(sums, acc), p.db_partial = maybe_output(sums, acc);
    p.dnoise_partial = maybe_output(p.channel_chunks * p.samples * p.pixels, acc);
  }
  if (kind == 3) {
    p.u = input(image, p.dtype), p.u_scale = maybe(rows, acc), p.u_noise = maybe(p.samples * p.pixels, acc);
    p.u_b = maybe(p.channels, acc);
    p.d_dy = maybe_output(image, p.dtype), p.d_saved = maybe_output(image, p.dtype);
    if (p.u_scale) p.d_x = maybe_output(image, p.dtype);
    p.d_scale_partial = maybe_output(sums, acc);
  }
  const auto run = kind == 0   ? modulate_cpu
                   : kind == 1 ? modulate_relaid_cpu
                   : kind == 2 ? modulate_backward_cpu
                               : modulate_double_backward_cpu;
  const char* const names[] = {"modulate", "modulate_relaid", "modulate_backward", "modulate_double_backward"};
  check(names[kind], {{p.samples * p.pixel_chunks * p.channel_chunks, [&](int64_t b, int64_t e) { run(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_adain)
void stress_adain() {
  AdainParams p{};
  p.dtype = any_dtype(), p.act = any_act(), p.pre_act = flag() ? Act::linear : any_act(), p.channels_last = flag();
  p.spatial = flag(), p.samples = integer(1, 3), p.channels = any_size(140), p.pixels = 1 + any_size(300);
  p.alpha = p.pre_alpha = 0.2, p.gain = 1.5, p.eps = 1e-5;
  const DType acc = wide(p.dtype), factor = p.spatial ? p.dtype : acc;
  const int64_t image = p.samples * p.channels * p.pixels, rows = p.samples * p.channels,
                factors = p.spatial ? image : rows;
  p.pixel_chunk = flag() ? p.pixels : integer(1, p.pixels);
  p.channel_chunk = p.channels_last ? p.channels : integer(1, p.channels);
  p.pixel_chunks = pieces(p.pixels, p.pixel_chunk), p.channel_chunks = pieces(p.channels, p.channel_chunk);
  p.x = input(image, p.dtype), p.scale = maybe(factors, factor), p.shift = maybe(factors, factor);
  p.noise_samples = flag() ? 1 : p.samples, p.noise = maybe(p.noise_samples * p.pixels, acc),
  p.b = maybe(p.channels, acc);
  const int64_t kind = integer(0, 2);
  const int64_t sums = kind == 0 ? kAdainForwardSums : kind == 1 ? kAdainBackwardSums : kAdainDoubleSums;
  const int64_t count = kind == 1 ? kAdainBackwardCoefficients : kAdainDoubleCoefficients;
  p.partial = scratch(p.samples * p.pixel_chunks * sums * p.channels, acc);
  if (kind > 0) p.coefficients = scratch(p.samples * count * p.channels, acc);
  if (kind == 0) {
    p.mean = output(rows, acc), p.rstd = output(rows, acc), p.y = output(image, p.dtype);
  } else {
    p.mean = input(rows, acc), p.rstd = input(rows, acc, true), p.dy = input(image, p.dtype);
    p.dx = maybe_output(image, p.dtype), p.dscale = maybe_output(factors, factor);
    p.dshift = maybe_output(factors, factor);
    p.dnoise_partial = maybe_output(p.channel_chunks * p.samples * p.pixels, acc);
    p.db_partial = maybe_output(p.samples * p.pixel_chunks * p.channels, acc);
  }
  if (kind == 2) {
    p.u = input(image, p.dtype), p.u_scale = maybe(factors, factor), p.u_shift = maybe(factors, factor);
    p.u_noise = maybe(p.samples * p.pixels, acc), p.u_b = maybe(p.channels, acc), p.d_dy = maybe_output(image, p.dtype);
  }
  const auto run = kind == 0 ? adain_cpu : kind == 1 ? adain_backward_cpu : adain_double_backward_cpu;
  const auto stage = [&](int64_t tasks, AdainStage which) {
    return Stage{tasks, [&p, run, which](int64_t b, int64_t e) { run(p, which, b, e); }};
  };
  const int64_t rectangles = p.samples * p.pixel_chunks * p.channel_chunks;
  const char* const names[] = {"adain", "adain_backward", "adain_double_backward"};
  if (p.pixel_chunks == 1) return check(names[kind], {stage(rectangles, AdainStage::whole)});
  check(names[kind],
        {stage(rectangles, AdainStage::sums), stage(p.samples * pieces(p.channels, kAdainFinish), AdainStage::finish),
         stage(rectangles, AdainStage::apply)});
}
#endif

#if defined(GK_STRESS_bias_act)
void stress_bias_act() {
  BiasActParams p{};
  p.dtype = any_dtype(), p.act = any_act();
  p.outer = any_size(20), p.channels = any_size(70), p.inner = flag() ? 1 : any_size(300);
  p.alpha = 0.2, p.gain = 1.5, p.clamp = flag() ? -1 : 1;
  const int64_t numel = p.outer * p.channels * p.inner, positions = p.outer * p.inner, kind = integer(0, 2);
  const DType acc = wide(p.dtype);
  if (kind > 0 && p.act != Act::swish && flag())
    p.y_saved = input(numel, p.dtype);
  else
    p.x = input(numel, p.dtype), p.b = maybe(p.channels, p.dtype);
  if (p.x) {
    p.noise_outer = flag() ? 1 : p.outer;
    p.noise = maybe(p.noise_outer * p.inner, p.dtype);
  }
  if (kind == 0) {
    p.y = output(numel, p.dtype);
    return check("bias_act", {{numel, [&](int64_t b, int64_t e) { bias_act_cpu(p, b, e); }}});
  }
  p.dy = input(numel, p.dtype);
  if (kind == 1) {
    p.dx = maybe_output(numel, p.dtype);
    p.chunk = integer(1, positions), p.chunks = pieces(positions, p.chunk);
    p.channel_chunk = p.channels, p.channel_chunks = 1;  // as configs.reduction_chunks has it on the CPU
    p.db_partial = maybe_output(p.chunks * p.channels, acc);
    p.dnoise_partial = maybe_output(p.channel_chunks * positions, acc);
    return check("bias_act_backward", {{p.chunks, [&](int64_t b, int64_t e) { bias_act_backward_cpu(p, b, e); }}});
  }
  p.u = maybe(numel, p.dtype), p.u_b = maybe(p.channels, p.dtype), p.u_noise = maybe(positions, p.dtype);
  if (!p.u && !p.u_b && !p.u_noise) p.u = input(numel, p.dtype);
  p.d_dy = maybe_output(numel, p.dtype), p.d_saved = maybe_output(numel, p.dtype);
  check("bias_act_double_backward", {{numel, [&](int64_t b, int64_t e) { bias_act_double_backward_cpu(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_upfirdn2d)
void stress_upfirdn2d() {
  Upfirdn2dParams p{};
  p.dtype = any_dtype();
  const bool last = flag();
  const int64_t n = integer(1, 3), c = any_size(40), h = any_size(30), w = any_size(60), kind = integer(0, 2);
  p.tap_h = kind == 0 ? 1 : integer(1, 9), p.tap_w = kind == 0 ? 1 : kind == 1 ? p.tap_h : integer(1, 9);
  p.up_x = integer(1, 4), p.up_y = integer(1, 4), p.down_x = integer(1, 4), p.down_y = integer(1, 4);
  p.flip = flag(), p.gain = 1.5;
  if (kind == 1) p.taps_x = p.taps_y = input(p.tap_w, wide(p.dtype));
  if (kind == 2) p.taps = input(p.tap_h * p.tap_w, wide(p.dtype));
  int64_t size[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t pixels = axis ? w * p.up_x : h * p.up_y, taps = axis ? p.tap_w : p.tap_h;
    const int64_t before = integer(-2, 9);
    int64_t after = integer(-2, 9);
    if (pixels + before + after < taps) after = taps - pixels - before;
    size[axis] = (pixels + before + after - taps) / (axis ? p.down_x : p.down_y) + 1;
    (axis ? p.pad_x0 : p.pad_y0) = before;
  }
  p.x = view(input(n * c * h * w, p.dtype), n, c, h, w, last);
  p.y = view(output(n * c * size[0] * size[1], p.dtype), n, c, size[0], size[1], last);
  check("upfirdn2d", {{upfirdn2d_cpu_tasks(p), [&](int64_t b, int64_t e) { upfirdn2d_cpu(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_filtered_lrelu)
void stress_filtered_lrelu() {
  FilteredLreluParams p{};
  p.dtype = any_dtype(), p.channels_last = flag();
  const int64_t n = integer(1, 2), c = any_size(20), h = any_size(16), w = any_size(24);
  const auto filter = [&](const void*& taps, bool& separable, int64_t& rows, int64_t& columns) {
    const int64_t kind = integer(0, 2);
    rows = kind == 0 ? 1 : integer(1, 8),
    columns = kind == 0   ? 1
              : kind == 1 ? rows
                          : integer(1, 8),
    separable = kind == 1;
    taps = kind == 0 ? nullptr : input(kind == 1 ? columns : rows * columns, wide(p.dtype));
  };
  filter(p.up_taps, p.up_separable, p.up_h, p.up_w), filter(p.down_taps, p.down_separable, p.down_h, p.down_w);
  p.up_x = integer(1, 4), p.up_y = integer(1, 4), p.down_x = integer(1, 4), p.down_y = integer(1, 4);
  int64_t size[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t pixels = axis ? w * p.up_x : h * p.up_y, first = axis ? p.up_w : p.up_h;
    const int64_t second = axis ? p.down_w : p.down_h, down = axis ? p.down_x : p.down_y, before = integer(-2, 9);
    int64_t after = integer(-2, 9);
    if (pixels + before + after < first + second - 1) after = first + second - 1 - pixels - before;
    size[axis] = (pixels + before + after - first + 1 - second) / down + 1;
    (axis ? p.start_x : p.start_y) = before;
    (axis ? p.mid_w : p.mid_h) = (size[axis] - 1) * down + second;
  }
  p.flip = flag(), p.bias = maybe(c, wide(p.dtype)), p.scale = 2, p.gain = 1.5, p.negative_slope = 0.2;
  p.clamp = flag() ? -1 : 1;
  p.factor_in = maybe(n * c, wide(p.dtype)), p.factor_out = maybe(n * c, wide(p.dtype));
  const int64_t mask = p.channels_last ? n * p.mid_h * p.mid_w * pieces(c, 4) : n * c * p.mid_h * pieces(p.mid_w, 4);
  const int64_t kind = integer(0, 2);
  if (kind == 1) {
    p.mask_out = reinterpret_cast<uint8_t*>(allocate(mask, 1));
    outputs.push_back({reinterpret_cast<char*>(p.mask_out), mask});
  }
  if (kind == 2) {
    uint8_t* bytes = reinterpret_cast<uint8_t*>(allocate(mask, 1));
    for (int64_t i = 0; i < mask; ++i)
      bytes[i] = static_cast<uint8_t>(integer(0, 2) | integer(0, 2) << 2 | integer(0, 2) << 4);
    p.mask_in = bytes;
  }
  p.x = view(input(n * c * h * w, p.dtype), n, c, h, w, p.channels_last);
  p.y = view(output(n * c * size[0] * size[1], p.dtype), n, c, size[0], size[1], p.channels_last);
  check("filtered_lrelu", {{filtered_lrelu_cpu_tasks(p), [&](int64_t b, int64_t e) { filtered_lrelu_cpu(p, b, e); }}});
}
#endif

#if defined(GK_STRESS_grid_sample)
bool one_piece = true;
void spread(int64_t tasks, void (*run)(const void*, int64_t, int64_t), const void* context) {
  if (one_piece) return run(context, 0, tasks);
  threaded(tasks, [&](int64_t b, int64_t e) { run(context, b, e); });
}

void stress_grid_sample() {
  GridSampleParams p{};
  p.dtype = any_dtype();
  const DType acc = wide(p.dtype);
  const bool last = flag();
  const int64_t n = integer(1, 2), c = any_size(30), h = any_size(20), w = any_size(20), oh = any_size(16),
                ow = any_size(40);
  const auto small = [&](void* data) { return view(data, n, c, h, w, last); };
  const auto large = [&](void* data) { return view(data, n, c, oh, ow, last); };
  const int64_t pixels = n * c * h * w, samples = n * c * oh * ow, positions = n * oh * ow * 2, kind = integer(0, 2);
  p.x = small(input(pixels, p.dtype)), p.grid = input(positions, acc);
  p.y = large(kind == 0 ? output(samples, p.dtype) : input(samples, p.dtype));
  if (kind == 1) {
    if (flag()) p.dx = small(output(pixels, p.dtype));
    if (!p.dx.data || flag()) p.dgrid = output(positions, acc);
  }
  if (kind == 2) {
    if (flag()) p.u_x = small(input(pixels, p.dtype));
    if (!p.u_x.data || flag()) p.u_grid = input(positions, acc);
    if (flag()) p.d_dy = large(output(samples, p.dtype));
    if (p.u_grid && flag()) p.dx = small(output(pixels, p.dtype));
    if ((!p.d_dy.data && !p.dx.data) || flag()) p.dgrid = output(positions, acc);
  }
  const auto run = kind == 0 ? grid_sample_cpu : kind == 1 ? grid_sample_backward_cpu : grid_sample_double_backward_cpu;
  int passes = 0;
  check("grid_sample", {{1, [&](int64_t, int64_t) {
                           one_piece = passes++ == 0;
                           if (const char* error = run(p, spread))
                             std::printf("grid_sample: %s\n", error), std::exit(1);
                         }}});
}
#endif

#if defined(GK_STRESS_modulated_conv2d)
void stress_modulated_conv2d_tail() {
  ModulatedConv2dTailParams p{};
  const DType dtypes[] = {DType::f32, DType::f16, DType::bf16}, acc = DType::f32;
  p.dtype = dtypes[integer(0, 2)], p.act = any_act();
  p.alpha = real(0, 1), p.gain = real(0.1, 2), p.clamp = flag() ? real(0.1, 2) : -1,
  p.rgb_clamp = flag() ? real(0.1, 2) : -1;
  const int64_t n = p.samples = integer(1, 3), c = p.channels = flag() ? integer(1, 70) : integer(500, 600);
  p.height = integer(1, 9), p.width = integer(1, 9), p.z_height = p.height, p.z_width = p.width;
  const bool filter = flag();
  if (filter) {
    p.taps = static_cast<const float*>(input(2 * kTailTaps, acc));
    p.phases = flag();
    p.z_height = p.phases ? 2 * integer(1, 5) : integer(1, 9), p.z_width = p.phases ? 2 * integer(1, 5) : integer(1, 9);
    p.pad_y = integer(0, 3), p.pad_x = integer(0, 3);
  }
  p.z = input(n * p.z_height * p.z_width * c, p.dtype);
  p.scale_stride = c + integer(0, 5), p.next_stride = c + integer(0, 5);
  p.scale = static_cast<const float*>(maybe(n * p.scale_stride, acc));
  p.next = static_cast<const float*>(maybe(n * p.next_stride, acc));
  p.noise_samples = flag() ? n : 1;
  p.noise = static_cast<const float*>(maybe(p.noise_samples * p.height * p.width, acc));
  p.b = static_cast<const float*>(maybe(c, acc));
  const bool rgb = !filter && flag();
  if (!rgb || flag()) p.y = output(n * p.height * p.width * c, p.dtype);
  if (rgb) {
    const int64_t colours = n * kTailColours * p.height * p.width;
    p.rgb_weight = static_cast<const float*>(input(n * kTailColours * c, acc));
    p.rgb_b = static_cast<const float*>(maybe(kTailColours, acc));
    p.base = static_cast<const float*>(maybe(colours, acc));
    p.rgb = static_cast<float*>(output(colours, acc));
  }
  const auto run = [&](int64_t b, int64_t e) { modulated_conv2d_tail_cpu(p, b, e); };
  check("modulated_conv2d_tail", {{n * p.height, run}});
}

void stress_modulated_conv2d_factors() {
  ModulatedConv2dFactorsParams p{};
  p.samples = integer(1, 3), p.jobs = integer(1, 5);
  std::vector<ModulatedConv2dFactorsJob> jobs;
  int64_t width = 0, weights = 0, out = 0, tasks = 0;
  for (int64_t k = 0; k < p.jobs; ++k) {
    ModulatedConv2dFactorsJob job{};
    job.demodulated = flag(), job.normalised = flag(), job.inputs = any_size(40), job.outputs = any_size(40);
    job.styles = width, job.weights = weights, job.out = out;
    width += job.inputs, weights += job.outputs * job.inputs;
    job.norms = job.demodulated && flag() ? weights : -1;
    if (job.norms >= 0) weights += job.outputs;
    out += p.samples * job.outputs * (job.demodulated ? 1 : job.inputs);
    tasks += pieces(job.outputs, kFactorRows);
    jobs.push_back(job);
  }
  for (ModulatedConv2dFactorsJob& job : jobs) job.stride = width;
  p.styles = static_cast<const float*>(input(p.samples * width, DType::f32));
  p.weights = static_cast<const float*>(input(weights, DType::f32, true));
  p.out = static_cast<float*>(output(out, DType::f32));
  p.table = jobs.data();
  const auto run = [&](int64_t b, int64_t e) { modulated_conv2d_factors_cpu(p, b, e); };
  check("modulated_conv2d_factors", {{tasks, run}});
}

void stress_modulated_conv2d() {
  const int64_t kind = integer(0, 2);
  if (kind == 1) return stress_modulated_conv2d_tail();
  if (kind == 2) return stress_modulated_conv2d_factors();
  ModulatedConv2dParams p{};
  p.dtype = flag() ? DType::f32 : DType::f64;
  p.outputs = any_size(40), p.inputs = any_size(40), p.taps = any_size(16), p.channels_last = flag();
  p.w = input(p.outputs * p.inputs * p.taps, p.dtype), p.q = output(p.outputs * p.inputs, p.dtype);
  if (!p.channels_last && flag()) p.turned = output(p.outputs * p.inputs * p.taps, p.dtype);
  check("modulated_conv2d", {{p.outputs, [&](int64_t b, int64_t e) { modulated_conv2d_squares_cpu(p, b, e); }}});
}
#endif

using Stress = void (*)();
const Stress kOps[] = {
#if defined(GK_STRESS_pixel_norm)
    stress_pixel_norm,
#endif
#if defined(GK_STRESS_interpolate)
    stress_interpolate,
#endif
#if defined(GK_STRESS_grad_norm_penalty)
    stress_grad_norm_penalty,
#endif
#if defined(GK_STRESS_modulate)
    stress_modulate,
#endif
#if defined(GK_STRESS_adain)
    stress_adain,
#endif
#if defined(GK_STRESS_bias_act)
    stress_bias_act,
#endif
#if defined(GK_STRESS_upfirdn2d)
    stress_upfirdn2d,
#endif
#if defined(GK_STRESS_filtered_lrelu)
    stress_filtered_lrelu,
#endif
#if defined(GK_STRESS_grid_sample)
    stress_grid_sample,
#endif
#if defined(GK_STRESS_modulated_conv2d)
    stress_modulated_conv2d,
#endif
};

}  // namespace

int main(int count, char** words) {
  if (count != 3) return std::printf("usage: cpu_driver SEED CASES\n"), 2;
  const int64_t seed = std::atoll(words[1]), cases = std::atoll(words[2]);
  for (int64_t i = 0; i < cases; ++i)
    for (const Stress& op : kOps) {
      random_bits.seed(static_cast<uint64_t>(seed + i));
      allocations.clear(), outputs.clear();
      op();
    }
  std::printf("%lld cases of %zu ops\n", static_cast<long long>(cases), sizeof(kOps) / sizeof(kOps[0]));
  return 0;
}
