// grad_norm_penalty for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs, partial
// sums and the pieces of work (chunk) come from Python.
#include "common/torch_binding.h"
#include "grad_norm_penalty/grad_norm_penalty_params.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using Params = GradNormPenaltyParams;
using torch::headeronly::ScalarType;

void* image(const OptionalTensor& t, const Tensor& like, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type() && t->numel() == like.numel(), "grad_norm_penalty: ", name,
                  " must have ", like.numel(), " elements of grad's dtype, got ", t->numel());
  return const_cast<void*>(t->const_data_ptr());
}

// `numel` numbers of the accumulation type.
void* numbers(const OptionalTensor& t, const Tensor& like, int64_t numel, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto wide = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == wide && t->numel() == numel, "grad_norm_penalty: ", name, " must have ", numel,
                  " elements of float32 (float64 if grad is), got ", t->numel());
  return const_cast<void*>(t->const_data_ptr());
}

Params common(const Tensor& grad, const Tensor& squares, double center, double weight, int64_t chunk) {
  Params p{};
  p.dtype = dtype_of(grad, "grad_norm_penalty", "grad");
  STD_TORCH_CHECK(grad.dim() >= 2, "grad_norm_penalty: grad must be [N, ...]");
  STD_TORCH_CHECK(chunk > 0, "grad_norm_penalty: pieces of work must not be empty");
  p.samples = grad.size(0), p.inner = p.samples ? grad.numel() / p.samples : 0;
  p.chunk = chunk, p.chunks = (p.inner + chunk - 1) / chunk;
  p.center = center, p.weight = weight;
  p.grad = grad.const_data_ptr();
  p.squares = numbers(squares, grad, p.samples, "squares");
  return p;
}

#if !defined(GK_BIND_CUDA)
// Elements a CPU task should have: some 10 us of work.
constexpr int64_t kGrain = 32768;

template <class Run>
void parallel(const Params& p, Run run) {
  const int64_t elements = p.chunk < p.inner ? p.chunk : p.inner;
  const int64_t grain = elements < kGrain ? (kGrain + elements - 1) / elements : 1;
  torch::stable::parallel_for(0, p.samples * p.chunks, grain, [&](int64_t begin, int64_t end) { run(p, begin, end); });
}
void sum_up(const Params& p) {
  parallel(p, GK_CPU_SELECT(grad_norm_penalty_sums_cpu));
  GK_CPU_SELECT(grad_norm_penalty_totals_cpu)(p, 0, p.samples);
}
void scale(const Params& p, const Tensor& like) {
  // The output is mostly fresh memory, and dense.
  advise_huge_pages(p.out, like.numel() * static_cast<int64_t>(like.element_size()));
  parallel(p, GK_CPU_SELECT(grad_norm_penalty_scale_cpu));
}
#endif

void forward(const Tensor& grad, Tensor partial, Tensor squares, Tensor penalty, double center, double weight,
             int64_t chunk) {
  Params p = common(grad, squares, center, weight, chunk);
  p.partial = numbers(partial, grad, p.samples * p.chunks, "partial");
  p.penalty = numbers(penalty, grad, p.samples, "penalty");
  if (grad.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(grad);
  check_launch(launch_grad_norm_penalty(p, stream.get()), "grad_norm_penalty");
#else
  sum_up(p);
#endif
}

void backward(const Tensor& dp, const Tensor& grad, const Tensor& squares, Tensor dgrad, double center, double weight,
              int64_t chunk) {
  Params p = common(grad, squares, center, weight, chunk);
  p.dp = numbers(dp, grad, p.samples, "dp"), p.out = image(dgrad, grad, "dgrad");
  if (grad.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(grad);
  check_launch(launch_grad_norm_penalty_backward(p, stream.get()), "grad_norm_penalty_backward");
#else
  scale(p, grad);
#endif
}

void double_backward(const Tensor& u, const Tensor& dp, const Tensor& grad, const Tensor& squares,
                     OptionalTensor partial, OptionalTensor products, OptionalTensor d_dp, OptionalTensor d_grad,
                     double center, double weight, int64_t chunk) {
  Params p = common(grad, squares, center, weight, chunk);
  p.u = image(u, grad, "u"), p.dp = numbers(dp, grad, p.samples, "dp");
  p.partial = numbers(partial, grad, p.samples * p.chunks, "partial");
  p.products = numbers(products, grad, p.samples, "products");
  p.d_dp = numbers(d_dp, grad, p.samples, "d_dp"), p.out = image(d_grad, grad, "d_grad");
  STD_TORCH_CHECK(!p.partial == !p.products, "grad_norm_penalty: partial and products go together");
  STD_TORCH_CHECK(p.products || (!p.d_dp && center == 0), "grad_norm_penalty: this derivative needs products");
  if (grad.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(grad);
  check_launch(launch_grad_norm_penalty_double_backward(p, stream.get()), "grad_norm_penalty_double_backward");
#else
  if (p.products) sum_up(p);
  if (p.out) scale(p, grad);
#endif
}

}  // namespace
}  // namespace gk

#define GK_PENALTY_TAIL "float center, float weight, int chunk) -> ()"
STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(
      grad_norm_penalty) "(Tensor grad, Tensor(a!) partial, Tensor(b!) squares, Tensor(c!) penalty, " GK_PENALTY_TAIL);
  m.def(GK_OP_NAME(
      grad_norm_penalty_backward) "(Tensor dp, Tensor grad, Tensor squares, Tensor(a!) dgrad, " GK_PENALTY_TAIL);
  m.def(GK_OP_NAME(grad_norm_penalty_double_backward)
        "(Tensor u, Tensor dp, Tensor grad, Tensor squares, Tensor(a!)? partial, Tensor(b!)? products, "
        "Tensor(c!)? d_dp, Tensor(d!)? d_grad, " GK_PENALTY_TAIL);
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(grad_norm_penalty), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(grad_norm_penalty_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(grad_norm_penalty_double_backward), TORCH_BOX(&gk::double_backward));
}
