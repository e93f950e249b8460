"""Which way a modulated convolution without gradients goes on the CPU, as data.

Three passes beside the convolution are to be had: one that scales the image into a fresh tensor, one that finishes the result
in place, and, in place of the first, one over the weight. Convolutions write into fresh memory of their own, so that of samples
taken one by one the finishing pass goes from there into the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

LEAST_CHANNELS = 16
"""Images with fewer keep their layout."""
MOST_TURNED = 128
"""Channels of float32 images in NCHW up to which turning pays: with 64 the convolution then takes 0.7 of its time, with 128
0.8, with 256 0.95, which the passes that turn use up."""
LARGE = 1 << 19
"""Numbers of one sample from which samples are taken one by one: a pass over them takes 0.3 ms, the steps for a sample 0.1."""


class Way(NamedTuple):
    """How it is done.

    Attributes:
        fold: style and demodulation go into the weight, rather than around the convolution; one sample at a time.
        inside: layout of the convolution; the passes around it turn images on the way.
        samples: how many are done at a time.
    """

    fold: bool
    inside: torch.memory_format
    samples: int


def way(kernel: Sequence[int], image: Sequence[int], fmt: torch.memory_format, half: bool) -> Way:
    """Choose.

    Folding saves the pass over the image, for O I kh kw multiplications a sample. Of several samples it also makes the last
    pass write elsewhere than it reads, and every convolution bring the weight into its own layout again.

    Args:
        kernel: (O, I, kh, kw).
        image: (N, I, H, W).
        fmt: layout of the images.
        half: whether they are of a half type, whose convolutions are 1.1 to 3 times as fast in channels_last.
    """
    o, _, kh, kw = kernel
    n, i, height, width = image
    taps, pixels = o * kh * kw, height * width
    if n == 0:
        return Way(False, fmt, n)
    if n == 1 and taps <= pixels:
        return Way(True, fmt, 1)
    inside = _inside(min(o, i), max(o, i), taps / (n * pixels), fmt, half)
    large = i * pixels >= LARGE
    if inside == fmt and large and 8 * taps <= pixels:
        return Way(True, fmt, 1)
    return Way(False, inside, 1 if inside != fmt and large else n)


def _inside(least: int, most: int, weight: float, fmt: torch.memory_format, half: bool) -> torch.memory_format:
    """``weight``: its size over that of the images."""
    if least < LEAST_CHANNELS:
        return fmt
    if fmt == torch.contiguous_format:
        return torch.channels_last if weight <= 4 and (half or most <= MOST_TURNED) else fmt
    # A large weight would be turned for images that gain little: 512 channels at 4^2 x 4 take half the time in NCHW.
    return torch.contiguous_format if weight > 16 and not half else fmt
