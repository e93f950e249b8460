"""How a tensor lies in memory, as the kernels of bias_act see it: [outer, channels, inner], in memory order."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    return _layout.memory_format(x) == torch.channels_last


def dense(x: Tensor) -> Tensor:
    """``x``, copied only if it is neither contiguous nor channels_last."""
    return x.contiguous(memory_format=_layout.memory_format(x))


def dense_as(t: Tensor | None, like: Tensor) -> Tensor | None:
    """``t`` in the layout of the dense tensor ``like``, copied only if it is not so already."""
    return None if t is None else t.contiguous(memory_format=_layout.memory_format(like))


def geometry(x: Tensor, dim: int) -> Geometry:
    """Of the dense tensor ``x`` with the bias along ``dim``."""
    shape: Sequence[int] = x.shape
    if is_channels_last(x):
        shape = [shape[0], shape[2], shape[3], shape[1]]
        dim = {0: 0, 1: 3, 2: 1, 3: 2}[dim]
    return Geometry(math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))
