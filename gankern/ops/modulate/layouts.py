"""Images from one memory layout into the other, as an operator of its own and on the way through modulate.

Convolutions on the CPU are up to twice as fast in channels_last, while PyTorch's copy out of it takes as long as one of 64
channels (5 to 10 times a plain copy). With a kernel that turns images at the speed of memory it pays to convolve NCHW images
in channels_last. Differentiable to any order: its gradient is turned back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._autograd import Differentiable
from gankern._library import LIBRARY, native_can_run
from gankern.ops.modulate import configs

LIBRARY.define("relayout(Tensor x, bool channels_last) -> Tensor")

_FORMATS = (torch.contiguous_format, torch.channels_last)
_PLAIN = (0, 0.0, 1.0, -1.0)  # linear, no gain, no clamp


def relayout(x: Tensor, fmt: torch.memory_format) -> Tensor:
    """``x`` [N, C, H, W], dense in ``fmt``; ``x`` itself if it is so. Gradients of any order."""
    return x if x.is_contiguous(memory_format=fmt) else _RELAYOUT(x, fmt == torch.channels_last)


def turns(x: Tensor, y: Tensor) -> bool:
    """Whether our kernel takes the numbers of ``x`` into ``y``: dense CPU images, not both in one layout."""
    fmt = _layout.memory_format(y)
    other = _FORMATS[fmt == torch.contiguous_format]
    return (
        x.device.type == "cpu"
        and not x.is_contiguous(memory_format=fmt)
        and x.is_contiguous(memory_format=other)
        and native_can_run("cpu", "modulate", x) is None
    )


def turn(x: Tensor, scale: Any, noise: Any, b: Any, y: Tensor, *settings: Any) -> None:
    """Run modulate from ``x`` into ``y``, where :func:`turns`; settings as the kernels take them."""
    n, c, h, w = x.shape
    chunks = configs.chunks("cpu", False, n, c, h * w, x.element_size())
    last = _layout.memory_format(y) == torch.channels_last
    torch.ops.gankern_native.modulate_relaid_cpu(x, scale, noise, b, y, last, *chunks, *(settings or _PLAIN))


def relaid(x: Tensor, channels_last: bool) -> Tensor:
    """A new tensor with the numbers of ``x``, dense in the layout asked for."""
    y = _empty(x, channels_last)
    if x.numel() and turns(x, y):
        turn(x, None, None, None, y)
        return y
    return y.copy_(x)


def _empty(x: Tensor, channels_last: bool) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_FORMATS[channels_last])


LIBRARY.impl("relayout", relaid, "CompositeExplicitAutograd")
torch.library.register_fake("gankern::relayout", _empty, lib=LIBRARY)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.fmt = _FORMATS[not inputs[1]]


def _backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
    return None if g is None else relayout(g, ctx.fmt), None


_RELAYOUT = Differentiable("relayout", relaid, _backward, _setup_context)
