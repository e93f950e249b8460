"""Arguments of conv2d and conv_transpose2d: torch.nn.functional's forms, their checks, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _layout, _validate
from gankern._autocast import lowered

Pair = list[int]


def pair(op: str, name: str, value: Any, least: int) -> Pair:
    """[y, x] from an int or [y, x], both at least ``least``."""
    if type(value) is int and value >= least:
        return [value, value]
    values = _validate.integers(op, name, value, "an int or [y, x]", (1, 2))
    if any(v < least for v in values):
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return [values[0], values[-1]]


def tensors(
    op: str, input: Any, weight: Any, bias: Any, groups: Any, transposed: bool
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Check the tensors against each other, and cast them to autocast's dtype where that is on."""
    _validate.tensor4(op, "input", input)
    form = "[in_channels, out_channels / groups, kh, kw]" if transposed else "[out_channels, in_channels / groups, kh, kw]"
    if not isinstance(weight, Tensor):
        raise TypeError(f"{op}: weight must be a torch.Tensor {form}, got {type(weight).__name__}")
    if weight.dim() != 4 or any(size < 1 for size in weight.shape):
        raise ValueError(f"{op}: weight must be {form}, none of them 0, got {list(weight.shape)}")
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"{op}: groups must be an int, got {groups!r}")
    if groups < 1:
        raise ValueError(f"{op}: groups must be at least 1, got {groups}")
    if weight.shape[0] % groups:
        side = "in_channels" if transposed else "out_channels"
        raise ValueError(f"{op}: groups must divide {side} = {weight.shape[0]} (weight is {list(weight.shape)}), got {groups}")
    wanted = weight.shape[0] if transposed else weight.shape[1] * groups
    if input.shape[1] != wanted:
        raise ValueError(
            f"{op}: input must have {wanted} channels for weight {list(weight.shape)} and groups {groups}, "
            f"got {input.shape[1]}: {list(input.shape)}"
        )
    if input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(f"{op}: input must have at least one pixel, got {list(input.shape)}")
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None:
        if not isinstance(bias, Tensor):
            raise TypeError(f"{op}: bias must be a torch.Tensor [{channels}] or None, got {type(bias).__name__}")
        if bias.dim() != 1 or bias.shape[0] != channels:
            raise ValueError(f"{op}: bias must have shape [{channels}], one for each output channel, got {list(bias.shape)}")
    input, weight, bias = lowered((input, weight, bias))  # type: ignore[assignment]
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.device != input.device:
            raise ValueError(f"{op}: {name} must be on the device of input ({input.device}), got {value.device}")
        if value is not None and value.dtype != input.dtype:
            raise TypeError(
                f"{op}: {name} must have the dtype of input ({_validate.short(input.dtype)}), "
                f"got {_validate.short(value.dtype)}"
            )
    return input, weight, bias, groups


def size_of_conv(size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """Output pixels of a convolution along one axis."""
    return (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


def size_of_transpose(size: int, taps: int, stride: int, padding: int, output_padding: int, dilation: int) -> int:
    """Output pixels of a transposed convolution along one axis."""
    return (size - 1) * stride - 2 * padding + dilation * (taps - 1) + output_padding + 1


def prepare_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Pair, Pair, Pair, int]:
    """Check the public arguments and give the operator's: x, w, b, stride, padding, dilation as [y, x], groups.

    ``padding="same"`` with an even reach is uneven: the extra row and column come from padding the images beforehand.
    """
    op = "conv2d"
    x, w, b, groups = tensors(op, input, weight, bias, groups, transposed=False)
    steps, reach = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{op}: padding must be an int, [y, x], 'same' or 'valid', got {padding!r}")
        pads = [0, 0]
        if padding == "same":
            if steps != [1, 1]:
                raise ValueError(f"{op}: padding='same' needs stride 1, got {stride!r}")
            total = [reach[i] * (w.shape[2 + i] - 1) for i in (0, 1)]
            pads = [t // 2 for t in total]
            if total[0] % 2 or total[1] % 2:
                x = torch.nn.functional.pad(x, [0, total[1] % 2, 0, total[0] % 2])
    else:
        pads = pair(op, "padding", padding, 0)
    for i, axis in enumerate("yx"):
        if size_of_conv(x.shape[2 + i], w.shape[2 + i], steps[i], pads[i], reach[i]) < 1:
            raise ValueError(
                f"{op}: padding leaves no output pixel along {axis}: {x.shape[2 + i]} pixels + 2 * padding {pads[i]} is less "
                f"than the kernel's {reach[i] * (w.shape[2 + i] - 1) + 1} ({w.shape[2 + i]} taps, dilation {reach[i]})"
            )
    return x, w, b, steps, pads, reach, groups


def prepare_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Pair, Pair, Pair, Pair, int]:
    """Check the public arguments and give the operator's: x, w, b, stride, padding, output_padding, dilation, groups."""
    op = "conv_transpose2d"
    x, w, b, groups = tensors(op, input, weight, bias, groups, transposed=True)
    steps, reach = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    pads, more = pair(op, "padding", padding, 0), pair(op, "output_padding", output_padding, 0)
    for i, axis in enumerate("yx"):
        if more[i] >= max(steps[i], reach[i]):
            raise ValueError(
                f"{op}: output_padding must be less than stride or dilation, got {more[i]} along {axis} "
                f"with stride {steps[i]} and dilation {reach[i]}"
            )
        if size_of_transpose(x.shape[2 + i], w.shape[2 + i], steps[i], pads[i], more[i], reach[i]) < 1:
            raise ValueError(
                f"{op}: padding leaves no output pixel along {axis}: {x.shape[2 + i]} pixels, {w.shape[2 + i]} taps, stride "
                f"{steps[i]}, dilation {reach[i]}, output_padding {more[i]}, padding {pads[i]}"
            )
    return x, w, b, steps, pads, more, reach, groups


def memory_format(*operands: Tensor) -> torch.memory_format:
    """channels_last if any operand is, as PyTorch's own convolutions have it."""
    last = any(_layout.memory_format(t) == torch.channels_last for t in operands)
    return torch.channels_last if last else torch.contiguous_format
