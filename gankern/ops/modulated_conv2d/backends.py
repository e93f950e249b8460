"""Modulated convolution without gradients, in one operator: our kernel, or PyTorch's convolution between our passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._activations import activation_funcs
from gankern._dispatch import Row, Table
from gankern.ops.conv2d_resample import conv2d_resample
from gankern.ops.modulate import modulate_, relayout
from gankern.ops.modulated_conv2d import arguments, plan
from gankern.ops.modulated_conv2d.factors import Factors, factors


def output(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Any, demodulate: bool, noise: Any, b: Any, f: Any,
    up: int, down: int, padding: Any, *rest: Any,
) -> Tensor:  # fmt: skip
    """Uninitialised output, for the fake and for kernels that fill it."""
    size = arguments.output_size(x, weight.shape[2:], f, up, down, padding)
    return _layout.empty(x, (x.shape[0], weight.shape[0], *size))


def _factors(x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor | None, demodulate: bool) -> Factors:
    return factors(weight, styles, input_gain, demodulate, x.dtype in (torch.bfloat16, torch.float16))


# ---- oneDNN or cuDNN between our passes -------------------------------------------------------------------------------------
def _aten(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Any, demodulate: bool, noise: Any, b: Any, f: Any,
    up: int, down: int, padding: Any, flip_weight: bool, act: str, alpha: float, gain: float, clamp: float,
) -> Tensor:  # fmt: skip
    fmt = _layout.memory_format(x)
    w, a, d = _factors(x, weight, styles, input_gain, demodulate)

    def convolve(images: Tensor, kernel: Tensor, layout: torch.memory_format) -> Tensor:
        z = conv2d_resample(images, kernel.to(x.dtype, memory_format=layout), f, up, down, padding, 1, flip_weight)
        return relayout(z, layout)

    epilogue = (act, alpha, gain, clamp)
    cpu = x.device.type == "cpu"
    if cpu and plan.fold(x.shape[0], w.shape, x.shape[2] * x.shape[3]):
        kernel = w * (a if d is None else d[0, :, None] * a).unsqueeze(-1).unsqueeze(-1)
        return _in_place(convolve(x, kernel, fmt), None, noise, b, *epilogue)
    inside = torch.channels_last if cpu and plan.channels_last_inside(w.shape, x.shape) else fmt
    images = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=inside)
    torch.ops.gankern.modulate_into.default(x, a, None, None, "linear", 0.0, 1.0, -1.0, images)
    z = convolve(images, w, inside)
    if inside == fmt:
        return _in_place(z, d, noise, b, *epilogue)
    y = output(x, weight, styles, input_gain, demodulate, noise, b, f, up, down, padding)
    torch.ops.gankern.modulate_into.default(z, d, noise, b, *epilogue, y)
    return y


def _in_place(z: Tensor, d: Any, noise: Any, b: Any, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    return modulate_(z, d, noise, b, act, alpha, gain, None if clamp < 0 else clamp)


# ---- Triton -----------------------------------------------------------------------------------------------------------------
def _triton_can_run(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Any, demodulate: bool, noise: Any, b: Any, f: Any,
    up: int, down: int, padding: Any, *rest: Any,
) -> str | None:  # fmt: skip
    from gankern.ops.modulated_conv2d import configs, triton_kernels

    reason = triton_kernels.can_run(x, x)  # the weight is made to fit x
    if reason is not None:
        return reason
    if up > 1 or down > 1:
        return "the Triton kernel does not resample"
    x0, x1, y0, y1 = padding
    if not (x0 == x1 >= 0 and y0 == y1 >= 0):
        return f"the Triton kernel pads alike on both sides, not {list(padding)}"
    height, width = arguments.output_size(x, weight.shape[2:], f, up, down, padding)
    if x.is_cuda and not configs.prefer_triton(x.shape[0], x.shape[1], weight.shape[0], height, width, x.dtype):
        return "PyTorch's convolution between two passes is expected to be faster for this shape"
    return None


def _triton(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Any, demodulate: bool, noise: Any, b: Any, f: Any,
    up: int, down: int, padding: Any, flip_weight: bool, act: str, alpha: float, gain: float, clamp: float,
) -> Tensor:  # fmt: skip
    from gankern.ops.modulated_conv2d import triton_kernels

    y = output(x, weight, styles, input_gain, demodulate, noise, b, f, up, down, padding)
    if y.numel():
        w, a, d = _factors(x, weight, styles, input_gain, demodulate)
        kernel = (w if flip_weight else w.flip(2, 3)).to(x.dtype, memory_format=torch.channels_last)
        index = activation_funcs[act].index
        triton_kernels.modulated_conv2d_triton(
            x, kernel, a, d, noise, b, y, (padding[2], padding[0]), index, alpha, gain, clamp
        )
    return y


TABLE = Table(
    "modulated_conv2d_inference",
    [
        Row("triton", _triton_can_run, _triton),
        Row("aten", lambda *_: None, _aten),
        Row("reference", lambda *_: None, _aten),  # the same composition: its parts are then their references
    ],
)
