"""Launch settings of upfirdn2d's Triton kernels, as data.

Justified statically so far (registers, spills, vector widths of the ahead-of-time compiles, see ``python -m benchmarks.resources``);
no number here has been measured on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How the sliding kernel cuts an image up.

    Attributes:
        num_warps: warps of a program; every thread is one lane of ``vector_bytes``.
        vector_bytes: width of a thread's accesses along the contiguous axis.
        rows: output rows that a program walks down, at most. The rows above its first ones are read again, so few rows cost
            traffic (taps - 1 of ``rows``) and many leave too few programs; see ``waves``.
        waves: programs per multiprocessor below which ``rows`` is halved, down to ``min_rows``.
        min_rows: fewest output rows of a program.
        registers: estimated registers of a thread above which narrower lanes, then the loop kernel, are taken.
        channel_bytes: channels_last: bytes of channels of one pixel that a program takes.
        groups: periods of outputs of a lane along x to try in turn, where columns are loaded one by one.
        widest: vectors of output of a lane along x, at most, where vectors run along x.
        taps: taps of a program (1-D filters: both axes') above which the loop kernel is taken; they are unrolled.
    """

    num_warps: int = 4
    vector_bytes: int = 16
    rows: int = 32
    waves: int = 16
    min_rows: int = 4
    registers: int = 168
    channel_bytes: int = 128
    groups: tuple[int, ...] = (2, 1)
    widest: int = 2
    taps: int = 64


@dataclass(frozen=True)
class AnySettings:
    """How the loop kernel cuts the output up: ``block`` outputs a program."""

    num_warps: int = 4
    block: int = 512


SLIDING = Settings()
ANY = AnySettings()
