// upfirdn2d for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernel on y.
#include "common/torch_binding.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif
#include "upfirdn2d/upfirdn2d_params.h"

namespace gk {
namespace {

void upfirdn2d(const Tensor& x, const std::optional<Tensor>& f, Tensor y, int64_t up_x, int64_t up_y, int64_t down_x,
               int64_t down_y, int64_t pad_x0, int64_t pad_y0, bool flip, double gain) {
  Upfirdn2dParams p{};
  p.dtype = dtype_of(x, "upfirdn2d", "x");
  STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), "upfirdn2d: y must have x's dtype");
  p.x = view4(x, "upfirdn2d", "x");
  p.y = view4(y, "upfirdn2d", "y");
  const bool rows = p.x.stride[3] == 1 && p.y.stride[3] == 1, last = p.x.stride[1] == 1 && p.y.stride[1] == 1;
  STD_TORCH_CHECK(rows || last, "upfirdn2d: x and y must both have contiguous rows or both contiguous channels");
  p.tap_h = p.tap_w = 1;
  if (f.has_value()) {
    const auto want =
        p.dtype == DType::f64 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
    STD_TORCH_CHECK(f->scalar_type() == want && f->is_contiguous() && (f->dim() == 1 || f->dim() == 2),
                    "upfirdn2d: f must be a contiguous 1-D or 2-D tensor of the accumulation type");
    p.tap_w = f->size(-1), p.tap_h = f->size(0);
    if (f->dim() == 2)
      p.taps = f->const_data_ptr();
    else
      p.taps_x = p.taps_y = f->const_data_ptr();
  }
  p.up_x = up_x, p.up_y = up_y, p.down_x = down_x, p.down_y = down_y;
  p.pad_x0 = pad_x0, p.pad_y0 = pad_y0;
  p.flip = flip, p.gain = gain;
  if (y.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_upfirdn2d(p, stream.get()), "upfirdn2d");
#else
  if (y.is_contiguous() || p.y.stride[1] == 1) advise_huge_pages(p.y.data, y.numel() * y.element_size());
  const auto run = GK_CPU_SELECT(upfirdn2d_cpu);
  torch::stable::parallel_for(0, GK_CPU_SELECT(upfirdn2d_cpu_tasks)(p), 1,
                              [&](int64_t begin, int64_t end) { run(p, begin, end); });
#endif
}

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(upfirdn2d)
        "(Tensor x, Tensor? f, Tensor(a!) y, int up_x, int up_y, int down_x, int down_y, int pad_x0, int pad_y0, "
        "bool flip, float gain) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(upfirdn2d), TORCH_BOX(&gk::upfirdn2d));
}
