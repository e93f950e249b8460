// grad_norm_penalty: what the kernels are given, and their launch prototypes.
//
// Tensors are dense, of one layout, and seen as [samples, inner] in memory order. Each sample is cut into `chunks` pieces
// of `chunk` elements (the last one has the rest). Three stages:
//   sums    a number of each piece; a piece is a CPU task or a CUDA block
//   totals  of a sample's pieces, in a fixed order, and what follows from them
//   scale   the gradient, piece by piece
#pragma once
#include "common/cpu_isa.h"
#include "common/params.h"

namespace gk {

struct GradNormPenaltyParams {
  DType dtype;
  int64_t samples, inner, chunk, chunks;
  double center, weight;

  const void* grad;
  const void* u;  // double backward: cotangent of dgrad; otherwise null

  // Numbers of samples are float32 (float64 if grad is).
  void* partial;   // [samples, chunks]: sums of grad grad, or of grad u
  void* squares;   // [samples]: squared norms. Forward writes them, derivatives read them
  void* penalty;   // [samples]: forward
  void* products;  // [samples]: <grad, u>; null where nothing needs it
  void* d_dp;      // [samples]; may be null: not wanted

  const void* dp;  // [samples]
  void* out;       // dgrad, or with u d_grad; may be null: not wanted
};

// CUDA: each returns null, or a message that says what went wrong. `stream` is a cudaStream_t.
const char* launch_grad_norm_penalty(const GradNormPenaltyParams& p, void* stream);
const char* launch_grad_norm_penalty_backward(const GradNormPenaltyParams& p, void* stream);
const char* launch_grad_norm_penalty_double_backward(const GradNormPenaltyParams& p, void* stream);

}  // namespace gk

// CPU. Sums and scale: pieces [begin, end) of samples * chunks. Totals: samples [begin, end).
GK_DECLARE_CPU(void, grad_norm_penalty_sums_cpu, (const gk::GradNormPenaltyParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, grad_norm_penalty_totals_cpu, (const gk::GradNormPenaltyParams& p, int64_t begin, int64_t end))
GK_DECLARE_CPU(void, grad_norm_penalty_scale_cpu, (const gk::GradNormPenaltyParams& p, int64_t begin, int64_t end))
