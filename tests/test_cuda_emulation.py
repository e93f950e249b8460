"""The emulation of CUDA on the CPU: planted mistakes are caught, and the project's kernels pass in several orders of
threads and under the sanitizers. (What the kernels compute is tested by test_contract.py and tests/ops.)"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_emulation import adain_cases, filtered_lrelu_cases, harness, planted, upfirdn2d_cases
from cuda_emulation.planted import BUGS, RNG, Planted, built, check_all, check_bias, check_fir, check_norm, poisoned
from machine import INTERPRETED

import gankern
from gankern._dispatch import OPS
from gankern._samples import Sample
from gankern.testing import check_sample

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has a process of its own"),
    pytest.mark.skipif(harness.missing() is not None, reason=f"CUDA emulation: {harness.missing()}"),
]

TESTS = Path(__file__).resolve().parent
ORDERS = (0, 1, 2, 7, 12345)


# ---- the emulation --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", ORDERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_correct_kernels_pass(seed: int, threads: int) -> None:
    check_all(Planted(seed=seed, threads=threads))


RACES = ["MissingBarrier", "MissingWarBarrier", "MissingWait", "MissingWaitBarrier", "RefilledTooEarly"]
REFUSED = {
    "DivergentBarrier": "divergent barrier",
    "AbsentLanes": "divergent barrier",
    "DynamicOverflow": "write outside shared memory",
    "SharedOverflow": "write outside shared memory",
    "MisalignedCopy": "misaligned",
}
SANITIZED = {
    "ReadPastEnd": ("check_bias(planted)", "heap-buffer-overflow"),
    "DynamicOverflow": ("check_fir(planted)", "use-after-poison"),
    "StaticOverflow": ("check_norm(planted)", "out of bounds"),
    "SharedOverflow": ("check_sum(planted)", "use-after-poison"),
    "Misaligned": ("check_bias(planted, 24, vector=True)", "misaligned address"),
}


@pytest.mark.parametrize("bug", RACES)
def test_a_race_shows_in_some_order(bug: str) -> None:
    check = getattr(planted, f"check_{BUGS[bug]}")
    wrong = []
    for seed in range(8):
        check(Planted(seed=seed))
        with contextlib.suppress(AssertionError):
            check(Planted(bug, seed))
            continue
        wrong.append(seed)
    assert wrong, "no order of threads showed the race"


@pytest.mark.parametrize("bug", REFUSED)
def test_misuse_is_refused(bug: str) -> None:
    with pytest.raises(RuntimeError, match=REFUSED[bug]):
        getattr(planted, f"check_{BUGS[bug]}")(Planted(bug))


def test_early_exit() -> None:
    """An error unless it is asked for that exited threads count as arrived, as on the hardware."""
    with pytest.raises(RuntimeError, match="has exited"):
        check_norm(Planted("ExitBeforeBarrier"), 2, 40)
    check_norm(Planted("ExitBeforeBarrier", allow_exited=True), 2, 40)


def test_unwritten_output_shows() -> None:
    with pytest.raises(AssertionError, match="wrong result"):
        check_bias(Planted("UnwrittenOutput"))


def test_launch_limits() -> None:
    with pytest.raises(RuntimeError, match="bad launch"):
        check_fir(Planted(), 1, 8 * 65536, 1, 1)  # 65536 blocks along y
    check_fir(Planted())  # the error has been read


@pytest.mark.parametrize("bug", SANITIZED)
def test_sanitizers_see(bug: str) -> None:
    code, expected = SANITIZED[bug]
    run = child(f"planted = Planted({bug!r}, sanitize=True)\n{code}", "cuda_emulation.planted")
    assert run.returncode != 0 and expected in run.stderr, run.stderr[-4000:]
    if expected in ("heap-buffer-overflow", "use-after-poison"):
        assert "GK: memory error in kernel" in run.stderr  # which block, which thread


def test_correct_kernels_pass_sanitizers() -> None:
    code = "for seed in (0, 1, 7): check_all(Planted(seed=seed, threads=1 + seed // 7, sanitize=True))"
    run = child(code, "cuda_emulation.planted")
    assert run.returncode == 0, run.stderr[-4000:]


def test_ucontext_switch() -> None:
    """The portable way to switch fibers, where the assembly one does not apply."""
    library = ctypes.CDLL(str(built(False, "-DGK_EMU_UCONTEXT")))
    planted = Planted()
    planted.library = library
    library.gk_emu_config(2, ctypes.c_ulonglong(7), 0)
    check_all(planted)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_primitives(seed: int) -> None:
    """Against a model written from the PTX manual's definition of shfl.sync."""
    planted = Planted(seed=seed)
    for width in (1, 2, 4, 8, 16, 32):
        for delta in (0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33):
            v = RNG.integers(0, 9, 64).astype(np.int32)
            out, acc = poisoned((64, 12), np.int32), np.zeros(4)
            planted("primitives", v, delta, width, out, acc)
            expected = np.zeros_like(out)
            for t in range(64):
                lane, base, segment, b = t & 31, t & 32, ~(width - 1) & 31, delta & 31
                low, high = lane & segment, (lane & segment) | (31 & ~segment)
                sources = (
                    (low | (b & ~segment), True),
                    (lane - b, lane - b >= low),
                    (lane + b, lane + b <= high),
                    (lane ^ b, lane ^ b <= high),
                )
                expected[t, :4] = [v[base + (j if ok else lane)] for j, ok in sources]
                half = range(t & ~15, (t & ~15) + 16)
                expected[t, 4] = np.uint32(sum(int(v[i] & 1) << (i & 31) for i in half)).astype(np.int32)
                expected[t, 5] = 2 * any(v[i] == 7 for i in half) + 1
                expected[t, 6:] = (v & 1).sum(), 2 * (v == 7).any() + 1, -1, min(v[t], delta), max(v[t], 3) + min(v[t], 2), 1064
            np.testing.assert_array_equal(out, expected)
            assert acc[0] == v.sum() / 2 and acc[1:2].view(np.float32)[0] == v.sum() / 4
            assert acc[2:3].view(np.int32)[0] == v.sum() and acc[3:4].view(np.int32)[0] == v.max()


