// adain for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs, partial sums and the
// rectangles (pixel_chunk, channel_chunk) come from Python.
#include "adain/adain_params.h"
#include "common/torch_binding.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;

// What every call has: layout, rectangles and the formula.
struct Settings {
  bool channels_last, spatial;
  int64_t pixel_chunk, channel_chunk, act;
  double alpha, gain;
  int64_t pre_act;
  double pre_alpha, eps;
};

const void* image(const OptionalTensor& t, const Tensor& like, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type() && t->numel() == like.numel(), "adain: ", name, " must have ",
                  like.numel(), " elements of x's dtype, got ", t->numel());
  return t->const_data_ptr();
}

// All that is not an image: at least `numel` numbers of the accumulation type.
const void* numbers(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto wide = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == wide && t->numel() == numel, "adain: ", name, " must have ", numel,
                  " elements of float32 (float64 if x is), got ", t->numel());
  return t->const_data_ptr();
}

const void* factor(const AdainParams& p, const OptionalTensor& t, const Tensor& like, const char* name) {
  return p.spatial ? image(t, like, name) : numbers(t, like, p.samples * p.channels, name);
}

// An output: Python made it.
template <class F, class... Args>
void* out(F input, const Args&... args) {
  return const_cast<void*>(input(args...));
}

AdainParams common(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& shift,
                   const OptionalTensor& noise, const OptionalTensor& b, const Tensor& mean, const Tensor& rstd,
                   const Settings& s) {
  AdainParams p{};
  p.dtype = dtype_of(x, "adain", "x");
  STD_TORCH_CHECK(x.dim() == 4, "adain: x must have 4 dimensions, got ", x.dim());
  for (const int64_t act : {s.act, s.pre_act})
    STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::swish), "adain: unknown activation ", act);
  STD_TORCH_CHECK(s.pixel_chunk > 0 && s.channel_chunk > 0, "adain: rectangles must not be empty");
  p.act = static_cast<Act>(s.act), p.pre_act = static_cast<Act>(s.pre_act);
  p.channels_last = s.channels_last, p.spatial = s.spatial;
  p.samples = x.size(0), p.channels = x.size(1), p.pixels = x.size(2) * x.size(3);
  p.alpha = s.alpha, p.gain = s.gain, p.pre_alpha = s.pre_alpha, p.eps = s.eps;
  p.pixel_chunk = s.pixel_chunk, p.pixel_chunks = (p.pixels + s.pixel_chunk - 1) / s.pixel_chunk;
  p.channel_chunk = s.channel_chunk, p.channel_chunks = (p.channels + s.channel_chunk - 1) / s.channel_chunk;
  p.x = x.const_data_ptr();
  p.scale = factor(p, scale, x, "scale"), p.shift = factor(p, shift, x, "shift");
  p.noise_samples = noise.has_value() && p.pixels > 0 && noise->numel() == p.pixels ? 1 : p.samples;
  p.noise = numbers(noise, x, p.noise_samples * p.pixels, "noise");
  p.b = numbers(b, x, p.channels, "b");
  p.mean = out(numbers, mean, x, p.samples * p.channels, "mean");
  p.rstd = out(numbers, rstd, x, p.samples * p.channels, "rstd");
  return p;
}

// The scratch of the two stages.
void scratch(AdainParams& p, const Tensor& x, const Tensor& partial, int64_t sums, const OptionalTensor& coefficients,
             int64_t count) {
  p.partial = out(numbers, partial, x, p.samples * p.pixel_chunks * sums * p.channels, "partial");
  p.coefficients = out(numbers, coefficients, x, p.samples * count * p.channels, "coefficients");
}

// What backward writes, and double backward in the same places.
void gradients(AdainParams& p, const Tensor& x, const OptionalTensor& dx, const OptionalTensor& dscale,
               const OptionalTensor& dshift, const OptionalTensor& dnoise_partial, const OptionalTensor& db_partial) {
  p.dx = out(image, dx, x, "dx");
  p.dscale = out(factor, p, dscale, x, "dscale"), p.dshift = out(factor, p, dshift, x, "dshift");
  p.dnoise_partial = out(numbers, dnoise_partial, x, p.channel_chunks * p.samples * p.pixels, "dnoise_partial");
  p.db_partial = out(numbers, db_partial, x, p.samples * p.pixel_chunks * p.channels, "db_partial");
}

