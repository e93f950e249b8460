"""The three convolutions that differentiate into each other, as PyTorch's own arithmetic (oneDNN, cuDNN) and as references.

Outputs have the layout that the fakes promise: channels_last if an operand is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gankern import _autocast
from gankern._dispatch import Row, Table
from gankern.ops.conv2d import arguments, configs
from gankern.ops.conv2d.reference import weight_gradient_composed
from gankern.ops.conv2d.scope import weight_gradients_disabled
from gankern.ops.modulate import relayout

_aten = SimpleNamespace(
    convolution=torch.convolution,
    convolution_backward=torch.ops.aten.convolution_backward.default,
    slow_conv_transpose2d=torch.ops.aten.slow_conv_transpose2d.default,
)


# ---- what comes out: one place for the implementations and the fakes --------------------------------------------------------
def conv2d_output(x: Tensor, w: Tensor, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """Uninitialised output of the convolution."""
    size = [arguments.size_of_conv(x.shape[2 + i], w.shape[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1)]
    return _empty(x, (x.shape[0], w.shape[0], *size), x, w)


def conv_transpose2d_output(
    x: Tensor, w: Tensor, b: Any, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Uninitialised output of the transposed convolution."""
    size = [
        arguments.size_of_transpose(x.shape[2 + i], w.shape[2 + i], stride[i], padding[i], output_padding[i], dilation[i])
        for i in (0, 1)
    ]
    return _empty(x, (x.shape[0], w.shape[1] * groups, *size), x, w)


def weight_gradient_output(x: Tensor, g: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    """Uninitialised weight gradient."""
    return _empty(x, size, x, g)


def _empty(x: Tensor, shape: Sequence[int], *operands: Tensor) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=arguments.memory_format(*operands))


