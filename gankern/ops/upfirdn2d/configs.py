"""Launch settings of upfirdn2d's Triton kernels, as data.

Justified statically so far: by registers, spills and vector widths of the compiled kernels (``python -m
benchmarks.resources``), by instruction counts of their loops, and by arithmetic on bandwidth and latency. No number here has
been measured on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sliding:
    """How the sliding kernel cuts an image up.

    Attributes:
        num_warps: warps of a program.
        vector_bytes: bytes of a thread's accesses along the contiguous axis.
        registers: estimated registers of a thread up to which a lane is taken; then a narrower one is tried, in the end the
            loop kernel. The estimate is 0.8 to 1.8 times what ptxas gives; nothing spills at this limit.
        taps: taps (of 1-D filters: both axes') up to which they are unrolled.
        wide: NCHW: vectors of output of a lane along x, at most. Upsampling by 2 takes both, so that its input comes in
            whole vectors too.
        groups: channels_last: periods of outputs of a lane along x, to be tried in turn. 2 loads 5 columns for two
            outputs of 4 taps, 1 loads 4 for one.
        tall: periods of output rows of a step. More would put more rows' loads in flight at the cost of registers.
        channel_bytes: channels_last: bytes of one pixel's channels that a program takes; 128 is a cache line.
        rows: output rows that a program walks down, at most. The rows above its first are read and multiplied again, so that
            32 cost 9 % more instructions with 4 taps; these rows come from L2.
        min_rows: output rows of a program, at least.
        bytes_in_flight: bytes, read and written, that the programs of a multiprocessor should move per step; with fewer
            programs than that, ``rows`` is halved. An H200 moves about 19 bytes a clock a multiprocessor: 24 KiB are some
            1300 clocks of it, above the latency of its memory.
    """

    num_warps: int = 4
    vector_bytes: int = 16
    registers: int = 200
    taps: int = 64
    wide: int = 2
    groups: tuple[int, ...] = (2, 1)
    tall: int = 1
    channel_bytes: int = 128
    rows: int = 32
    min_rows: int = 4
    bytes_in_flight: int = 24 * 1024


@dataclass(frozen=True)
class Any:
    """How the loop kernel cuts the output up: ``block`` outputs a program, two a thread, which keeps its 64-bit indices in
    registers.
    """

    num_warps: int = 4
    block: int = 256


SLIDING = Sliding()
ANY = Any()
