"""adain, its relatives and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern._activations import activation_funcs, curvature, slope
from gankern._dtypes import wide
from gankern.ops.adain.arguments import affine, check_eps, features, prepare


def adain_reference(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    *,
    pre_noise: Tensor | None = None,
    pre_bias: Tensor | None = None,
    pre_act: str = "linear",
) -> Tensor:
    """Reference of :func:`gankern.ops.adain`: same arguments, same result, composed of PyTorch's own operators."""
    return adain_composed(
        *prepare(x, scale, shift, eps, act, alpha, gain, pre_noise=pre_noise, pre_bias=pre_bias, pre_act=pre_act)
    )


def instance_norm_reference(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
) -> Tensor:
    """Reference of :func:`gankern.ops.instance_norm`."""
    return adain_reference(x, *affine(x, weight, bias), eps, act, alpha, gain)


def style_factors(style: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each plane of ``style``, in the wide type: [N, C]."""
    eps = check_eps("adain_from_features", eps)
    style = style.to(wide(style.dtype))
    mean = style.mean((2, 3), keepdim=True)
    return ((style - mean).square().mean((2, 3)) + eps).sqrt(), mean[:, :, 0, 0]


def adain_from_features_reference(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Reference of :func:`gankern.ops.adain_from_features`."""
    features(content, style)
    return adain_reference(content, *style_factors(style, eps), eps)


def over_planes(factor: Tensor) -> Tensor:
    """[N, C] or [N, C, H, W], ready to be multiplied with images."""
    return factor if factor.dim() == 4 else factor[:, :, None, None]


def pre_activation(x: Tensor, noise: Tensor | None, b: Tensor | None) -> Tensor:
    """Q = x + noise + b in the dtype of ``x``."""
    if noise is not None:
        x = x + noise.to(x.dtype)
    return x if b is None else x + b.to(x.dtype)[:, None, None]


def adain_composed(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    pre_act: str,
    pre_alpha: float,
    eps: float,
) -> Tensor:
    """The same on prepared arguments.

    Not by PyTorch's instance_norm: its third derivative takes the statistics for constants. This is no slower on the whole.
    """
    v = activation_funcs[pre_act].function(pre_activation(x, noise, b), pre_alpha)
    centred, r = centred_planes(v, eps)
    if scale is None:
        y = centred * r
    elif scale.dim() == 4:
        y = centred * r * scale
    else:
        y = centred * (r * over_planes(scale).to(x.dtype))
    if shift is not None:
        y = y + over_planes(shift).to(x.dtype)
    y = activation_funcs[act].function(y, alpha)
    return y if gain == 1 else y * gain


def centred_planes(v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """V less the mean of its plane, and one over the standard deviation."""
    centred = v - v.mean((2, 3), keepdim=True)
    return centred, (centred.square().mean((2, 3), keepdim=True) + eps).rsqrt()


# ---- derivatives ----------------------------------------------------------------------------------------------------------
# Of prepared arguments, in the wide type. mean and rstd, which kernels are given, are computed anew here: these formulas are
# differentiated once more for the third order.
class _Parts(NamedTuple):
    """What both derivatives begin with."""

    q: Tensor
    n: Tensor
    r: Tensor
    a: Tensor
    s: Tensor | float


def _parts(x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, pre_act: str, pre_alpha: float, eps: float) -> _Parts:
    dtype = wide(x.dtype)
    q = pre_activation(x.to(dtype), noise, b)
    v = activation_funcs[pre_act].function(q, pre_alpha)
    centred, r = centred_planes(v, eps)
    n = centred * r
    s = 1.0 if scale is None else over_planes(scale).to(dtype)
    a = n * s
    return _Parts(q, n, r, a if shift is None else a + over_planes(shift).to(dtype), s)


def _mean(t: Tensor) -> Tensor:
    return t.mean((2, 3), keepdim=True)


def _project(t: Tensor, n: Tensor) -> Tensor:
    """P(t) = t - mean(t) - n mean(t n): for a fixed n linear and symmetric."""
    return t - _mean(t) - n * _mean(t * n)


def _as_factor(per_pixel: Tensor, spatial: bool, dtype: torch.dtype) -> Tensor:
    """The gradient of a factor from its value at each pixel."""
    return per_pixel.to(dtype) if spatial else per_pixel.sum((2, 3))


def backward_composed(
    dy: Tensor, x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, mean: Tensor, rstd: Tensor,
    act: str, alpha: float, gain: float, pre_act: str, pre_alpha: float, eps: float, spatial: bool, mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(dx, dscale, dshift, dnoise, db) for the wanted ones of ``mask``, an empty tensor for the others.

    dscale and dshift are images if ``spatial``, else [N, C] in the wide type; dnoise is [N, 1, H, W] and db [C].
    """
    q, n, r, a, s = _parts(x, scale, shift, noise, b, pre_act, pre_alpha, eps)
    g = dy.to(q.dtype) * slope(None, a, act, alpha, gain, -1.0)
    dq = r * _project(g * s, n) * slope(None, q, pre_act, pre_alpha, 1.0, -1.0)
    empty = dy.new_empty(0)
    return (
        dq.to(dy.dtype) if mask[0] else empty,
        _as_factor(g * n, spatial, dy.dtype) if mask[1] else empty,
        _as_factor(g, spatial, dy.dtype) if mask[2] else empty,
        dq.sum(1, keepdim=True) if mask[3] else empty,
        dq.sum((0, 2, 3)) if mask[4] else empty,
    )


def double_backward_composed(
    u: Any, u_scale: Any, u_shift: Any, u_noise: Any, u_b: Any,
    dy: Tensor, x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, mean: Tensor, rstd: Tensor,
    act: str, alpha: float, gain: float, pre_act: str, pre_alpha: float, eps: float, spatial: bool, mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Derivative of <dx, u> + <dscale, u_scale> + <dshift, u_shift> + <dnoise, u_noise> + <db, u_b>.

    As (d_dy, d_x, d_scale, d_shift, d_noise, d_b); empty tensors for what ``mask`` does not want. See README.md.
    """
    q, n, r, a, s = _parts(x, scale, shift, noise, b, pre_act, pre_alpha, eps)
    dtype, empty = q.dtype, dy.new_empty(0)
    f1 = slope(None, a, act, alpha, gain, -1.0)
    g = dy.to(dtype) * f1
    d = g * s
    p1 = slope(None, q, pre_act, pre_alpha, 1.0, -1.0)
    total = torch.zeros_like(q)
    for part in (u, u_noise, None if u_b is None else u_b[:, None, None]):
        total = total if part is None else total + part.to(dtype)
    w = total * p1
    us = 0.0 if u_scale is None else over_planes(u_scale).to(dtype)
    ut = 0.0 if u_shift is None else over_planes(u_shift).to(dtype)
    pw = _project(w, n)
    h = s * r * pw + us * n + ut
    k: Any = h * dy.to(dtype) * curvature(None, a, act, gain, -1.0) if activation_funcs[act].curved else torch.zeros_like(h)
    pd = _project(d, n)
    dn = k * s + g * us - r * (w * _mean(d * n) + d * _mean(w * n))
    dv = r * _project(dn, n) - r * r * n * _mean(w * pd)
    dq = dv * p1
    if activation_funcs[pre_act].curved:
        dq = dq + total * r * pd * curvature(None, q, pre_act, 1.0, -1.0)
    return (
        (h * f1).to(dy.dtype) if mask[0] else empty,
        dq.to(dy.dtype) if mask[1] else empty,
        _as_factor(k * n + g * r * pw, spatial, dy.dtype) if mask[2] else empty,
        _as_factor(k, spatial, dy.dtype) if mask[3] else empty,
        dq.sum(1, keepdim=True) if mask[4] else empty,
        dq.sum((0, 2, 3)) if mask[5] else empty,
    )
