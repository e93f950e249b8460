"""Which Triton kernel serves an upfirdn2d, with which lanes and programs: arithmetic on sizes and strides."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import torch

from gankern import _triton
from gankern._triton import constexpr_function
from gankern.ops.upfirdn2d import configs


# ---- geometry of one axis -------------------------------------------------------------------------------------------
class Axis(NamedTuple):
    """One axis for a lane: ``outputs`` neighbouring outputs from a window of ``pixels`` inputs, ``step`` further per lane."""

    up: int
    down: int
    taps: int
    outputs: int
    pixels: int
    step: int
    phase: int  # upsampled coordinate of the first output's first tap, from the window's first pixel


# Axes come as plain tuples: Triton 3.6 loses the field names on the way into a constexpr function.
@constexpr_function
def tap_of(axis, output, pixel):
    """The tap with which an output of the lane meets a pixel of the window, or -1."""
    up, down, taps, _, _, _, phase = axis
    tap = pixel * up - phase - output * down
    return tap if 0 <= tap < taps else -1


@constexpr_function
def pending_of(axis):
    """How many later steps the newest pixels of a window contribute to."""
    _, _, _, _, pixels, step, _ = axis
    return max(0, (pixels - 1) // step)


@constexpr_function
def taps_of(axis):
    """Number of taps."""
    return axis[2]


@constexpr_function
def outputs_of(axis):
    """Outputs of a lane."""
    return axis[3]


@constexpr_function
def pixels_of(axis):
    """Width of a lane's window."""
    return axis[4]


@constexpr_function
def step_of(axis):
    """Pixels from one lane's window to the next's."""
    return axis[5]


# ---- which kernel, and how it cuts the image up ---------------------------------------------------------------------
class Geometry(NamedTuple):
    """Everything a launch depends on but the tensors' addresses. Axes in the order N, C, H, W; pairs (x, y)."""

    dtype: torch.dtype
    x_size: tuple[int, ...]
    x_stride: tuple[int, ...]
    y_size: tuple[int, ...]
    y_stride: tuple[int, ...]
    f_size: tuple[int, ...]  # () without taps
    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int]  # before the image
    flip: bool

    @property
    def channels_last(self) -> bool:
        """Whether channels are the contiguous axis. Rows win where both are (one channel)."""
        return self.x_stride[3] != 1 or self.y_stride[3] != 1


class Launch(NamedTuple):
    """A kernel's arguments behind (x, f, y, gain), its constants and its number of programs."""

    sliding: bool  # the sliding kernel, else the loop kernel
    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    vector: tuple[int, int]  # bytes of the widest load and store that are meant to come out


