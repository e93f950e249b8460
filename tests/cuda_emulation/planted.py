"""The kernels of planted.cu, each with a mistake on purpose or none, and what they should compute. Without torch, which takes
seconds to import under the sanitizers."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "planted.cu"
BUGS = dict(re.findall(r"^  k(\w+),\s*//\s*(\w+):", SOURCE.read_text(), re.MULTILINE))  # name -> the kernel that has it
NUMBERS = {name: i for i, name in enumerate(re.findall(r"^  k(\w+),", SOURCE.read_text(), re.MULTILINE))}
RNG = np.random.default_rng(1)
LIBRARY = "GANKERN_PLANTED_LIBRARY"
"""The environment variable that names the library in a process that shall not build it (building imports torch)."""


class Planted:
    """The kernels of planted.cu with one bug, or none."""

    def __init__(self, bug: str = "None", seed: int = 0, threads: int = 1, sanitize: bool = False, allow_exited: bool = False):
        self.library = ctypes.CDLL(os.environ.get(LIBRARY) or str(built(sanitize)))
        self.library.gk_emu_message.restype = ctypes.c_char_p
        self.library.gk_emu_config(threads, ctypes.c_ulonglong(seed), int(allow_exited))
        self.library.plant(NUMBERS[bug])

    def __call__(self, name: str, *args: Any) -> None:
        values = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in args]
        if getattr(self.library, f"run_{name}")(*values):
            raise RuntimeError(self.library.gk_emu_message().decode())


def built(sanitize: bool = False, *extra: str) -> Path:
    """planted.cu as a library, from the cache if nothing it is made of has changed."""
    from cuda_emulation import harness

    inputs = [SOURCE, HERE / "cuda_on_cpu.h", *sorted((harness.CSRC / "common").glob("*")), Path(harness.__file__)]
    key = hashlib.sha256(b"".join(p.read_bytes() for p in inputs) + " ".join(extra).encode()).hexdigest()[:16]
    target = harness.cache_folder() / f"planted_{key}{'_sanitized' if sanitize else ''}.so"
    with harness.one_at_a_time(target) as wanted:
        if wanted:
            part = target.with_suffix(".part")
            harness.compile_kernels([SOURCE], part, sanitize, ("-shared", *extra))
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
