// interpolate on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// A piece of a sample is a row of contiguous numbers with one eps. The sum of a piece is made in blocks, and of the blocks'
// sums: its error grows with the length of a block and with their number, not with the length of the piece.
#include "bias_act/bias_act_cpu.h"
#include "interpolate/interpolate_params.h"

namespace gk {
namespace GK_ISA {
namespace {

constexpr int64_t kBlock = 1024;  // elements

template <class T, class Void>
GK_INLINE auto at(Void* data, int64_t i) {
  return offset(static_cast<T*>(data), i);
}

template <class S>
struct Kernels {
  using Elem = typename S::Elem;
  using Acc = typename S::Acc;
  using Vec = typename S::Vec;

  static void forward(const InterpolateParams& p, int64_t first, int64_t n, Acc eps, int64_t) {
    const Elem *real = at<const Elem>(p.real, first), *fake = at<const Elem>(p.fake, first);
    Elem* y = at<Elem>(p.y, first);
    const Vec e = Vec{} + eps, rest = Vec{} + (Acc(1) - eps);
    for_vectors<S>(n, [&](int64_t i, auto access) {
      store<S>(y + i, e * load<S>(real + i, access) + rest * load<S>(fake + i, access), access);
    });
  }

  static void backward(const InterpolateParams& p, int64_t first, int64_t n, Acc eps, int64_t piece) {
    const Elem* dy = at<const Elem>(p.dy, first);
    const Elem *real = at<const Elem>(p.real, first), *fake = at<const Elem>(p.fake, first);
    Elem *d_real = at<Elem>(p.d_real, first), *d_fake = at<Elem>(p.d_fake, first);
    const Vec e = Vec{} + eps, rest = Vec{} + (Acc(1) - eps);
    if (!p.partial) {
      for_vectors<S>(n, [&](int64_t i, auto access) {
        const Vec g = load<S>(dy + i, access);
        if (d_real) store<S>(d_real + i, e * g, access);
        if (d_fake) store<S>(d_fake + i, rest * g, access);
      });
      return;
    }
    Vec total{};
    for (int64_t block = 0; block < n; block += kBlock) {
      Vec sum{};
      for_vectors<S>(min64(kBlock, n - block), [&](int64_t k, auto access) {
        const int64_t i = block + k;
        const Vec g = load<S>(dy + i, access);
        if (d_real) store<S>(d_real + i, e * g, access);
        if (d_fake) store<S>(d_fake + i, rest * g, access);
        Vec difference = real ? load<S>(real + i, access) : Vec{};
        if (fake) difference -= load<S>(fake + i, access);
        sum += g * difference;
      });
      total += sum;
    }
    static_cast<Acc*>(p.partial)[piece] = sum_lanes(total);
  }

  template <class Kernel>
  static void pieces(const InterpolateParams& p, int64_t begin, int64_t end, Kernel kernel) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t sample = piece / p.chunks, start = piece % p.chunks * p.chunk;
      const Acc eps = p.eps ? static_cast<const Acc*>(p.eps)[sample] : Acc(0);
      kernel(p, sample * p.inner + start, min64(p.chunk, p.inner - start), eps, piece);
    }
  }
};

}  // namespace

void interpolate_cpu(const InterpolateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) {
    using K = Kernels<decltype(s)>;
    K::pieces(p, begin, end, K::forward);
  });
}

void interpolate_backward_cpu(const InterpolateParams& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto s) {
    using K = Kernels<decltype(s)>;
    K::pieces(p, begin, end, K::backward);
  });
}

}  // namespace GK_ISA
}  // namespace gk
