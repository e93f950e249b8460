// Qualifiers and accumulation types that CPU and CUDA kernels share. No torch header, no CUDA header.
#pragma once
#include <cstdint>

#if defined(__CUDACC__) || defined(GK_CUDA_ON_CPU)
#define GK_HD __host__ __device__ __forceinline__
#else
#define GK_HD inline
#endif
