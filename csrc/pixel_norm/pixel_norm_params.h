// pixel_norm: what the kernels are given, and their launch prototypes.
//
// Tensors are dense and seen as [outer, channels, inner] in memory order; each (o, i) is a pixel, a vector over channels.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct PixelNormParams {
  DType dtype;
  int64_t outer, channels, inner;
  double eps;

  const void* x;
  void* y;  // forward: y = x r, see pixel_norm_math.h

  const void* dy;
  void* dx;  // backward

  const void* u;  // double backward: cotangent of dx
  void* d_dy;     // may be null: not wanted
  void* d_x;

  // CPU: pixels of one piece of work. Pieces are [outer, ceil(inner / chunk)], or ceil(outer / chunk) where inner is 1.
  int64_t chunk, pieces;
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_pixel_norm(const PixelNormParams& p, void* stream);
const char* launch_pixel_norm_backward(const PixelNormParams& p, void* stream);
const char* launch_pixel_norm_double_backward(const PixelNormParams& p, void* stream);

}  // namespace gk

// CPU: pieces [begin, end).
GK_DECLARE_CPU(void, pixel_norm_cpu, (const PixelNormParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, pixel_norm_backward_cpu, (const PixelNormParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, pixel_norm_double_backward_cpu, (const PixelNormParams& p, int64_t begin, int64_t end))
