// interpolate: what the kernels are given, and their launch prototypes.
//
// Tensors are dense, of one layout, and seen as [samples, inner] in memory order. Each sample is cut into `chunks` pieces
// of `chunk` elements (the last one has the rest); a piece is a CPU task or a CUDA block.
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct InterpolateParams {
  DType dtype;
  int64_t samples, inner, chunk, chunks;

  // float32 (float64 if the images are): [samples].
  const void* eps;

  // Forward: y = eps real + (1 - eps) fake. In backward one of the images may be null, and counts as 0.
  const void *real, *fake;
  void* y;

  // Backward; each output may be null.
  const void* dy;
  void* d_real;   // eps dy
  void* d_fake;   // (1 - eps) dy
  void* partial;  // [samples, chunks], as eps: sums of dy (real - fake) over the pieces
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_interpolate(const InterpolateParams& p, void* stream);
const char* launch_interpolate_backward(const InterpolateParams& p, void* stream);

}  // namespace gk

// CPU: pieces [begin, end) of samples * chunks.
GK_DECLARE_CPU(void, interpolate_cpu, (const gk::InterpolateParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, interpolate_backward_cpu, (const gk::InterpolateParams& p, int64_t begin, int64_t end))
