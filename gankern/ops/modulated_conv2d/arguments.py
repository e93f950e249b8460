"""Arguments of modulated_conv2d: their forms and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _activations, _validate
from gankern._autocast import lowered
from gankern._resampling import check_size, total_padding

OP = "modulated_conv2d"


class Prepared(NamedTuple):
    """Checked arguments, defaults filled in.

    ``weight``, ``styles``, ``noise`` [N or 1, 1, Ho, Wo], ``input_gain`` [N, I], ``bias`` and ``kernel_mix`` are in the wide
    type (float32; float64 for float64 images); ``padding`` is the user's as (x0, x1, y0, y1); ``settings`` is (act, alpha,
    gain, clamp), clamp -1 for none.
    """

    x: Tensor
    weight: Tensor
    styles: Tensor
    noise: Tensor | None
    up: int
    down: int
    padding: tuple[int, int, int, int]
    f: Tensor | None
    demodulate: bool
    flip_weight: bool
    input_gain: Tensor | None
    bias: Tensor | None
    settings: tuple[str, float, float, float]
    kernel_mix: Tensor | None


def output_size(
    x: Tensor, kernel: Sequence[int], f: Tensor | None, up: int, down: int, padding: int | Sequence[int]
) -> list[int]:
    """[Ho, Wo]."""
    pads = total_padding(OP, f, up, down, padding)
    taps_x, taps_y = _validate.filter_size(f)
    size = []
    for pixels, before, after, taps, k in (
        (x.shape[2], pads[2], pads[3], taps_y, kernel[0]),
        (x.shape[3], pads[0], pads[1], taps_x, kernel[1]),
    ):
        left = pixels * up + before + after - (k - 1) - ((taps - 1) if up > 1 else 0) - ((taps - 1) if down > 1 else 0)
        size.append((left - 1) // down + 1)
    return size


def prepare(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    kernel_mix: Tensor | None = None,
) -> Prepared:
    """Check the public arguments; under autocast x gets its dtype."""
    _validate.tensor4(OP, "x", x)
    x = lowered((x,))[0]  # type: ignore[assignment]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, i, h, w = x.shape
    if h < 1 or w < 1:
        raise ValueError(f"{OP}: x must have at least one pixel, got {list(x.shape)}")
    form = "[out_channels, in_channels, kh, kw], or [K, out_channels, in_channels, kh, kw] with kernel_mix"
    _validate.companion(OP, x, "weight", weight, form)
    if weight.dim() not in (4, 5) or any(size < 1 for size in weight.shape):
        raise ValueError(f"{OP}: weight must be {form}, none of them 0, got {list(weight.shape)}")
    if weight.shape[-3] != i:
        raise ValueError(f"{OP}: weight {list(weight.shape)} takes {weight.shape[-3]} channels, x has {i}: {list(x.shape)}")
    _validate.companion(OP, x, "styles", styles, "[N, in_channels]")  # no {n}: dynamo would fix the batch
    if tuple(styles.shape) != (n, i):
        raise ValueError(f"{OP}: styles must have shape [N, in_channels] = [{n}, {i}], got {list(styles.shape)}")
    if kernel_mix is not None:
        _validate.companion(OP, x, "kernel_mix", kernel_mix, "[N, K]")
        if weight.dim() != 5:
            raise ValueError(f"{OP}: kernel_mix needs a weight of 5 dimensions [K, ...], got {list(weight.shape)}")
        if tuple(kernel_mix.shape) != (n, weight.shape[0]):
            raise ValueError(
                f"{OP}: kernel_mix must have shape [N, K] = [{n}, {weight.shape[0]}], got {list(kernel_mix.shape)}"
            )
        kernel_mix = kernel_mix.to(wide)
    elif weight.dim() == 5:
        raise ValueError(
            f"{OP}: weight of 5 dimensions {list(weight.shape)} needs kernel_mix [N, K] = [{n}, {weight.shape[0]}]"
        )
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, (int, torch.SymInt)) or isinstance(factor, bool):
            raise TypeError(f"{OP}: {name} must be an int, got {factor!r}")
        if factor < 1:
            raise ValueError(f"{OP}: {name} must be at least 1, got {factor}")
    if up > 1 and down > 1:
        raise ValueError(f"{OP}: up and down must not both be above 1, got up {up} and down {down}")
    for name, flag in (("demodulate", demodulate), ("flip_weight", flip_weight)):
        if not isinstance(flag, bool):
            raise TypeError(f"{OP}: {name} must be a bool, got {flag!r}")
    _validate.check_filter(OP, resample_filter, "resample_filter")
    if resample_filter is not None and resample_filter.device != x.device:
        raise ValueError(f"{OP}: resample_filter must be on the device of x ({x.device}), got {resample_filter.device}")
    pads = _validate.paddings(OP, padding)
    check_size(OP, x, weight.shape[-2:], resample_filter, up, down, total_padding(OP, resample_filter, up, down, pads))
    if bias is not None:
        _validate.companion(OP, x, "bias", bias, f"[{weight.shape[-4]}]")
        if bias.dim() != 1 or bias.shape[0] != weight.shape[-4]:
            raise ValueError(f"{OP}: bias must have shape [out_channels] = [{weight.shape[-4]}], got {list(bias.shape)}")
        bias = bias.to(wide)
    if noise is not None:
        size = output_size(x, weight.shape[-2:], resample_filter, up, down, pads)
        noise = _validate.pixel_noise(OP, x, noise, size, "[N, 1, Ho, Wo]").to(wide)
    return Prepared(
        x, weight.to(wide), styles.to(wide), noise, up, down, pads, resample_filter, demodulate, flip_weight,
        _input_gain(x, input_gain, wide), bias, _activations.settings(OP, act, alpha, gain, clamp), kernel_mix,
    )  # fmt: skip


def _input_gain(x: Tensor, value: Any, wide: torch.dtype) -> Tensor | None:
    """[N, I] from a number, [], [I] or [N, I]."""
    if value is None:
        return None
    n, i = x.shape[:2]
    if not isinstance(value, Tensor):
        value = torch.full((), _validate.number(OP, "input_gain", value), dtype=wide, device=x.device)
    _validate.companion(OP, x, "input_gain", value, "[], [in_channels] or [N, in_channels]")
    if tuple(value.shape) not in ((), (i,), (n, i)):
        raise ValueError(f"{OP}: input_gain must have shape [], [in_channels] = [{i}] or [N, in_channels] = [{n}, {i}], "
                         f"got {list(value.shape)}")  # fmt: skip
    return value.to(wide).expand(n, i)
