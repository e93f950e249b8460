// Plain structs that cross from the torch bindings to the kernels: POD, no torch type, no CUDA type.
#pragma once
#include <cstdint>

namespace gk {

// Storage type of a tensor. Kernels accumulate in float (double for f64).
enum class DType : int32_t { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

// A 4-D tensor as the kernels see it: sizes and strides in elements, in the order N, C, H, W whatever the layout.
struct View4 {
  void* data;
  int64_t size[4];
  int64_t stride[4];
};

}  // namespace gk
