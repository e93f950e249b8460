"""modulate and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern._activations import activation_funcs, curvature, slope
from gankern._dtypes import wide
from gankern.ops.modulate.arguments import prepare


def modulate_reference(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Reference of :func:`gankern.ops.modulate`: same arguments, same result, composed of PyTorch's own operators."""
    return modulate_composed(*prepare(x, scale, noise, b, act, alpha, gain, clamp))


def pre_activation(x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None) -> Tensor:
    """V = x * scale + noise + b in the dtype of ``x``."""
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    if noise is not None:
        x = x + noise.to(x.dtype)
    return x if b is None else x + b.to(x.dtype)[:, None, None]


def modulate_composed(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """The same on prepared arguments."""
    y = activation_funcs[act].function(pre_activation(x, scale, noise, b), alpha)
    if gain != 1:
        y = y * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y


# ---- derivatives in terms of what is saved ------------------------------------------------------------------------------
def _widened(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if t is None else t.to(wide(dtype))


def _saved(
    y: Tensor | None, x: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What the slope is taken from, as (y, v), in the wide type: y if it is there, else v."""
    if y is not None:
        return _widened(y, y.dtype), None
    return None, None if x is None else pre_activation(x.to(wide(x.dtype)), scale, noise, b)


def backward_composed(
    dy: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dscale, dnoise, db) for the wanted ones of ``mask``, an empty tensor for the others.

    dscale is [N, C], dnoise [N, 1, H, W] and db [C] in the wide type. ``x`` is needed for dscale.
    """
    empty = dy.new_empty(0)
    g = dy.to(wide(dy.dtype)) * slope(*_saved(y, x, scale, noise, b), act, alpha, gain, clamp)
    dx = dscale = dnoise = db = empty
    if mask[0]:
        dx = (g if scale is None else g * scale[:, :, None, None]).to(dy.dtype)
    if mask[1]:
        assert x is not None
        dscale = (g * x).sum((2, 3))
    if mask[2]:
        dnoise = g.sum(1, keepdim=True)
    if mask[3]:
        db = g.sum((0, 2, 3))
    return dx, dscale, dnoise, db


def double_backward_composed(
    u: Tensor | None,
    u_scale: Tensor | None,
    u_noise: Tensor | None,
    u_b: Tensor | None,
    dy: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of <dx, u> + <dscale, u_scale> + <dnoise, u_noise> + <db, u_b>, as (d_dy, d_saved, d_x, d_scale).

    That sum is <dy * s, U> with U = u * scale + u_scale * x + u_noise + u_b, broadcast, and the slope s. Its derivatives are
    U * s in dy; U * dy * s' in what the slope is taken from (y, or v where y is not given); and, with G = dy * s, directly
    u_scale * G in x and the sum of u * G over pixels in scale. Empty tensors for what ``mask`` does not want.
    """
    empty = dy.new_empty(0)
    dtype = wide(dy.dtype)
    parts = []
    if u is not None:
        parts.append(u.to(dtype) if scale is None else u.to(dtype) * scale[:, :, None, None])
    if u_scale is not None:
        assert x is not None
        parts.append(u_scale[:, :, None, None] * x.to(dtype))
    if u_noise is not None:
        parts.append(u_noise)
    if u_b is not None:
        parts.append(u_b[:, None, None])
    total = sum(parts[1:], parts[0]).expand(dy.shape)
    saved = _saved(y, x, scale, noise, b)
    s = slope(*saved, act, alpha, gain, clamp)
    d_dy = d_saved = d_x = d_scale = empty
    if mask[0]:
        d_dy = (total * s).to(dy.dtype)
    if mask[1]:
        d_saved = (total * dy.to(dtype) * curvature(*saved, act, gain, clamp)).to(dy.dtype)
    if mask[2]:
        assert u_scale is not None
        d_x = (u_scale[:, :, None, None] * (dy.to(dtype) * s)).to(dy.dtype)
    if mask[3]:
        assert u is not None
        d_scale = (u.to(dtype) * (dy.to(dtype) * s)).sum((2, 3))
    return d_dy, d_saved, d_x, d_scale
