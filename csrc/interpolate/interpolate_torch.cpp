// interpolate for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs, partial sums
// and the pieces of work (chunk) come from Python.
#include "common/torch_binding.h"
#include "interpolate/interpolate_params.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;

const void* image(const OptionalTensor& t, const Tensor& like, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type() && t->numel() == like.numel(), "interpolate: ", name,
                  " must have ", like.numel(), " elements of the images' dtype, got ", t->numel());
  return t->const_data_ptr();
}
void* image_out(const OptionalTensor& t, const Tensor& like, const char* name) {
  return const_cast<void*>(image(t, like, name));
}

// `numel` numbers of the accumulation type.
const void* numbers(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto wide = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == wide && t->numel() == numel, "interpolate: ", name, " must have ", numel,
                  " elements of float32 (float64 if the images are), got ", t->numel());
  return t->const_data_ptr();
}

InterpolateParams common(const Tensor& like, const OptionalTensor& eps, int64_t chunk) {
  InterpolateParams p{};
  p.dtype = dtype_of(like, "interpolate", "real");
  STD_TORCH_CHECK(like.dim() >= 1, "interpolate: real must be [N, ...]");
  STD_TORCH_CHECK(chunk > 0, "interpolate: pieces of work must not be empty");
  p.samples = like.size(0), p.inner = p.samples ? like.numel() / p.samples : 0;
  p.chunk = chunk, p.chunks = (p.inner + chunk - 1) / chunk;
  p.eps = numbers(eps, like, p.samples, "eps");
  return p;
}

#if defined(GK_BIND_CUDA)
#define GK_RUN(name)   \
  Stream stream(like); \
  check_launch(launch_##name(p, stream.get()), #name)
#else
// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;

template <class Run>
void parallel(const InterpolateParams& p, Run run) {
  const int64_t elements = p.chunk < p.inner ? p.chunk : p.inner;
  const int64_t grain = elements < kGrain ? (kGrain + elements - 1) / elements : 1;
  torch::stable::parallel_for(0, p.samples * p.chunks, grain, [&](int64_t begin, int64_t end) { run(p, begin, end); });
}
#define GK_RUN(name) parallel(p, GK_CPU_SELECT(name##_cpu))
#endif

// Outputs on the CPU are mostly fresh memory, and dense.
void advise(void* data, const Tensor& like) {
#if !defined(GK_BIND_CUDA)
  if (data) advise_huge_pages(data, like.numel() * static_cast<int64_t>(like.element_size()));
#else
  (void)data, (void)like;
#endif
}

void forward(const Tensor& real, const Tensor& fake, const Tensor& eps, Tensor y, int64_t chunk) {
  const Tensor& like = real;
  InterpolateParams p = common(like, eps, chunk);
  p.real = image(real, like, "real"), p.fake = image(fake, like, "fake"), p.y = image_out(y, like, "y");
  if (like.numel() == 0) return;
  advise(p.y, like);
  GK_RUN(interpolate);
}

void backward(const Tensor& dy, const OptionalTensor& real, const OptionalTensor& fake, const OptionalTensor& eps,
              OptionalTensor d_real, OptionalTensor d_fake, OptionalTensor partial, int64_t chunk) {
  const Tensor& like = dy;
  InterpolateParams p = common(like, eps, chunk);
  p.dy = dy.const_data_ptr();
  p.real = image(real, like, "real"), p.fake = image(fake, like, "fake");
  p.d_real = image_out(d_real, like, "d_real"), p.d_fake = image_out(d_fake, like, "d_fake");
  p.partial = const_cast<void*>(numbers(partial, like, p.samples * p.chunks, "partial"));
  STD_TORCH_CHECK(p.eps || (!p.d_real && !p.d_fake), "interpolate: gradients of the images need eps");
  STD_TORCH_CHECK(!p.partial || p.real || p.fake, "interpolate: the gradient of eps needs an image");
  if (like.numel() == 0) return;
  advise(p.d_real, like), advise(p.d_fake, like);
  GK_RUN(interpolate_backward);
}

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(interpolate) "(Tensor real, Tensor fake, Tensor eps, Tensor(a!) y, int chunk) -> ()");
  m.def(GK_OP_NAME(interpolate_backward)
        "(Tensor dy, Tensor? real, Tensor? fake, Tensor? eps, Tensor(a!)? d_real, Tensor(b!)? d_fake, "
        "Tensor(c!)? partial, int chunk) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(interpolate), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(interpolate_backward), TORCH_BOX(&gk::backward));
}
