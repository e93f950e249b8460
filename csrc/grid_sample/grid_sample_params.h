// grid_sample: what the kernels are given, and their launch prototypes. grid_sample_math.h has the formulas.
//
// Sample p = (oy, ox) of image n stands at ix = ((grid[n, p, 0] + 1) * W - 1) / 2, iy likewise with H (align_corners=False),
//   y[n, c, p] = sum over the four pixels k around (ix, iy) of w_k * x[n, c, k], pixels outside counting as zero.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

// Tensors [N, C, H, W] come with any strides; outputs are dense, NCHW or channels_last. grid, u_grid and dgrid are
// contiguous [N, Ho, Wo, 2] in the accumulation type: float, or double if dtype is f64. A null `data` (or pointer) means
// absent: an optional input that is zero, or an output that is not wanted.
struct GridSampleParams {
  DType dtype;  // of all tensors but the grids
  View4 x;      // [N, C, H, W]
  View4 y;      // forward: the output [N, C, Ho, Wo]. backward, double backward: dy, the output's gradient
  const void* grid;
  // double backward: cotangents of dx and dgrid
  View4 u_x;
  const void* u_grid;
  // outputs of backward (dx, dgrid) and of double backward (d_dy, and the gradients in x and grid as dx, dgrid)
  View4 d_dy;
  View4 dx;
  void* dgrid;
  // CUDA only. The gradient in x is a scatter; floating-point atomics would make it depend on the order of threads. So
  // contributions are rounded to multiples of a power of two and summed as 64-bit integers, which is exact in any order.
  // dx_fixed: as many integers as dx has elements, in dx's memory order, zero on entry. bound: one number of the
  // accumulation type in device memory, at least the magnitude of any single contribution (inf or NaN: dx becomes NaN).
  int64_t* dx_fixed;
  const void* bound;
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_grid_sample(const GridSampleParams& p, void* stream);
const char* launch_grid_sample_backward(const GridSampleParams& p, void* stream);
const char* launch_grid_sample_double_backward(const GridSampleParams& p, void* stream);

// CPU: runs run(context, begin, end) over disjoint ranges that cover [0, tasks), on as many threads as the caller has.
using ParallelFor = void (*)(int64_t tasks, void (*run)(const void* context, int64_t begin, int64_t end),
                             const void* context);

}  // namespace gk

// CPU: the same, spread over threads by `parallel`. Each returns null or a message.
GK_DECLARE_CPU(const char*, grid_sample_cpu, (const GridSampleParams& p, ParallelFor parallel))
GK_DECLARE_CPU(const char*, grid_sample_backward_cpu, (const GridSampleParams& p, ParallelFor parallel))
GK_DECLARE_CPU(const char*, grid_sample_double_backward_cpu, (const GridSampleParams& p, ParallelFor parallel))
