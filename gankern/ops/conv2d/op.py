"""conv2d and conv_transpose2d: the front doors. Docstrings, schemas, fakes, derivatives.

Three operators differentiate into each other, to any order: the convolution C(x, w), the transposed convolution T(g, w), its
adjoint in x, and the weight gradient W(x, g), its adjoint in w.

    C(x, w):  dx = T(g, w)   dw = W(x, g)
    T(x, w):  dx = C(g, w)   dw = W(g, x)
    W(x, g):  dx = T(g, u)   dg = C(x, u)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, wanted
from gankern._library import LIBRARY
from gankern.ops.conv2d import arguments, backends
from gankern.ops.conv2d.reference import conv2d_reference, conv_transpose2d_reference
from gankern.ops.conv2d.samples import CONV2D_SAMPLES, CONV_TRANSPOSE2D_SAMPLES
from gankern.ops.conv2d.scope import skipped_when_traced, weight_gradients_disabled
from gankern.ops.conv2d.usual import Usual, run

_GEOMETRY = "int[2] dilation, int groups"
LIBRARY.define(f"conv2d(Tensor x, Tensor w, Tensor? b, int[2] stride, SymInt[2] padding, {_GEOMETRY}) -> Tensor")
LIBRARY.define(
    "conv_transpose2d(Tensor x, Tensor w, Tensor? b, int[2] stride, SymInt[2] padding, SymInt[2] output_padding, "
    f"{_GEOMETRY}) -> Tensor"
)
LIBRARY.define(
    f"conv2d_weight_gradient(Tensor x, Tensor g, SymInt[] size, int[2] stride, SymInt[2] padding, {_GEOMETRY}) -> Tensor"
)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (correlation) as ``torch.nn.functional.conv2d``, with derivatives that are cheap at any order.

    Args:
        input: images [N, in_channels, H, W]; float32, float64, bfloat16 or float16; any strides.
        weight: [out_channels, in_channels / groups, kh, kw], of the dtype of ``input``.
        bias: [out_channels], or None. Default None.
        stride: an int or [y, x]. Default 1.
        padding: zeros around the images: an int, [y, x], 'valid' (none) or 'same' (the output has the size of the input; stride
            1 only). Default 0.
        dilation: distance of the kernel's taps, an int or [y, x]. Default 1.
        groups: number of independent groups of channels. Default 1.

    Returns:
        [N, out_channels, Ho, Wo] with Ho = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1. channels_last if ``input`` or
        ``weight`` is. Under autocast it computes in autocast's dtype, as PyTorch's does.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, device, shape or value; the message names it.

    Gradients: of any order in ``input``, ``weight`` and ``bias``. Weight gradients of any order are one call of the weight
    gradient (``aten::convolution_backward`` with output mask (False, True, False)), grouped or not; PyTorch's own second
    derivative is a convolution with an image-sized filter, once per group. Gradients that a backward pass does not ask for
    are not computed, see :class:`no_weight_gradients`. Under functorch transforms the reference runs.

    Source: the adjoints of a linear map; README.md beside this file.
    """
    plan = _USUAL.plan(input, weight, bias, (stride, padding, dilation, groups))
    if plan is not None:
        return run(plan, input, weight, bias)
    if _dispatch.takes_reference():
        return conv2d_reference(input, weight, bias, stride, padding, dilation, groups)
    x, w, b, *rest = arguments.prepare_conv2d(input, weight, bias, stride, padding, dilation, groups)
    return _CONV2D(x, w, b, *rest)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Transposed 2-D convolution as ``torch.nn.functional.conv_transpose2d``, with derivatives that are cheap at any order.

    Args:
        input: images [N, in_channels, H, W]; float32, float64, bfloat16 or float16; any strides.
        weight: [in_channels, out_channels / groups, kh, kw], of the dtype of ``input``.
        bias: [out_channels], or None. Default None.
        stride: an int or [y, x]. Default 1.
        padding: rows and columns to leave out on each side of the full result: an int or [y, x]. Default 0.
        output_padding: rows and columns more at the bottom and right, less than stride or dilation: an int or [y, x].
            Default 0.
        groups: number of independent groups of channels. Default 1.
        dilation: distance of the kernel's taps, an int or [y, x]. Default 1.

    Returns:
        [N, out_channels, Ho, Wo] with Ho = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1. channels_last
        if ``input`` or ``weight`` is. Under autocast it computes in autocast's dtype, as PyTorch's does.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, device, shape or value; the message names it.

    Gradients: of any order in ``input``, ``weight`` and ``bias``, as :func:`conv2d`.

    Source: the adjoint of :func:`conv2d`; README.md beside this file.
    """
    plan = _USUAL_TRANSPOSE.plan(input, weight, bias, (stride, padding, output_padding, groups, dilation))
    if plan is not None:
        return run(plan, input, weight, bias)
    if _dispatch.takes_reference():
        return conv_transpose2d_reference(input, weight, bias, stride, padding, output_padding, groups, dilation)
    x, w, b, *rest = arguments.prepare_conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONV_TRANSPOSE2D(x, w, b, *rest)


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("conv2d", backends.CONV2D.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("conv_transpose2d", backends.CONV_TRANSPOSE2D.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("conv2d_weight_gradient", backends.WEIGHT_GRADIENT.__call__, "CompositeExplicitAutograd")
torch.library.register_fake("gankern::conv2d", backends.conv2d_output, lib=LIBRARY)
torch.library.register_fake("gankern::conv_transpose2d", backends.conv_transpose2d_output, lib=LIBRARY)
torch.library.register_fake("gankern::conv2d_weight_gradient", backends.weight_gradient_output, lib=LIBRARY)


# ---- derivatives -------------------------------------------------------------------------------------------------------
def _needed(ctx: Any) -> list[bool]:
    """Whether the running backward is to compute the gradients of the operator's x, w and b."""
    x, w, b = wanted(ctx, ctx.present)
    skip = skipped_when_traced() if torch.compiler.is_compiling() else weight_gradients_disabled()
    return [x, w and not skip, b]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, b, *ctx.geometry = inputs
    ctx.set_materialize_grads(False)
    ctx.present = [True, True, b is not None]
    ctx.x_size, ctx.w_size = x.shape, w.shape
    # Of the two, only what a gradient needs is kept.
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w if ctx.needs_input_grad[0] else None)


