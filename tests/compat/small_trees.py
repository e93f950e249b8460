"""Small codebases written into a temporary folder, imported from there, and forgotten afterwards."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Files by their path in the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()
    return folder


@pytest.fixture(name="tree")
def tree_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes files where they can be imported from; what they import is forgotten with them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda files: write(tmp_path, files)
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path is not None and Path(path).is_relative_to(tmp_path):
            del sys.modules[name]


def derivatives(function: Callable[..., Tensor], arguments: Sequence[Any], parameters: Sequence[Tensor] = ()) -> list[Tensor]:
    """Value, gradient in the first argument, and gradients of a penalty on that, in float64."""
    given = [a.double().detach().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    tensors = [a for a in given if isinstance(a, Tensor)] + list(parameters)
    y = function(*given)
    first = torch.autograd.grad(y.sin().sum(), tensors, create_graph=True, allow_unused=True)
    penalty = sum(g.square().sum() for g in first if g is not None)
    second = torch.autograd.grad(penalty, tensors, allow_unused=True)
    return [y, *(torch.zeros(()) if g is None else g for g in (*first, *second))]


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def plain_leaky_relu(x: Tensor, b: Tensor | None = None, slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    """Bias along dimension 1, leaky ReLU, scale, from PyTorch's own."""
    if b is not None:
        x = x + b.view(1, -1, *[1] * (x.dim() - 2))
    return torch.nn.functional.leaky_relu(x, slope) * scale


def plain_upfirdn2d(x: Tensor, f: Tensor, up: Any = (1, 1), down: Any = (1, 1), pad: Any = (0, 0, 0, 0)) -> Tensor:
    """Zeros between the pixels, padding, convolution, every down-th pixel; up and down are (x, y), pad (x0, x1, y0, y1)."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, h * up[1], w * up[0])
    spread[:, :, :: up[1], :: up[0]] = x
    spread = torch.nn.functional.pad(spread, list(pad))
    kernel = f.to(x.dtype).flip(0, 1).expand(c, 1, *f.shape)
    return torch.nn.functional.conv2d(spread, kernel, groups=c)[:, :, :: down[1], :: down[0]]
