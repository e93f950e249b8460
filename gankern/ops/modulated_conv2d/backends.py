"""Modulated convolution without gradients, in one operator: our kernel, or PyTorch's convolution between our passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._activations import activation_funcs
from gankern._dispatch import Row, Table
from gankern._library import native_can_run
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


def _factors(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor | None, demodulate: bool, fmt: torch.memory_format
) -> Factors:
    return factors(weight, styles, input_gain, demodulate, _half(x), fmt == torch.channels_last)


def _half(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


# ---- oneDNN or cuDNN between our passes -------------------------------------------------------------------------------------
def _aten(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Any, demodulate: bool, noise: Any, b: Any, f: Any,
    up: int, down: int, padding: Any, flip_weight: bool, act: str, alpha: float, gain: float, clamp: float,
) -> Tensor:  # fmt: skip
    fmt = _layout.memory_format(x)
    cpu = x.device.type == "cpu"
    way = plan.way(weight.shape, x.shape, fmt, _half(x)) if cpu else plan.Way(False, fmt, x.shape[0])
    w, a, d = _factors(x, weight, styles, input_gain, demodulate, way.inside)
    w = relayout(w if way.fold else w.to(x.dtype), way.inside)
    scratch: Tensor | None = None
    if not way.fold:  # the same memory for all samples
        shape = (way.samples, *x.shape[1:])
        scratch = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=way.inside)

    def convolve(own: slice) -> Tensor:
        if scratch is None:
            factor = a[own] if d is None else d[own].t() * a[own]
            images, kernel = x[own], (w * factor.unsqueeze(-1).unsqueeze(-1)).to(x.dtype)
        else:
            images, kernel = scratch, w
            torch.ops.gankern.modulate_into.default(x[own], a[own], None, None, "linear", 0.0, 1.0, -1.0, images)
        return relayout(conv2d_resample(images, kernel, f, up, down, padding, 1, flip_weight), way.inside)

    epilogue = (act, alpha, gain, clamp)
    around = None if way.fold else d
    whole = way.samples == x.shape[0]
    z = convolve(slice(0, way.samples))
    if whole and way.inside == fmt:
        return modulate_(z, around, noise, b, act, alpha, gain, None if clamp < 0 else clamp)
    # Made after z, of whose memory the heap then keeps hold for the next samples.
    y = output(x, weight, styles, input_gain, demodulate, noise, b, f, up, down, padding)
    if not whole and native_can_run("cpu", "modulate", y) is None:
        torch.ops.gankern_native.modulate_advise_cpu(y)
    for n in range(0, x.shape[0], way.samples):
        own = slice(n, n + way.samples)
        if n > 0:
            z = convolve(own)
        scale = None if around is None else around[own]
        own_noise = noise if noise is None or noise.shape[0] == 1 else noise[own]
        torch.ops.gankern.modulate_into.default(z, scale, own_noise, b, *epilogue, y[own])
        del z  # before there is another
    return y


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
        w, a, d = _factors(x, weight, styles, input_gain, demodulate, torch.channels_last)
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
