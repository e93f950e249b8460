// One CPU kernel source, several instruction sets.
//
// CMake compiles every *_cpu.cpp once per instruction set with GK_ISA defined (baseline, avx2, avx512). All that such a
// file defines must live in namespace gk::GK_ISA, or be static: an inline function or template outside of it would be
// emitted by every variant under ONE name, and the linker might keep the AVX-512 copy for a machine that has none.
// tests/test_architecture.py compiles the variants and fails on any weak symbol.
//
// GK_DECLARE_CPU(ret, name, (params)) declares the variants; GK_CPU_SELECT(name) is the pointer for this machine.
#pragma once

namespace gk {

enum class CpuLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The best instruction set that this machine has and this build holds; GANKERN_CPU_LEVEL=baseline|avx2|avx512 lowers it.
CpuLevel cpu_level();
const char* cpu_level_name(CpuLevel level);

}  // namespace gk

#if defined(GK_HAVE_X86_VARIANTS)
#define GK_DECLARE_CPU(ret, name, args) \
  namespace gk {                        \
  namespace baseline {                  \
  ret name args;                        \
  }                                     \
  namespace avx2 {                      \
  ret name args;                        \
  }                                     \
  namespace avx512 {                    \
  ret name args;                        \
  }                                     \
  }
#define GK_CPU_SELECT(name)                                          \
  (::gk::cpu_level() == ::gk::CpuLevel::avx512 ? &::gk::avx512::name \
   : ::gk::cpu_level() == ::gk::CpuLevel::avx2 ? &::gk::avx2::name   \
                                               : &::gk::baseline::name)
#else
#define GK_DECLARE_CPU(ret, name, args) \
  namespace gk {                        \
  namespace baseline {                  \
  ret name args;                        \
  }                                     \
  }
#define GK_CPU_SELECT(name) (&::gk::baseline::name)
#endif
