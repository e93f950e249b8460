// modulate for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs, partial sums
// and the rectangles (pixel_chunk, channel_chunk) come from Python.
#include "common/torch_binding.h"
#include "modulate/modulate_params.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;

// What every call has: the images' dtype and sizes, the layout, the rectangles and the activation.
struct Settings {
  bool channels_last;
  int64_t pixel_chunk, channel_chunk, act;
  double alpha, gain, clamp;
};

const void* image(const OptionalTensor& t, const Tensor& like, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type() && t->numel() == like.numel(), "modulate: ", name,
                  " must have ", like.numel(), " elements of x's dtype, got ", t->numel());
  return t->const_data_ptr();
}
void* image_out(const OptionalTensor& t, const Tensor& like, const char* name) {
  return const_cast<void*>(image(t, like, name));
}

// All that is not an image: `numel` numbers of the accumulation type.
const void* numbers(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto wide = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == wide && t->numel() == numel, "modulate: ", name, " must have ", numel,
                  " elements of float32 (float64 if x is), got ", t->numel());
  return t->const_data_ptr();
}
void* numbers_out(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  return const_cast<void*>(numbers(t, like, numel, name));
}

ModulateParams common(const Tensor& like, const OptionalTensor& x, const OptionalTensor& scale,
                      const OptionalTensor& noise, const OptionalTensor& b, const Settings& s) {
  ModulateParams p{};
  p.dtype = dtype_of(like, "modulate", "x");
  STD_TORCH_CHECK(like.dim() == 4, "modulate: x must have 4 dimensions, got ", like.dim());
  STD_TORCH_CHECK(s.act >= 0 && s.act <= static_cast<int64_t>(Act::swish), "modulate: unknown activation ", s.act);
  STD_TORCH_CHECK(s.pixel_chunk > 0 && s.channel_chunk > 0, "modulate: rectangles must not be empty");
  p.act = static_cast<Act>(s.act);
  p.channels_last = s.channels_last;
  p.samples = like.size(0), p.channels = like.size(1), p.pixels = like.size(2) * like.size(3);
  p.alpha = s.alpha, p.gain = s.gain, p.clamp = s.clamp;
  p.pixel_chunk = s.pixel_chunk, p.pixel_chunks = (p.pixels + s.pixel_chunk - 1) / s.pixel_chunk;
  p.channel_chunk = s.channel_chunk, p.channel_chunks = (p.channels + s.channel_chunk - 1) / s.channel_chunk;
  p.x = image(x, like, "x");
  p.scale = numbers(scale, like, p.samples * p.channels, "scale");
  p.noise_samples = noise.has_value() && p.pixels > 0 && noise->numel() == p.pixels ? 1 : p.samples;
  p.noise = numbers(noise, like, p.noise_samples * p.pixels, "noise");
  p.b = numbers(b, like, p.channels, "b");
  return p;
}

#if !defined(GK_BIND_CUDA)
// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;

