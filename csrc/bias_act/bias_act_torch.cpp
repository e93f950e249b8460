// bias_act for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs, partial sums
// and the geometry (outer, channels, inner, chunks) come from Python.
#include "bias_act/bias_act_params.h"
#include "common/torch_binding.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;

const void* data(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type() && t->numel() == numel, "bias_act: ", name, " must have ",
                  numel, " elements of x's dtype, got ", t->numel());
  return t->const_data_ptr();
}
void* output(const OptionalTensor& t) { return t.has_value() ? const_cast<void*>(t->const_data_ptr()) : nullptr; }

BiasActParams common(const Tensor& like, int64_t act, int64_t outer, int64_t channels, int64_t inner, double alpha,
                     double gain, double clamp, const OptionalTensor& x, const OptionalTensor& b,
                     const OptionalTensor& noise, const OptionalTensor& y_saved) {
  BiasActParams p{};
  p.dtype = dtype_of(like, "bias_act", "x");
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::swish), "bias_act: unknown activation ", act);
  STD_TORCH_CHECK(outer * channels * inner == like.numel(), "bias_act: the geometry does not fit the tensor");
  p.act = static_cast<Act>(act);
  p.outer = outer, p.channels = channels, p.inner = inner;
  p.alpha = alpha, p.gain = gain, p.clamp = clamp;
  p.x = data(x, like, like.numel(), "x");
  p.b = data(b, like, channels, "b");
  p.y_saved = data(y_saved, like, like.numel(), "y");
  if (noise.has_value() && like.numel() > 0) {
    STD_TORCH_CHECK(noise->scalar_type() == like.scalar_type() && noise->numel() % inner == 0 &&
                        outer % (noise->numel() / inner) == 0,
                    "bias_act: noise does not fit the tensor");
    p.noise = noise->const_data_ptr();
    p.noise_outer = noise->numel() / inner;
  }
  return p;
}

#if !defined(GK_BIND_CUDA)
template <class Run>
void parallel(int64_t tasks, int64_t grain, Run run) {
  torch::stable::parallel_for(0, tasks, grain, run);
}
// Outputs are mostly fresh memory, and dense.
void advise_output(void* output, const Tensor& like) {
  if (output) advise_huge_pages(output, like.numel() * static_cast<int64_t>(like.element_size()));
}
#endif

void forward(const Tensor& x, const OptionalTensor& b, const OptionalTensor& noise, Tensor y, int64_t outer,
             int64_t channels, int64_t inner, int64_t act, double alpha, double gain, double clamp) {
  BiasActParams p = common(x, act, outer, channels, inner, alpha, gain, clamp, x, b, noise, std::nullopt);
  p.y = const_cast<void*>(data(y, x, x.numel(), "y"));
  if (x.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_bias_act(p, stream.get()), "bias_act");
#else
  if (p.y != p.x) advise_output(p.y, x);
  const auto run = GK_CPU_SELECT(bias_act_cpu);
  parallel(x.numel(), kGrain, [&](int64_t begin, int64_t end) { run(p, begin, end); });
#endif
}

void backward(const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& b,
              const OptionalTensor& noise, OptionalTensor dx, OptionalTensor db_partial, OptionalTensor dnoise_partial,
              int64_t chunk, int64_t channel_chunk, int64_t outer, int64_t channels, int64_t inner, int64_t act,
              double alpha, double gain, double clamp) {
  BiasActParams p = common(dy, act, outer, channels, inner, alpha, gain, clamp, x, b, noise, y);
  p.dy = dy.const_data_ptr();
  p.dx = output(dx), p.db_partial = output(db_partial), p.dnoise_partial = output(dnoise_partial);
  if (dy.numel() == 0) return;
  STD_TORCH_CHECK(chunk > 0 && channel_chunk > 0, "bias_act: chunks must not be empty");
  const int64_t positions = outer * inner;
  p.chunk = chunk, p.chunks = (positions + chunk - 1) / chunk;
  p.channel_chunk = channel_chunk, p.channel_chunks = (channels + channel_chunk - 1) / channel_chunk;
  STD_TORCH_CHECK(!db_partial.has_value() || db_partial->numel() == p.chunks * channels, "bias_act: db_partial's size");
  STD_TORCH_CHECK(!dnoise_partial.has_value() || dnoise_partial->numel() == p.channel_chunks * positions,
                  "bias_act: dnoise_partial's size");
#if defined(GK_BIND_CUDA)
  Stream stream(dy);
  check_launch(launch_bias_act_backward(p, stream.get()), "bias_act_backward");
#else
  advise_output(p.dx, dy);
  const auto run = GK_CPU_SELECT(bias_act_backward_cpu);
  parallel(p.chunks, 1, [&](int64_t begin, int64_t end) { run(p, begin, end); });
#endif
}

void double_backward(const OptionalTensor& u, const OptionalTensor& u_b, const OptionalTensor& u_noise,
                     const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& b,
                     const OptionalTensor& noise, OptionalTensor d_dy, OptionalTensor d_saved, int64_t outer,
                     int64_t channels, int64_t inner, int64_t act, double alpha, double gain, double clamp) {
  BiasActParams p = common(dy, act, outer, channels, inner, alpha, gain, clamp, x, b, noise, y);
  p.dy = dy.const_data_ptr();
  p.u = data(u, dy, dy.numel(), "u"), p.u_b = data(u_b, dy, channels, "u_b");
  p.u_noise = data(u_noise, dy, outer * inner, "u_noise");
  STD_TORCH_CHECK(p.u || p.u_b || p.u_noise, "bias_act: double backward without a cotangent");
  p.d_dy = output(d_dy), p.d_saved = output(d_saved);
  if (dy.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(dy);
  check_launch(launch_bias_act_double_backward(p, stream.get()), "bias_act_double_backward");
#else
  advise_output(p.d_dy, dy), advise_output(p.d_saved, dy);
  const auto run = GK_CPU_SELECT(bias_act_double_backward_cpu);
  parallel(dy.numel(), kGrain, [&](int64_t begin, int64_t end) { run(p, begin, end); });
#endif
}

}  // namespace
}  // namespace gk

#define GK_BIAS_ACT_TAIL "int outer, int channels, int inner, int act, float alpha, float gain, float clamp) -> ()"
STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(bias_act) "(Tensor x, Tensor? b, Tensor? noise, Tensor(a!) y, " GK_BIAS_ACT_TAIL);
  m.def(GK_OP_NAME(bias_act_backward)
        "(Tensor dy, Tensor? y, Tensor? x, Tensor? b, Tensor? noise, Tensor(a!)? dx, Tensor(b!)? db_partial, "
        "Tensor(c!)? dnoise_partial, int chunk, int channel_chunk, " GK_BIAS_ACT_TAIL);
  m.def(GK_OP_NAME(bias_act_double_backward)
        "(Tensor? u, Tensor? u_b, Tensor? u_noise, Tensor dy, Tensor? y, Tensor? x, Tensor? b, Tensor? noise, "
        "Tensor(a!)? d_dy, Tensor(b!)? d_saved, " GK_BIAS_ACT_TAIL);
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(bias_act), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(bias_act_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(bias_act_double_backward), TORCH_BOX(&gk::double_backward));
}