#if !defined(GK_BIND_CUDA)
// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;
// Rectangles of a stage, at least, before the next stage follows: enough for the threads, and few enough to be in cache.
constexpr int64_t kTasks = 32;

template <class Run>
void parallel(const AdainParams& p, Run run) {
  const int64_t across = p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels;
  const int64_t elements = across * (p.channel_chunk < p.channels ? p.channel_chunk : p.channels);
  const int64_t grain = elements < kGrain ? (kGrain + elements - 1) / elements : 1;
  const int64_t a_sample = p.pixel_chunks * p.channel_chunks;
  const auto stage = [&](AdainStage which, int64_t first, int64_t last, int64_t least) {
    torch::stable::parallel_for(first, last, least, [&](int64_t begin, int64_t end) { run(p, which, begin, end); });
  };
  if (p.pixel_chunks == 1) return stage(AdainStage::whole, 0, p.samples * a_sample, grain);
  const int64_t group = (kTasks + a_sample - 1) / a_sample, pieces = (p.channels + kAdainFinish - 1) / kAdainFinish;
  // Adding up what rectangles have found is mostly less work than waking a thread.
  const int64_t few = 1 + kGrain / (4 * kAdainFinish * p.pixel_chunks);
  for (int64_t begin = 0; begin < p.samples; begin += group) {
    const int64_t end = begin + group < p.samples ? begin + group : p.samples;
    stage(AdainStage::sums, begin * a_sample, end * a_sample, grain);
    stage(AdainStage::finish, begin * pieces, end * pieces, few);
    stage(AdainStage::apply, begin * a_sample, end * a_sample, grain);
  }
}
// Outputs are mostly fresh memory, and dense.
void advise_output(const OptionalTensor& t) {
  if (t.has_value() && t->numel() > 0)
    advise_huge_pages(const_cast<void*>(t->const_data_ptr()), t->numel() * static_cast<int64_t>(t->element_size()));
}
#endif

#define GK_ADAIN_INPUTS                                                                                   \
  const Tensor &x, const OptionalTensor &scale, const OptionalTensor &shift, const OptionalTensor &noise, \
      const OptionalTensor &b
#define GK_ADAIN_SETTINGS                                                                                  \
  bool channels_last, bool spatial, int64_t pixel_chunk, int64_t channel_chunk, int64_t act, double alpha, \
      double gain, int64_t pre_act, double pre_alpha, double eps
#define GK_ADAIN_SETTINGS_GIVEN \
  {channels_last, spatial, pixel_chunk, channel_chunk, act, alpha, gain, pre_act, pre_alpha, eps}

void forward(GK_ADAIN_INPUTS, Tensor y, Tensor mean, Tensor rstd, Tensor partial, GK_ADAIN_SETTINGS) {
  AdainParams p = common(x, scale, shift, noise, b, mean, rstd, GK_ADAIN_SETTINGS_GIVEN);
  p.y = out(image, y, x, "y");
  scratch(p, x, partial, kAdainForwardSums, std::nullopt, 0);
  if (x.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_adain(p, stream.get()), "adain");
#else
  advise_output(y);
  parallel(p, GK_CPU_SELECT(adain_cpu));
#endif
}

void backward(const Tensor& dy, GK_ADAIN_INPUTS, const Tensor& mean, const Tensor& rstd, OptionalTensor dx,
              OptionalTensor dscale, OptionalTensor dshift, OptionalTensor dnoise_partial, OptionalTensor db_partial,
              Tensor partial, Tensor coefficients, GK_ADAIN_SETTINGS) {
  AdainParams p = common(x, scale, shift, noise, b, mean, rstd, GK_ADAIN_SETTINGS_GIVEN);
  p.dy = image(dy, x, "dy");
  gradients(p, x, dx, dscale, dshift, dnoise_partial, db_partial);
  scratch(p, x, partial, kAdainBackwardSums, coefficients, kAdainBackwardCoefficients);
  if (x.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_adain_backward(p, stream.get()), "adain_backward");
#else
  advise_output(dx), advise_output(dscale), advise_output(dshift);
  parallel(p, GK_CPU_SELECT(adain_backward_cpu));
#endif
}