def child(code: str, module: str = "test_cuda_emulation") -> subprocess.CompletedProcess[str]:
    """Run code, with the names of a module, in a process that has the sanitizers' runtimes preloaded."""

    def runtime(name: str) -> str:
        return subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()

    if not Path(runtime("libasan.so")).is_absolute():
        pytest.skip("g++ has no sanitizer runtimes here")
    env = {
        **os.environ,
        planted.LIBRARY: str(built(True)),  # so that planted.py does without torch there
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    script = f"from {module} import *\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=900)


# ---- the project's kernels --------------------------------------------------------------------------------------------
def emulated_samples() -> list[tuple[str, Sample]]:
    """The 'check' samples of every op that has a CUDA kernel."""
    return [
        (name, sample)
        for name, spec in OPS.items()
        if spec.table is not None and spec.table.row("cuda") is not None and harness.has_kernel(name)
        for sample in spec.samples
        if "check" in sample.tags
    ]


def run_samples(dtypes: tuple[torch.dtype, ...]) -> None:
    """Forward and derivatives of those samples on the emulated backend, against the float64 reference."""
    with harness.install_rows():
        for name, sample in emulated_samples():
            for dtype in dtypes:
                for layout in sample.layouts:
                    outcomes = check_sample(OPS[name], sample, "cuda", dtype, layout, "cpu")
                    failed = [f"{o.what}: {o.comparison}" for o in outcomes if not o.comparison.ok]
                    assert not failed, f"{name} {sample.name} {dtype} {layout}: {failed}"


@pytest.mark.parametrize("seed, threads", [(1, 1), (2, 1), (7, 2)])
def test_kernels_in_other_orders(seed: int, threads: int) -> None:
    harness.load(threads, seed)
    try:
        run_samples((torch.float32,))
    finally:
        harness.set_order()


def test_adain_at_random() -> None:
    harness.load()
    adain_cases.run_all(count=150, seed=0, orders=(0, 1, 2, 7))


def test_upfirdn2d_at_its_seams() -> None:
    harness.load()
    upfirdn2d_cases.run_all(count=120, seed=0, orders=(0, 1, 2, 7))


def test_upfirdn2d_large_offsets() -> None:
    harness.load()
    upfirdn2d_cases.large_offsets()


def test_filtered_lrelu_at_its_seams() -> None:
    harness.load()
    filtered_lrelu_cases.run_all(count=80, seed=0, orders=(0, 1, 2, 7), every=2)


def test_filtered_lrelu_large_offsets() -> None:
    harness.load()
    filtered_lrelu_cases.large_offsets()


@pytest.mark.timeout(1800)  # builds all kernels with sanitizers: a minute on 2 idle cores
def test_kernels_under_sanitizers() -> None:
    harness.build(sanitize=True)
    run = child(
        """
        harness.load(sanitize=True)
        run_samples((torch.float16,))
        upfirdn2d_cases.run_all(count=20, seed=1, orders=(0, 1, 7), every=4)
        adain_cases.run_all(count=40, seed=2, orders=(0, 1, 7))
        filtered_lrelu_cases.run_all(count=15, seed=1, orders=(0, 1, 7), every=7)
        """
    )
    assert run.returncode == 0, run.stderr[-6000:]


def test_rows_are_restored() -> None:
    harness.load()
    rows = {name: list(spec.table.rows) for name, spec in OPS.items() if spec.table is not None}
    with harness.install_rows(), gankern.use_backend("cuda"):
        x = torch.ones(1, 1, 4, 4)
        assert torch.equal(gankern.ops.upfirdn2d(x, None), x)
    assert rows == {name: list(spec.table.rows) for name, spec in OPS.items() if spec.table is not None}
    if not torch.cuda.is_available():
        with gankern.use_backend("cuda"), pytest.raises(RuntimeError, match="cannot run"):
            gankern.ops.upfirdn2d(x, None)
