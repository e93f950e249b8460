// grid_sample for PyTorch: checks what the kernels rely on, fills the parameters, runs the kernels. Outputs and the
// integers of the CUDA scatter come from Python.
#include "common/torch_binding.h"
#include "grid_sample/grid_sample_params.h"
#if !defined(GK_BIND_CUDA)
#include "common/cpu_memory.h"
#endif

namespace gk {
namespace {

using OptionalTensor = std::optional<Tensor>;
using torch::headeronly::ScalarType;
constexpr char kOp[] = "grid_sample";

// [N, C, height, width] of x's dtype.
View4 images(const OptionalTensor& t, const GridSampleParams& p, int64_t height, int64_t width, const Tensor& x,
             const char* name) {
  if (!t.has_value()) return View4{};
  const View4 v = view4(*t, kOp, name);
  STD_TORCH_CHECK(t->scalar_type() == x.scalar_type(), kOp, ": ", name, " must have x's dtype");
  STD_TORCH_CHECK(v.size[0] == p.x.size[0] && v.size[1] == p.x.size[1] && v.size[2] == height && v.size[3] == width,
                  kOp, ": ", name, " must have shape [", p.x.size[0], ", ", p.x.size[1], ", ", height, ", ", width,
                  "]");
  return v;
}

// Contiguous [N, Ho, Wo, 2] of the accumulation type.
void* positions(const OptionalTensor& t, const GridSampleParams& p, const Tensor& grid, const char* name) {
  if (!t.has_value()) return nullptr;
  const auto want = p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(t->scalar_type() == want && t->is_contiguous() && t->dim() == 4 && t->size(3) == 2 &&
                      t->size(0) == p.x.size[0] && t->size(1) == grid.size(1) && t->size(2) == grid.size(2),
                  kOp, ": ", name, " must be contiguous [N, Ho, Wo, 2] of the accumulation type");
  return const_cast<void*>(t->const_data_ptr());
}

// What all three have: x, the grid, and y (or its gradient).
GridSampleParams common(const Tensor& x, const Tensor& grid, const Tensor& y, const char* y_name) {
  GridSampleParams p{};
  p.dtype = dtype_of(x, kOp, "x");
  p.x = view4(x, kOp, "x");
  p.grid = positions(grid, p, grid, "grid");
  p.y = images(y, p, grid.size(1), grid.size(2), x, y_name);
  // Pixels are counted in 32 bits along an axis; a float32 position would not tell one from the next long before.
  for (int axis = 2; axis < 4; ++axis)
    STD_TORCH_CHECK(p.x.size[axis] > 0 && p.x.size[axis] < (int64_t{1} << 31), kOp,
                    ": x must have at least 1 and fewer than 2^31 pixels along an axis, got ", p.x.size[axis]);
  return p;
}

void scatter(GridSampleParams& p, const OptionalTensor& dx_fixed, const OptionalTensor& bound) {
#if defined(GK_BIND_CUDA)
  if (!p.dx.data) return;
  STD_TORCH_CHECK(dx_fixed.has_value() && dx_fixed->scalar_type() == ScalarType::Long, kOp,
                  ": dx needs dx_fixed of int64");
  for (int i = 0; i < 4; ++i)
    STD_TORCH_CHECK(dx_fixed->dim() == 4 && dx_fixed->size(i) == p.dx.size[i] && dx_fixed->stride(i) == p.dx.stride[i],
                    kOp, ": dx_fixed must have dx's shape and strides");
  const auto want = p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(bound.has_value() && bound->scalar_type() == want && bound->numel() == 1, kOp,
                  ": bound must be one number of the accumulation type");
  p.dx_fixed = static_cast<int64_t*>(const_cast<void*>(dx_fixed->const_data_ptr()));
  p.bound = bound->const_data_ptr();
#else
  (void)p, (void)dx_fixed, (void)bound;  // threads own what they sum: there is nothing to make exact
#endif
}

#if !defined(GK_BIND_CUDA)
void check_cpu(const View4& v, const char* name) {
  STD_TORCH_CHECK(!v.data || v.stride[3] == 1 || v.stride[1] == 1 || v.size[3] == 1, kOp, ": ", name,
                  " must have contiguous rows or contiguous channels");
}
void parallel(int64_t tasks, void (*run)(const void*, int64_t, int64_t), const void* context) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { run(context, begin, end); });
}
// Outputs are mostly fresh memory, and dense.
void advise_output(const View4& v, const Tensor& like) {
  if (v.data)
    advise_huge_pages(v.data,
                      v.size[0] * v.size[1] * v.size[2] * v.size[3] * static_cast<int64_t>(like.element_size()));
}
#endif

