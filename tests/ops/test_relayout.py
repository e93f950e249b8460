"""Images from one layout into the other: alone, and on the way through modulate."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import gankern
from gankern.ops.modulate import modulate, relayout

NCHW, LAST = torch.contiguous_format, torch.channels_last
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Around a vector's lanes (4 to 16) and the 64 lines taken together; one of each; planes and channels that are no multiple.
SHAPES = [
    (2, 16, 8, 8),
    (1, 17, 5, 13),
    (2, 64, 8, 8),
    (1, 65, 3, 43),
    (3, 3, 33, 2),
    (2, 1, 4, 5),
    (2, 5, 1, 1),
    (1, 130, 9, 7),
    (0, 3, 4, 4),
]
# Sums of three terms, in whatever order; one rounding of a half type.
LIMIT = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
FORMATS = pytest.mark.parametrize("fmt", (NCHW, LAST), ids=("to_nchw", "to_channels_last"))


def image(shape: tuple[int, ...], dtype: torch.dtype, fmt: torch.memory_format) -> Tensor:
    """Random numbers in the other layout than ``fmt``."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.contiguous(memory_format=NCHW if fmt == LAST else LAST)


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_number_arrives(shape: tuple[int, ...], dtype: torch.dtype, fmt: torch.memory_format) -> None:
    x = image(shape, dtype, fmt)
    y = relayout(x, fmt)
    assert y.is_contiguous(memory_format=fmt) and y.dtype == dtype
    assert torch.equal(x, y)
    assert relayout(y, fmt) is y


def test_any_strides() -> None:
    x = torch.randn(3, 8, 10, 12)[:, ::2, 1:, :-1]
    assert torch.equal(relayout(x, LAST), x) and torch.equal(relayout(x, NCHW), x)


@FORMATS
@pytest.mark.parametrize("act", ("linear", "lrelu", "tanh"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modulate_into_the_other_layout(dtype: torch.dtype, act: str, fmt: torch.memory_format) -> None:
    """As modulate in one layout."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for shape in SHAPES:
        n, c, h, w = shape
        x = image(shape, dtype, fmt)
        scale, noise, b = torch.randn(n, c, dtype=wide), torch.randn(n, 1, h, w, dtype=wide), torch.randn(c, dtype=wide)
        y = torch.full_like(x, float("nan")).contiguous(memory_format=fmt)
        torch.ops.gankern.modulate_into.default(x, scale, noise, b, act, 0.2, 1.5, 0.75, y)
        expected = modulate(x.contiguous(memory_format=fmt), scale, noise, b, act, 0.2, 1.5, 0.75)
        torch.testing.assert_close(y, expected, rtol=LIMIT[dtype], atol=LIMIT[dtype])


def test_gradients_of_any_order() -> None:
    x = image((2, 3, 4, 5), torch.float64, LAST).requires_grad_()

    def cubed(x: Tensor) -> Tensor:
        return relayout(x * x * x, LAST)

    assert torch.autograd.gradcheck(cubed, x) and torch.autograd.gradgradcheck(cubed, x)
    (g,) = torch.autograd.grad(relayout(x, LAST).sum(), x)
    assert g.is_contiguous()


def test_opcheck_and_compile() -> None:
    x = image((2, 3, 4, 5), torch.float32, LAST)
    torch.library.opcheck(torch.ops.gankern.relayout.default, (x.clone().requires_grad_(), True))
    assert torch.equal(torch.compile(lambda x: relayout(x, LAST) * 2, fullgraph=True)(x), x * 2)


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
def test_it_is_our_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's copy is only for what is not dense."""
    calls: list[Any] = []
    native = torch.ops.gankern_native.modulate_relaid_cpu
    monkeypatch.setattr(torch.ops.gankern_native, "modulate_relaid_cpu", lambda *a: (calls.append(a), native(*a))[1])
    relayout(image((2, 3, 4, 5), torch.float32, LAST), LAST)
    assert len(calls) == 1
    relayout(torch.randn(2, 3, 4, 10)[..., ::2], LAST)
    assert len(calls) == 1


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
@pytest.mark.skipif("GANKERN_CPU_LEVEL" in os.environ, reason="this is such a process")
@pytest.mark.parametrize("level", ("baseline", "avx2"))
def test_lower_instruction_sets(level: str) -> None:
    environment = {**os.environ, "GANKERN_CPU_LEVEL": level}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "arrives or into", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
