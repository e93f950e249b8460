"""grad_norm_penalty and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankern._dtypes import wide
from gankern.ops.grad_norm_penalty.arguments import prepare


def grad_norm_penalty_reference(grad: Tensor, center: float = 0.0, weight: float = 1.0) -> Tensor:
    """Reference of :func:`gankern.ops.grad_norm_penalty`: same arguments, same result, composed of PyTorch's own operators."""
    grad, center, weight = prepare(grad, center, weight)
    return penalty_of(squares_of(grad), center, weight)


def _samples(t: Tensor) -> Tensor:
    """``t`` [N, ...] as [N, numbers of a sample], in the wide type."""
    return t.to(wide(t.dtype)).reshape(t.shape[0], math.prod(t.shape[1:]))


def _root(squares: Tensor) -> tuple[Tensor, Tensor]:
    """(The norm, whether it is 0), with the derivative 0 at 0 rather than an infinite one; NaN stays."""
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt()), zero


def squares_of(grad: Tensor) -> Tensor:
    """The squared norm of each sample, [N] in the wide type."""
    return _samples(grad).square().sum(1)


def penalty_of(squares: Tensor, center: float, weight: float) -> Tensor:
    """Weight * (norm - center)^2."""
    if center == 0:
        return weight * squares
    return weight * (_root(squares)[0] - center).square()


# ---- derivatives: the slope f of a sample is dgrad = dp f grad ---------------------------------------------------------------
def _slope(squares: Tensor, center: float, weight: float) -> Tensor:
    """2 weight (1 - center / norm); 0 where the norm is 0, unless center is."""
    if center == 0:
        return torch.full_like(squares, 2 * weight)
    norm, zero = _root(squares)
    return torch.where(zero, 0.0, 2 * weight * (1 - center / torch.where(zero, 1.0, norm)))


def backward_composed(dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float) -> Tensor:
    """The gradient in ``grad``: dp 2 weight (1 - center / norm) grad."""
    factor = dp * _slope(squares, center, weight)
    return (factor[:, None] * _samples(grad)).reshape(grad.shape).to(grad.dtype)


def double_backward_composed(
    u: Tensor, dp: Tensor, grad: Tensor, squares: Tensor | None, center: float, weight: float, mask: list[bool]
) -> tuple[Tensor, Tensor]:
    """Derivative of <dgrad, u> as (d_dp, d_grad), an empty tensor for what ``mask`` does not want.

    With the slope f and the norm r: d_dp = f <grad, u> and d_grad = dp [f u + 2 weight center <grad, u> / r^3 grad]. The norm
    is taken from ``grad`` again, so that further derivatives know it as a function of that.
    """
    d_dp = d_grad = grad.new_empty(0)
    g, v = _samples(grad), _samples(u)
    squares = g.square().sum(1)
    slope, product = _slope(squares, center, weight), (g * v).sum(1)
    if mask[0]:
        d_dp = slope * product
    if mask[1]:
        d_grad = (dp * slope)[:, None] * v
        if center != 0:
            norm, zero = _root(squares)
            safe = torch.where(zero, 1.0, norm)
            along = torch.where(zero, 0.0, 2 * weight * center / safe * (product / safe.square()))
            d_grad = d_grad + (dp * along)[:, None] * g
        d_grad = d_grad.reshape(grad.shape).to(grad.dtype)
    return d_dp, d_grad
