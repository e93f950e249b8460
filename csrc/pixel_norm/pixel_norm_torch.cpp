// pixel_norm for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs and the
// pieces of work (chunk) come from Python.
#include "common/torch_binding.h"
#include "pixel_norm/pixel_norm_params.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

const void* tensor(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.numel() == like.numel(), "pixel_norm: ", name,
                  " must have ", like.numel(), " elements of x's dtype, got ", t.numel());
  return t.const_data_ptr();
}
void* output(const Tensor& t, const Tensor& like, const char* name) { return const_cast<void*>(tensor(t, like, name)); }

PixelNormParams common(const Tensor& x, int64_t outer, int64_t channels, int64_t inner, double eps, int64_t chunk) {
  PixelNormParams p{};
  p.dtype = dtype_of(x, "pixel_norm", "x");
  STD_TORCH_CHECK(outer * channels * inner == x.numel(), "pixel_norm: x has ", x.numel(), " elements, not ", outer,
                  " * ", channels, " * ", inner);
  STD_TORCH_CHECK(chunk > 0, "pixel_norm: pieces of work must not be empty");
  p.outer = outer, p.channels = channels, p.inner = inner, p.eps = eps, p.chunk = chunk;
  p.pieces = inner == 1 ? (outer + chunk - 1) / chunk : outer * ((inner + chunk - 1) / chunk);
  p.x = x.const_data_ptr();
  return p;
}

#if defined(GK_BIND_CUDA)
#define GK_RUN(name) \
  Stream stream(x);  \
  check_launch(launch_##name(p, stream.get()), #name)
#else
// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;

template <class Run>
void parallel(const PixelNormParams& p, Run run) {
  const int64_t elements = p.channels * (p.inner == 1 || p.chunk < p.inner ? p.chunk : p.inner);
  const int64_t grain = elements < kGrain ? (kGrain + elements - 1) / elements : 1;
  torch::stable::parallel_for(0, p.pieces, grain, [&](int64_t begin, int64_t end) { run(p, begin, end); });
}
// Outputs are mostly fresh memory, and dense.
void advise(void* data, const Tensor& like) {
  if (data) advise_huge_pages(data, like.numel() * static_cast<int64_t>(like.element_size()));
}
#define GK_RUN(name) parallel(p, GK_CPU_SELECT(name##_cpu))
#endif

void forward(const Tensor& x, Tensor y, int64_t outer, int64_t channels, int64_t inner, double eps, int64_t chunk) {
  PixelNormParams p = common(x, outer, channels, inner, eps, chunk);
  p.y = output(y, x, "y");
  if (x.numel() == 0) return;
#if !defined(GK_BIND_CUDA)
  advise(p.y, x);
#endif
  GK_RUN(pixel_norm);
}

void backward(const Tensor& dy, const Tensor& x, Tensor dx, int64_t outer, int64_t channels, int64_t inner, double eps,
              int64_t chunk) {
  PixelNormParams p = common(x, outer, channels, inner, eps, chunk);
  p.dy = tensor(dy, x, "dy"), p.dx = output(dx, x, "dx");
  if (x.numel() == 0) return;
#if !defined(GK_BIND_CUDA)
  advise(p.dx, x);
#endif
  GK_RUN(pixel_norm_backward);
}

void double_backward(const Tensor& u, const Tensor& dy, const Tensor& x, std::optional<Tensor> d_dy, Tensor d_x,
                     int64_t outer, int64_t channels, int64_t inner, double eps, int64_t chunk) {
  PixelNormParams p = common(x, outer, channels, inner, eps, chunk);
  p.u = tensor(u, x, "u"), p.dy = tensor(dy, x, "dy");
  p.d_dy = d_dy.has_value() ? output(*d_dy, x, "d_dy") : nullptr;
  p.d_x = output(d_x, x, "d_x");
  if (x.numel() == 0) return;
#if !defined(GK_BIND_CUDA)
  advise(p.d_dy, x), advise(p.d_x, x);
#endif
  GK_RUN(pixel_norm_double_backward);
}

}  // namespace
}  // namespace gk

#define GK_PIXEL_NORM_TAIL "int outer, int channels, int inner, float eps, int chunk) -> ()"
STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(pixel_norm) "(Tensor x, Tensor(a!) y, " GK_PIXEL_NORM_TAIL);
  m.def(GK_OP_NAME(pixel_norm_backward) "(Tensor dy, Tensor x, Tensor(a!) dx, " GK_PIXEL_NORM_TAIL);
  m.def(GK_OP_NAME(pixel_norm_double_backward)
        "(Tensor u, Tensor dy, Tensor x, Tensor(a!)? d_dy, Tensor(b!) d_x, " GK_PIXEL_NORM_TAIL);
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(pixel_norm), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(pixel_norm_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(pixel_norm_double_backward), TORCH_BOX(&gk::double_backward));
}
