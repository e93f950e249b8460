"""upfirdn2d: the front door. Docstring, schema, fake, derivatives and the table of backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch, _layout
from gankern._autograd import Differentiable
from gankern._library import LIBRARY, native_can_run
from gankern.ops.upfirdn2d import arguments
from gankern.ops.upfirdn2d.convolutions import upfirdn2d_convolutions
from gankern.ops.upfirdn2d.filter_gradient import filter_gradient_reference
from gankern.ops.upfirdn2d.reference import upfirdn2d_composed, upfirdn2d_reference
from gankern.ops.upfirdn2d.samples import SAMPLES

LIBRARY.define(
    "upfirdn2d(Tensor x, Tensor? f, int[2] up, int[2] down, SymInt[4] padding, bool flip_filter, float gain) -> Tensor"
)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    r"""Upsample, pad, filter with an FIR filter and downsample a batch of images, in one pass.

    For every channel of every image:

    1. put ``up - 1`` zeros behind each pixel, along x and y;
    2. pad with zeros (negative padding crops);
    3. convolve with ``f`` (``flip_filter=True``: correlate), only where the filter lies wholly inside, times ``gain``;
    4. keep every ``down``-th pixel.

    The output has ``(size * up + padding_before + padding_after - taps) // down + 1`` pixels along each axis.

    Args:
        x: images [N, C, H, W]; float32, float64, bfloat16 or float16; any strides. N and C may be 0.
        f: filter taps, floating-point, on the device of ``x``: [taps_y, taps_x], or [taps] for a separable filter that
            acts along both axes, or None for a single tap of 1. See :func:`setup_filter`.
        up: integer upsampling factor, an int or [x, y]. Default 1.
        down: integer downsampling factor, an int or [x, y]. Default 1.
        padding: pixels of the upsampled image: an int, [x, y] or [x0, x1, y0, y1]; may be negative. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.

    Returns:
        [N, C, H_out, W_out] in the dtype of ``x``; channels_last if ``x`` is. Half types accumulate in float32.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x`` (the op is its own adjoint with up and down exchanged) and in ``f``. Under functorch
    transforms (vmap, torch.func.grad) the reference runs.

    Source: polyphase FIR resampling (Crochiere and Rabiner, Multirate Digital Signal Processing, 1983); as used for
    anti-aliased resampling in GANs by Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020.
    """
    if _dispatch.takes_reference():
        if _dispatch.standard():
            return upfirdn2d_convolutions(*arguments.prepare(x, f, up, down, padding, flip_filter, gain))
        return upfirdn2d_reference(x, f, up, down, padding, flip_filter, gain)
    return _UPFIRDN2D(*arguments.prepare(x, f, up, down, padding, flip_filter, gain))


# ---- what runs ------------------------------------------------------------------------------------------------------
Args = tuple[Tensor, "Tensor | None", list[int], list[int], list[int], bool, float]


def _empty_output(x: Tensor, f: Tensor | None, up: Any, down: Any, padding: Any) -> Tensor:
    """The uninitialised output: its size, dtype, device and layout are decided here for every backend and for the fake."""
    return _layout.empty(x, (x.shape[0], x.shape[1], *arguments.output_size(x.shape[2], x.shape[3], f, up, down, padding)))


def _taps(x: Tensor, f: Tensor | None) -> Tensor | None:
    """The taps in the kernels' accumulation type: float32, float64 for float64 images."""
    return None if f is None else f.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


def _native(name: str) -> Any:
    def run(x: Tensor, f: Tensor | None, up: Any, down: Any, padding: Any, flip_filter: bool, gain: float) -> Tensor:
        x = _layout.with_unit_stride(x)
        y = _empty_output(x, f, up, down, padding)
        kernel = getattr(torch.ops.gankern_native, name)
        kernel(x, _taps(x, f), y, up[0], up[1], down[0], down[1], padding[0], padding[2], flip_filter, gain)
        return y

    return run


def _triton_can_run(*args: Any) -> str | None:
    from gankern.ops.upfirdn2d import triton_kernels

    return triton_kernels.can_run(*args)


def _triton(x: Tensor, f: Tensor | None, up: Any, down: Any, padding: Any, flip_filter: bool, gain: float) -> Tensor:
    from gankern.ops.upfirdn2d import triton_kernels

    x = _layout.with_unit_stride(x)
    y = _empty_output(x, f, up, down, padding)
    if y.numel():
        triton_kernels.upfirdn2d_triton(x, _taps(x, f), y, up, down, padding, flip_filter, gain)
    return y


def _reference(x: Tensor, f: Tensor | None, *rest: Any) -> Tensor:
    y = upfirdn2d_composed(x, f, *rest)
    if y._is_view() or y is x or not y.is_contiguous(memory_format=_layout.memory_format(x)):
        y = _layout.empty(x, y.shape).copy_(y)  # an operator's output is no view, and has the promised layout
    return y


TABLE = _dispatch.Table(
    "upfirdn2d",
    [
        _dispatch.Row("cuda", lambda x, *_: native_can_run("cuda", "upfirdn2d", x), _native("upfirdn2d_cuda")),
        _dispatch.Row("cpu", lambda x, *_: native_can_run("cpu", "upfirdn2d", x), _native("upfirdn2d_cpu")),
        _dispatch.Row("triton", _triton_can_run, _triton),
        _dispatch.Row("reference", lambda *_: None, _reference),
    ],
)
LIBRARY.impl("upfirdn2d", TABLE.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::upfirdn2d", lib=LIBRARY)
def _fake(x: Tensor, f: Tensor | None, up: Any, down: Any, padding: Any, flip_filter: bool, gain: float) -> Tensor:
    return _empty_output(x, f, up, down, padding)


# ---- derivatives ----------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter, ctx.gain = inputs
    ctx.set_materialize_grads(False)
    ctx.x_shape = x.shape
    # x is needed for the gradient of f only: resampling is linear.
    ctx.save_for_backward(f, x if ctx.needs_input_grad[1] else None)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    f, x = ctx.saved_tensors
    dx = df = None
    if dy is not None and ctx.needs_input_grad[0]:
        padding = arguments.adjoint(ctx.x_shape, dy.shape, f, ctx.up, ctx.down, ctx.padding)
        dx = _UPFIRDN2D(dy, f, ctx.down, ctx.up, padding, not ctx.flip_filter, ctx.gain)
    if dy is not None and ctx.needs_input_grad[1]:
        # Through the reference: filters are rarely trained.
        df = filter_gradient_reference(x, dy, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter) * ctx.gain
    return dx, df, None, None, None, None, None


# ---- what the functions above call ---------------------------------------------------------------------------------------
_UPFIRDN2D = Differentiable("upfirdn2d", TABLE, _backward, _setup_context)

_dispatch.register(
    _dispatch.OpSpec(
        name="upfirdn2d",
        public=upfirdn2d,
        reference=upfirdn2d_reference,
        prepare=arguments.prepare,
        table=TABLE,
        samples=SAMPLES,
    )
)