void double_backward(const OptionalTensor& u, const OptionalTensor& u_scale, const OptionalTensor& u_shift,
                     const OptionalTensor& u_noise, const OptionalTensor& u_b, const Tensor& dy, GK_ADAIN_INPUTS,
                     const Tensor& mean, const Tensor& rstd, OptionalTensor d_dy, OptionalTensor d_x,
                     OptionalTensor d_scale, OptionalTensor d_shift, OptionalTensor d_noise_partial,
                     OptionalTensor d_b_partial, Tensor partial, Tensor coefficients, GK_ADAIN_SETTINGS) {
  AdainParams p = common(x, scale, shift, noise, b, mean, rstd, GK_ADAIN_SETTINGS_GIVEN);
  p.dy = image(dy, x, "dy");
  p.u = image(u, x, "u");
  p.u_scale = factor(p, u_scale, x, "u_scale"), p.u_shift = factor(p, u_shift, x, "u_shift");
  p.u_noise = numbers(u_noise, x, p.samples * p.pixels, "u_noise");
  p.u_b = numbers(u_b, x, p.channels, "u_b");
  p.d_dy = out(image, d_dy, x, "d_dy");
  gradients(p, x, d_x, d_scale, d_shift, d_noise_partial, d_b_partial);
  scratch(p, x, partial, kAdainDoubleSums, coefficients, kAdainDoubleCoefficients);
  STD_TORCH_CHECK(p.u || p.u_scale || p.u_shift || p.u_noise || p.u_b, "adain: double backward without a cotangent");
  if (x.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_adain_double_backward(p, stream.get()), "adain_double_backward");
#else
  advise_output(d_dy), advise_output(d_x), advise_output(d_scale), advise_output(d_shift);
  parallel(p, GK_CPU_SELECT(adain_double_backward_cpu));
#endif
}

}  // namespace
}  // namespace gk

#define GK_ADAIN_TAIL                                                                                            \
  "bool channels_last, bool spatial, int pixel_chunk, int channel_chunk, int act, float alpha, float gain, int " \
  "pre_act, "                                                                                                    \
  "float pre_alpha, float eps) -> ()"
#define GK_ADAIN_IMAGES "Tensor x, Tensor? scale, Tensor? shift, Tensor? noise, Tensor? b, "
STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(adain) "(" GK_ADAIN_IMAGES
                          "Tensor(a!) y, Tensor(b!) mean, Tensor(c!) rstd, Tensor(d!) partial, " GK_ADAIN_TAIL);
  m.def(GK_OP_NAME(adain_backward) "(Tensor dy, " GK_ADAIN_IMAGES
                                   "Tensor mean, Tensor rstd, Tensor(a!)? dx, Tensor(b!)? dscale, Tensor(c!)? dshift, "
                                   "Tensor(d!)? dnoise_partial, Tensor(e!)? db_partial, Tensor(f!) partial, "
                                   "Tensor(g!) coefficients, " GK_ADAIN_TAIL);
  m.def(GK_OP_NAME(adain_double_backward)
        "(Tensor? u, Tensor? u_scale, Tensor? u_shift, Tensor? u_noise, Tensor? u_b, Tensor dy, " GK_ADAIN_IMAGES
        "Tensor mean, Tensor rstd, Tensor(a!)? d_dy, Tensor(b!)? d_x, Tensor(c!)? d_scale, Tensor(d!)? d_shift, "
        "Tensor(e!)? d_noise_partial, Tensor(f!)? d_b_partial, Tensor(g!) partial, Tensor(h!) "
        "coefficients, " GK_ADAIN_TAIL);
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(adain), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(adain_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(adain_double_backward), TORCH_BOX(&gk::double_backward));
}
