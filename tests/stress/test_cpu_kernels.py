"""The CPU kernels with random arguments under the sanitizers, in a program of their own without torch: cpu_driver.cpp."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
FLAGS = ["-std=c++20", "-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
SANITIZERS = {
    # Kernels form addresses before they test whether they may use them.
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=pointer-overflow"],
    "thread": ["-fsanitize=thread"],
}
ISAS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
}
NEEDED = {"avx2": "avx2", "avx512": "avx512vl"}
QUICK = ["grad_norm_penalty", "interpolate", "pixel_norm"]
"""Ops whose kernels compile in a second or so; modulate and adain take a minute each."""

pytestmark = pytest.mark.skipif(
    not shutil.which("g++") or platform.system() != "Linux", reason="the driver needs g++ with sanitizers, on Linux"
)


def ops() -> list[str]:
    """Every op with CPU kernels: the driver must know them all."""
    return sorted({path.parent.name for path in CSRC.glob("*/*_cpu.cpp")})


def build(folder: Path, names: list[str], sanitizer: str, isa: str, csrc: Path = CSRC) -> Path:
    """The driver with the kernels of some ops, for one instruction set."""
    flags = [*FLAGS, "-I", str(csrc), *SANITIZERS[sanitizer], *ISAS[isa], f"-DGK_ISA={isa}"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-DGK_HAVE_X86_VARIANTS")
    sources = [path for name in names for path in sorted((csrc / name).glob("*_cpu.cpp"))]
    sources.append(HERE / "cpu_driver.cpp")
    defines = [f"-DGK_STRESS_{name}" for name in names]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run = subprocess.run(
            ["g++", *flags, *defines, "-c", str(source), "-o", str(target)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr[-4000:]
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(target) for target in pool.map(compiled, sources)]
    program = folder / "cpu_driver"
    subprocess.run(["g++", *SANITIZERS[sanitizer], "-pthread", *objects, "-o", str(program)], check=True)
    return program


def drive(program: Path, seed: int, cases: int, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1", **more}
    command = [str(program), str(seed), str(cases)]
    # ThreadSanitizer and some random layouts of memory do not agree; where that may be switched off, it is.
    fixed = ["setarch", platform.machine(), "-R"]
    if shutil.which("setarch") and subprocess.run([*fixed, "true"], capture_output=True, check=False).returncode == 0:
        command = [*fixed, *command]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500, check=False)


def passes(program: Path, seed: int, cases: int, count: int) -> None:
    run = drive(program, seed, cases)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    assert run.stdout.strip() == f"{cases} cases of {count} ops"


def test_a_few_kernels_under_the_address_sanitizer(tmp_path: Path) -> None:
    passes(build(tmp_path, QUICK, "address", "baseline"), 1, 100, len(QUICK))


def test_the_driver_sees_faults(tmp_path: Path) -> None:
    """A kernel that is wrong on purpose: a step outside, elements that are not written, undefined arithmetic."""
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc, ignore=shutil.ignore_patterns("*.cu", "*.cuh"))
    wrong = csrc / "interpolate" / "interpolate_cpu.cpp"
    signature = "void interpolate_cpu(const InterpolateParams& p, int64_t begin, int64_t end) {"
    head, tail = wrong.read_text().split(signature)
    faults = """
      const int fault = std::atoi(std::getenv("GK_STRESS_FAULT"));
      const int64_t size = p.dtype == DType::f64 ? 8 : p.dtype == DType::f32 ? 4 : 2;
      if (fault == 1) static_cast<char*>(p.y)[p.samples * p.inner * size] = 0;
      if (fault == 2 && begin < end) --end;
      if (fault == 3) end *= INT64_MAX;
    """
    wrong.write_text(f"#include <cstdlib>\n{head}{signature}{faults}{tail}")
    program = build(tmp_path, ["interpolate"], "address", "baseline", csrc)
    for fault, message in enumerate(["AddressSanitizer", "output 0 differs", "runtime error"], 1):
        run = drive(program, 1, 50, GK_STRESS_FAULT=str(fault))
        assert run.returncode != 0 and message in run.stdout + run.stderr, (fault, run.stdout, run.stderr[-2000:])


def test_the_driver_knows_every_op() -> None:
    text = (HERE / "cpu_driver.cpp").read_text()
    for name in ops():
        assert f"void stress_{name}()" in text, f"cpu_driver.cpp has no random arguments for {name}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_all_kernels(tmp_path: Path, sanitizer: str, isa: str) -> None:
    if isa in NEEDED and NEEDED[isa] not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this machine has no {isa}")
    program = build(tmp_path, ops(), sanitizer, isa)
    passes(program, 1, 3000 if sanitizer == "address" else 300, len(ops()))
