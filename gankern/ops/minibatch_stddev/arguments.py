"""Arguments of minibatch_stddev and their checks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gankern import _validate

OP = "minibatch_stddev"


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{OP}: {name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{OP}: {name} must be at least 1, got {value}")
    return value


def prepare(x: Tensor, group_size: int = 4, num_channels: int = 1) -> tuple[Tensor, int, int]:
    """Check the public arguments and give the registered operator's: the group size that is used, a divisor of N."""
    _validate.tensor4(OP, "x", x)
    group, channels = _count("group_size", group_size), _count("num_channels", num_channels)
    if x.shape[1] % channels or x.shape[1] == 0:
        raise ValueError(f"{OP}: num_channels must divide the channels of x, got {channels} for {x.shape[1]} channels")
    if x.shape[2] * x.shape[3] == 0:
        raise ValueError(f"{OP}: x must have at least one pixel, got {list(x.shape)}")
    group = min(group, max(int(x.shape[0]), 1))
    while x.shape[0] % group:
        group -= 1
    return x, group, channels
