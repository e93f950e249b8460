"""filtered_lrelu: the front door. Docstring, schemas, fakes and derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, wanted
from gankern._library import LIBRARY
from gankern.ops.bias_act import bias_act
from gankern.ops.filtered_lrelu import arguments, backends
from gankern.ops.filtered_lrelu.arguments import Prepared, Resampling
from gankern.ops.filtered_lrelu.reference import filtered_lrelu_reference
from gankern.ops.filtered_lrelu.samples import SAMPLES
from gankern.ops.upfirdn2d import upfirdn2d

LIBRARY.define(
    "filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, int[2] up, int[2] down, SymInt[4] padding, float gain, "
    "float slope, float clamp, bool flip_filter, bool with_mask) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "filtered_lrelu_masked(Tensor x, Tensor mask, Tensor? fu, Tensor? fd, int[2] up, int[2] down, SymInt[2] start, "
    "SymInt[2] offset, SymInt[2] mid, SymInt[2] size, float scale, float gain, float slope, bool flip_filter, "
    "bool channels_last) -> Tensor"
)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    r"""Leaky ReLU at a higher sampling rate, between two FIR filters that keep it free of aliasing, in one pass over memory.

    1. add the bias ``b`` to each channel;
    2. put ``up - 1`` zeros behind each pixel, pad with zeros (negative padding crops), convolve with ``fu``, only where it lies
       wholly inside, times ``up_x * up_y``;
    3. leaky ReLU with ``slope`` for negative values, times ``gain``, clamped to [-clamp, clamp];
    4. convolve with ``fd``, only where it lies wholly inside, and keep every ``down``-th pixel.

    The upsampled image never reaches memory. The output has
    ``(size * up + padding_before + padding_after - taps_u - taps_d + 1) // down + 1`` pixels along each axis.

    Args:
        x: images [N, C, H, W]; float32, float64, bfloat16 or float16; any strides. N and C may be 0.
        fu: taps of the upsampling filter, floating-point, on the device of ``x``: [taps_y, taps_x], or [taps] for a separable
            filter that acts along both axes, or None for a single tap of 1. Default None.
        fd: taps of the downsampling filter, likewise. Default None.
        b: bias [C] of any floating-point dtype, or None. Default None.
        up: integer upsampling factor, an int or [x, y]. Default 1.
        down: integer downsampling factor, an int or [x, y]. Default 1.
        padding: pixels of the upsampled image: an int, [x, y] or [x0, x1, y0, y1]; may be negative. Default 0.
        gain: factor on the activation, positive. Default sqrt(2).
        slope: of the leaky ReLU for negative values, not negative. Default 0.2.
        clamp: largest magnitude of the activation, not negative, or None for no clamping. Default None.
        flip_filter: False is convolution, True is correlation. Default False.

    Returns:
        [N, C, H_out, W_out] in the dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32, with taps and
        bias in float32.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x`` and ``b``, by the same kernel. Forward keeps no image: 2 bits for each pixel of the
    upsampled one, so up_x * up_y / 4 bytes for each of ``x``, and nothing where no gradient is needed. The slope is 0
    where the activation is clamped and, as in PyTorch, that of negative values at the kink. Where ``fu`` or ``fd`` requires
    a gradient (filters are rarely trained) the op is composed of :func:`upfirdn2d` and :func:`bias_act`, which differentiate in
    them, and keep the upsampled image. Under functorch transforms (vmap, torch.func.grad) the reference runs.

    Source: Karras et al., "Alias-Free Generative Adversarial Networks", 2021, section 3.2 and appendix D.
    """
    if _dispatch.takes_reference():
        if _dispatch.standard():
            return _composed(arguments.prepare(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter))
        return filtered_lrelu_reference(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
    p = arguments.prepare(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
    if torch.is_grad_enabled() and any(f is not None and f.requires_grad for f in (fu, fd)):
        return _composed(p)
    return _FILTERED_LRELU(p.x, p.fu, p.fd, p.b, *p[4:])[0]  # type: ignore[no-any-return]


def _composed(p: Prepared) -> Tensor:
    """The four steps by operators that differentiate in the filters."""
    limit = None if p.clamp < 0 else p.clamp
    t = p.x if p.b is None else bias_act(p.x, p.b)
    t = upfirdn2d(t, p.fu, p.up, 1, p.padding, p.flip_filter, p.up[0] * p.up[1])
    t = bias_act(t, act="lrelu", alpha=p.slope, gain=p.gain, clamp=limit)
    return upfirdn2d(t, p.fd, 1, p.down, 0, p.flip_filter)


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("filtered_lrelu", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("filtered_lrelu_masked", backends.MASKED.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::filtered_lrelu", lib=LIBRARY)
def _fake(x: Tensor, fu: Any, fd: Any, b: Any, up: Any, down: Any, padding: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    return backends.outputs(x, arguments.resampling(x, fu, fd, up, down, padding), rest[-1])


@torch.library.register_fake("gankern::filtered_lrelu_masked", lib=LIBRARY)
def _fake_masked(x: Tensor, *rest: Any) -> Tensor:
    return backends.masked_output(x, rest[8], rest[-1])


# ---- derivatives: the transposed linear part, of it again, and so on ---------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, fu, fd, b, ctx.up, ctx.down, padding, ctx.gain, ctx.slope, _, ctx.flip_filter, ctx.with_mask = inputs
    ctx.set_materialize_grads(False)
    ctx.present = [t is not None for t in (x, fu, fd, b)]
    ctx.x_shape = x.shape
    ctx.channels_last = arguments.is_channels_last(x)
    ctx.resampling = arguments.resampling(x, fu, fd, ctx.up, ctx.down, padding)
    ctx.scale = float(ctx.up[0] * ctx.up[1])
    ctx.save_for_backward(output[1], fu, fd)


def _backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * 8
    need_x, need_fu, need_fd, need_b = wanted(ctx, ctx.present)
    if not ctx.with_mask or need_fu or need_fd:
        raise RuntimeError(
            "filtered_lrelu: torch.ops.gankern.filtered_lrelu has gradients in x and b only, and with with_mask=True; "
            "gankern.ops.filtered_lrelu sees to both"
        )
    if dy is None or not (need_x or need_b):
        return (None, None, None, None, *rest)
    dx = _transposed(ctx, dy)
    db = None
    if need_b:  # the sum of dx, in the wide type and in a fixed order, as modulate's kernel makes it
        nothing = (None,) * 5
        mask = [False, False, False, True]
        db = torch.ops.gankern.modulate_backward.default(dx, *nothing, "linear", 0.0, 1.0, -1.0, mask)[3]
    return (dx if need_x else None, None, None, db, *rest)


def _transposed(ctx: Any, dy: Tensor) -> Tensor:
    """The gradient in the image: everything exchanged and reversed, through the same masks."""
    mask, fu, fd = ctx.saved_tensors
    r: Resampling = arguments.transposed(ctx.resampling, fu, fd, ctx.x_shape)
    return _MASKED(  # type: ignore[no-any-return]
        dy, mask, fd, fu, ctx.down, ctx.up, *r, ctx.scale, ctx.gain, ctx.slope, not ctx.flip_filter, ctx.channels_last
    )


def _masked_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mask, fu, fd, ctx.up, ctx.down, start, offset, mid, size, ctx.scale, ctx.gain, ctx.slope, *layout = inputs
    ctx.flip_filter, ctx.channels_last = layout
    ctx.set_materialize_grads(False)
    ctx.x_shape = x.shape
    ctx.resampling = Resampling(start, offset, mid, size)
    ctx.save_for_backward(mask, fu, fd)


def _masked_backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(ctx.needs_input_grad[2:4]):
        raise RuntimeError("filtered_lrelu: torch.ops.gankern.filtered_lrelu_masked has no gradient in its filters")
    dx = None if dy is None or not ctx.needs_input_grad[0] else _transposed(ctx, dy)
    return (dx, *(None,) * 14)


# ---- what the functions above call ---------------------------------------------------------------------------------------
_FILTERED_LRELU = Differentiable("filtered_lrelu", backends.FORWARD, _backward, _setup_context)
_MASKED = Differentiable("filtered_lrelu_masked", backends.MASKED, _masked_backward, _masked_setup_context)

_dispatch.register(
    _dispatch.OpSpec(
        name="filtered_lrelu",
        public=filtered_lrelu,
        reference=filtered_lrelu_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
        no_float64=("triton",),
    )
)
