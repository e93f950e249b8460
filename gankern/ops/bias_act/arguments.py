"""Arguments of bias_act: the forms that users may give, and their checks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gankern import _validate
from gankern._activations import settings

OP = "bias_act"
Prepared = tuple[Tensor, "Tensor | None", "Tensor | None", int, str, float, float, float]


def prepare(
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
) -> Prepared:
    """Check the public arguments and give the registered operator's.

    Those are (x, b, noise, dim, act, alpha, gain, clamp): b and noise in the dtype of x, noise scaled by its strength and
    of shape [N or 1, 1, H, W], dim not negative, defaults filled in, clamp -1 for none.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{OP}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in _validate.FLOATING:
        raise TypeError(f"{OP}: x must be float32, float64, bfloat16 or float16, got {_validate.short(x.dtype)}")
    if x.dim() < 1:
        raise ValueError(f"{OP}: x must have at least one dimension, got a scalar")
    act, alpha, gain, limit = settings(OP, act, alpha, gain, clamp)
    if b is not None:
        dim = _dimension(x, dim)
        _check_bias(x, b, dim)
        b = b.to(x.dtype)
    else:
        dim = min(1, x.dim() - 1)
    return x, b, _scaled_noise(x, noise, noise_strength, dim, b is not None), dim, act, alpha, gain, limit


def _dimension(x: Tensor, dim: Any) -> int:
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{OP}: dim must be an int, got {dim!r}")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"{OP}: dim must be in [{-x.dim()}, {x.dim() - 1}] for x of {x.dim()} dimensions, got {dim}")
    return dim % x.dim()


def _check_bias(x: Tensor, b: Any, dim: int) -> None:
    _validate.companion(OP, x, "b", b)
    if b.dim() != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f"{OP}: b must have shape [{x.shape[dim]}], the size of x along dim {dim}, got {list(b.shape)}")


def _scaled_noise(x: Tensor, noise: Any, strength: Any, dim: int, has_bias: bool) -> Tensor | None:
    """The noise times its strength as [N or 1, 1, H, W]: one number a pixel, so the product costs 1 / C of a pass over x."""
    if noise is None:
        if strength is not None:
            raise ValueError(f"{OP}: noise_strength is given but noise is None")
        return None
    if x.dim() != 4:
        raise ValueError(f"{OP}: noise needs x of 4 dimensions [N, C, H, W], got {x.dim()}: {list(x.shape)}")
    if has_bias and dim != 1:
        raise ValueError(f"{OP}: noise needs the bias along dim 1, got dim {dim}")
    noise = _validate.pixel_noise(OP, x, noise, x.shape[2:])
    if isinstance(strength, Tensor):
        if strength.numel() != 1 or not strength.is_floating_point():
            raise ValueError(f"{OP}: noise_strength must be one floating-point number, got shape {list(strength.shape)}")
        if strength.device != x.device and strength.device.type != "cpu":
            raise ValueError(
                f"{OP}: noise_strength must be on the device of x ({x.device}) or on the CPU, got {strength.device}"
            )
        noise = noise * strength.reshape(())
    elif strength is not None:
        noise = noise * _validate.number(OP, "noise_strength", strength)
    return noise.to(x.dtype)
