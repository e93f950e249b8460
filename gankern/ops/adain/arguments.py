"""Arguments of adain and its relatives: the forms that users may give, and their checks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gankern import _validate
from gankern._activations import activation_funcs, settings
from gankern._dtypes import wide

OP = "adain"
Prepared = tuple[
    Tensor, "Tensor | None", "Tensor | None", "Tensor | None", "Tensor | None", str, float, float, str, float, float
]


def planes(op: str, name: str, value: Any) -> None:
    """Require images whose planes have a variance: [N, C, H, W] with more than one pixel."""
    _validate.tensor4(op, name, value)
    if value.shape[2] * value.shape[3] < 2:
        raise ValueError(
            f"{op}: {name} must have planes of at least 2 pixels, for one has no variance, got {list(value.shape)}"
        )


def check_eps(op: str, eps: Any) -> float:
    """``eps`` as a positive number."""
    number = _validate.number(op, "eps", eps)
    if number <= 0:
        raise ValueError(f"{op}: eps must be positive, got {eps!r}")
    return number


def _factor(op: str, x: Tensor, name: str, value: Any) -> Tensor | None:
    """[N, C] in the wide type, or [N, C, H, W] in the dtype of ``x``; one row or image may serve all samples."""
    if value is None:
        return None
    _validate.companion(op, x, name, value)
    n, c, h, w = x.shape
    for shape in ([n, c], [n, c, 1, 1], [n, c, h, w]):
        if list(value.shape) in (shape, [1, *shape[1:]]):
            if shape[2:] == [h, w]:
                return value.to(x.dtype).expand(n, c, h, w)
            return value.reshape(value.shape[0], c).to(wide(x.dtype)).expand(n, c).contiguous()
    raise ValueError(
        f"{op}: {name} must have shape [N, C] = [{n}, {c}] or [N, C, H, W] = {[n, c, h, w]} (N may be 1: for all samples), "
        f"got {list(value.shape)}"
    )


def prepare(
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
) -> Prepared:
    """Check the public arguments of adain and give the registered operator's.

    Those are (x, scale, shift, noise, b, act, alpha, gain, pre_act, pre_alpha, eps): scale and shift both [N, C] in the wide
    type or both images like x (or None), noise [N or 1, 1, H, W] and b [C] contiguous and in the wide type, defaults filled in.
    """
    planes(OP, "x", x)
    scale, shift = _factor(OP, x, "scale", scale), _factor(OP, x, "shift", shift)
    if scale is not None and shift is not None and scale.dim() != shift.dim():
        scale, shift = (t if t.dim() == 4 else t.to(x.dtype)[:, :, None, None].expand(x.shape) for t in (scale, shift))
    noise = b = None
    if pre_noise is not None:
        _validate.companion(OP, x, "pre_noise", pre_noise)
        want = [x.shape[0], 1, *x.shape[2:]]
        if pre_noise.dim() > 4 or any(a not in (s, 1) for a, s in zip(reversed(pre_noise.shape), reversed(want), strict=False)):
            raise ValueError(f"{OP}: pre_noise must broadcast to [N, 1, H, W] = {want}, got {list(pre_noise.shape)}")
        noise = _validate.pixel_noise(OP, x, pre_noise, x.shape[2:]).to(wide(x.dtype)).contiguous()
    if pre_bias is not None:
        _validate.companion(OP, x, "pre_bias", pre_bias)
        if pre_bias.dim() != 1 or pre_bias.shape[0] != x.shape[1]:
            raise ValueError(
                f"{OP}: pre_bias must have shape [C] = [{x.shape[1]}], one number a channel of x, got {list(pre_bias.shape)}"
            )
        b = pre_bias.to(wide(x.dtype)).contiguous()
    act, alpha, gain, _ = settings(OP, act, alpha, gain, None)
    if not isinstance(pre_act, str) or pre_act not in activation_funcs:
        raise ValueError(f"{OP}: pre_act must be one of {', '.join(activation_funcs)}, got {pre_act!r}")
    pre_alpha = activation_funcs[pre_act].def_alpha
    return x, scale, shift, noise, b, act, alpha, gain, pre_act, pre_alpha, check_eps(OP, eps)


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The arguments of instance_norm, checked, as factors of adain: [1, C]."""
    op = "instance_norm"
    planes(op, "x", x)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        _validate.companion(op, x, name, value)
        if value.dim() != 1 or value.shape[0] != x.shape[1]:
            raise ValueError(
                f"{op}: {name} must have shape [C] = [{x.shape[1]}], one number a channel of x, got {list(value.shape)}"
            )
    return None if weight is None else weight[None], None if bias is None else bias[None]


def features(content: Tensor, style: Tensor) -> None:
    """Check the arguments of adain_from_features."""
    op = "adain_from_features"
    planes(op, "content", content)
    planes(op, "style", style)
    if style.device != content.device or style.dtype != content.dtype:
        raise ValueError(
            f"{op}: style must have the dtype and device of content ({_validate.short(content.dtype)} on {content.device}), "
            f"got {_validate.short(style.dtype)} on {style.device}"
        )
    if style.shape[1] != content.shape[1] or style.shape[0] not in (content.shape[0], 1):
        raise ValueError(
            f"{op}: style must have {content.shape[0]} samples (or 1 for all) of {content.shape[1]} channels as content, "
            f"got {list(style.shape)}"
        )