void forward(const Tensor& x, const Tensor& grid, Tensor y) {
  const GridSampleParams p = common(x, grid, y, "y");
  if (y.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_grid_sample(p, stream.get()), "grid_sample");
#else
  check_cpu(p.x, "x");
  advise_output(p.y, x);
  check_launch(GK_CPU_SELECT(grid_sample_cpu)(p, parallel), "grid_sample");
#endif
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& grid, OptionalTensor dx, OptionalTensor dgrid,
              OptionalTensor dx_fixed, OptionalTensor bound) {
  GridSampleParams p = common(x, grid, dy, "dy");
  p.dx = images(dx, p, p.x.size[2], p.x.size[3], x, "dx");
  p.dgrid = positions(dgrid, p, grid, "dgrid");
  scatter(p, dx_fixed, bound);
  if (dy.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_grid_sample_backward(p, stream.get()), "grid_sample_backward");
#else
  check_cpu(p.x, "x"), check_cpu(p.y, "dy");
  advise_output(p.dx, x);
  check_launch(GK_CPU_SELECT(grid_sample_backward_cpu)(p, parallel), "grid_sample_backward");
#endif
}

void double_backward(const OptionalTensor& u_x, const OptionalTensor& u_grid, const Tensor& dy, const Tensor& x,
                     const Tensor& grid, OptionalTensor d_dy, OptionalTensor d_x, OptionalTensor d_grid,
                     OptionalTensor dx_fixed, OptionalTensor bound) {
  GridSampleParams p = common(x, grid, dy, "dy");
  p.u_x = images(u_x, p, p.x.size[2], p.x.size[3], x, "u_x");
  p.u_grid = positions(u_grid, p, grid, "u_grid");
  STD_TORCH_CHECK(u_x.has_value() || u_grid.has_value(), kOp, ": double backward without a cotangent");
  p.d_dy = images(d_dy, p, grid.size(1), grid.size(2), x, "d_dy");
  p.dx = images(d_x, p, p.x.size[2], p.x.size[3], x, "d_x");
  p.dgrid = positions(d_grid, p, grid, "d_grid");
  STD_TORCH_CHECK(!p.dx.data || p.u_grid, kOp, ": the gradient in x needs u_grid");
  scatter(p, dx_fixed, bound);
  if (dy.numel() == 0) return;
#if defined(GK_BIND_CUDA)
  Stream stream(x);
  check_launch(launch_grid_sample_double_backward(p, stream.get()), "grid_sample_double_backward");
#else
  check_cpu(p.x, "x"), check_cpu(p.y, "dy"), check_cpu(p.u_x, "u_x");
  advise_output(p.d_dy, x), advise_output(p.dx, x);
  check_launch(GK_CPU_SELECT(grid_sample_double_backward_cpu)(p, parallel), "grid_sample_double_backward");
#endif
}

}  // namespace
}  // namespace gk

STABLE_TORCH_LIBRARY_FRAGMENT(gankern_native, m) {
  m.def(GK_OP_NAME(grid_sample) "(Tensor x, Tensor grid, Tensor(a!) y) -> ()");
  m.def(GK_OP_NAME(grid_sample_backward)
        "(Tensor dy, Tensor x, Tensor grid, Tensor(a!)? dx, Tensor(b!)? dgrid, Tensor? dx_fixed, Tensor? bound) -> ()");
  m.def(GK_OP_NAME(grid_sample_double_backward)
        "(Tensor? u_x, Tensor? u_grid, Tensor dy, Tensor x, Tensor grid, Tensor(a!)? d_dy, Tensor(b!)? d_x, "
        "Tensor(c!)? d_grid, Tensor? dx_fixed, Tensor? bound) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gankern_native, GK_DISPATCH_KEY, m) {
  m.impl(GK_OP_NAME(grid_sample), TORCH_BOX(&gk::forward));
  m.impl(GK_OP_NAME(grid_sample_backward), TORCH_BOX(&gk::backward));
  m.impl(GK_OP_NAME(grid_sample_double_backward), TORCH_BOX(&gk::double_backward));
}
