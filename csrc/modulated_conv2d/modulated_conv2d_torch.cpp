// modulated_conv2d for PyTorch: the sums of squares of a weight, on the CPU alone.
#include "common/torch_binding.h"
#include "modulated_conv2d/modulated_conv2d_params.h"

#if !defined(GK_BIND_CUDA)
namespace gk {
namespace {

// Elements that a task should have: some 10 us of work.
constexpr int64_t kGrain = 65536;

void squares(const Tensor& w, Tensor q, bool channels_last) {
  ModulatedConv2dParams p{};
  p.dtype = dtype_of(w, "modulated_conv2d", "weight");
  STD_TORCH_CHECK(p.dtype == DType::f32 || p.dtype == DType::f64,
                  "modulated_conv2d: weight must be float32 or float64");
  STD_TORCH_CHECK(w.dim() == 4 && q.scalar_type() == w.scalar_type() && q.numel() == w.size(0) * w.size(1),
                  "modulated_conv2d: q must be [out_channels, in_channels] of weight's dtype");
  p.w = w.const_data_ptr();
  p.q = const_cast<void*>(q.const_data_ptr());
  p.outputs = w.size(0), p.inputs = w.size(1), p.taps = w.size(2) * w.size(3);
  p.channels_last = channels_last;
  const int64_t row = p.inputs * p.taps;
  const auto run = GK_CPU_SELECT(modulated_conv2d_squares_cpu);
  torch::stable::parallel_for(0, p.outputs, row > kGrain ? 1 : kGrain / row,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
}

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def("modulated_conv2d_squares_cpu(Tensor w, Tensor(a!) q, bool channels_last) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) { m.impl("modulated_conv2d_squares_cpu", TORCH_BOX(&gk::squares)); }
#endif
