"""spectral_norm and its derivative, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import _autocast
from gankern._dtypes import wide
from gankern.ops.spectral_norm.arguments import matrix, prepare


def spectral_norm_reference(
    weight: Tensor, u: Tensor, v: Tensor, dim: int = 0, n_power_iterations: int = 1, eps: float = 1e-12
) -> Tensor:
    """Reference of :func:`gankern.ops.spectral_norm`: same arguments, same result, composed of PyTorch's own operators."""
    weight, u, v, dim, n_power_iterations, eps = prepare(weight, u, v, dim, n_power_iterations, eps)
    dtype = wide(weight.dtype)
    axes = _axes(weight, dim)
    with _autocast.suspended(weight.device):
        m = matrix(weight, axes).to(dtype)
        with torch.no_grad():
            for _ in range(n_power_iterations):
                u.copy_(F.normalize(m.mv(v.to(dtype)), dim=0, eps=eps))
                v.copy_(F.normalize(m.t().mv(u.to(dtype)), dim=0, eps=eps))
        # Copies: a later call may change u and v before this one's backward.
        sigma = u.detach().to(dtype, copy=True).dot(m.mv(v.detach().to(dtype, copy=True)))
        return (weight.to(dtype) / sigma).to(weight.dtype)


def _axes(weight: Tensor, dim: int) -> list[int]:
    return [dim, *(d for d in range(weight.dim()) if d != dim)]


def backward_composed(
    dy: Tensor, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int, mask: list[bool]
) -> tuple[Tensor]:
    """The gradient in ``weight`` of weight / sigma with sigma = u^T W v, of which there is always one to want.

    It is (dy - <dy, W> / sigma * u v^T) / sigma. ``sigma`` is the number; for derivatives of this it is made again.
    """
    dtype = wide(weight.dtype)
    axes = _axes(weight, dim)
    with _autocast.suspended(weight.device):
        m, g = matrix(weight, axes).to(dtype), matrix(dy, axes).to(dtype)
        norm = u.dot(m.mv(v))
        dw = (g - ((g * m).sum() / norm) * (u[:, None] * v)) / norm
    shape = [weight.shape[d] for d in axes]
    return (dw.view(shape).permute([axes.index(d) for d in range(len(axes))]).to(weight.dtype),)
