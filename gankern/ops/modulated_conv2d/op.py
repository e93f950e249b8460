"""modulated_conv2d: the front door. With gradients a composition of modulate and conv2d_resample; without, one operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._library import LIBRARY
from gankern.ops.conv2d_resample import conv2d_resample
from gankern.ops.modulate import modulate
from gankern.ops.modulated_conv2d import arguments, backends
from gankern.ops.modulated_conv2d.factors import EPS, Factors, factors
from gankern.ops.modulated_conv2d.reference import modulated_conv2d_reference
from gankern.ops.modulated_conv2d.samples import SAMPLES

LIBRARY.define(
    "modulated_conv2d_inference(Tensor x, Tensor weight, Tensor styles, Tensor? input_gain, bool demodulate, Tensor? noise, "
    "Tensor? b, Tensor? f, int up, int down, SymInt[4] padding, bool flip_weight, "
    "str act, float alpha, float gain, float clamp) -> Tensor"
)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    kernel_mix: Tensor | None = None,
) -> Tensor:
    r"""Convolution with weights that each sample's style scales, and the whole layer around it: StyleGAN2's and 3's layers.

    Sample n is convolved with ``w_n[o, i] = weight[o, i] * styles[n, i] * d[n, o]``, where demodulation makes the expected
    variance of the output 1: ``d[n, o] = rsqrt(sum over i and taps of (weight[o, i] * styles[n, i])^2 + 1e-8)``. Then

    1. the convolution, with upsampling before or downsampling after it as :func:`conv2d_resample`;
    2. ``+ noise``, ``+ bias``, activation, ``* gain``, clamp to [-clamp, clamp].

    No weight is made for each sample: the styles scale the images, demodulation scales the result.

    Args:
        x: images [N, I, H, W]; float32, float64, bfloat16 or float16; any strides.
        weight: [O, I, kh, kw], or [K, O, I, kh, kw] with ``kernel_mix``; any floating-point dtype, float32 is used.
        styles: [N, I], any floating-point dtype, float32 is used.
        noise: broadcastable to [N, 1, Ho, Wo], scaled already, or None. Default None.
        up: upsampling factor, an int; not with ``down``. Default 1.
        down: downsampling factor, an int. Default 1.
        padding: pixels of the upsampled image, as for :func:`conv2d_resample`. Default 0.
        resample_filter: taps of :func:`setup_filter`, or None for none. Default None.
        demodulate: divide by the norm of the sample's weight. Default True.
        flip_weight: True is correlation, as ``torch.nn.functional.conv2d``; False is convolution. Default True.
        input_gain: factor on the input channels that is not demodulated: a number, [], [I] or [N, I]. Default None.
        bias: [O], or None. Default None.
        act: activation of :func:`bias_act`. Default 'linear'.
        alpha: as for :func:`bias_act`. Default None.
        gain: as for :func:`bias_act`. Default None.
        clamp: as for :func:`bias_act`. Default None.
        kernel_mix: [N, K]: sample n uses ``sum_k kernel_mix[n, k] weight[k]`` (Kang et al. 2023). Default None.

    Returns:
        [N, O, Ho, Wo], sizes as :func:`conv2d_resample`; dtype of ``x`` (autocast's under autocast); channels_last if ``x`` is.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, device, shape or value; the message names it.

    Gradients: of any order in ``x``, ``weight``, ``styles``, ``noise``, ``input_gain``, ``bias`` and ``kernel_mix``. A first
    backward pass that only asks for styles and images (path length regularisation) does no weight gradient. In half types
    weight and styles are normalised before they meet the images (which demodulation undoes), so that large styles do not
    overflow.

    Source: Karras et al. 2020, section 2.2; Karras et al. 2021 (``input_gain``, normalisation); README.md beside this file.
    """
    named: dict[str, Any] = {
        "noise": noise, "up": up, "down": down, "padding": padding, "resample_filter": resample_filter,
        "demodulate": demodulate, "flip_weight": flip_weight, "input_gain": input_gain, "bias": bias, "act": act,
        "alpha": alpha, "gain": gain, "clamp": clamp, "kernel_mix": kernel_mix,
    }  # fmt: skip
    composed = _dispatch.takes_reference()
    if composed and not _dispatch.standard():
        return modulated_conv2d_reference(x, weight, styles, **named)
    p = arguments.prepare(x, weight, styles, **named)
    if p.kernel_mix is None:
        return _layer(p, p.x, p.weight, p.styles, p.noise, p.input_gain, composed)
    if composed:
        return _mixed_outputs(p, p.kernel_mix)
    if p.x.shape[0] == 0:
        return _layer(p, p.x, p.weight.sum(0) + 0 * p.kernel_mix.sum(), p.styles, p.noise, p.input_gain)
    parts = []
    for n in range(p.x.shape[0]):
        own = slice(n, n + 1)
        mixed = (p.kernel_mix[n, :, None, None, None, None] * p.weight).sum(0)
        shared = p.noise is None or p.noise.shape[0] == 1
        parts.append(
            _layer(
                p, p.x[own], mixed, p.styles[own], p.noise if shared else p.noise[own],  # type: ignore[index]
                None if p.input_gain is None else p.input_gain[own],
            )
        )  # fmt: skip
    return torch.cat(parts)


def _layer(
    p: arguments.Prepared,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    input_gain: Tensor | None,
    composed: bool = False,
) -> Tensor:
    """The layer of samples with one kernel; ``composed`` of operators also where no gradient is needed."""
    used = [t for t in (x, weight, styles, noise, input_gain, p.bias, p.f) if t is not None]
    if composed or (torch.is_grad_enabled() and any(t.requires_grad for t in used)):
        return _differentiable(p, x, factors(weight, styles, input_gain, p.demodulate, _is_half(x)), noise)
    return torch.ops.gankern.modulated_conv2d_inference.default(
        x, weight, styles, input_gain, p.demodulate, noise, p.bias, p.f, p.up, p.down, list(p.padding), p.flip_weight,
        *p.settings,
    )  # fmt: skip


def _mixed_outputs(p: arguments.Prepared, mix: Tensor) -> Tensor:
    """The layer with all kernels applied to all samples, and their outputs mixed: for traces that hold for any batch.

    Mixing is linear, so the outputs may be mixed in place of the kernels: K times the work. Of the mixed kernels only the
    demodulation is made. In the wide type, whose range needs no normalisation.
    """
    kernels, channels = p.weight.shape[:2]
    a = p.styles if p.input_gain is None else p.styles * p.input_gain
    images = modulate(p.x.to(a.dtype), a)
    z = conv2d_resample(images, p.weight.flatten(0, 1), p.f, p.up, p.down, p.padding, 1, p.flip_weight)
    z = (z.unflatten(1, (kernels, channels)) * mix[:, :, None, None, None]).sum(1)
    d = None
    if p.demodulate:
        mixed = (mix @ p.weight.flatten(1)).unflatten(1, tuple(p.weight.shape[1:]))
        d = ((mixed.square().sum((3, 4)) * p.styles.square()[:, None]).sum(2) + EPS).rsqrt()
    act, alpha, gain, clamp = p.settings
    return modulate(z, d, p.noise, p.bias, act, alpha, gain, None if clamp < 0 else clamp).to(p.x.dtype)


def _is_half(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


def _differentiable(p: arguments.Prepared, x: Tensor, made: Factors, noise: Tensor | None) -> Tensor:
    act, alpha, gain, clamp = p.settings
    images = modulate(x, made.a)
    z = conv2d_resample(images, made.w.to(x.dtype), p.f, p.up, p.down, p.padding, 1, p.flip_weight)
    if made.d is None and noise is None and p.bias is None and p.settings == ("linear", alpha, 1.0, -1.0):
        return z
    return modulate(z, made.d, noise, p.bias, act, alpha, gain, None if clamp < 0 else clamp)


LIBRARY.impl("modulated_conv2d_inference", backends.TABLE.__call__, "CompositeExplicitAutograd")
torch.library.register_fake("gankern::modulated_conv2d_inference", backends.output, lib=LIBRARY)


def _explained(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    """The steps in words."""
    p = arguments.prepare(*args, **kwargs)
    mixed = "" if p.kernel_mix is None else ", sample by sample with its mixed kernel"
    resampling = f"up={p.up}, down={p.down}, padding={list(p.padding)}"
    demodulated = "scale=demodulation, " if p.demodulate else ""
    weight = p.weight if p.weight.dim() == 4 else p.weight[0]
    taken = backends.TABLE.choose(
        p.x, weight, p.styles, p.input_gain, p.demodulate, p.noise, p.bias, p.f, p.up, p.down, p.padding, p.flip_weight,
        *p.settings,
    ).name  # fmt: skip
    return (
        f"modulate(x, scale=styles){mixed}",
        f"conv2d_resample({resampling})",
        f"modulate({demodulated}noise, bias, act={p.settings[0]!r})",
        f"or, where no gradient is needed, modulated_conv2d_inference ({taken})",
    )


_dispatch.register(
    _dispatch.OpSpec(
        name="modulated_conv2d",
        public=modulated_conv2d,
        reference=modulated_conv2d_reference,
        prepare=_explained,
        table=None,
        samples=SAMPLES,
        stages=3,
        autocast="image",
    )
)
