"""How a tensor lies in memory, as the kernels of bias_act see it: [outer, channels, inner], in memory order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gankern import _layout


class Geometry(NamedTuple):
    """An element's index in memory is (o * channels + c) * inner + i."""

    outer: int
    channels: int
    inner: int

    @property
    def positions(self) -> int:
        """Number of (o, i): pixels, if channels are channels."""
        return self.outer * self.inner


def is_channels_last(x: Tensor) -> bool:
    """Whether a 4-D tensor's strides put channels innermost."""
    return x.dim() == 4 and _layout.memory_format(x) == torch.channels_last


def dense(x: Tensor) -> Tensor:
    """``x``, copied only if it is neither contiguous nor channels_last."""
    return x.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)


def dense_as(t: Tensor | None, like: Tensor) -> Tensor | None:
    """``t`` in the layout of the dense tensor ``like``, copied only if it is not so already."""
    if t is None:
        return None
    return t.contiguous(memory_format=torch.channels_last if is_channels_last(like) else torch.contiguous_format)


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised dense tensor with the layout of ``x``: the fake and every backend take the output from here."""
    fmt = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=fmt)


def geometry(x: Tensor, dim: int) -> Geometry:
    """Of the dense tensor ``x`` with the bias along ``dim``."""
    shape = list(x.shape)
    if is_channels_last(x):
        shape = [shape[0], shape[2], shape[3], shape[1]]
        dim = {0: 0, 1: 3, 2: 1, 3: 2}[dim]
    outer = inner = 1
    for size in shape[:dim]:
        outer *= size
    for size in shape[dim + 1 :]:
        inner *= size
    return Geometry(outer, shape[dim], inner)
