"""modulate: the front door. Docstring, schemas, fakes, derivatives and the tables of backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._activations import activation_funcs, reference_tensor
from gankern._autograd import Differentiable, composed_backward, run_in_place, wanted
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.modulate import arguments, backends
from gankern.ops.modulate.reference import double_backward_composed, modulate_composed, modulate_reference
from gankern.ops.modulate.samples import SAMPLES

_SETTINGS = "str act, float alpha, float gain, float clamp"
LIBRARY.define(f"modulate(Tensor x, Tensor? scale, Tensor? noise, Tensor? b, {_SETTINGS}) -> Tensor")
LIBRARY.define(f"modulate_(Tensor(a!) x, Tensor? scale, Tensor? noise, Tensor? b, {_SETTINGS}) -> ()")
LIBRARY.define(
    f"modulate_into(Tensor x, Tensor? scale, Tensor? noise, Tensor? b, {_SETTINGS}, Tensor(a!) y) -> ()"
)  # for operators that have their output already
LIBRARY.define(
    f"modulate_backward(Tensor dy, Tensor? y, Tensor? x, Tensor? scale, Tensor? noise, Tensor? b, {_SETTINGS}, bool[4] mask) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "modulate_double_backward(Tensor? u, Tensor? u_scale, Tensor? u_noise, Tensor? u_b, Tensor dy, Tensor? y, Tensor? x, "
    f"Tensor? scale, Tensor? noise, Tensor? b, {_SETTINGS}, bool[4] mask) -> (Tensor, Tensor, Tensor, Tensor)"
)


def modulate(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    r"""Scale each channel of each sample, add noise and a bias, apply an activation function, in one pass over memory.

    1. ``v[n, c, h, w] = x[n, c, h, w] * scale[n, c] + noise[n, 0, h, w] + b[c]``;
    2. ``y = gain * f(v)`` with the activation function ``f``;
    3. ``y`` is clamped to [-clamp, clamp].

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16; any strides.
        scale: [N, C], or [1, C] for all samples, or None for 1. This and the next two of any floating-point dtype.
        noise: broadcastable to [N, 1, H, W], or None.
        b: bias [C], or None.
        act: 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus' or 'swish'. Default 'linear'.
        alpha: slope of 'lrelu' for negative values; the others ignore it. Default: ``activation_funcs[act].def_alpha`` (0.2).
        gain: factor on the activation. Default: ``activation_funcs[act].def_gain``: sqrt(2) for 'relu', 'lrelu' and 'swish',
            else 1.
        clamp: largest magnitude of the output, not negative, or None for no clamping. Default None.

    Returns:
        The shape and dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32, with ``scale``, ``noise``
        and ``b`` in float32.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``, ``scale``, ``noise`` and ``b``; first and second order by kernels, further ones through
    the reference. Backward keeps the output where that determines the slope, the input where the slope needs that ('swish',
    negative ``alpha``) or ``scale`` has a gradient. The slope is 0 where the output is clamped and, as in PyTorch, that of
    negative values at the kink of a rectifier. Under functorch transforms the reference runs.

    Source: demodulation and layer epilogue of StyleGAN2 (Karras et al. 2020), the convolution taken out of the middle.
    """
    if _dispatch.takes_reference():
        return modulate_reference(x, scale, noise, b, act, alpha, gain, clamp)
    x, scale, noise, b, *settings = arguments.prepare(x, scale, noise, b, act, alpha, gain, clamp)
    return _MODULATE(x, scale, noise, b, *settings)


def modulate_(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """:func:`modulate` in place, for inference: overwrites ``x`` and returns it.

    Args:
        x: as for :func:`modulate`; overwritten.
        scale: as for :func:`modulate`.
        noise: as for :func:`modulate`.
        b: as for :func:`modulate`.
        act: as for :func:`modulate`.
        alpha: as for :func:`modulate`.
        gain: as for :func:`modulate`.
        clamp: as for :func:`modulate`.

    Returns:
        ``x``.

    Raises:
        TypeError, ValueError: as :func:`modulate`.
        RuntimeError: a gradient would be needed (use :func:`modulate`, or ``torch.no_grad()``).

    Gradients: none.
    """
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, scale, noise, b)):
        raise RuntimeError("modulate_: works in place and has no gradient: use modulate, or torch.no_grad()")
    _dispatch.require_no_tangents("modulate_", (x, scale, noise, b))
    prepared = arguments.prepare(x, scale, noise, b, act, alpha, gain, clamp)
    if _dispatch.standard():
        return x.copy_(modulate_composed(*prepared))
    run_in_place(torch.ops.gankern.modulate_.default, backends.in_place, *prepared)
    return x


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("modulate", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("modulate_", backends.in_place, "CompositeExplicitAutograd")
LIBRARY.impl("modulate_into", backends.into, "CompositeExplicitAutograd")
LIBRARY.impl("modulate_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("modulate_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::modulate", lib=LIBRARY)
def _fake(x: Tensor, *rest: Any) -> Tensor:
    return empty_like(x)


@torch.library.register_fake("gankern::modulate_", lib=LIBRARY)
def _fake_in_place(x: Tensor, *rest: Any) -> None:
    return None


@torch.library.register_fake("gankern::modulate_into", lib=LIBRARY)
def _fake_into(x: Tensor, *rest: Any) -> None:
    return None


@torch.library.register_fake("gankern::modulate_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, y: Any, x: Any, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backends.backward_outputs(backends.leader(dy, y, x), rest[-1])


@torch.library.register_fake("gankern::modulate_double_backward", lib=LIBRARY)
def _fake_double_backward(
    u: Any, u_scale: Any, u_noise: Any, u_b: Any, dy: Tensor, y: Any, x: Any, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return backends.double_backward_outputs(backends.leader(dy, y, x), rest[-1])


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, noise, b, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.needs = reference_tensor(*ctx.settings)
    ctx.present = [t is not None for t in (x, scale, noise, b)]
    ctx.noise_shape = None if noise is None else noise.shape
    v = ctx.needs == "x"
    trains_scale = scale is not None and ctx.needs_input_grad[1]
    ctx.save_for_backward(
        output if ctx.needs == "y" else None,
        x if v or trains_scale else None,
        scale,
        noise if v else None,
        b if v else None,
    )


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    settings = (None,) * 4
    mask = wanted(ctx, ctx.present)
    if dy is None or not any(mask):
        return (None, None, None, None, *settings)
    y, x, scale, noise, b = ctx.saved_tensors
    act, _, gain, clamp = ctx.settings
    if act == "linear" and gain == 1 and clamp < 0 and scale is None and mask == [True, False, False, False]:
        return (dy, None, None, None, *settings)  # the identity needs no kernel
    # What this call does not look at is not handed over: it would seem to have a second derivative.
    v = ctx.needs == "x"
    dx, dscale, dnoise, db = _MODULATE_BACKWARD(
        dy, y, x if v or mask[1] else None, scale if v or mask[0] else None, noise, b, *ctx.settings, mask
    )
    return (
        dx if mask[0] else None,
        dscale if mask[1] else None,
        _sum_to(dnoise, ctx.noise_shape) if mask[2] else None,
        db if mask[3] else None,
        *settings,
    )


def _sum_to(t: Tensor, shape: Any) -> Tensor:
    """[N, 1, H, W] summed over the batch where the noise was one for all."""
    return t.sum(0, keepdim=True) if shape[0] == 1 and t.shape[0] != 1 else t


# ---- second order ------------------------------------------------------------------------------------------------------
# The slope is a function of what was saved. If that is the output y, its cotangent goes to y, and from there autograd's one
# call of modulate_backward takes it, summed with whatever else reaches y, to x, scale, noise and b: no reduction is done
# twice. Besides, dx is a product with scale and dscale one with x: these have direct derivatives.
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, y, x, scale, noise, b, *ctx.settings, ctx.mask = inputs
    ctx.set_materialize_grads(False)
    ctx.present = [t is not None for t in (dy, y, x, scale, noise, b)]
    ctx.dy_shape = dy.shape
    needs = ctx.needs_input_grad
    # A piecewise linear activation has no second derivative, and without the direct terms dy is then not needed.
    direct = (ctx.mask[1] and needs[2]) or (scale is not None and ctx.mask[0] and needs[3])
    ctx.save_for_backward(dy if direct or activation_funcs[ctx.settings[0]].curved else None, y, x, scale, noise, b)


def _backward_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    dy, y, x, scale, noise, b = ctx.saved_tensors
    u, u_scale, u_noise, u_b = (t if w else None for t, w in zip(cotangents, ctx.mask, strict=True))
    needs = wanted(ctx, ctx.present)
    act, _, gain, clamp = ctx.settings
    curved = activation_funcs[act].curved
    mask = [
        needs[0],
        curved and (needs[1] if y is not None else any(needs[2:])),
        needs[2] and u_scale is not None,
        needs[3] and u is not None,
    ]
    given = next((t for t in (u, u_scale, u_noise, u_b) if t is not None), None)
    if given is None or not any(mask):
        return (None,) * 6 + nothing
    plain = act == "linear" and gain == 1 and clamp < 0 and scale is None
    if plain and u_scale is None and u_noise is None and u_b is None:
        return (u, None, None, None, None, None, *nothing)
    if dy is None:  # it only gives the shape: whatever has it, or a number expanded to it
        image = next((t for t in (y, x, u) if t is not None), None)
        dy = given.new_empty(()).expand(ctx.dy_shape) if image is None else image
    d_dy, d_saved, d_x, d_scale = _MODULATE_DOUBLE_BACKWARD(
        u, u_scale, u_noise, u_b, dy, y, x, scale, noise, b, *ctx.settings, mask
    )
    to_x = d_x if mask[2] else None
    to_scale = d_scale if mask[3] else None
    to_y = to_noise = to_b = None
    if mask[1] and y is not None:
        to_y = d_saved
    elif mask[1]:  # d_saved is the cotangent of v = x * scale + noise + b
        via_x, via_scale, to_noise, to_b = _through_v(d_saved, x, scale, noise, needs[2:])
        to_x = via_x if to_x is None else to_x if via_x is None else to_x + via_x
        to_scale = via_scale if to_scale is None else to_scale if via_scale is None else to_scale + via_scale
    return (d_dy if mask[0] else None, to_y, to_x, to_scale, to_noise, to_b, *nothing)


def _through_v(
    dv: Tensor, x: Tensor, scale: Tensor | None, noise: Tensor | None, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    """From the cotangent of v those of x, scale, noise and b."""
    if scale is None and needs == [True, False, False, False]:
        return dv, None, None, None
    results = _MODULATE_BACKWARD(dv, None, x if needs[1] else None, scale, None, None, "linear", 0.0, 1.0, -1.0, needs)
    to_x, to_scale, to_noise, to_b = (t if w else None for t, w in zip(results, needs, strict=True))
    return to_x, to_scale, to_noise if noise is None or to_noise is None else _sum_to(to_noise, noise.shape), to_b


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_MODULATE = Differentiable("modulate", backends.FORWARD, _backward, _setup_context)
_MODULATE_BACKWARD = Differentiable("modulate_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)
_MODULATE_DOUBLE_BACKWARD = Differentiable(
    "modulate_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="modulate",
        public=modulate,
        reference=modulate_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
    )
)
