"""Settings of pixel_norm as data, with the argument that justifies each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """How the CPU kernels cut a tensor up. A piece is a task; its pixels are in cache from the sums to the outputs.

    Attributes:
        elements: of a piece: 256 KB of float32, a part of an L2, and some 10 us of work.
        pixels: of a piece in NCHW, at most: the sums of that many are in L1.
        least_pixels: of a piece in NCHW, at least (if there are so many): 256 bytes of float32 at a time from each channel.
    """

    elements: int = 65536
    pixels: int = 1024
    least_pixels: int = 64


CPU = Cpu()


@dataclass(frozen=True)
class Gpu:
    """How the Triton kernels cut a tensor up. Chosen by arithmetic: no number was measured on a GPU yet.

    Attributes:
        warps: of a program, at most.
        elements: of a tile in forward, 64 numbers a thread: it is kept in registers from the sums to the outputs where all
            channels of its pixels fit. Derivatives, with two and three tensors, have half and a quarter.
        row: bytes that a tile takes from each channel in NCHW, at least (if there are so many): two sectors.
        channels: of a tile in channels_last, at most; the others follow in a loop, and are read twice.
        programs: below which tiles shrink in pixels: two a multiprocessor of an H200.
    """

    warps: int = 8
    elements: int = 16384
    row: int = 64
    channels: int = 4096
    programs: int = 132 * 2


GPU = Gpu()


def _power_of_two_above(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def tile(outer: int, channels: int, inner: int, element_size: int, order: int) -> tuple[int, int]:
    """(pixels, channels) of a tile of the Triton kernels; ``order`` is 0 for forward, 1 and 2 for its derivatives."""
    elements = GPU.elements >> order
    if inner == 1:
        deep = min(_power_of_two_above(channels), GPU.channels, elements)
        pixels = min(elements // deep, _power_of_two_above(outer))
        while pixels > 1 and -(-outer // pixels) < GPU.programs:
            pixels //= 2
        return pixels, deep
    least = max(GPU.row // element_size, 1)
    pixels = min(max(elements // _power_of_two_above(channels), least), _power_of_two_above(inner), 1024)
    while pixels > least and outer * -(-inner // pixels) < GPU.programs:
        pixels //= 2
    return pixels, min(_power_of_two_above(channels), max(elements // pixels, 1))


def chunk(outer: int, channels: int, inner: int) -> int:
    """Pixels of a piece of work on the CPU."""
    pixels = CPU.elements // max(channels, 1)
    if inner == 1:
        return max(pixels, 1)
    pixels = min(max(pixels, CPU.least_pixels), CPU.pixels, inner)
    pieces = -(-inner // pixels)
    if pieces == 1:
        return inner
    even = -(-inner // pieces)
    return -(-even // 16) * 16  # of like lengths, in whole vectors
