"""Arguments of conv2d_resample: their checks, and the padding that the definition works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gankern import _validate
from gankern._autocast import lowered
from gankern._resampling import check_size, total_padding

OP = "conv2d_resample"


class Prepared(NamedTuple):
    """Checked arguments; padding is (x0, x1, y0, y1) of the upsampled image, the resampling filter's own included."""

    x: Tensor
    w: Tensor
    f: Tensor | None
    up: int
    down: int
    padding: tuple[int, int, int, int]
    groups: int
    flip_weight: bool
    flip_filter: bool


def prepare(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Prepared:
    """Check the public arguments; under autocast x and w get its dtype."""
    _validate.tensor4(OP, "x", x)
    if not isinstance(w, Tensor):
        raise TypeError(f"{OP}: w must be a torch.Tensor [out_channels, in_channels / groups, kh, kw], got {type(w).__name__}")
    if w.dim() != 4 or any(size < 1 for size in w.shape):
        raise ValueError(f"{OP}: w must be [out_channels, in_channels / groups, kh, kw], none of them 0, got {list(w.shape)}")
    for name, value in (("up", up), ("down", down), ("groups", groups)):
        if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
            raise TypeError(f"{OP}: {name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{OP}: {name} must be at least 1, got {value}")
    for name, flag in (("flip_weight", flip_weight), ("flip_filter", flip_filter)):
        if not isinstance(flag, bool):
            raise TypeError(f"{OP}: {name} must be a bool, got {flag!r}")
    _validate.check_filter(OP, f)
    if w.shape[0] % groups:
        raise ValueError(f"{OP}: groups must divide out_channels = {w.shape[0]} (w is {list(w.shape)}), got {groups}")
    if x.shape[1] != w.shape[1] * groups:
        raise ValueError(
            f"{OP}: x must have {w.shape[1] * groups} channels for w {list(w.shape)} and groups {groups}, got {x.shape[1]}: "
            f"{list(x.shape)}"
        )
    for name, other in (("w", w), ("f", f)):
        if other is not None and other.device != x.device:
            raise ValueError(f"{OP}: {name} must be on the device of x ({x.device}), got {other.device}")
    x, w = lowered((x, w))  # type: ignore[assignment]
    if w.dtype != x.dtype:
        raise TypeError(f"{OP}: w must have the dtype of x ({_validate.short(x.dtype)}), got {_validate.short(w.dtype)}")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{OP}: x must have at least one pixel, got {list(x.shape)}")
    pads = total_padding(OP, f, up, down, padding)
    check_size(OP, x, w.shape[2:], f, up, down, pads)
    return Prepared(x, w, f, up, down, pads, groups, flip_weight, flip_filter)