def _axis(up: int, down: int, taps: int, pad: int, outputs: int, shift: int = 0) -> tuple[Axis, int]:
    """Geometry of lanes of ``outputs`` outputs of which the first begins at output -shift, and that lane's first pixel."""
    start = -shift * down - pad  # upsampled coordinate of the first output's first tap
    pixel = start // up
    phase = start - pixel * up
    first = last = None
    for begin in range(phase, phase + outputs * down, down):
        low, high = -(-begin // up), (begin + taps - 1) // up  # pixels, from ``pixel`` on, that this output meets
        if low <= high:
            first = low if first is None else first
            last = high
    # Without a met pixel (up 2, down 2, one tap between the pixels) the window is one pixel that no tap meets.
    first, last = first or 0, last or first or 0
    return Axis(up, down, taps, outputs, last - first + 1, outputs * down // up, phase - first * up), pixel + first


def _best_axis(up: int, down: int, taps: int, pad: int, outputs: int) -> tuple[Axis, int, int]:
    """(axis, first pixel, shift) with the shift of the first output for which windows are narrowest."""
    period = up // gcd(up, down)
    return min(
        ((*_axis(up, down, taps, pad, outputs, shift), shift) for shift in range(period)), key=lambda a: (a[0].pixels, a[2])
    )


def _blocks(offset: int, pixels: int, vector: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Aligned vectors (start, count) that cover ``pixels`` pixels from ``offset`` on (less than ``vector``), as narrow as they
    can be, and how many pixels the first has in front of ``offset``.
    """
    blocks = []
    for start in range(0, offset + pixels, vector):
        low, high = max(start, offset), min(start + vector, offset + pixels) - 1
        count = _triton.power_of_two(high - low + 1)
        while low // count != high // count:
            count *= 2
        blocks.append((low // count * count, count))
    return tuple(blocks), offset - blocks[0][0]


def _registers(ay: Axis, ax: Axis, separable: bool, vector: int, itemsize: int) -> tuple[int, bool]:
    """Estimated 32-bit registers of a thread, and whether carrying rows takes fewer than carrying sums."""
    outputs = ay.outputs * ax.outputs
    rows = max(0, ay.pixels - ay.step) * (ax.outputs if separable else ax.pixels)
    sums = pending_of(ay) * outputs
    words = 2 if itemsize == 8 else 1
    taps = ay.taps + ax.taps if separable else ay.taps * ax.taps
    # 40: addresses, masks and counters, seen in the compiled kernels.
    return (min(rows, sums) * vector + (outputs + ax.pixels) * vector + taps) * words + 40, rows < sums


_FAR = 2**30
"""Sizes and pixel numbers along one axis that the sliding kernel's 32-bit arithmetic holds with room to spare."""


class Lane(NamedTuple):
    """What one lane computes, and how it is laid over threads."""

    ay: Axis
    row: int  # first pixel along y of the first lane
    shift_y: int  # minus its first output row
    ax: Axis
    column: int
    shift_x: int
    store: int  # NCHW: outputs side by side that are stored together; 0 where every column is stored by itself
    width: int  # channels_last: channels of a thread; else 1


def _lanes(g: Geometry, vector: int, x_unit: int) -> Iterator[Lane]:
    """Lanes to try, best first."""
    settings = configs.SLIDING
    taps_y, taps_x = (g.f_size[0], g.f_size[-1]) if g.f_size else (1, 1)
    period_x, period_y = (up // gcd(up, down) for up, down in zip(g.up, g.down, strict=True))
    along_y = _best_axis(g.up[1], g.down[1], taps_y, g.padding[1], period_y * settings.tall)
    if not g.channels_last and period_x & (period_x - 1) == 0:
        outputs = max(vector, min(vector * period_x, vector * settings.wide))
        while outputs >= max(period_x, 2):
            yield Lane(*along_y, *_axis(g.up[0], g.down[0], taps_x, g.padding[0], outputs), 0, min(outputs, vector), 1)
            outputs //= 2
    width = x_unit if g.channels_last else 1
    while width:
        for many in settings.groups:
            yield Lane(*along_y, *_best_axis(g.up[0], g.down[0], taps_x, g.padding[0], period_x * many), 0, width)
        width //= 2


@lru_cache(maxsize=4096)
def plan(g: Geometry, multiprocessors: int) -> Launch:
    """The launch for a geometry. Pure arithmetic, so that the compile gate takes the same path as a call."""
    settings = configs.SLIDING
    channels_last = g.channels_last
    size = g.dtype.itemsize
    n, c, h, w = g.x_size
    out_h, out_w = g.y_size[2:]
    # The stride of an axis of one element means nothing, and must not spoil the alignment.
    xs = [0 if length == 1 else stride for length, stride in zip(g.x_size, g.x_stride, strict=True)]
    ys = [0 if length == 1 else stride for length, stride in zip(g.y_size, g.y_stride, strict=True)]
    separable, has_f = len(g.f_size) == 1, bool(g.f_size)
    taps_y, taps_x = (g.f_size[0], g.f_size[-1]) if has_f else (1, 1)
    # The kernels correlate; convolution walks through the taps backwards.
    taps = (0, taps_x, 1) if g.flip else (taps_x - 1 if separable else taps_y * taps_x - 1, -taps_x, -1)
    vector = settings.vector_bytes // size
    unit = 1 if channels_last else 3
    x_unit = _triton.alignment(vector, g.x_size[unit], *(s for i, s in enumerate(xs) if i != unit))
    y_unit = _triton.alignment(vector, g.y_size[unit], *(s for i, s in enumerate(ys) if i != unit))
    x_strides = [s if i == unit else s // x_unit for i, s in enumerate(xs)]
    y_strides = [s if i == unit else s // y_unit for i, s in enumerate(ys)]
    channels, in_w, result_w = (c // max(x_unit, y_unit), w, out_w) if channels_last else (c, w // x_unit, out_w // y_unit)

    coordinates = (h * g.up[1], w * g.up[0], out_h * g.down[1], out_w * g.down[0])
    far = max(n * c, *coordinates, *map(abs, g.padding), *g.up, *g.down) >= _FAR
    many = (taps_y + taps_x if separable else taps_y * taps_x) > settings.taps
    for lane in () if far or many else _lanes(g, vector, x_unit):
        ay, ax = lane.ay, lane.ax
        registers, carry_rows = _registers(ay, ax, separable, lane.width, size)
        if registers > settings.registers:
            continue
        threads = 32 * settings.num_warps
        groups_all = -(-(out_w + lane.shift_x) // ax.outputs)
        if channels_last:
            side = min(_triton.power_of_two(c), max(lane.width, settings.channel_bytes // size))
            groups = max(1, threads * lane.width // side)
            outer, tiles_c = n, -(-c // side)
        else:
            # 8 groups are a cache line; of the counts from there on the one with the fewest idle lanes past a row's end.
            counts = [count for count in (128, 64, 32, 16, 8) if count <= min(threads, _triton.power_of_two(groups_all))]
            groups = min(counts or [_triton.power_of_two(groups_all)], key=lambda count: -(-groups_all // count) * count)
            side = threads // groups
            outer, tiles_c = -(-n * c // side), 1
        tiles_x = -(-groups_all // groups)
        steps_y = -(-(out_h + lane.shift_y) // ay.outputs)
        # Bytes that a program moves per step, and with them the programs that keep a multiprocessor's memory pipe full.
        moved = groups * side * size * (ax.step * ay.step + ax.outputs * ay.outputs)
        wanted = multiprocessors * settings.bytes_in_flight // moved
        rows = settings.rows
        while rows > settings.min_rows and outer * tiles_c * tiles_x * -(-steps_y * ay.outputs // rows) < wanted:
            rows //= 2
        steps = max(1, rows // ay.outputs)
        strips = -(-steps_y // steps)
        programs = outer * tiles_c * tiles_x * strips
        if programs >= 2**31:
            continue
        # Aligned vectors, where there are any; else every column is loaded by itself.
        column_unit = _triton.alignment(x_unit, ax.step) if lane.store else 1
        offset = lane.column % column_unit
        blocks, skip = _blocks(offset, ax.pixels, column_unit) if column_unit > 1 else ((), 0)
        scalars = (
            *taps, n, channels, h, in_w, out_h, result_w, *x_strides, *y_strides,
            lane.row, (lane.column - offset) // column_unit, lane.shift_y, lane.shift_x,
            steps_y, steps, strips, tiles_x, tiles_c,
        )  # fmt: skip
        constants = {
            "AY": ay, "AX": ax, "SEPARABLE": separable, "HAS_F": has_f, "CARRY_ROWS": carry_rows,
            "CHANNELS_LAST": channels_last, "BLOCKS": blocks, "SKIP": skip, "VECTOR": lane.store,
            "X_UNIT": x_unit, "Y_UNIT": y_unit, "COLUMN_UNIT": column_unit, "GROUPS": groups, "SIDE": side,
            "ACC": _triton.accumulator(g.dtype), "num_warps": settings.num_warps,
        }  # fmt: skip
        widths = (lane.width, min(lane.width, y_unit)) if channels_last else (column_unit, min(max(lane.store, 1), y_unit))
        return Launch(True, scalars, constants, programs, (widths[0] * size, widths[1] * size))

    count = n * c * out_h * out_w
    lift = [max(0, -(-pad // up)) for pad, up in zip(g.padding, g.up, strict=True)]
    scalars = (
        *taps, count, c, h, w, out_h, out_w, *g.x_stride, *g.y_stride, *g.up, *g.down, taps_x, taps_y, *g.padding, *lift,
    )  # fmt: skip
    constants = {
        "SEPARABLE": separable, "HAS_F": has_f, "CHANNELS_LAST": channels_last, "ACC": _triton.accumulator(g.dtype),
        "BLOCK": configs.ANY.block, "num_warps": configs.ANY.num_warps,
    }  # fmt: skip
    return Launch(False, scalars, constants, -(-count // configs.ANY.block), (size, size))
