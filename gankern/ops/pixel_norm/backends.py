"""The implementations of pixel_norm, its backward and its double backward: allocation and the dispatch tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._backends import kernel, kernel_table
from gankern._layout import empty_like
from gankern.ops.pixel_norm import configs
from gankern.ops.pixel_norm.reference import backward_composed, double_backward_composed, pixel_norm_composed


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def double_backward_outputs(x: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised (d_dy, d_x); an empty tensor for what ``mask`` does not want."""
    return empty_like(x) if mask[0] else x.new_empty(0), empty_like(x) if mask[1] else x.new_empty(0)


# ---- kernels: all backends have the same calls ------------------------------------------------------------------------------
def geometry(x: Tensor, dim: int) -> tuple[int, int, int]:
    """(outer, channels, inner) of ``dim`` in the memory of a dense tensor with the layout of ``x``."""
    order = [0, 2, 3, 1] if _layout.memory_format(x) == torch.channels_last else list(range(x.dim()))
    sizes = [x.shape[d] for d in order]
    at = order.index(dim)
    return math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])


def _call(
    backend: str, name: str, x: Tensor, inputs: tuple[Tensor, ...], outputs: tuple[Any, ...], dim: int, eps: float
) -> None:
    g = geometry(x, dim)
    dense = [t.contiguous(memory_format=_layout.memory_format(x)) for t in (*inputs, x)]
    kernel("pixel_norm", backend, name)(*dense, *outputs, *g, eps, configs.chunk(*g))


def _forward(backend: str) -> Any:
    def run(x: Tensor, dim: int, eps: float) -> Tensor:
        y = empty_like(x)
        if x.numel():
            _call(backend, "pixel_norm", x, (), (y,), dim, eps)
        return y

    return run


def _backward(backend: str) -> Any:
    def run(dy: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
        dx = empty_like(x)
        if x.numel():
            _call(backend, "pixel_norm_backward", x, (dy,), (dx,), dim, eps)
        return dx

    return run


def _double_backward(backend: str) -> Any:
    def run(u: Tensor, dy: Tensor, x: Tensor, dim: int, eps: float, mask: Any) -> tuple[Tensor, Tensor]:
        d_dy, d_x = double_backward_outputs(x, mask)
        if x.numel():
            if mask[1]:
                _call(backend, "pixel_norm_double_backward", x, (u, dy), (d_dy if mask[0] else None, d_x), dim, eps)
            elif mask[0]:
                _call(backend, "pixel_norm_backward", x, (u,), (d_dy,), dim, eps)
        return d_dy, d_x

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(x: Tensor, dim: int, eps: float) -> Tensor:
    return empty_like(x).copy_(pixel_norm_composed(x, dim, eps))


def _reference_backward(dy: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
    return empty_like(x).copy_(backward_composed(dy, x, dim, eps))


def _reference_double_backward(u: Tensor, dy: Tensor, x: Tensor, dim: int, eps: float, mask: Any) -> Any:
    results = double_backward_composed(u, dy, x, dim, eps, mask)
    outputs = double_backward_outputs(x, mask)
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, mask, strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
FORWARD = kernel_table("pixel_norm", "pixel_norm", _forward, _reference_forward)
BACKWARD = kernel_table("pixel_norm_backward", "pixel_norm", _backward, _reference_backward)
DOUBLE_BACKWARD = kernel_table("pixel_norm_double_backward", "pixel_norm", _double_backward, _reference_double_backward)