# ---- oneDNN and cuDNN, through PyTorch --------------------------------------------------------------------------------------
def _vendor(kind: str, arithmetic: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``arithmetic(first, second, third, stride, ...)`` in the promised layout, on any dtype, without autocast."""

    def run(first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        if (
            plainly_nchw(first)
            and plainly_nchw(second)
            and not torch._C._is_any_autocast_enabled()
            and not configs.channels_last_inside(kind, first, second, rest[1], rest[-1])
        ):
            # The usual case, in as few steps as it has.
            y = arithmetic(first, second, *rest)
            return y if y.is_contiguous() and 1 not in y.shape else as_promised(y, torch.contiguous_format)
        fmt = arguments.memory_format(first, second)
        inside = fmt
        if fmt == torch.contiguous_format and configs.channels_last_inside(kind, first, second, rest[1], rest[-1]):
            inside = torch.channels_last
        first, second = relayout(first, inside), relayout(second, inside)
        # The operands have their dtype already: a backward pass inside an autocast region must not have it changed.
        with _autocast.suspended(first.device):
            y = arithmetic(first, second, *rest)
        return as_promised(y, fmt)

    return run


def plainly_nchw(x: Tensor) -> bool:
    """Whether ``x`` [N, C, H, W], not empty, is contiguous, and NCHW by its strides where it is so in both layouts."""
    return x.is_contiguous() and (x.stride(1) != 1 or x.stride(3) < x.shape[1]) and 0 not in x.shape


def as_promised(y: Tensor, fmt: torch.memory_format) -> Tensor:
    """``y`` dense in ``fmt``, with the strides that an empty tensor has."""
    if not y.is_contiguous(memory_format=fmt):
        y = relayout(y, fmt)
    if y.numel() == 0 or 1 in y.shape:
        # One channel or one pixel is contiguous in both layouts, with strides of either.
        made = torch.empty_like(y, memory_format=fmt)
        return y if made.stride() == y.stride() else made.copy_(y)
    return y


def needs_float32(x: Tensor, w: Tensor, groups: int) -> bool:
    """Whether a convolution is one of those that do not return in half precision."""
    return _needs_float32(x.device, x.dtype, groups, x.shape[1], w.shape[3])


def _needs_float32(device: torch.device, dtype: torch.dtype, groups: int, channels: int, taps_x: int) -> bool:
    """PyTorch's depthwise convolutions in half precision on the CPU never return from 14 taps along x on (seen in 2.13)."""
    return 1 < groups == channels and taps_x >= 14 and dtype in (torch.bfloat16, torch.float16) and device.type == "cpu"


def _conv2d(x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    if _needs_float32(x.device, x.dtype, groups, x.shape[1], w.shape[3]):
        wide = [None if t is None else t.float() for t in (x, w, b)]
        return _aten.convolution(*wide, stride, padding, dilation, False, [0, 0], groups).to(x.dtype)
    return _aten.convolution(x, w, b, stride, padding, dilation, False, [0, 0], groups)


def _conv_transpose2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Tensor:
    if _needs_float32(x.device, x.dtype, groups, x.shape[1], w.shape[3]):
        wide = [None if t is None else t.float() for t in (x, w, b)]
        return _aten.convolution(*wide, stride, padding, dilation, True, output_padding, groups).to(x.dtype)
    function = products if configs.by_products(x, w, groups) else _aten.convolution
    made: Tensor = function(x, w, b, stride, padding, dilation, True, output_padding, groups)
    return made


def products(
    x: Tensor, w: Tensor, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> Tensor:
    """A transposed convolution as a matrix product and a sum over taps, called as torch.convolution."""
    made: Tensor = _aten.slow_conv_transpose2d(x, w, w.shape[2:], b, stride, padding, output_padding, dilation)
    return made


def _weight_gradient(
    x: Tensor, g: Tensor, size: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    if x.numel() == 0 or g.numel() == 0 or weight_gradients_disabled():
        # Eager backward does not come here inside a scope; the code of a compiled function does.
        return weight_gradient_output(x, g, size).zero_()
    if _needs_float32(x.device, x.dtype, groups, x.shape[1], size[3]):
        return _weight_gradient(x.float(), g.float(), size, stride, padding, dilation, groups).to(x.dtype)
    # Only the sizes of the weight are read. The first and third of the mask are the gradients of the input and the bias.
    w = weight_gradient_output(x, g, size)
    made = _aten.convolution_backward(g, x, w, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False])
    return made[1]


def _gradients(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = _aten.convolution_backward(*args)
    return made


# ---- references -------------------------------------------------------------------------------------------------------------
def _reference_conv2d(x: Tensor, w: Tensor, b: Any, *rest: Any) -> Tensor:
    return conv2d_output(x, w, b, *rest).copy_(_conv2d(x, w, b, *rest))


def _reference_conv_transpose2d(
    x: Tensor, w: Tensor, b: Any, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Zeros between and around the pixels, then a convolution with the reversed kernel."""
    y = conv_transpose2d_output(x, w, b, stride, padding, output_padding, dilation, groups)
    reach = [dilation[i] * (w.shape[2 + i] - 1) for i in (0, 1)]
    spread = x.new_zeros([*x.shape[:2], *((x.shape[2 + i] - 1) * stride[i] + 1 for i in (0, 1))])
    spread[:, :, :: stride[0], :: stride[1]] = x
    around = [reach[1] - padding[1], reach[1] - padding[1] + output_padding[1]]
    around += [reach[0] - padding[0], reach[0] - padding[0] + output_padding[0]]
    spread = torch.nn.functional.pad(spread, around)
    reversed_w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
    return y.copy_(_conv2d(spread, reversed_w, b, [1, 1], [0, 0], dilation, groups))


def _reference_weight_gradient(x: Tensor, g: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    made = weight_gradient_output(x, g, size)
    return made.zero_() if weight_gradients_disabled() else made.copy_(weight_gradient_composed(x, g, size, *rest))


# ---- tables -----------------------------------------------------------------------------------------------------------------
def _table(name: str, vendor: Callable[..., Tensor], reference: Callable[..., Tensor]) -> Table:
    return Table(name, [Row("aten", lambda *_: None, vendor), Row("reference", lambda *_: None, reference)])


CONV2D = _table("conv2d", _vendor("conv", _conv2d), _reference_conv2d)
CONV_TRANSPOSE2D = _table("conv_transpose2d", _vendor("transpose", _conv_transpose2d), _reference_conv_transpose2d)
# All of a convolution's, plain or transposed, in one call, where nobody differentiates them: as aten::convolution_backward.
GRADIENTS = Table("conv2d_gradients", [Row("aten", lambda *_: None, _gradients)])
WEIGHT_GRADIENT = _table("conv2d_weight_gradient", _vendor("weight", _weight_gradient), _reference_weight_gradient)
