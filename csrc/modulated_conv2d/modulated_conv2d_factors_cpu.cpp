// What the layers of a network make of their styles, all in one launch (see modulated_conv2d_params.h): dot products with the
// rows of a matrix, and rows times styles. Vectors run along the input channels, which are contiguous in all of it.
#include <math.h>

#include "bias_act/bias_act_cpu.h"
#include "modulated_conv2d/modulated_conv2d_params.h"

namespace gk {
namespace GK_ISA {
namespace {

using Params = ModulatedConv2dFactorsParams;
using Job = ModulatedConv2dFactorsJob;
using Vec = FloatVec;

// What brings a job's styles to a root mean square of 1.
float normaliser(const Params& p, const Job& job) {
  if (!job.normalised) return 1.0f;
  float sum = 0.0f;
  for (int64_t n = 0; n < p.samples; ++n) {
    const float* s = p.styles + job.styles + n * job.stride;
    Vec squares = {};
    for_vectors<F32>(job.inputs, [&](int64_t i, auto access) {
      const Vec v = load<F32>(s + i, access);
      squares += v * v;
    });
    sum += sum_lanes(squares);
  }
  const int64_t count = p.samples * job.inputs;
  return 1.0f / ::sqrtf(sum / static_cast<float>(count > 0 ? count : 1) + 1e-20f);
}

// A few rows at a time: the styles are loaded once for them, and they stay in cache for all samples. Missing rows repeat the
// last one; they are never stored.
void demodulate(const Params& p, const Job& job, int64_t first, int64_t rows, float size) {
  const float* w[kFactorRows];
  float eps[kFactorRows];
  for (int64_t r = 0; r < kFactorRows; ++r) {
    const int64_t row = first + min64(r, rows - 1);
    w[r] = p.weights + job.weights + row * job.inputs;
    eps[r] = kDemodulationEps;
    if (job.norms < 0) continue;
    const float norm = p.weights[job.norms + row] * size, square = norm * norm;
    eps[r] *= square < 1e30f ? square : 1e30f;
  }
  for (int64_t n = 0; n < p.samples; ++n) {
    const float* s = p.styles + job.styles + n * job.stride;
    Vec sum[kFactorRows] = {};
    for_vectors<F32>(job.inputs, [&](int64_t i, auto access) {
      const Vec v = load<F32>(s + i, access) * size, square = v * v;
      for (int64_t r = 0; r < kFactorRows; ++r) sum[r] += square * load<F32>(w[r] + i, access);
    });
    float* out = p.out + job.out + n * job.outputs + first;
    for (int64_t r = 0; r < rows; ++r) out[r] = 1.0f / ::sqrtf(sum_lanes(sum[r]) + eps[r]);
  }
}

void scale(const Params& p, const Job& job, int64_t first, int64_t rows, float size) {
  for (int64_t n = 0; n < p.samples; ++n) {
    const float* s = p.styles + job.styles + n * job.stride;
    for (int64_t r = first; r < first + rows; ++r) {
      const float* w = p.weights + job.weights + r * job.inputs;
      float* out = p.out + job.out + (n * job.outputs + r) * job.inputs;
      for_vectors<F32>(job.inputs, [&](int64_t i, auto access) {
        store<F32>(out + i, load<F32>(s + i, access) * size * load<F32>(w + i, access), access);
      });
    }
  }
}

}  // namespace

void modulated_conv2d_factors_cpu(const ModulatedConv2dFactorsParams& p, int64_t begin, int64_t end) {
  int64_t tasks = 0;  // of the jobs before this one
  for (int64_t k = 0; k < p.jobs && tasks < end; ++k) {
    const Job& job = p.table[k];
    const int64_t own = (job.outputs + kFactorRows - 1) / kFactorRows;
    const int64_t from = begin > tasks ? begin - tasks : 0, to = min64(own, end - tasks);
    tasks += own;
    if (from >= to) continue;
    const float size = normaliser(p, job);
    for (int64_t t = from; t < to; ++t) {
      const int64_t first = t * kFactorRows, rows = min64(kFactorRows, job.outputs - first);
      (job.demodulated ? demodulate : scale)(p, job, first, rows, size);
    }
  }
}

}  // namespace GK_ISA
}  // namespace gk
