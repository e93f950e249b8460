// Launch and shared-memory macros of the kernel sources. Under nvcc they are the plain CUDA forms; the tests' emulation
// header, force-included by g++ with GK_CUDA_ON_CPU, brings its own, so that kernels also run on a machine without a GPU.
#pragma once
#ifndef GK_CUDA_ON_CPU
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// A template kernel whose name has commas goes in parentheses: GK_LAUNCH((k<float, 4>), grid, block, 0, stream, x).
#define GK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// type* name = this block's dynamic shared memory, 16-byte aligned.
#define GK_DYNAMIC_SHARED(type, name)                             \
  extern __shared__ __align__(16) unsigned char gk_dynamic_raw[]; \
  type* name = reinterpret_cast<type*>(gk_dynamic_raw)
// GK_SHARED(float, tile, [32][33]); is __shared__ float tile[32][33]; with guards around it in the emulation.
#define GK_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#endif
