// grad_norm_penalty on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// The sum of a piece is made in blocks, and of the blocks' sums, in several chains at a time: its error grows with the
// length of a block and with their number, not with the length of the piece. Pieces are then summed in double.
#include <math.h>

#include "bias_act/bias_act_cpu.h"
#include "grad_norm_penalty/grad_norm_penalty_math.h"
#include "grad_norm_penalty/grad_norm_penalty_params.h"

namespace gk {
namespace GK_ISA {
namespace {

using Params = GradNormPenaltyParams;

constexpr int64_t kChains = 4;  // sums at a time, for additions wait for one another
constexpr int64_t kSteps = 16;  // additions to each of them before they are added up

GK_INLINE float root(float v) { return ::sqrtf(v); }
GK_INLINE double root(double v) { return ::sqrt(v); }
constexpr auto kRoot = [](auto v) { return root(v); };

template <class S>
struct Kernels {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;

  // Of a[i] b[i], which may be the same array.
  static Acc dot(const Elem* a, const Elem* b, int64_t n) {
    constexpr int64_t step = kChains * S::lanes;
    Vec total[kChains]{};
    int64_t i = 0;
    while (i + step <= n) {
      Vec sum[kChains]{};
      for (int64_t k = 0; k < kSteps && i + step <= n; ++k, i += step)
        for (int64_t c = 0; c < kChains; ++c) sum[c] += S::load(a + i + c * S::lanes) * S::load(b + i + c * S::lanes);
      for (int64_t c = 0; c < kChains; ++c) total[c] += sum[c];
    }
    for_vectors<S>(
        n - i, [&](int64_t k, auto access) { total[0] += load<S>(a + i + k, access) * load<S>(b + i + k, access); });
    return sum_lanes((total[0] + total[1]) + (total[2] + total[3]));
  }

  static void sums(const Params& p, int64_t first, int64_t n, int64_t piece) {
    const Elem* grad = static_cast<const Elem*>(p.grad) + first;
    const Elem* other = p.u ? static_cast<const Elem*>(p.u) + first : grad;
    static_cast<Acc*>(p.partial)[piece] = dot(grad, other, n);
  }

  static void totals(const Params& p, int64_t sample) {
    const Acc* partial = static_cast<const Acc*>(p.partial) + sample * p.chunks;
    double sum = 0;
    for (int64_t i = 0; i < p.chunks; ++i) sum += partial[i];
    const Acc total = static_cast<Acc>(sum), center = static_cast<Acc>(p.center), weight = static_cast<Acc>(p.weight);
    Acc* squares = static_cast<Acc*>(p.squares) + sample;
    if (!p.u) {
      *squares = total;
      static_cast<Acc*>(p.penalty)[sample] = grad_norm_penalty_value(total, center, weight, kRoot);
      return;
    }
    static_cast<Acc*>(p.products)[sample] = total;
    if (p.d_dp) static_cast<Acc*>(p.d_dp)[sample] = grad_norm_penalty_slope(*squares, center, weight, kRoot) * total;
  }

  static void scale(const Params& p, int64_t first, int64_t n, int64_t piece) {
    const int64_t sample = piece / p.chunks;
    const Acc center = static_cast<Acc>(p.center), weight = static_cast<Acc>(p.weight);
    const Acc squares = static_cast<const Acc*>(p.squares)[sample], dp = static_cast<const Acc*>(p.dp)[sample];
    const Vec slope = Vec{} + dp * grad_norm_penalty_slope(squares, center, weight, kRoot);
    const Elem* grad = static_cast<const Elem*>(p.grad) + first;
    const Elem* u = p.u ? static_cast<const Elem*>(p.u) + first : nullptr;
    Elem* out = static_cast<Elem*>(p.out) + first;
    if (!u || !p.products) {
      const Elem* from = u ? u : grad;
      for_vectors<S>(n, [&](int64_t i, auto access) { store<S>(out + i, slope * load<S>(from + i, access), access); });
      return;
    }
    const Acc product = static_cast<const Acc*>(p.products)[sample];
    const Vec along = Vec{} + dp * grad_norm_penalty_along(squares, product, center, weight, kRoot);
    for_vectors<S>(n, [&](int64_t i, auto access) {
      store<S>(out + i, slope * load<S>(u + i, access) + along * load<S>(grad + i, access), access);
    });
  }

  template <class Kernel>
  static void pieces(const Params& p, int64_t begin, int64_t end, Kernel kernel) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t sample = piece / p.chunks, start = piece % p.chunks * p.chunk;
      kernel(p, sample * p.inner + start, min64(p.chunk, p.inner - start), piece);
    }
  }
};

}  // namespace

void grad_norm_penalty_sums_cpu(const Params& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) {
    using K = Kernels<decltype(s)>;
    K::pieces(p, begin, end, K::sums);
  });
}

void grad_norm_penalty_totals_cpu(const Params& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) {
    for (int64_t sample = begin; sample < end; ++sample) Kernels<decltype(s)>::totals(p, sample);
  });
}

void grad_norm_penalty_scale_cpu(const Params& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) {
    using K = Kernels<decltype(s)>;
    K::pieces(p, begin, end, K::scale);
  });
}

}  // namespace GK_ISA
}  // namespace gk
