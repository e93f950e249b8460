// Copies from global to shared memory that need no registers while they are under way (cp.async; plain copies before
// sm_80).
//
// A thread issues copies, closes a group with async_commit(), and async_wait<n>() returns when all but its n youngest
// groups have arrived: for this thread; the others see them after a barrier.
//   async_copy<bytes>(to, from, wanted)     16 or 4 bytes, aligned so; zeros if wanted is 0: then `from` may be any
//   address async_copy_half(to, from)               2 bytes from an address that 4 divides, and 2 bytes of zeros
#pragma once
#include <cstdint>

#include "common/launch.h"

namespace gk {
namespace {

#if defined(GK_CUDA_ON_CPU)
template <int kBytes>
void async_copy(void* to, const void* from, unsigned wanted) {
  gk_emu::async_copy(to, from, kBytes, wanted ? kBytes : 0);
}
inline void async_copy_half(void* to, const void* from) { gk_emu::async_copy(to, from, 4, 2); }
inline void async_commit() { gk_emu::async_commit(); }
template <int kGroups>
void async_wait() {
  gk_emu::async_wait(kGroups);
}
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
// The predicate form of "not wanted" is one instruction; a number of bytes would be added to the address first.
template <int kBytes>
__device__ __forceinline__ void async_copy(void* to, const void* from, unsigned wanted) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16)  // .cg: past L1, where nothing would be read again
    asm volatile("{ .reg .pred p; setp.eq.u32 p, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, p; }" ::"r"(shared),
                 "l"(from), "r"(wanted)
                 : "memory");
  else
    asm volatile("{ .reg .pred p; setp.eq.u32 p, %2, 0; cp.async.ca.shared.global [%0], [%1], %3, p; }" ::"r"(shared),
                 "l"(from), "r"(wanted), "n"(kBytes)
                 : "memory");
}
__device__ __forceinline__ void async_copy_half(void* to, const void* from) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, 2;" ::"r"(shared), "l"(from) : "memory");
}
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}
#else
template <int kBytes>
__device__ __forceinline__ void async_copy(void* to, const void* from, unsigned wanted) {
  static_assert(kBytes == 16 || kBytes == 4, "16 or 4 bytes");
  if constexpr (kBytes == 16)
    *static_cast<uint4*>(to) = wanted ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  else
    *static_cast<uint32_t*>(to) = wanted ? *static_cast<const uint32_t*>(from) : 0;
}
__device__ __forceinline__ void async_copy_half(void* to, const void* from) {
  *static_cast<uint32_t*>(to) = *static_cast<const uint16_t*>(from);
}
__device__ __forceinline__ void async_commit() {}
template <int kGroups>
__device__ __forceinline__ void async_wait() {}
#endif

}  // namespace
}  // namespace gk
