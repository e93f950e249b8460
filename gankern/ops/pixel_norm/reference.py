"""pixel_norm and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

from torch import Tensor

from gankern._dtypes import wide
from gankern.ops.pixel_norm.arguments import prepare


def pixel_norm_reference(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Reference of :func:`gankern.ops.pixel_norm`: same arguments, same result, composed of PyTorch's own operators."""
    return pixel_norm_composed(*prepare(x, dim, eps))


def _rms_inverse(v: Tensor, dim: int, eps: float) -> Tensor:
    return (v.square().mean(dim, keepdim=True) + eps).rsqrt()


def pixel_norm_composed(x: Tensor, dim: int, eps: float) -> Tensor:
    """The same on prepared arguments."""
    v = x.to(wide(x.dtype))
    return (v * _rms_inverse(v, dim, eps)).to(x.dtype)


def backward_composed(dy: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
    """The gradient in ``x``: r dy - r^3 mean(x dy) x with r = (mean(x x) + eps)^(-1/2)."""
    v, g = x.to(wide(x.dtype)), dy.to(wide(x.dtype))
    r = _rms_inverse(v, dim, eps)
    return (r * (g - v * (r.square() * (v * g).mean(dim, keepdim=True)))).to(x.dtype)


def double_backward_composed(u: Tensor, dy: Tensor, x: Tensor, dim: int, eps: float, mask: list[bool]) -> tuple[Tensor, Tensor]:
    """Derivative of <dx, u> as (d_dy, d_x), an empty tensor for what ``mask`` does not want.

    With means over ``dim``: d_dy = r u - r^3 mean(x u) x, for the Jacobian is symmetric, and
    d_x = -r^3 [mean(x u) dy + mean(x dy) u + (mean(dy u) - 3 r^2 mean(x dy) mean(x u)) x].
    """
    d_dy = d_x = x.new_empty(0)
    if mask[0]:
        d_dy = backward_composed(u, x, dim, eps)
    if mask[1]:
        v, g, w = (t.to(wide(x.dtype)) for t in (x, dy, u))
        r = _rms_inverse(v, dim, eps)
        x_dy, x_u, dy_u = (t.mean(dim, keepdim=True) for t in (v * g, v * w, g * w))
        d_x = (-r.pow(3) * (x_u * g + x_dy * w + (dy_u - 3 * r.square() * x_dy * x_u) * v)).to(x.dtype)
    return d_dy, d_x
