#include "common/cpu_isa.h"

#include <cstdlib>
#include <cstring>

namespace gk {
namespace {

CpuLevel detect() {
  CpuLevel level = CpuLevel::baseline;
#if defined(GK_HAVE_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    level = CpuLevel::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      level = CpuLevel::avx512;
  }
#endif
  if (const char* wish = std::getenv("GANKERN_CPU_LEVEL")) {
    CpuLevel most = level;
    if (!std::strcmp(wish, "baseline")) most = CpuLevel::baseline;
    if (!std::strcmp(wish, "avx2")) most = CpuLevel::avx2;
    if (most < level) level = most;
  }
  return level;
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = detect();
  return level;
}

const char* cpu_level_name(CpuLevel level) {
  return level == CpuLevel::avx512 ? "avx512" : level == CpuLevel::avx2 ? "avx2" : "baseline";
}

}  // namespace gk
