"""Settings of modulate as data, with the measurement or the argument that justifies each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """How the Triton and CUDA kernels cut an image up. Chosen by arithmetic so far: no number was measured on a GPU yet.

    Attributes:
        warps: of a program (CUDA: of a block).
        vectors: 16-byte vectors that a thread of a Triton program has of each image at a time: (half types, others, whose
            vectors hold fewer numbers). Forward: 2 with some 8 programs a multiprocessor are 32 KB under way, what covers
            H200's latency. The derivatives read more images, and keep more numbers in registers.
        row: bytes of a rectangle's line in memory, at most: a 16-byte vector for each thread of a warp, so that a sum along
            the line is one of a warp.
        elements: of a rectangle, at most: 8 to 16 tiles of a program, so that its partial sums are a small part of its traffic.
        least_programs: programs below which rectangles shrink: six a multiprocessor of an H200, which have some 24 KB of an
            image under way.
        least_row: bytes of a rectangle's line, at least (if there are so many): a cache line.
        least_pixels: pixels of a rectangle, at least. A partial sum of 4 bytes is written and read, 8 bytes beside the 6 (half
            types) that each of its elements moves: with 64 pixels 2 % of the traffic.
        least_channels: channels of a rectangle, at least, by the same account: the sums for the noise.
    """

    warps: int = 4
    vectors: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"forward": (2, 4), "backward": (1, 2), "double_backward": (1, 1)}
    )
    row: int = 512
    elements: int = 32768
    least_programs: int = 132 * 6
    least_row: int = 128
    least_pixels: int = 64
    least_channels: int = 32


GPU = Gpu()


@dataclass(frozen=True)
class Cpu:
    """How the CPU kernels cut an image up. A rectangle is a task.

    Attributes:
        elements: of a rectangle: half an L2 with two images of float32, and some 10 us of work.
        pixels: longest row of a rectangle in NCHW. Shorter ones cost bandwidth (1024 numbers of bfloat16: a third), longer
            ones do not leave their noise and its sums in L1 while the channels pass (65536: twice the time).
        channels: of a rectangle in NCHW, at least (if there are so many): partial sums of the noise are 1/64 of an image.
        tasks, least_pixels: rows shrink where there would be fewer tasks, but not below.
    """

    elements: int = 65536
    pixels: int = 4096
    channels: int = 64
    tasks: int = 64
    least_pixels: int = 1024


CPU = Cpu()


def _power_of_two_above(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _cpu_chunks(channels_last: bool, n: int, c: int, pixels: int) -> tuple[int, int]:
    if channels_last:  # whole pixels
        return max(1, min(pixels, CPU.elements // max(c, 1))), max(c, 1)
    longest = CPU.pixels
    while longest > CPU.least_pixels and n * -(-pixels // longest) * -(-c // CPU.channels) < CPU.tasks:
        longest //= 2
    rows = max(1, -(-pixels // longest))
    across = max(1, min(pixels, -(-pixels // rows // 16) * 16))  # of like lengths, in whole vectors
    return across, max(1, min(c, max(CPU.channels, CPU.elements // across)))


def chunks(backend: str, channels_last: bool, n: int, c: int, pixels: int, element_size: int) -> tuple[int, int]:
    """(pixels, channels) of the rectangles that are one piece of work and have one partial sum for each of their lines.

    Both at least 1. A rectangle lies within one sample.
    """
    if backend == "cpu":
        return _cpu_chunks(channels_last, n, c, pixels)
    across = min(_power_of_two_above(pixels), GPU.elements // GPU.least_channels)
    channels = min(_power_of_two_above(c), GPU.elements // across)
    while n * -(-pixels // across) * -(-c // channels) < GPU.least_programs:
        if across > GPU.least_pixels and (across >= 2 * channels or channels <= GPU.least_channels):
            across //= 2
        elif channels > GPU.least_channels:
            channels //= 2
        else:
            break
    return across, channels