def _conv2d_backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
    dx = dw = db = None
    if g is not None:
        x, w = ctx.saved_tensors
        need = _needed(ctx)
        stride, padding, dilation, groups = ctx.geometry
        if need[0]:
            dx = _transpose_to(ctx.x_size, g, w, stride, padding, dilation, groups)
        if need[1]:
            dw = _WEIGHT_GRADIENT(x, g, ctx.w_size, stride, padding, dilation, groups)
        if need[2]:
            db = g.sum((0, 2, 3))
    return dx, dw, db, None, None, None, None


def _transpose_to(size: Sequence[int], g: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """The adjoint of conv2d in its images of ``size``: what the stride left out at the bottom and right is output padding."""
    more = [
        size[2 + i] - arguments.size_of_transpose(g.shape[2 + i], w.shape[2 + i], stride[i], padding[i], 0, dilation[i])
        for i in (0, 1)
    ]
    return _CONV_TRANSPOSE2D(g, w, None, stride, padding, more, dilation, groups)


def _conv_transpose2d_backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
    dx = dw = db = None
    if g is not None:
        x, w = ctx.saved_tensors
        need = _needed(ctx)
        stride, padding, _, dilation, groups = ctx.geometry
        # An output padding of a stride or more (which dilation allows) makes conv2d of g larger than x.
        size = [arguments.size_of_conv(g.shape[2 + i], ctx.w_size[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1)]
        larger = [size[i] - ctx.x_size[2 + i] for i in (0, 1)]
        if need[0]:
            dx = _CONV2D(g, w, None, stride, padding, dilation, groups)
            dx = dx[:, :, : ctx.x_size[2], : ctx.x_size[3]] if any(larger) else dx
        if need[1]:
            x = torch.nn.functional.pad(x, [0, larger[1], 0, larger[0]]) if any(larger) else x
            dw = _WEIGHT_GRADIENT(g, x, ctx.w_size, stride, padding, dilation, groups)
        if need[2]:
            db = g.sum((0, 2, 3))
    return dx, dw, db, None, None, None, None, None


def _weight_gradient_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, g, _, *ctx.geometry = inputs
    ctx.set_materialize_grads(False)
    ctx.x_size = x.shape
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, g if ctx.needs_input_grad[0] else None)


def _weight_gradient_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    dx = dg = None
    if u is not None:
        x, g = ctx.saved_tensors
        need = wanted(ctx, [True, True])
        if need[0]:
            dx = _transpose_to(ctx.x_size, g, u, *ctx.geometry)
        if need[1]:
            dg = _CONV2D(x, u, None, *ctx.geometry)
    return dx, dg, None, None, None, None, None


_CONV2D = Differentiable("conv2d", backends.CONV2D, _conv2d_backward, _setup_context)
_CONV_TRANSPOSE2D = Differentiable("conv_transpose2d", backends.CONV_TRANSPOSE2D, _conv_transpose2d_backward, _setup_context)
_WEIGHT_GRADIENT = Differentiable(
    "conv2d_weight_gradient", backends.WEIGHT_GRADIENT, _weight_gradient_backward, _weight_gradient_setup_context
)
_USUAL = Usual(False, arguments.prepare_conv2d, backends.CONV2D, backends.conv2d_output, _conv2d_backward)
_USUAL_TRANSPOSE = Usual(
    True, arguments.prepare_conv_transpose2d, backends.CONV_TRANSPOSE2D, backends.conv_transpose2d_output,
    _conv_transpose2d_backward,
)  # fmt: skip

_dispatch.register(
    _dispatch.OpSpec(
        name="conv2d",
        public=conv2d,
        reference=conv2d_reference,
        prepare=arguments.prepare_conv2d,
        table=backends.CONV2D,
        samples=CONV2D_SAMPLES,
        image="input",
        autocast="lower",
    )
)
_dispatch.register(
    _dispatch.OpSpec(
        name="conv_transpose2d",
        public=conv_transpose2d,
        reference=conv_transpose2d_reference,
        prepare=arguments.prepare_conv_transpose2d,
        table=backends.CONV_TRANSPOSE2D,
        samples=CONV_TRANSPOSE2D_SAMPLES,
        image="input",
        autocast="lower",
    )
)
