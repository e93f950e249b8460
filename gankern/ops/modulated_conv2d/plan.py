"""Which way a modulated convolution without gradients goes on the CPU, as data."""

from __future__ import annotations

from collections.abc import Sequence


def fold(kernel: Sequence[int], pixels: int) -> bool:
    """Whether style and demodulation go into the weight of one sample after the other, rather than around the convolution.

    Folding costs O I kh kw multiplications and a convolution of its own for each sample; scaling costs a pass over x that
    writes a fresh tensor, I multiplications a pixel. So a weight is folded where it is no larger than an image. On 2 cores
    with AVX-512, that is where folding was faster or equal: 64 channels at 256^2 and 128^2, 128 at 128^2, 256 at 64^2, and
    not 512 at 32^2 and below.

    Args:
        kernel: (O, I, kh, kw).
        pixels: of one input image.
    """
    o, _, kh, kw = kernel
    return o * kh * kw <= pixels