template <class Run>
void parallel(const ModulateParams& p, Run run) {
  const int64_t across = p.pixel_chunk < p.pixels ? p.pixel_chunk : p.pixels;
  const int64_t elements = across * (p.channel_chunk < p.channels ? p.channel_chunk : p.channels);
  const int64_t grain = elements < kGrain ? (kGrain + elements - 1) / elements : 1;
  torch::stable::parallel_for(0, p.samples * p.pixel_chunks * p.channel_chunks, grain,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
}
// Outputs are mostly fresh memory, and dense.
void advise_output(void* output, const Tensor& like) {
  if (output) advise_huge_pages(output, like.numel() * static_cast<int64_t>(like.element_size()));
}
#endif

void forward(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& b,
             Tensor y, bool channels_last, int64_t pixel_chunk, int64_t channel_chunk, int64_t act, double alpha,
             double gain, double clamp) {
  ModulateParams p =
      common(x, x, scale, noise, b, {channels_last, pixel_chunk, channel_chunk, act, alpha, gain, clamp});
  p.y = image_out(y, x, "y");
  if (x.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_modulate(p, stream.get()), "modulate");
#else
  if (p.y != p.x) advise_output(p.y, x);
  parallel(p, GK_CPU_SELECT(modulate_cpu));
#endif
}

#if !defined(GK_BIND_CUDA)
void relaid(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& b,
            Tensor y, bool channels_last, int64_t pixel_chunk, int64_t channel_chunk, int64_t act, double alpha,
            double gain, double clamp) {
  ModulateParams p =
      common(x, x, scale, noise, b, {channels_last, pixel_chunk, channel_chunk, act, alpha, gain, clamp});
  p.y = image_out(y, x, "y");
  STD_TORCH_CHECK(p.y != p.x || x.numel() == 0, "modulate: not in place from one layout into the other");
  if (x.numel() == 0) return;
  advise_output(p.y, x);
  parallel(p, GK_CPU_SELECT(modulate_relaid_cpu));
}

// For an output that several calls will fill, each of them a part too small to be advised about.
void advise(Tensor y) { advise_output(const_cast<void*>(y.const_data_ptr()), y); }
#endif

void backward(const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale,
              const OptionalTensor& noise, const OptionalTensor& b, OptionalTensor dx, OptionalTensor dscale_partial,
              OptionalTensor dnoise_partial, OptionalTensor db_partial, bool channels_last, int64_t pixel_chunk,
              int64_t channel_chunk, int64_t act, double alpha, double gain, double clamp) {
  ModulateParams p =
      common(dy, x, scale, noise, b, {channels_last, pixel_chunk, channel_chunk, act, alpha, gain, clamp});
  p.dy = dy.const_data_ptr();
  p.y_saved = image(y, dy, "y");
  p.dx = image_out(dx, dy, "dx");
  const int64_t sums = p.samples * p.pixel_chunks * p.channels;
  p.dscale_partial = numbers_out(dscale_partial, dy, sums, "dscale_partial");
  p.dnoise_partial = numbers_out(dnoise_partial, dy, p.channel_chunks * p.samples * p.pixels, "dnoise_partial");
  p.db_partial = numbers_out(db_partial, dy, sums, "db_partial");
  STD_TORCH_CHECK(!p.dscale_partial || p.x, "modulate: the gradient of scale needs x");
  if (dy.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(dy);
  check_launch(launch_modulate_backward(p, stream.get()), "modulate_backward");
#else
  advise_output(p.dx, dy);
  parallel(p, GK_CPU_SELECT(modulate_backward_cpu));
#endif
}

void double_backward(const OptionalTensor& u, const OptionalTensor& u_scale, const OptionalTensor& u_noise,
                     const OptionalTensor& u_b, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
                     const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& b,
                     OptionalTensor d_dy, OptionalTensor d_saved, OptionalTensor d_x, OptionalTensor d_scale_partial,
                     bool channels_last, int64_t pixel_chunk, int64_t channel_chunk, int64_t act, double alpha,
                     double gain, double clamp) {
  ModulateParams p =
      common(dy, x, scale, noise, b, {channels_last, pixel_chunk, channel_chunk, act, alpha, gain, clamp});
  p.dy = dy.const_data_ptr();
  p.y_saved = image(y, dy, "y");
  p.u = image(u, dy, "u");
  p.u_scale = numbers(u_scale, dy, p.samples * p.channels, "u_scale");
  p.u_noise = numbers(u_noise, dy, p.samples * p.pixels, "u_noise");
  p.u_b = numbers(u_b, dy, p.channels, "u_b");
  p.d_dy = image_out(d_dy, dy, "d_dy"), p.d_saved = image_out(d_saved, dy, "d_saved");
  p.d_x = image_out(d_x, dy, "d_x");
  p.d_scale_partial = numbers_out(d_scale_partial, dy, p.samples * p.pixel_chunks * p.channels, "d_scale_partial");
  STD_TORCH_CHECK(p.u || p.u_scale || p.u_noise || p.u_b, "modulate: double backward without a cotangent");
  STD_TORCH_CHECK(!p.u_scale || p.x, "modulate: a cotangent of the gradient of scale needs x");
  STD_TORCH_CHECK((!p.d_x || p.u_scale) && (!p.d_scale_partial || p.u),
                  "modulate: a direct term without its cotangent");
  if (dy.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(dy);
  check_launch(launch_modulate_double_backward(p, stream.get()), "modulate_double_backward");
#else
  advise_output(p.d_dy, dy), advise_output(p.d_saved, dy), advise_output(p.d_x, dy);
  parallel(p, GK_CPU_SELECT(modulate_double_backward_cpu));
#endif
}

}  // namespace
}  // namespace gk

#define GK_MODULATE_TAIL \
  "bool channels_last, int pixel_chunk, int channel_chunk, int act, float alpha, float gain, float clamp) -> ()"
STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(modulate) "(Tensor x, Tensor? scale, Tensor? noise, Tensor? b, Tensor(a!) y, " GK_MODULATE_TAIL);
#if !defined(GK_BIND_CUDA)
  m.def("modulate_advise_cpu(Tensor(a!) y) -> ()");
  m.def("modulate_relaid_cpu(Tensor x, Tensor? scale, Tensor? noise, Tensor? b, Tensor(a!) y, " GK_MODULATE_TAIL);
#endif
  m.def(GK_OP_NAME(modulate_backward)
        "(Tensor dy, Tensor? y, Tensor? x, Tensor? scale, Tensor? noise, Tensor? b, Tensor(a!)? dx, "
        "Tensor(b!)? dscale_partial, Tensor(c!)? dnoise_partial, Tensor(d!)? db_partial, " GK_MODULATE_TAIL);
  m.def(GK_OP_NAME(modulate_double_backward)
        "(Tensor? u, Tensor? u_scale, Tensor? u_noise, Tensor? u_b, Tensor dy, Tensor? y, Tensor? x, Tensor? scale, "
        "Tensor? noise, Tensor? b, Tensor(a!)? d_dy, Tensor(b!)? d_saved, Tensor(c!)? d_x, "
        "Tensor(d!)? d_scale_partial, " GK_MODULATE_TAIL);
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(modulate), TORCH_BOX(&gk::forward));
#if !defined(GK_BIND_CUDA)
  m.impl("modulate_advise_cpu", TORCH_BOX(&gk::advise));
  m.impl("modulate_relaid_cpu", TORCH_BOX(&gk::relaid));
#endif
  m.impl(GK_OP_NAME(modulate_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(modulate_double_backward), TORCH_BOX(&gk::double_backward));
}
