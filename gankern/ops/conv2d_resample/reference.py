"""The law: upsample with the filter, convolve, downsample with the filter; each step as it is defined."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gankern._resampling import resampled_conv2d
from gankern.ops.conv2d_resample import arguments


def conv2d_resample_reference(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """:func:`gankern.ops.conv2d_resample` out of PyTorch's own operators, every pixel of the definition computed."""
    p = arguments.prepare(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
    return resampled_conv2d(p.x, p.w, p.f, p.up, p.down, p.padding, p.groups, p.flip_weight, p.flip_filter)
