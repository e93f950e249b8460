"""Design of low-pass filters: Kaiser-windowed, separable or radially symmetric."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankern import _validate


def lowpass_filter(taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False) -> Tensor | None:
    r"""Taps of a Kaiser-windowed low-pass filter, for :func:`gankern.ops.filtered_lrelu` and :func:`gankern.ops.upfirdn2d`.

    The ideal filter, a sinc along each axis or, with ``radial``, the radially symmetric jinc ``J1(2 pi cutoff r) / r``, times a
    Kaiser window along each axis. The window follows from taps and width: its stopband lies
    ``A = 2.285 (taps - 1) pi width / (sampling_rate / 2) + 7.95`` dB down.

    A radial filter treats all directions alike, which rotation equivariance needs; it is not separable.

    Args:
        taps: number of taps along an axis, at least 1.
        cutoff: frequency at which the gain is about one half, above 0 and below half the sampling rate.
        width: full width of the transition band around it, above 0, in the same unit.
        sampling_rate: rate of the signal that is filtered, in the same unit.
        radial: a radially symmetric filter. Default False.

    Returns:
        Float32 taps with a sum of 1: [taps], which act along both axes, or [taps, taps] if ``radial``; None for one tap.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Shape: none to [taps] or [taps, taps].

    Source: Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974; Karras et al., "Alias-Free
    Generative Adversarial Networks", 2021, appendix C.
    """
    op = "lowpass_filter"
    if isinstance(taps, bool) or not isinstance(taps, int):
        raise TypeError(f"{op}: taps must be an int, got {taps!r}")
    if taps < 1:
        raise ValueError(f"{op}: taps must be at least 1, got {taps}")
    cutoff, width = _validate.number(op, "cutoff", cutoff), _validate.number(op, "width", width)
    rate = _validate.number(op, "sampling_rate", sampling_rate)
    if taps == 1:
        return None
    if not 0 < cutoff < rate / 2:
        raise ValueError(f"{op}: cutoff must be above 0 and below half of sampling_rate {rate}, got {cutoff}")
    if width <= 0:
        raise ValueError(f"{op}: width must be above 0, got {width}")
    place = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2
    beta = kaiser_beta(2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95)
    inside = 1 - (2 * place / (taps - 1)).square()
    window = torch.special.i0(beta * inside.clamp_min(0).sqrt())  # up to a factor, which the sum takes away
    step = 2 * cutoff / rate
    if radial:
        r = torch.hypot(place[:, None], place[None, :])
        # J1(pi step r) / r, whose limit at 0 is pi step / 2.
        ideal = torch.where(r > 0, torch.special.bessel_j1(math.pi * step * r) / r.clamp_min(0.5), math.pi * step / 2)
        found = ideal * window[:, None] * window[None, :]
    else:
        found = torch.sinc(step * place) * window
    return (found / found.sum()).float()


def kaiser_beta(attenuation: float) -> float:
    """The shape of the Kaiser window whose filter reaches an attenuation in dB (Kaiser 1974)."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
