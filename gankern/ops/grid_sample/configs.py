"""Settings of grid_sample's Triton kernels as data, with the argument that justifies each. (CUDA's stand in its source.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Gpu:
    """How the Triton kernels cut a problem up. Chosen by arithmetic so far: no number was measured on a GPU yet.

    Attributes:
        warps: of a program, at most.
        forward: numbers of a tile that a thread has at a time, where they are not vectors: four pixels of each are 16 loads
            under way.
        derivative: the same in backward and double backward, which have three to four times as much of each number: with 4 of
            them 150 to 200 registers a thread, 10 warps a multiprocessor.
        vector: numbers of a vector in these, at most: with 8 of them double backward takes 210 registers.
        channel_bytes: channels_last: of a tile along channels, at most: a cache line of each pixel. More would only leave
            fewer samples to hide the latency of their positions.
        channels: NCHW: channels of a tile, at most. A sample's position is then worked out once for them and each step of
            the loop over the rest.
        least_samples: samples of a tile, at least, in NCHW: neighbours read neighbouring pixels.
        programs: programs below which tiles shrink and channels are spread over programs (not where they are summed over):
            eight a multiprocessor of an H200.
        least_steps: steps along channels that pay for the positions of a program's samples, which take about as long as two.
        finish: numbers of a program that turns the integer sums into the gradient.
    """

    warps: int = 4
    forward: int = 4
    derivative: int = 2
    vector: int = 4
    channel_bytes: int = 128
    channels: int = 4
    least_samples: int = 32
    programs: int = 132 * 8
    least_steps: int = 4
    finish: int = 1024


GPU = Gpu()


class Tile(NamedTuple):
    """A program's tile of samples and channels, the steps that it takes along channels, its warps, and how many there are."""

    samples: int
    channels: int
    steps: int
    warps: int
    tiles: int
    chunks: int


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def tile(samples: int, channels: int, vector: int, element_size: int, derivative: bool, summed: bool) -> Tile:
    """How a problem is cut.

    Args:
        samples: of all images.
        channels: of an image.
        vector: numbers of a thread's vector along channels; 0 where neighbours are samples (NCHW).
        element_size: bytes of a number. Those of 8 take twice the registers.
        derivative: backward or double backward.
        summed: channels are summed over: a program takes all of a sample's.
    """
    numbers = GPU.derivative if derivative else GPU.forward
    numbers = max(vector, numbers // 2 if element_size == 8 else numbers)
    if vector:
        c = min(_power_of_two(channels), max(vector, GPU.channel_bytes // element_size))
        least = c
    else:
        # A few channels: what divides them; of many, the last tile may be partly empty.
        c = next(k for k in (4, 2, 1) if k <= GPU.channels and (channels % k == 0 or channels > 3 * k))
        least = c * GPU.least_samples
    size, least = 32 * GPU.warps * numbers, max(least, 32 * numbers)
    while size > least and -(-samples * c // size) < GPU.programs:
        size //= 2
    p = size // c
    tiles, rounds = -(-samples // p), -(-channels // c)
    worth = 1 if summed else max(1, -(-rounds // GPU.least_steps))
    steps = -(-rounds // min(worth, -(-GPU.programs // max(tiles, 1))))
    chunks = -(-rounds // max(steps, 1))
    return Tile(p, c, steps, max(1, size // (32 * numbers)), tiles, chunks)
