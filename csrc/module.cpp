// gankern._C: facts about this build and this CPU, nothing else. The kernels are reached through torch.ops.
#include <pybind11/pybind11.h>

#include "common/cpu_isa.h"

namespace py = pybind11;

#ifndef GK_BUILD_COMPILER
#define GK_BUILD_COMPILER "unknown"
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and CPU capability of gankern's native libraries.";
  m.def(
      "cpu_level", [] { return std::string(gk::cpu_level_name(gk::cpu_level())); },
      "Instruction set that the CPU kernels use here: 'baseline', 'avx2' or 'avx512'.");
  m.def(
      "build_info",
      [] {
        py::dict d;
        d["compiler"] = GK_BUILD_COMPILER;
        d["torch"] = GK_BUILD_TORCH;
        d["cuda"] = GK_BUILD_CUDA;
        d["cuda_archs"] = GK_BUILD_CUDA_ARCHS;
        d["cuda_missing"] = GK_BUILD_CUDA_MISSING;
        d["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
#if defined(GK_HAVE_X86_VARIANTS)
        d["cpu_variants"] = py::make_tuple("baseline", "avx2", "avx512");
#else
        d["cpu_variants"] = py::make_tuple("baseline");
#endif
        return d;
      },
      "What this build was made with: compiler, torch and CUDA versions, CUDA architectures, CPU variants.");
}
