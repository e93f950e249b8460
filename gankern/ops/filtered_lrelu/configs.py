"""How the Triton kernel of filtered_lrelu cuts its work up.

By arithmetic and by what the compiler reports (``python -m benchmarks.resources``); no number here was measured on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple


class Axis(NamedTuple):
    """One axis of a program's tile. Sides of matrices are powers of two.

    Attributes:
        up: factor.
        up_taps: taps of the up filter along this axis.
        down: factor.
        down_taps: taps of the down filter along this axis.
        inputs: pixels of x that are taken at a time, 16 or more.
        parts: how often, to have all pixels of x that the tile meets.
        middle: pixels of the intermediate image.
        outputs: the pixels of y as the side of a matrix, 16 or more.
        step: pixels of y that the tile really makes.
    """

    up: int
    up_taps: int
    down: int
    down_taps: int
    inputs: int
    parts: int
    middle: int
    outputs: int
    step: int


class Tile(NamedTuple):
    """The work of one program: its two axes, how many planes (channels_last: channels) and warps."""

    y: Axis
    x: Axis
    planes: int
    warps: int


MIDDLES = (32, 64, 128)
"""Sides of the intermediate tile that are tried."""

NUMBERS = {2: 16384, 4: 8192}
"""Intermediate numbers of a program at most, by the bytes of a number: what registers (65,536 a multiprocessor) and the tensor
memory of compute capability 10.0 (512 columns of 128 numbers, three sums of products at a time in float32) hold."""

STAGES = 1
"""Of the software pipeline: the loops over parts of x are short."""


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def axis(
    up: int, up_taps: int, down: int, down_taps: int, middle: int, before: int = 0, align: int = 1, unit: int = 1
) -> Axis | None:
    """The axis of a tile with ``middle`` intermediate pixels, None if they are too few for the taps.

    Args:
        up: factor.
        up_taps: number of taps.
        down: factor.
        down_taps: number of taps.
        middle: pixels of the intermediate image.
        before: pixels of x in front that are loaded for the sake of alignment.
        align: intermediate tiles start at multiples of it; if it is not 1, steps of tiles are whole ones.
        unit: steps are multiples of it, or of a smaller power of two, where that costs a fifth at most.
    """
    room = middle - (align - 1)
    step = min((room - down_taps) // down + 1, room // down)
    whole = next(count for count in (1, 2, 4) if count * down % align == 0)
    while unit > whole and step // unit * unit < 0.8 * step:
        unit //= 2
    step = step // max(unit, whole) * max(unit, whole)
    if step < 1:
        return None
    met = -(-(middle + up_taps - 1) // up) + before
    # The fewest pixels in all, then the fewest parts.
    inputs = min((32, 16), key=lambda side: -(-met // side) * side)
    return Axis(up, up_taps, down, down_taps, inputs, -(-met // inputs), middle, max(16, _power_of_two(step)), step)


def _work(side: Axis) -> float:
    """Work for a pixel of y along an axis: intermediate pixels, each more expensive in larger matrices, which have more zeros
    beside a band of the same taps. By it 12 taps down by 2 take 32 pixels, and 24 taps down by 4 take 64.
    """
    return side.middle / side.step * (64 + side.middle)


def tile(
    up: tuple[int, int], down: tuple[int, int], up_taps: tuple[int, int], down_taps: tuple[int, int], channels: int,
    itemsize: int, channels_last: bool, masks: bool, x_unit: int, y_unit: int, full_down: bool,
) -> Tile | None:  # fmt: skip
    """The tile of a call, None if the taps are too many for every one. Pairs are (x, y).

    Args:
        up: factors.
        down: factors.
        up_taps: numbers of taps.
        down_taps: numbers of taps.
        channels: of an image.
        itemsize: bytes of a number of x: 2 or 4.
        channels_last: whether x and y are.
        masks: whether masks are read or written.
        x_unit: numbers that one load takes.
        y_unit: numbers that one store could take.
        full_down: whether the down filter has full 2-D taps.
    """
    # In NCHW rows of 64 intermediate pixels, 24 or so of output: what is loaded and stored is contiguous along x only. Bytes of
    # masks hold 4 neighbours: along x, or 4 channels.
    extra = (0, 1, 1) if channels_last else (x_unit - 1, 4 if masks else 1, y_unit)
    least = 4 if channels_last else 1
    limit = NUMBERS[itemsize] // least
    tall = [axis(up[1], up_taps[1], down[1], down_taps[1], middle) for middle in MIDDLES]
    wide = [axis(up[0], up_taps[0], down[0], down_taps[0], middle, *extra) for middle in MIDDLES[not channels_last :]]
    pairs = [(y, x) for y in tall if y for x in wide if x and y.middle * x.middle <= limit]
    if not pairs:
        return None
    y, x = min(pairs, key=lambda pair: _work(pair[0]) * _work(pair[1]))
    # The planes of a program share the matrices of taps. With 8 channels they are less than half of its work; 16, a whole
    # sector of memory in half types, leave one program a multiprocessor, and compute capability 8.0 spills (so it does with 8
    # in float32, and with a full down filter, whose rows of taps have a sum of products each beside the result's). A sector
    # that two programs read comes from L2, which is not what bounds the kernel.
    wanted = 8192 if channels_last else 4096
    if itemsize == 4 or (full_down and channels_last):
        wanted //= 2
    planes = max(least, wanted // (y.middle * x.middle))
    if channels_last:
        planes = min(planes, max(least, _power_of_two(channels)))
    warps = max(4, min(8, y.middle * x.middle * planes // 1024))
    if itemsize == 4 and channels_last:
        warps = 8
    return Tile(y, x, planes, warps)
