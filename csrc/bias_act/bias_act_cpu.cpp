// bias_act on the CPU, torch-free; compiled once per instruction set (see common/cpu_isa.h).
//
// All that depends on the activation is a row kernel: n contiguous elements whose addend (bias plus noise) is a number for the
// whole row plus, or instead, an array of numbers in the accumulation type. It is picked once per call. What the row and the
// addend are follows from the memory form:
//
//   inner large (NCHW):         a row is a piece of a plane; the bias is a number, the noise an array;
//   inner == 1 (channels_last): a row is the channels of a position; the noise is a number, the bias an array;
//   short rows of either:       several rows make one, and bias and noise are written out into an array. Without noise that
//                               array is periodic, and made once.
//
// Backward has the same rows. The row kernel adds g = dy * slope to an array and returns its sum: in NCHW these are dnoise and
// db, in channels_last db and dnoise. Of short rows the array is g itself, which is then summed both ways from the cache.
#include "bias_act/bias_act_math.h"
#include "bias_act/bias_act_params.h"
#include "common/cpu_math.h"
#include "common/cpu_vec.h"

namespace gk {
namespace {

template <>
struct Math<GK_ISA::FloatVec> {
  using V = GK_ISA::FloatVec;
  using Scalar = float;
  static GK_INLINE V splat(float a) { return V{} + a; }
  static GK_INLINE V exp(V v) { return GK_ISA::vec_exp(v); }
  static GK_INLINE V expm1(V v) { return GK_ISA::vec_expm1(v); }
  static GK_INLINE V tanh(V v) { return GK_ISA::vec_tanh(v); }
  static GK_INLINE V sigmoid(V v) { return GK_ISA::vec_sigmoid(v); }
  static GK_INLINE V softplus(V v) { return GK_ISA::vec_softplus(v); }
};

template <>
struct Math<GK_ISA::DoubleVec> {
  using V = GK_ISA::DoubleVec;
  using Scalar = double;
  static GK_INLINE V splat(double a) { return V{} + a; }
  static GK_INLINE V exp(V v) { return GK_ISA::vec_exp(v); }
  static GK_INLINE V expm1(V v) { return GK_ISA::vec_expm1(v); }
  static GK_INLINE V tanh(V v) { return GK_ISA::vec_tanh(v); }
  static GK_INLINE V sigmoid(V v) { return GK_ISA::vec_sigmoid(v); }
  static GK_INLINE V softplus(V v) { return GK_ISA::vec_softplus(v); }
};

}  // namespace

namespace GK_ISA {
namespace {

constexpr int64_t kTile = 1024;     // numbers of an array that is written out: 4 KB of floats
constexpr int64_t kShortRow = 128;  // below, rows are joined
constexpr int64_t kSlack = 16;      // vectors may write past the end of an array

GK_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// What is added to n elements: constant + array[i], the array perhaps null.
template <class Acc>
struct Addend {
  const Acc* array = nullptr;
  Acc constant = 0;
};

// ---- row kernels ---------------------------------------------------------------------------------------------------------
// Calls body(i, n, access) for every vector of a row; access loads or stores a whole vector or the last n numbers.
template <class S, class Body>
GK_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + S::lanes <= n; i += S::lanes) body(i, [](auto type, auto* p, auto... v) { return decltype(type)::access(p, v...); });
}
}  // namespace
}  // namespace GK_ISA
}  // namespace gk
