"""The implementations of grad_norm_penalty, its backward and its double backward: allocation and the dispatch tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._backends import kernel, kernel_table
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern.ops.grad_norm_penalty import configs
from gankern.ops.grad_norm_penalty.reference import backward_composed, double_backward_composed, penalty_of, squares_of


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def _numbers(grad: Tensor, wanted: bool = True) -> Tensor:
    return grad.new_empty(grad.shape[0] if wanted else 0, dtype=wide(grad.dtype))


def outputs(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised (penalties, squared norms), [N] in the wide type."""
    return _numbers(grad), _numbers(grad)


def double_backward_outputs(grad: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised (d_dp, d_grad); an empty tensor for what ``mask`` does not want."""
    return _numbers(grad, mask[0]), empty_like(grad) if mask[1] else grad.new_empty(0)


# ---- kernels: all backends have the same calls ------------------------------------------------------------------------------
def _dense(t: Tensor, like: Tensor) -> Tensor:
    """``t`` dense in the layout of ``like``, copied only if it is not so already."""
    return t.contiguous(memory_format=_layout.memory_format(like))


def _pieces(backend: str, grad: Tensor) -> tuple[int, Tensor]:
    """Elements of a piece, and a number for each piece of each sample."""
    n, inner = grad.shape[0], math.prod(grad.shape[1:])
    chunk = configs.chunk(backend, n, inner)
    return chunk, grad.new_empty(n, -(-inner // chunk), dtype=wide(grad.dtype))


def _forward(backend: str) -> Any:
    def run(grad: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
        p, squares = outputs(grad)
        if grad.numel() == 0:
            # fill_ refuses a number that overflows the type; copy_ makes it infinite, as the kernels do.
            of_empty = torch.tensor(weight * center * center, dtype=torch.float64, device="cpu")
            return p.copy_(of_empty), squares.zero_()
        chunk, partial = _pieces(backend, grad)
        kernel("grad_norm_penalty", backend, "grad_norm_penalty")(
            _dense(grad, grad), partial, squares, p, center, weight, chunk
        )
        return p, squares

    return run


def _backward(backend: str) -> Any:
    def run(dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float) -> Tensor:
        dgrad = empty_like(grad)
        if grad.numel():
            chunk = configs.chunk(backend, grad.shape[0], math.prod(grad.shape[1:]))
            kernel("grad_norm_penalty", backend, "grad_norm_penalty_backward")(
                dp.contiguous(), _dense(grad, grad), squares.contiguous(), dgrad, center, weight, chunk
            )
        return dgrad

    return run


def _double_backward(backend: str) -> Any:
    def run(
        u: Tensor, dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float, mask: Any
    ) -> tuple[Tensor, Tensor]:
        d_dp, d_grad = double_backward_outputs(grad, mask)
        if grad.numel() == 0:
            return d_dp.zero_(), d_grad
        chunk, partial = _pieces(backend, grad)
        product = mask[0] or center != 0  # around 0 the gradient is linear in grad
        kernel("grad_norm_penalty", backend, "grad_norm_penalty_double_backward")(
            _dense(u, grad), dp.contiguous(), _dense(grad, grad), squares.contiguous(),
            partial if product else None, _numbers(grad) if product else None,
            d_dp if mask[0] else None, d_grad if mask[1] else None, center, weight, chunk,
        )  # fmt: skip
        return d_dp, d_grad

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(grad: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    squares = squares_of(grad)
    p = penalty_of(squares, center, weight)
    return p, squares


def _reference_backward(dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float) -> Tensor:
    return empty_like(grad).copy_(backward_composed(dp, grad, squares, center, weight))


def _reference_double_backward(
    u: Tensor, dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float, mask: Any
) -> tuple[Tensor, ...]:
    results = double_backward_composed(u, dp, grad, squares, center, weight, mask)
    made = double_backward_outputs(grad, mask)
    return tuple(o.copy_(r) if w else o for o, r, w in zip(made, results, mask, strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
FORWARD = kernel_table("grad_norm_penalty", "grad_norm_penalty", _forward, _reference_forward)
BACKWARD = kernel_table("grad_norm_penalty_backward", "grad_norm_penalty", _backward, _reference_backward)
DOUBLE_BACKWARD = kernel_table(
    "grad_norm_penalty_double_backward", "grad_norm_penalty", _double_backward, _reference_double_backward
)
