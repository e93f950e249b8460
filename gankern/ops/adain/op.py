"""adain: the front doors. Docstrings, schemas, fakes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._activations import activation_funcs
from gankern._autograd import Differentiable, composed_backward, wanted
from gankern._library import LIBRARY
from gankern.ops.adain import arguments, backends
from gankern.ops.adain.reference import (
    adain_from_features_reference,
    adain_reference,
    double_backward_composed,
    instance_norm_reference,
    style_factors,
)
from gankern.ops.adain.samples import SAMPLES

_INPUTS = "Tensor x, Tensor? scale, Tensor? shift, Tensor? noise, Tensor? b"
_SETTINGS = "str act, float alpha, float gain, str pre_act, float pre_alpha, float eps"
# spatial: scale and shift are images (a factor that is not given does not tell).
LIBRARY.define(f"adain({_INPUTS}, {_SETTINGS}) -> (Tensor y, Tensor mean, Tensor rstd)")
LIBRARY.define(
    f"adain_backward(Tensor dy, {_INPUTS}, Tensor mean, Tensor rstd, {_SETTINGS}, bool spatial, bool[5] mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "adain_double_backward(Tensor? u, Tensor? u_scale, Tensor? u_shift, Tensor? u_noise, Tensor? u_b, Tensor dy, "
    f"{_INPUTS}, Tensor mean, Tensor rstd, {_SETTINGS}, bool spatial, bool[6] mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def adain(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    *,
    pre_noise: Tensor | None = None,
    pre_bias: Tensor | None = None,
    pre_act: str = "linear",
) -> Tensor:
    r"""Normalise each plane to mean 0 and variance 1, scale and shift it, activate: adaptive instance normalisation.

    1. ``v = p(x + pre_noise + pre_bias)`` with the activation function ``p``: what StyleGAN has before its normalisation;
    2. ``n = (v - mean(v)) / sqrt(var(v) + eps)`` over the pixels of each plane, with the biased variance;
    3. ``y = gain * f(scale * n + shift)`` with the activation function ``f``.

    Args:
        x: [N, C, H, W] with at least 2 pixels a plane; float32, float64, bfloat16 or float16; any strides.
        scale: factor, [N, C], or [N, C, H, W] (SPADE); N may be 1 for all samples; None for 1. AdaIN's ``1 + style`` is the
            caller's sum.
        shift: summand, likewise; None for 0.
        eps: added to the variance; positive. Default 1e-5.
        act: ``f``: 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus' or 'swish'. Default 'linear'.
        alpha: slope of 'lrelu' for negative values; the others ignore it. Default: ``activation_funcs[act].def_alpha`` (0.2).
        gain: factor on the activation. Default: ``activation_funcs[act].def_gain``: sqrt(2) for 'relu', 'lrelu' and 'swish',
            else 1.
        pre_noise: broadcastable to [N, 1, H, W], or None.
        pre_bias: [C], or None.
        pre_act: ``p``, one of the same activation functions, with its default alpha and gain 1. Default 'linear'.

    Returns:
        The shape and dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32, with factors [N, C],
        noise and bias in float32. A constant plane gives ``gain * f(shift)``.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``, ``scale``, ``shift``, ``pre_noise`` and ``pre_bias``; first and second order by kernels,
    further ones through the reference. Backward keeps ``x``, and two numbers a plane. Under functorch transforms the reference
    runs.

    Source: Huang and Belongie, Arbitrary style transfer in real-time with adaptive instance normalization, 2017; the order
    of noise, bias and activation: Karras et al., A style-based generator architecture, 2019; factors as images: Park et
    al., Semantic image synthesis with spatially-adaptive normalization, 2019.
    """
    extra: dict[str, Any] = {"pre_noise": pre_noise, "pre_bias": pre_bias, "pre_act": pre_act}
    if _dispatch.takes_reference():
        return adain_reference(x, scale, shift, eps, act, alpha, gain, **extra)
    x, scale, shift, noise, b, *settings = arguments.prepare(x, scale, shift, eps, act, alpha, gain, **extra)
    y: Tensor = _ADAIN(x, scale, shift, noise, b, *settings)[0]
    return y


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
) -> Tensor:
    r"""Normalise each plane to mean 0 and variance 1, with one weight and bias a channel, and activate.

    ``y = gain * f(weight * (x - mean) / sqrt(var + eps) + bias)`` over the pixels of each plane, with the biased variance:
    :func:`torch.nn.functional.instance_norm` and the activation behind it. There are no running statistics: for those
    ``torch.nn.InstanceNorm2d(channels, track_running_stats=True)``.

    Args:
        x: as for :func:`adain`.
        weight: [C], or None for 1.
        bias: [C], or None for 0.
        eps: as for :func:`adain`.
        act: as for :func:`adain`.
        alpha: as for :func:`adain`.
        gain: as for :func:`adain`.

    Returns:
        The shape and dtype of ``x``; channels_last if ``x`` is.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``, ``weight`` and ``bias``, as those of :func:`adain`.

    Source: Ulyanov et al., Instance normalization: the missing ingredient for fast stylization, 2016.
    """
    if _dispatch.takes_reference():
        return instance_norm_reference(x, weight, bias, eps, act, alpha, gain)
    return adain(x, *arguments.affine(x, weight, bias), eps, act, alpha, gain)


def adain_from_features(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Give each plane of ``content`` the mean and the standard deviation of the same plane of ``style``.

    ``y = sqrt(var(style) + eps) * (content - mean(content)) / sqrt(var(content) + eps) + mean(style)``.

    Args:
        content: [N, C, H, W] with at least 2 pixels a plane; as ``x`` of :func:`adain`.
        style: [N or 1, C, any, any] with at least 2 pixels a plane; dtype and device of ``content``.
        eps: added to the variances; positive. Default 1e-5.

    Returns:
        The shape and dtype of ``content``; channels_last if it is.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in both; those of ``content`` as of :func:`adain`, those of the style's statistics by PyTorch.

    Source: Huang and Belongie, Arbitrary style transfer in real-time with adaptive instance normalization, 2017.
    """
    if _dispatch.takes_reference():
        return adain_from_features_reference(content, style, eps)
    arguments.features(content, style)
    return adain(content, *style_factors(style, eps), eps)


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("adain", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("adain_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("adain_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::adain", lib=LIBRARY)
def _fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return backends.outputs(x)


@torch.library.register_fake("gankern::adain_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return backends.backward_outputs(x, *rest[-2:])


@torch.library.register_fake("gankern::adain_double_backward", lib=LIBRARY)
def _fake_double_backward(
    u: Any, u_scale: Any, u_shift: Any, u_noise: Any, u_b: Any, dy: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return backends.double_backward_outputs(x, *rest[-2:])


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, scale, shift, noise, b, *ctx.settings = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)  # the derivatives below know them as functions of x
    ctx.set_materialize_grads(False)
    ctx.present = [t is not None for t in (x, scale, shift, noise, b)]
    ctx.spatial = any(t is not None and t.dim() == 4 for t in (scale, shift))
    ctx.noise_shape = None if noise is None else noise.shape
    # The output's slope is a function of what the shift has been added to.
    ctx.save_for_backward(x, scale, None if ctx.settings[0] == "linear" else shift, noise, b, mean, rstd)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    settings = (None,) * 6
    mask = wanted(ctx, ctx.present)
    if dy is None or not any(mask):
        return (None,) * 5 + settings
    results = _ADAIN_BACKWARD(dy, *ctx.saved_tensors, *ctx.settings, ctx.spatial, mask)
    dx, dscale, dshift, dnoise, db = (t if w else None for t, w in zip(results, mask, strict=True))
    return dx, dscale, dshift, _sum_to(dnoise, ctx.noise_shape), db, *settings


def _sum_to(t: Tensor | None, shape: Any) -> Tensor | None:
    """[N, 1, H, W] summed over the batch where the noise was one for all."""
    return t.sum(0, keepdim=True) if t is not None and shape[0] == 1 and t.shape[0] != 1 else t


# ---- second order ------------------------------------------------------------------------------------------------------
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, (*ctx.settings, ctx.spatial, ctx.mask) = inputs[:8], inputs[8:]
    ctx.set_materialize_grads(False)
    ctx.present = [t is not None for t in tensors]
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    rest = (None,) * 10
    dy, x, scale, shift, noise, b, mean, rstd = ctx.saved_tensors
    given = [t if w else None for t, w in zip(cotangents, ctx.mask, strict=True)]
    mask = wanted(ctx, ctx.present)[:6]
    # The shift stands in nothing but the slope.
    mask[3] = mask[3] and activation_funcs[ctx.settings[0]].curved
    if all(t is None for t in given) or not any(mask):
        return (None,) * 6 + rest
    results = _ADAIN_DOUBLE_BACKWARD(*given, dy, x, scale, shift, noise, b, mean, rstd, *ctx.settings, ctx.spatial, mask)
    d_dy, d_x, d_scale, d_shift, d_noise, d_b = (t if w else None for t, w in zip(results, mask, strict=True))
    return d_dy, d_x, d_scale, d_shift, None if noise is None else _sum_to(d_noise, noise.shape), d_b, *rest


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_ADAIN = Differentiable("adain", backends.FORWARD, _backward, _setup_context)
_ADAIN_BACKWARD = Differentiable("adain_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)
_ADAIN_DOUBLE_BACKWARD = Differentiable(
    "adain_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="adain",
        public=adain,
        reference=adain_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
    )
)
