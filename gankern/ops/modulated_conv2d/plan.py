"""Which way a modulated convolution goes on the CPU, as data."""

from __future__ import annotations

from collections.abc import Sequence


def fold(samples: int, kernel: Sequence[int], pixels: int) -> bool:
    """Whether style and demodulation go into the weight, rather than around the convolution; without gradients.

    Of one sample this saves a pass over x that writes a fresh tensor, for O I kh kw multiplications: so a weight is folded
    where it is no larger than the image. (Several samples would each have a convolution of their own, whose results have to
    be copied into one tensor: a pass as well.)

    Args:
        samples: N.
        kernel: (O, I, kh, kw).
        pixels: of one input image.
    """
    o, _, kh, kw = kernel
    return samples == 1 and o * kh * kw <= pixels


def channels_last_inside(kernel: Sequence[int], image: Sequence[int]) -> bool:
    """Whether NCHW images are convolved in channels_last: the passes around the convolution turn them on the way.

    Turning costs those passes about a third more, and turning the weight a pass over it; oneDNN's convolution gains 5 to 40 %
    (float32), or takes a third of the time (bfloat16, 64 channels).

    Args:
        kernel: (O, I, kh, kw).
        image: (N, I, H, W).
    """
    o, i, kh, kw = kernel
    n, _, height, width = image
    return min(o, i) >= 16 and o * kh * kw <= 4 * n * height * width
