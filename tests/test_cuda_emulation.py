"""The emulation of CUDA on the CPU: planted mistakes are caught, and the project's kernels pass in several orders of
threads and under the sanitizers. (What the kernels compute is tested by test_contract.py and tests/ops.)"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_emulation import adain_cases, filtered_lrelu_cases, harness, upfirdn2d_cases
from machine import INTERPRETED
from numpy.typing import NDArray

import gankern
from gankern._dispatch import OPS
from gankern._samples import Sample
from gankern.testing import check_sample

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has a process of its own"),
    pytest.mark.skipif(harness.missing() is not None, reason=f"CUDA emulation: {harness.missing()}"),
]

TESTS = Path(__file__).resolve().parent
PLANTED = TESTS / "cuda_emulation" / "planted.cu"
BUGS = dict(re.findall(r"^  k(\w+),\s*//\s*(\w+):", PLANTED.read_text(), re.MULTILINE))  # name -> the kernel that has it
NUMBERS = {name: i for i, name in enumerate(re.findall(r"^  k(\w+),", PLANTED.read_text(), re.MULTILINE))}
ORDERS = (0, 1, 2, 7, 12345)
RNG = np.random.default_rng(1)


class Planted:
    """The kernels of planted.cu with one bug, or none."""

    def __init__(self, bug: str = "None", seed: int = 0, threads: int = 1, sanitize: bool = False, allow_exited: bool = False):
        self.library = ctypes.CDLL(str(built(sanitize)))
        self.library.gk_emu_message.restype = ctypes.c_char_p
        self.library.gk_emu_config(threads, ctypes.c_ulonglong(seed), int(allow_exited))
        self.library.plant(NUMBERS[bug])

    def __call__(self, name: str, *args: Any) -> None:
        values = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in args]
        if getattr(self.library, f"run_{name}")(*values):
            raise RuntimeError(self.library.gk_emu_message().decode())


def built(sanitize: bool = False, *extra: str) -> Path:
    """planted.cu as a library, from the cache if nothing it is made of has changed."""
    inputs = [PLANTED, PLANTED.parent / "cuda_on_cpu.h", *sorted((harness.CSRC / "common").glob("*")), Path(harness.__file__)]
    key = hashlib.sha256(b"".join(p.read_bytes() for p in inputs) + " ".join(extra).encode()).hexdigest()[:16]
    target = harness.cache_folder() / f"planted_{key}{'_sanitized' if sanitize else ''}.so"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}")
        harness.compile_kernels([PLANTED], part, sanitize, ("-shared", *extra))
        part.replace(target)
    return target


def poisoned(shape: Any, dtype: Any = np.float32) -> NDArray[Any]:
    """An output full of NaN: whatever a kernel does not write shows."""
    a = np.empty(shape, dtype)
    a.view(np.uint8).fill(0xFF)
    return a


def check_bias(planted: Planted, w: int = 23, vector: bool = False) -> None:
    x, b = RNG.standard_normal((2, 3, 20, w), np.float32), RNG.standard_normal(3, np.float32)
    y = poisoned(x.shape)
    planted("bias", int(vector), x, b, y, x.size, 3, 20 * w)
    v = x + b[:, None, None]
    np.testing.assert_array_equal(y, np.where(v > 0, v, v * np.float32(0.2)), "wrong result")


def check_norm(planted: Planted, planes: int = 5, hw: int = 1037) -> None:
    x = RNG.standard_normal((planes, hw), np.float32) + 1
    y = poisoned(x.shape)
    planted("norm", x, y, planes, hw)
    d = x.astype(np.float64)
    expected = (d - d.mean(1, keepdims=True)) / np.sqrt(d.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4, err_msg="wrong result")


def check_fir(planted: Planted, planes: int = 3, h: int = 37, w: int = 71, k: int = 7) -> None:
    x, taps = RNG.standard_normal((planes, h, w), np.float32), RNG.standard_normal((k, k), np.float32)
    y = poisoned(x.shape)
    planted("fir", x, taps, y, planes, h, w, k)
    before, after = k // 2, k - 1 - k // 2
    p = np.pad(x, ((0, 0), (before, after), (before, after)))
    expected = sum(taps[b, a] * p[:, b : b + h, a : a + w] for b in range(k) for a in range(k))
    np.testing.assert_allclose(y, expected, rtol=0, atol=5e-4, err_msg="wrong result")


def check_sum(planted: Planted, n: int = 100003) -> None:
    x = RNG.standard_normal(n, np.float32)
    total, positive = np.zeros(1), np.zeros(1, np.int32)
    planted("sum", x, n, total, positive)
    np.testing.assert_allclose(total[0], x.astype(np.float64).sum(), rtol=1e-9, atol=1e-9, err_msg="wrong result")
    assert 0 < positive[0] < 768


def check_ring(planted: Planted, h: int = 11) -> None:
    x = RNG.standard_normal((h, 64), np.float32)
    y = poisoned(x.shape)
    planted("ring", x, y, h)
    np.testing.assert_array_equal(y, x + np.pad(x[:, 1:], ((0, 0), (0, 1))), "wrong result")


def check_all(planted: Planted) -> None:
    check_bias(planted)
    check_bias(planted, 24, vector=True)
    check_norm(planted)
    check_norm(planted, 2, 40)
    check_fir(planted)
    check_fir(planted, 2, 8, 32, 2)
    check_fir(planted, 1, 5, 5, 97)  # above 48 KiB of shared memory
    check_sum(planted)
    check_ring(planted)


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
    check = globals()[f"check_{BUGS[bug]}"]
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
        globals()[f"check_{BUGS[bug]}"](Planted(bug))


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
    run = child(f"planted = Planted({bug!r}, sanitize=True)\n{code}")
    assert run.returncode != 0 and expected in run.stderr, run.stderr[-4000:]
    if expected in ("heap-buffer-overflow", "use-after-poison"):
        assert "GK: memory error in kernel" in run.stderr  # which block, which thread


def test_correct_kernels_pass_sanitizers() -> None:
    run = child("for seed in (0, 1, 7): check_all(Planted(seed=seed, threads=1 + seed // 7, sanitize=True))")
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


def child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code, with the names of this module, in a process that has the sanitizers' runtimes preloaded."""

    def runtime(name: str) -> str:
        return subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()

    if not Path(runtime("libasan.so")).is_absolute():
        pytest.skip("g++ has no sanitizer runtimes here")
    built(True)
    env = {
        **os.environ,
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    script = "from test_cuda_emulation import *\n" + textwrap.dedent(code)
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


@pytest.mark.timeout(1800)  # builds all kernels with sanitizers: 4 minutes on 2 idle cores
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
