"""bias_act: the front door. Docstring, schemas, fakes, derivatives and the tables of backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._activations import activation_funcs, reference_tensor
from gankern._autograd import Differentiable, composed_backward, run_in_place, wanted
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.bias_act import arguments, backends
from gankern.ops.bias_act.reference import bias_act_composed, bias_act_reference, double_backward_composed
from gankern.ops.bias_act.samples import SAMPLES

_SETTINGS = "int dim, str act, float alpha, float gain, float clamp"
LIBRARY.define(f"bias_act(Tensor x, Tensor? b, Tensor? noise, {_SETTINGS}) -> Tensor")
LIBRARY.define(f"bias_act_(Tensor(a!) x, Tensor? b, Tensor? noise, {_SETTINGS}) -> ()")
LIBRARY.define(
    f"bias_act_backward(Tensor dy, Tensor? y, Tensor? x, Tensor? b, Tensor? noise, {_SETTINGS}, bool[3] mask) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "bias_act_double_backward(Tensor? u, Tensor? u_b, Tensor? u_noise, Tensor dy, Tensor? y, Tensor? x, Tensor? b, "
    f"Tensor? noise, {_SETTINGS}, bool[2] mask) -> (Tensor, Tensor)"
)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    noise: Tensor | None = None,
    noise_strength: Tensor | float | None = None,
) -> Tensor:
    r"""Add noise and a bias, apply an activation function, scale and clamp, in one pass over memory.

    1. ``v = x + noise * noise_strength + b``, the bias along ``dim``;
    2. ``y = gain * f(v)`` with the activation function ``f``;
    3. ``y`` is clamped to [-clamp, clamp].

    Args:
        x: any shape, for example [N, C, H, W] or [N, C]; float32, float64, bfloat16 or float16; any strides.
        b: bias [x.shape[dim]], or None. Cast to the dtype of ``x``.
        dim: dimension of ``x`` that the bias belongs to. Default 1.
        act: 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus' or 'swish'. Default 'linear'.
        alpha: slope of 'lrelu' for negative values; the others ignore it. Default: ``activation_funcs[act].def_alpha`` (0.2).
        gain: factor on the activation. Default: ``activation_funcs[act].def_gain``: sqrt(2) for 'relu', 'lrelu' and 'swish',
            else 1.
        clamp: largest magnitude of the output, not negative, or None for no clamping. Default None.
        noise: broadcastable to [N, 1, H, W] (``x`` of 4 dimensions, bias along 1), or None.
        noise_strength: one number, a float or a tensor of one element (learned), times ``noise``. Default None: 1.

    Returns:
        The shape and dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``, ``b``, ``noise`` and ``noise_strength``; first and second order by kernels, further
    ones through the reference. Backward keeps one tensor: the output where that determines the slope, else the input
    ('swish', negative ``alpha``); nothing for 'linear' without clamp. The slope is 0 where the output is clamped and, as in
    PyTorch, that of negative values at the kink of a rectifier. Under functorch transforms the reference runs.

    Source: the layer epilogue of StyleGAN (Karras et al. 2019, 2020); He et al. 2015 for the gains.
    """
    if _dispatch.takes_reference():
        return bias_act_reference(x, b, dim, act, alpha, gain, clamp, noise=noise, noise_strength=noise_strength)
    x, b, *rest = arguments.prepare(x, b, dim, act, alpha, gain, clamp, noise=noise, noise_strength=noise_strength)
    return _BIAS_ACT(x, b, *rest)


def bias_act_(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    noise: Tensor | None = None,
    noise_strength: Tensor | float | None = None,
) -> Tensor:
    """:func:`bias_act` in place, for inference: overwrites ``x`` and returns it.

    Args:
        x: as for :func:`bias_act`; overwritten.
        b: as for :func:`bias_act`.
        dim: as for :func:`bias_act`.
        act: as for :func:`bias_act`.
        alpha: as for :func:`bias_act`.
        gain: as for :func:`bias_act`.
        clamp: as for :func:`bias_act`.
        noise: as for :func:`bias_act`.
        noise_strength: as for :func:`bias_act`.

    Returns:
        ``x``.

    Raises:
        TypeError, ValueError: as :func:`bias_act`.
        RuntimeError: a gradient would be needed (use :func:`bias_act`, or ``torch.no_grad()``).

    Gradients: none.
    """
    tensors = [t for t in (x, b, noise, noise_strength) if isinstance(t, Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise RuntimeError("bias_act_: works in place and has no gradient: use bias_act, or torch.no_grad()")
    _dispatch.require_no_tangents("bias_act_", tensors)
    prepared = arguments.prepare(x, b, dim, act, alpha, gain, clamp, noise=noise, noise_strength=noise_strength)
    if _dispatch.standard():
        return x.copy_(bias_act_composed(*prepared))
    run_in_place(torch.ops.gankern.bias_act_.default, backends.in_place, *prepared)
    return x


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("bias_act", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("bias_act_", backends.in_place, "CompositeExplicitAutograd")
LIBRARY.impl("bias_act_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("bias_act_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::bias_act", lib=LIBRARY)
def _fake(x: Tensor, *rest: Any) -> Tensor:
    return empty_like(x)


@torch.library.register_fake("gankern::bias_act_", lib=LIBRARY)
def _fake_in_place(x: Tensor, *rest: Any) -> None:
    return None


@torch.library.register_fake("gankern::bias_act_backward", lib=LIBRARY)
def _fake_backward(
    dy: Tensor, y: Any, x: Any, b: Any, noise: Any, dim: int, act: str, alpha: float, gain: float, clamp: float, mask: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return backends.backward_outputs(dy, y if y is not None else x, dim, mask)


@torch.library.register_fake("gankern::bias_act_double_backward", lib=LIBRARY)
def _fake_double_backward(
    u: Any, u_b: Any, u_noise: Any, dy: Tensor, y: Any, x: Any, b: Any, noise: Any,
    dim: int, act: str, alpha: float, gain: float, clamp: float, mask: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return backends.double_backward_outputs(dy, y if y is not None else x, mask)


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, noise, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    _, act, alpha, gain, clamp = ctx.settings
    needs = reference_tensor(act, alpha, gain, clamp)
    ctx.present = [t is not None for t in (x, b, noise)]
    ctx.noise_shape = None if noise is None else noise.shape
    if needs == "x":
        ctx.save_for_backward(None, x, b, noise)
    else:
        ctx.save_for_backward(output if needs == "y" else None, None, None, None)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    if dy is None:
        return (None, None, None, *nothing)
    y, x, b, noise = ctx.saved_tensors
    mask = wanted(ctx, ctx.present)
    if not any(mask):
        return (None, None, None, *nothing)
    _, act, _, gain, clamp = ctx.settings
    if act == "linear" and gain == 1 and clamp < 0 and not (mask[1] or mask[2]):
        return (dy, None, None, *nothing)  # the identity needs no kernel
    dx, db, dnoise = _BIAS_ACT_BACKWARD(dy, y, x, b, noise, *ctx.settings, mask)
    return (
        dx if mask[0] else None,
        db if mask[1] else None,
        _sum_to(dnoise, ctx.noise_shape) if mask[2] else None,
        *nothing,
    )


def _sum_to(t: Tensor, shape: Any) -> Tensor:
    """[N, 1, H, W] summed over the batch where the noise was one for all."""
    return t.sum(0, keepdim=True) if shape[0] == 1 and t.shape[0] != 1 else t


# ---- second order ------------------------------------------------------------------------------------------------------
# The slope is a function of what was saved. If that is the output y, its cotangent goes to y, and from there autograd's one
# call of bias_act_backward takes it, summed with whatever else reaches y, to x, b and noise: no reduction is done twice.
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, y, x, b, noise, *ctx.settings, ctx.mask = inputs
    ctx.set_materialize_grads(False)
    curved = activation_funcs[ctx.settings[1]].curved
    ctx.dy_shape = dy.shape
    # A piecewise linear activation has no second derivative: dy is then not needed.
    ctx.save_for_backward(dy if curved else None, y, x, b, noise)


def _backward_backward(ctx: Any, u: Tensor | None, u_b: Tensor | None, u_noise: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 6
    dy, y, x, b, noise = ctx.saved_tensors
    wanted = ctx.mask
    u, u_b, u_noise = (t if w else None for t, w in zip((u, u_b, u_noise), wanted, strict=True))
    curved = activation_funcs[ctx.settings[1]].curved
    need_dy = ctx.needs_input_grad[0]
    need_saved = curved and any(ctx.needs_input_grad[1:5])
    if (u is None and u_b is None and u_noise is None) or not (need_dy or need_saved):
        return (None,) * 5 + nothing
    dim, act, _, gain, clamp = ctx.settings
    if act == "linear" and clamp < 0 and u_b is None and u_noise is None:
        return (u if gain == 1 else u * gain, None, None, None, None, *nothing)
    if dy is None:  # it only gives the shape: whatever has it, or a number expanded to it
        given = next((t for t in (y, x, u) if t is not None), None)
        some = u_b if u_b is not None else u_noise
        dy = given if given is not None or some is None else some.new_empty(()).expand(ctx.dy_shape)
    d_dy, d_saved = _BIAS_ACT_DOUBLE_BACKWARD(u, u_b, u_noise, dy, y, x, b, noise, *ctx.settings, [need_dy, need_saved])
    d_dy = d_dy if need_dy else None
    if not need_saved:
        return (d_dy, None, None, None, None, *nothing)
    if y is not None:
        return (d_dy, d_saved, None, None, None, *nothing)
    # d_saved is the cotangent of v = x + noise + b.
    mask = [False, ctx.needs_input_grad[3], ctx.needs_input_grad[4]]
    db = dnoise = None
    if mask[1] or mask[2]:
        _, db, dnoise = _BIAS_ACT_BACKWARD(d_saved, None, None, None, None, dim, "linear", 0.0, 1.0, -1.0, mask)
        db = db if mask[1] else None
        dnoise = _sum_to(dnoise, noise.shape) if mask[2] else None
    return (d_dy, None, d_saved if ctx.needs_input_grad[2] else None, db, dnoise, *nothing)


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_BIAS_ACT = Differentiable("bias_act", backends.FORWARD, _backward, _setup_context)
_BIAS_ACT_BACKWARD = Differentiable("bias_act_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)
_BIAS_ACT_DOUBLE_BACKWARD = Differentiable(
    "bias_act_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="bias_act",
        public=bias_act,
        reference=bias_act_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
    )
)
