// modulated_conv2d: the one thing that PyTorch's operators are slow at, sums of squares over a kernel's taps.
//   q[o, i] = sum over t of w[o, i, t]^2
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct ModulatedConv2dParams {
  DType dtype;  // f32 or f64, of w and q
  const void* w;
  void* q;                        // [outputs, inputs]
  int64_t outputs, inputs, taps;  // w is [outputs, inputs, taps], or [outputs, taps, inputs] if channels_last
  bool channels_last;
};

}  // namespace gk

// Rows [begin, end) of outputs.
GK_DECLARE_CPU(void, modulated_conv2d_squares_cpu, (const ModulatedConv2dParams& p, int64_t begin, int64_t end))
