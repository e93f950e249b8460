"""The implementations of spectral_norm and its backward: PyTorch's own arithmetic in few passes over the weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import _autocast, _dispatch, _layout
from gankern._dispatch import Row, Table
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern.ops.spectral_norm.arguments import matrix, order, permuted, restored
from gankern.ops.spectral_norm.reference import backward_composed


@torch.no_grad()
def iterate(weight: Tensor, u: Tensor, v: Tensor, dim: int, count: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Advance ``u`` and ``v`` in place by ``count`` power iterations; (u, v, sigma) in the wide type, nobody else's memory.

    sigma is u^T W v. After an iteration W^T u is at hand, and the product of that with v is sigma: no further pass over W.
    """
    dtype = wide(weight.dtype)
    axes = order(weight, dim)
    with _autocast.suspended(weight.device):
        m = matrix(weight.detach(), axes).to(dtype)
        left, right = u.detach().to(dtype, copy=True), permuted(v.detach().to(dtype, copy=True), weight.shape, axes)
        back = None
        for _ in range(count):
            left = F.normalize(m.mv(right), dim=0, eps=eps)
            back = m.t().mv(left)
            right = F.normalize(back, dim=0, eps=eps)
            if u.dtype != dtype or v.dtype != dtype:  # the next product sees what the buffers can hold
                left, right, back = left.to(u.dtype).to(dtype), right.to(v.dtype).to(dtype), None
        v_own = restored(right, weight.shape, axes)
        if count:
            u.copy_(left), v.copy_(v_own)
        sigma = left.dot(m.mv(right)) if back is None else back.dot(right)
    return left, v_own, sigma


def _forward(weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int) -> Tensor:
    y = empty_like(weight)
    if weight.dtype == sigma.dtype:
        return torch.div(weight, sigma, out=y)
    return y.copy_(weight.to(sigma.dtype).div_(sigma))


def _backward(dy: Tensor, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int, mask: Any) -> Tensor:
    axes = order(weight, dim)
    with _autocast.suspended(weight.device):
        m, g = (matrix(t, axes).to(sigma.dtype) for t in (weight, dy))
        share = g.reshape(-1).dot(m.reshape(-1)) / sigma
        dw = torch.addr(g, u * -share, permuted(v, weight.shape, axes)).div_(sigma)
    shape = [weight.shape[d] for d in axes]
    back = dw.view(shape).permute([axes.index(d) for d in range(len(axes))]).to(weight.dtype)
    fmt = _layout.memory_format(weight) if weight.dim() == 4 else torch.contiguous_format
    return back.contiguous(memory_format=fmt)


def _reference_forward(weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int) -> Tensor:
    return empty_like(weight).copy_(weight.to(sigma.dtype) / sigma)


def _reference_backward(dy: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return empty_like(weight).copy_(backward_composed(dy, weight, *rest)[0])


def small(weight: Tensor, u: Tensor, v: Tensor) -> bool:
    """Whether :func:`of_small` takes them: a small weight, which four passes go over, and buffers of its dtype."""
    return (
        _dispatch.small(weight, 4)
        and type(u) is type(v) is Tensor
        and u.dtype is v.dtype is weight.dtype
        and not (u.requires_grad or v.requires_grad)
    )


def of_small(weight: Tensor, u: Tensor, v: Tensor, dim: int, count: int, eps: float) -> Tensor:
    """The definition in as few steps as there are, of any order of differentiation, for weights that take no time themselves.

    sigma = (W^T u) . v with the product at hand that the last iteration makes v from. For autograd u and v are constants, so
    that the derivative of sigma in W is u v^T.
    """
    m = weight.flatten(1) if dim == 0 else matrix(weight, order(weight, dim))
    left, right = u.detach(), v.detach()
    if count == 0:
        left, right = left.clone(), right.clone()  # a later call may change them before this one's backward
        return weight / m.t().mv(left).dot(right)
    plain = m.detach()
    for i in range(count):
        left = plain.mv(right)
        left = left.div_(torch.linalg.vector_norm(left).clamp_min_(eps))
        back = (m if i == count - 1 else plain).t().mv(left)
        right = back.detach()
        right = right / torch.linalg.vector_norm(right).clamp_min_(eps)
    u.copy_(left), v.copy_(right)
    return weight / back.dot(right)


def _always(*_: Any) -> None:
    return None


FORWARD = Table("spectral_norm", [Row("aten", _always, _forward), Row("reference", _always, _reference_forward)])
BACKWARD = Table("spectral_norm_backward", [Row("aten", _always, _backward), Row("reference", _always, _reference_backward)])
