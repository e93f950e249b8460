"""bias_act and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern._activations import activation_funcs, curvature, slope
from gankern.ops.bias_act.arguments import prepare


def bias_act_reference(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    noise: Tensor | None = None,
    noise_strength: Tensor | float | None = None,
) -> Tensor:
    """Reference of :func:`gankern.ops.bias_act`: same arguments, same result, composed of PyTorch's own operators."""
    prepared = prepare(x, b, dim, act, alpha, gain, clamp, noise=noise, noise_strength=noise_strength)
    return bias_act_composed(*prepared)


def pre_activation(x: Tensor, b: Tensor | None, noise: Tensor | None, dim: int) -> Tensor:
    """The pre-activation v = x + noise + b."""
    if noise is not None:
        x = x + noise
    return x if b is None else x + b.reshape([-1 if i == dim else 1 for i in range(x.dim())])


def bias_act_composed(
    x: Tensor, b: Tensor | None, noise: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float
) -> Tensor:
    """The same on prepared arguments."""
    y = activation_funcs[act].function(pre_activation(x, b, noise, dim), alpha)
    if gain != 1:
        y = y * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y


# ---- derivatives in terms of what is saved ------------------------------------------------------------------------------
def backward_composed(
    dy: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    b: Tensor | None,
    noise: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, db, dnoise) for the wanted ones of ``mask``, an empty tensor for the others; dnoise is [N, 1, H, W]."""
    empty = dy.new_empty(0)
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    v = None if x is None else pre_activation(x, b, noise, dim).to(wide)
    g = dy.to(wide) * slope(None if y is None else y.to(wide), v, act, alpha, gain, clamp)
    axes = [i for i in range(dy.dim()) if i != dim]
    db = (g.sum(axes) if axes else g).to(dy.dtype) if mask[1] else empty
    dnoise = g.sum(1, keepdim=True).to(dy.dtype) if mask[2] else empty
    return (g.to(dy.dtype) if mask[0] else empty), db, dnoise


def double_backward_composed(
    u: Tensor | None,
    u_b: Tensor | None,
    u_noise: Tensor | None,
    dy: Tensor,
    y: Tensor | None,
    x: Tensor | None,
    b: Tensor | None,
    noise: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor]:
    """Derivative of <dx, u> + <db, u_b> + <dnoise, u_noise> in dy and in what was saved (y, or x by way of v).

    With U = u + u_b + u_noise, broadcast: dy gets U * s and the saved tensor gets U * dy * s', where s is ``slope`` and
    s' its derivative in y (or v). Empty tensors for what ``mask`` does not want.
    """
    empty = dy.new_empty(0)
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    parts = []
    if u is not None:
        parts.append(u.to(wide))
    if u_b is not None:
        parts.append(u_b.to(wide).reshape([-1 if i == dim else 1 for i in range(dy.dim())]))
    if u_noise is not None:
        parts.append(u_noise.to(wide))
    total = sum(parts[1:], parts[0]).expand(dy.shape)
    v = None if x is None else pre_activation(x, b, noise, dim).to(wide)
    wide_y = None if y is None else y.to(wide)
    d_dy = (total * slope(wide_y, v, act, alpha, gain, clamp)).to(dy.dtype).expand(dy.shape) if mask[0] else empty
    d_saved = (total * dy.to(wide) * curvature(wide_y, v, act, gain, clamp)).to(dy.dtype) if mask[1] else empty
    return d_dy, d_saved
