"""Builds the native libraries with CMake; everything else is in pyproject.toml.

Environment:
    GANKERN_BUILD=0         no native build: Triton and reference only
    GANKERN_CUDA_ARCHS      CUDA architectures, for example "90" or "80;90;100" (default: CMakeLists.txt's list)
    GANKERN_CUDA=0          no CUDA library even where one could be built
    GANKERN_TORCH_DIR       site-packages/torch to compile against, if the right one is not found by itself
    GANKERN_CMAKE_ARGS      further arguments for CMake
    MAX_JOBS                parallel compilations (default: all cores)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "build_backend"))
import gankern_torch  # noqa: E402


class NativeLibraries(build_ext):
    """One CMake build for all native libraries; leaves a note instead where none can be built."""

    def run(self) -> None:
        """Build into the wheel's folder or, for an editable install, into the source package."""
        inplace = self.inplace or getattr(self, "editable_mode", False)
        destination = HERE / "gankern" if inplace else Path(self.build_lib).resolve() / "gankern"
        destination.mkdir(parents=True, exist_ok=True)
        skipped = self._skip_reason()
        note = destination / "_build_skipped.txt"
        note.unlink(missing_ok=True)
        if skipped:
            self._remove_stale(destination)
            note.write_text(skipped + "\n")
            print(f"gankern: no native kernels: {skipped}. Triton and reference implementations work.", file=sys.stderr)
            return
        self._build(destination)

    def _skip_reason(self) -> str | None:
        """One line that says why there is nothing to build, or None."""
        if os.environ.get("GANKERN_BUILD", "1") == "0":
            return "the native build was switched off by GANKERN_BUILD=0"
        if not sys.platform.startswith("linux"):
            return f"native kernels are built on Linux only, this is {sys.platform}"
        given = os.environ.get("CXX")
        if not given and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            return "no C++ compiler found (c++, g++ or clang++ on PATH); install one, then run `pip install -e .` again"
        return None

    def _build(self, destination: Path) -> None:
        started = time.time()
        torch = gankern_torch.find_torch()
        if torch is None or not torch.supported:
            found = "none was found" if torch is None else f"found {torch.version} at {torch.root}"
            sys.exit(
                f"gankern: the native build needs {gankern_torch.REQUIREMENT}, {found}; install it, or set GANKERN_BUILD=0"
            )
        cmake = shutil.which("cmake")
        if cmake is None:
            sys.exit("gankern: the native build needs cmake >= 3.24: `pip install cmake`, or set GANKERN_BUILD=0")
        # One folder per Python and torch: their paths are cached in it.
        tag = f"py{sys.version_info[0]}{sys.version_info[1]}-torch{torch.version.replace('+', '_')}"
        folder = HERE / "build" / f"cmake-{tag}"
        folder.mkdir(parents=True, exist_ok=True)
        configure = [
            cmake, "-S", str(HERE), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release",
            f"-DGANKERN_TORCH_ROOT={torch.root}",
            f"-DGANKERN_TORCH_VERSION={torch.version}",
            f"-DGANKERN_TORCH_CUDA={torch.cuda or ''}",
            f"-DGANKERN_CUDA={os.environ.get('GANKERN_CUDA', '1')}",
            f"-DGANKERN_CUDA_ARCHS={os.environ.get('GANKERN_CUDA_ARCHS', '').replace(',', ';').replace(' ', ';')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DGANKERN_PYBIND11_INCLUDE={self._pybind11(torch)}",
            f"-DCMAKE_INSTALL_PREFIX={destination}",
        ]  # fmt: skip
        if ninja := shutil.which("ninja"):
            # Given at each configure: the folder of an earlier isolated environment is gone by now.
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += shlex.split(os.environ.get("GANKERN_CMAKE_ARGS", ""))
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        self._call("configuring", configure, folder)
        self._call("compiling", [cmake, "--build", str(folder), "-j", jobs], folder)
        self._remove_stale(destination)
        self._call("installing", [cmake, "--install", str(folder)], folder)
        print(
            f"gankern: native libraries built in {time.time() - started:.0f} s against torch {torch.version} ({torch.origin})",
            file=sys.stderr,
        )

    @staticmethod
    def _pybind11(torch: gankern_torch.Torch) -> str:
        """pybind11's headers: its own package, or the copy that torch bundles (no build isolation, no pybind11)."""
        try:
            import pybind11

            return str(pybind11.get_include())
        except ImportError:
            return str(torch.root / "include")

    @staticmethod
    def _call(what: str, command: list[str], folder: Path) -> None:
        """Run a step, show its output, and on failure end with the lines that say why."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stdout.write(line)
            lines.append(line.rstrip())
        sys.stdout.flush()
        if process.wait() != 0:
            telling = [i for i, line in enumerate(lines) if "error" in line.lower() or "is not able to compile" in line]
            first = telling[0] if telling else max(0, len(lines) - 15)
            cause = "\n".join("    " + line for line in lines[first : first + 15])
            sys.exit(
                f"gankern: {what} the native kernels failed (exit code {process.returncode}):\n{cause}\n"
                f"    build folder: {folder}\n"
                "    To install without native kernels: GANKERN_BUILD=0 pip install -e ."
            )

    @staticmethod
    def _remove_stale(destination: Path) -> None:
        """Libraries of an earlier build: a CPU build must not leave last week's CUDA library behind."""
        for pattern in ("libgankern_*.so", "_C.*.so"):
            for path in destination.glob(pattern):
                path.unlink()

    def get_outputs(self) -> list[str]:
        """The files that go into a wheel's record."""
        folder = Path(self.build_lib) / "gankern"
        return [str(path) for pattern in ("*.so", "_build_skipped.txt") for path in folder.glob(pattern)]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is mapped: an editable build writes into the source package."""
        return {}


setup(ext_modules=[Extension("gankern._C", sources=[])], cmdclass={"build_ext": NativeLibraries})
