// Sums that are the same in any order: 64-bit integers that count multiples of a power of two.
//
// A pixel of dx is given at most one contribution by each of the Ho Wo samples of its image, none larger than `bound`.
// With 2^e > bound and 2^l >= Ho Wo the unit is 2^(e + l - 62): a contribution is at most 2^(62 - l) of them and a sum
// 2^62, which leaves a factor of two to roundings. A contribution is rounded by at most half a unit, 2^(l - 62) of the
// bound or less: of 2^20 samples 2^-42, where a float32 has 2^-24 of itself.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/cuda_io.cuh"

namespace gk {
namespace {

__device__ __forceinline__ long long nearest_integer(float v) { return llrintf(v); }
__device__ __forceinline__ long long nearest_integer(double v) { return llrint(v); }

// The factors are split in two, since one alone may leave the range of A: bounds go from 2^-149 to 2^128 (float32).
// Multiplying by powers of two is exact, but where a result is denormal, which as a number of units is 0.
template <class A>
struct FixedPoint {
  A to_units[2], from_units[2];
  bool sums;     // there is something to sum: bound is neither 0 nor without limit
  bool unknown;  // bound is inf or NaN

  // Without a bound nothing is summed.
  __device__ __forceinline__ FixedPoint(const void* bound_at, int samples_log2) {
    const A bound = bound_at ? *static_cast<const A*>(bound_at) : A(0);
    unknown = !(bound - bound == A(0));
    sums = !unknown && bound > A(0);
    int e = 0;
    if (sums) frexp(bound, &e);
    const int shift = 62 - samples_log2 - e, half = shift / 2;
    to_units[0] = static_cast<A>(ldexp(A(1), half)), to_units[1] = static_cast<A>(ldexp(A(1), shift - half));
    from_units[0] = static_cast<A>(ldexp(A(1), -half)), from_units[1] = static_cast<A>(ldexp(A(1), half - shift));
  }
  __device__ __forceinline__ void add(int64_t* sum, A contribution) const {
    // Two's complement: the unsigned sum has the bits of the signed one.
    atomicAdd(reinterpret_cast<unsigned long long*>(sum),
              static_cast<unsigned long long>(nearest_integer(contribution * to_units[0] * to_units[1])));
  }
  __device__ __forceinline__ A value(int64_t sum) const {
    if (unknown) return A(NAN);
    return static_cast<A>(sum) * from_units[0] * from_units[1];
  }
};

}  // namespace
}  // namespace gk
