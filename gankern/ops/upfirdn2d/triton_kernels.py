"""upfirdn2d in Triton: one pass over the image, polyphase, the rows of a column sliding through registers.

Along each axis an output ``o`` meets the taps ``k`` with ``o * down - pad + k`` divisible by ``up``, so outputs repeat with a
period of ``up / gcd(up, down)``. A *lane* computes some neighbouring outputs (a multiple of the period) from a *window* of
input pixels; which tap meets which pixel of the window is then known when the kernel is compiled, and the zeros that
upsampling puts in are neither read nor multiplied. :class:`Axis` is that geometry.

``_upfirdn2d_fwd_kernel`` walks down the image. Each step reads the rows that are new in the window and finishes
``Axis.outputs`` rows. What earlier rows contribute stays in registers, in the smaller of two forms: sums of the outputs that
are not finished yet, or the older rows of the window (if the filter is separable: filtered along x).

- channels_last: a lane is a group of pixels; vectors run over channels; every column of the window is its own vector load.
- NCHW: vectors run along x; the window is read in aligned vectors, taken apart in registers, and the results put together.

``_upfirdn2d_any_kernel`` takes what registers cannot hold (many taps, large factors) with loops of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import constexpr_function, jit, narrow, tl
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
def _tap(axis, output, pixel):
    """The tap with which an output of the lane meets a pixel of the window, or -1."""
    up, down, taps, _, _, _, phase = axis
    tap = pixel * up - phase - output * down
    return tap if 0 <= tap < taps else -1


@constexpr_function
def _pending(axis):
    """How many later steps the newest pixels of a window contribute to."""
    _, _, _, _, pixels, step, _ = axis
    return max(0, (pixels - 1) // step)


@constexpr_function
def _taps(axis):
    return axis[2]


@constexpr_function
def _outputs(axis):
    return axis[3]


@constexpr_function
def _pixels(axis):
    return axis[4]


@constexpr_function
def _step(axis):
    return axis[5]


@constexpr_function
def _least(a, b):
    return min(a, b)


@constexpr_function
def _most(a, b):
    return max(a, b)


# ---- pieces of the kernel -------------------------------------------------------------------------------------------
@jit
def _take_apart(v, COUNT: tl.constexpr):
    """[A, B, COUNT] to a tuple of COUNT tensors [A, B]; threads hold whole vectors, so that nothing moves."""
    if COUNT == 1:
        parts = (tl.reshape(v, (v.shape[0], v.shape[1])),)
    else:
        even, odd = tl.split(tl.reshape(v, (v.shape[0], v.shape[1], COUNT // 2, 2)))
        evens = _take_apart(even, COUNT // 2)
        odds = _take_apart(odd, COUNT // 2)
        parts = ()
        for i in tl.static_range(COUNT // 2):
            parts = parts + (evens[i], odds[i])
    return parts


@jit
def _put_together(parts, FIRST: tl.constexpr, STRIDE: tl.constexpr, COUNT: tl.constexpr):
    """parts[FIRST], parts[FIRST + STRIDE], ..., COUNT of them [A, B], to [A, B, COUNT]."""
    if COUNT == 1:
        v = parts[FIRST][:, :, None]
    else:
        even = _put_together(parts, FIRST, STRIDE * 2, COUNT // 2)
        odd = _put_together(parts, FIRST + STRIDE, STRIDE * 2, COUNT // 2)
        v = tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1], COUNT))
    return v


@jit
def _load_columns(
    row, live, column, width, stride, AX: tl.constexpr, BLOCKS: tl.constexpr, SKIP: tl.constexpr, ACC: tl.constexpr
):
    """The window's pixels of one row, a tensor [A, B] per column. BLOCKS (start, count) are the aligned vectors that hold
    them, the first SKIP pixels too many; without BLOCKS every column is loaded by itself, ``stride`` from the last."""
    columns = ()
    if len(BLOCKS) > 0:
        for b in tl.static_range(len(BLOCKS)):
            i = BLOCKS[b][0] + tl.arange(0, BLOCKS[b][1])[None, None, :]
            at = column[:, :, None] + i
            v = tl.load(row[:, :, None] + i, mask=live[:, :, None] & (at >= 0) & (at < width), other=0.0)
            columns = columns + _take_apart(v.to(ACC), BLOCKS[b][1])
        columns = columns[SKIP:]
    else:
        for j in tl.static_range(_pixels(AX)):
            v = tl.load(row + j * stride, mask=live & (column + j >= 0) & (column + j < width), other=0.0)
            columns = columns + (v.to(ACC),)
    return columns


@jit
def _filter_x(columns, taps_x, AX: tl.constexpr):
    """The lane's outputs along x of one row."""
    outputs = ()
    for o in tl.static_range(_outputs(AX)):
        v = tl.zeros_like(columns[0])
        for j in tl.static_range(_pixels(AX)):
            if _tap(AX, o, j) >= 0:
                v += columns[j] * taps_x[_tap(AX, o, j)]
        outputs = outputs + (v,)
    return outputs


@jit
def _add_row(v, features, o, j, OX: tl.constexpr, taps, taps_x, AY: tl.constexpr, AX: tl.constexpr, SEPARABLE: tl.constexpr):
    """v + what row ``j`` of the window adds to output (o, OX) of the lane."""
    if _tap(AY, o, j) >= 0:
        if SEPARABLE:
            v += features[OX] * taps[_tap(AY, o, j)]
        else:
            for i in tl.static_range(_pixels(AX)):
                if _tap(AX, OX, i) >= 0:
                    v += features[i] * taps[_tap(AY, o, j) * _taps(AX) + _tap(AX, OX, i)]
    return v


@jit
def _store_rows(
    y, lane, live, column, row, row_stride, column_stride, height, width, sums,
    AY: tl.constexpr, AX: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store a lane's outputs: AY.outputs rows from ``row`` on; VECTOR of them side by side at a time if it is not 0."""
    for o in tl.static_range(_outputs(AY)):
        at_row = y + (lane + (row + o).to(tl.int64) * row_stride)
        inside = live & (row + o >= 0) & (row + o < height)
        if VECTOR > 0:
            for g in tl.static_range(_outputs(AX) // VECTOR):
                i = g * VECTOR + tl.arange(0, VECTOR)[None, None, :]
                v = _put_together(sums, o * _outputs(AX) + g * VECTOR, 1, VECTOR)
                tl.store(
                    at_row[:, :, None] + i, narrow(v, y.dtype.element_ty), mask=inside[:, :, None] & (column[:, :, None] + i < width)
                )
        else:
            for i in tl.static_range(_outputs(AX)):
                v = sums[o * _outputs(AX) + i]
                mask = inside & (column + i >= 0) & (column + i < width)
                tl.store(at_row + i * column_stride, narrow(v, y.dtype.element_ty), mask=mask)


# ---- the sliding kernel ---------------------------------------------------------------------------------------------
_SCALARS = [
    "tap0", "tap_y", "tap_x", "images", "channels", "height", "width", "out_h", "out_w", "xn", "xc", "xh", "xw", "yn", "yc",
    "yh", "yw", "row0", "column0", "shift_y", "shift_x", "steps_y", "steps", "strips", "tiles_x", "tiles_c",
]  # fmt: skip


@jit(do_not_specialize=_SCALARS)
def _upfirdn2d_fwd_kernel(
    x, f, y, gain: tl.float64,
    tap0, tap_y, tap_x,  # index of the tap g[0, 0] in f, and its steps along y and x
    images, channels, height, width, out_h, out_w, xn, xc, xh, xw, yn, yc, yh, yw,
    row0, column0, shift_y, shift_x,  # first lane: its window's first pixel, and minus its first output
    steps_y, steps, strips, tiles_x, tiles_c,
    AY: tl.constexpr, AX: tl.constexpr,
    SEPARABLE: tl.constexpr, HAS_F: tl.constexpr, CARRY_ROWS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCKS: tl.constexpr, SKIP: tl.constexpr, VECTOR: tl.constexpr,
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, COLUMN_UNIT: tl.constexpr,
    GROUPS: tl.constexpr, SIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sizes and strides that are whole numbers of a unit come divided by it, so that Triton sees the vectors' alignment:
    x's strides and y's by X_UNIT and Y_UNIT, with them (channels_last) channels, or (NCHW with VECTOR) width and out_w;
    column0 by COLUMN_UNIT."""
    OUT_Y: tl.constexpr = _outputs(AY)
    OUT_X: tl.constexpr = _outputs(AX)
    STEP_Y: tl.constexpr = _step(AY)
    PIXELS_Y: tl.constexpr = _pixels(AY)
    STEP_X: tl.constexpr = _step(AX)

    # Taps, times the gain. 1-D taps serve both axes; the gain goes into y's.
    scale = tl.full((), gain, ACC)
    taps = ()
    taps_x = ()
    if not HAS_F:
        taps = taps + (scale,)
    elif SEPARABLE:
        for k in tl.static_range(_taps(AY)):
            tap = tl.load(f + tap0 + k * tap_x).to(ACC)
            taps = taps + (tap * scale,)
            taps_x = taps_x + (tap,)
    else:
        for ky in tl.static_range(_taps(AY)):
            for kx in tl.static_range(_taps(AX)):
                taps = taps + (tl.load(f + tap0 + ky * tap_y + kx * tap_x).to(ACC) * scale,)

    # This program's lanes: [GROUPS pixel groups, SIDE channels] or [SIDE planes, GROUPS pixel groups].
    pid = tl.program_id(0)
    tile_c = pid % tiles_c
    tile_x = pid // tiles_c % tiles_x
    strip = pid // tiles_c // tiles_x % strips
    outer = pid // tiles_c // tiles_x // strips
    x_row = xh.to(tl.int64) * X_UNIT
    y_row = yh.to(tl.int64) * Y_UNIT
    if CHANNELS_LAST:
        group = (tile_x * GROUPS + tl.arange(0, GROUPS))[:, None]
        c = (tile_c * SIDE + tl.arange(0, SIDE))[None, :]
        live = c < channels * _most(X_UNIT, Y_UNIT)
        x_column = xw.to(tl.int64) * X_UNIT
        y_column = yw.to(tl.int64) * Y_UNIT
        in_w = width
        result_w = out_w
        x_lane = outer * (xn.to(tl.int64) * X_UNIT) + c
        y_lane = outer * (yn.to(tl.int64) * Y_UNIT) + c
    else:
        group = (tile_x * GROUPS + tl.arange(0, GROUPS))[None, :]
        plane = (outer * SIDE + tl.arange(0, SIDE))[:, None]
        live = plane < images * channels
        x_column = 1
        y_column = 1
        in_w = width * X_UNIT
        result_w = out_w * Y_UNIT
        x_lane = (plane // channels) * (xn.to(tl.int64) * X_UNIT) + (plane % channels) * (xc.to(tl.int64) * X_UNIT)
        y_lane = (plane // channels) * (yn.to(tl.int64) * Y_UNIT) + (plane % channels) * (yc.to(tl.int64) * Y_UNIT)
    column = group * STEP_X + column0 * COLUMN_UNIT
    result = group * OUT_X - shift_x
    if VECTOR > 0:
        result = group * OUT_X  # shift_x is 0; without it the alignment shows
    x_lane = x_lane + column * x_column
    y_lane = y_lane + result * y_column
    zero = tl.zeros((SIDE, GROUPS), ACC)
    if CHANNELS_LAST:
        zero = tl.zeros((GROUPS, SIDE), ACC)

    first = strip * steps
    last = tl.minimum(first + steps, steps_y)
    if CARRY_ROWS:
        # The window's rows but the newest, filtered along x if that can be done row by row.
        rows = ()
        for j in tl.static_range(PIXELS_Y - STEP_Y):
            at = first * STEP_Y + row0 + j
            inside = live & (at >= 0) & (at < height)
            columns = _load_columns(
                x + (x_lane + at.to(tl.int64) * x_row), inside, column, in_w, x_column, AX, BLOCKS, SKIP, ACC
            )
            if SEPARABLE:
                columns = _filter_x(columns, taps_x, AX)
            rows = rows + (columns,)
        for t in range(first, last):
            window = rows
            for j in tl.static_range(PIXELS_Y - STEP_Y, PIXELS_Y):
                at = t * STEP_Y + row0 + j
                inside = live & (at >= 0) & (at < height)
                columns = _load_columns(
                    x + (x_lane + at.to(tl.int64) * x_row), inside, column, in_w, x_column, AX, BLOCKS, SKIP, ACC
                )
                if SEPARABLE:
                    columns = _filter_x(columns, taps_x, AX)
                window = window + (columns,)
            sums = ()
            for o in tl.static_range(OUT_Y):
                for i in tl.static_range(OUT_X):
                    v = zero
                    for j in tl.static_range(PIXELS_Y):
                        v = _add_row(v, window[j], o, j, i, taps, taps_x, AY, AX, SEPARABLE)
                    sums = sums + (v,)
            _store_rows(y, y_lane, live, result, t * OUT_Y - shift_y, y_row, y_column, out_h, result_w, sums, AY, AX, VECTOR)
            rows = window[STEP_Y:]
    else:
        # Sums of the outputs that later rows will finish. The first steps only fill them: they store nothing.
        PENDING: tl.constexpr = _pending(AY)
        NEW: tl.constexpr = _least(PIXELS_Y, STEP_Y)
        sums = ()
        for _ in tl.static_range(PENDING * OUT_Y * OUT_X):
            sums = sums + (zero,)
        for t in range(first - PENDING, last):
            for _ in tl.static_range(OUT_Y * OUT_X):
                sums = sums + (zero,)
            for j in tl.static_range(PIXELS_Y - NEW, PIXELS_Y):
                at = t * STEP_Y + row0 + j
                inside = live & (at >= 0) & (at < height)
                columns = _load_columns(
                    x + (x_lane + at.to(tl.int64) * x_row), inside, column, in_w, x_column, AX, BLOCKS, SKIP, ACC
                )
                if SEPARABLE:
                    columns = _filter_x(columns, taps_x, AX)
                grown = ()
                for later in tl.static_range(PENDING + 1):
                    for o in tl.static_range(OUT_Y):
                        for i in tl.static_range(OUT_X):
                            v = sums[(later * OUT_Y + o) * OUT_X + i]
                            v = _add_row(v, columns, o, j - later * STEP_Y, i, taps, taps_x, AY, AX, SEPARABLE)
                            grown = grown + (v,)
                sums = grown
            store = live & (t >= first)
            _store_rows(y, y_lane, store, result, t * OUT_Y - shift_y, y_row, y_column, out_h, result_w, sums, AY, AX, VECTOR)
            sums = sums[OUT_Y * OUT_X :]


# ---- the kernel of any number of taps -------------------------------------------------------------------------------
@jit(do_not_specialize=[
    "tap0", "tap_y", "tap_x", "count", "channels", "height", "width", "out_h", "out_w", "xn", "xc", "xh", "xw", "yn", "yc", "yh", "yw",
    "up_x", "up_y", "down_x", "down_y", "taps_x", "taps_y", "pad_x", "pad_y", "lift_x", "lift_y",
])  # fmt: skip
def _upfirdn2d_any_kernel(
    x, f, y, gain: tl.float64, tap0, tap_y, tap_x,
    count, channels, height, width, out_h, out_w, xn, xc, xh, xw, yn, yc, yh, yw,
    up_x, up_y, down_x, down_y, taps_x, taps_y, pad_x, pad_y,
    lift_x, lift_y,  # pixels that keep dividends positive, where truncation is the floor
    SEPARABLE: tl.constexpr, HAS_F: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK outputs in memory order; every lane finds its own first taps, all walk the same number of taps."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    if CHANNELS_LAST:
        c = at % channels
        ox = at // channels % out_w
        oy = at // channels // out_w % out_h
        n = at // channels // out_w // out_h
    else:
        ox = at % out_w
        oy = at // out_w % out_h
        c = at // out_w // out_h % channels
        n = at // out_w // out_h // channels
    # First tap and the pixel it meets: the smallest pixel whose upsampled coordinate is not before the filter's.
    start_y = oy * down_y - pad_y
    start_x = ox * down_x - pad_x
    iy = (start_y + lift_y * up_y + up_y - 1) // up_y - lift_y
    ix = (start_x + lift_x * up_x + up_x - 1) // up_x - lift_x
    ky = iy * up_y - start_y
    kx = ix * up_x - start_x
    source = x + (n * xn + c * xc)
    total = tl.zeros((BLOCK,), ACC)
    for _ in range(tl.cdiv(taps_y, up_y)):
        row_live = live & (ky < taps_y) & (iy >= 0) & (iy < height)
        row = tl.zeros((BLOCK,), ACC)
        jx = ix
        tx = kx
        for _ in range(tl.cdiv(taps_x, up_x)):
            mask = row_live & (tx < taps_x) & (jx >= 0) & (jx < width)
            v = tl.load(source + (iy * xh + jx * xw), mask=mask, other=0.0).to(ACC)
            if SEPARABLE:
                v = v * tl.load(f + tap0 + tx * tap_x, mask=mask, other=0.0).to(ACC)
            elif HAS_F:
                v = v * tl.load(f + tap0 + ky * tap_y + tx * tap_x, mask=mask, other=0.0).to(ACC)
            row += v
            jx += 1
            tx += up_x
        if SEPARABLE:
            row = row * tl.load(f + tap0 + ky * tap_x, mask=row_live, other=0.0).to(ACC)
        total += row
        iy += 1
        ky += up_y
    total = total * tl.full((), gain, ACC)
    tl.store(y + (n * yn + c * yc + oy * yh + ox * yw), narrow(total, y.dtype.element_ty), mask=live)


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
    """A kernel with its arguments behind (x, f, y, gain), its constants and its number of programs."""

    kernel: Any
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
    can be, and how many pixels the first has in front of ``offset``."""
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
    sums = _pending(ay) * outputs
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

    far = max(n * c, h * g.up[1], w * g.up[0], out_h * g.down[1], out_w * g.down[0], *map(abs, g.padding), *g.up, *g.down) >= _FAR
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
            lane.row, (lane.column - offset) // column_unit, lane.shift_y, lane.shift_x, steps_y, steps, strips, tiles_x, tiles_c,
        )  # fmt: skip
        constants = {
            "AY": ay, "AX": ax, "SEPARABLE": separable, "HAS_F": has_f, "CARRY_ROWS": carry_rows, "CHANNELS_LAST": channels_last,
            "BLOCKS": blocks, "SKIP": skip, "VECTOR": lane.store, "X_UNIT": x_unit, "Y_UNIT": y_unit, "COLUMN_UNIT": column_unit,
            "GROUPS": groups, "SIDE": side, "ACC": _triton.accumulator(g.dtype), "num_warps": settings.num_warps,
        }  # fmt: skip
        widths = (lane.width, min(lane.width, y_unit)) if channels_last else (column_unit, min(max(lane.store, 1), y_unit))
        return Launch(_upfirdn2d_fwd_kernel, scalars, constants, programs, (widths[0] * size, widths[1] * size))

    count = n * c * out_h * out_w
    lift = [max(0, -(-pad // up)) for pad, up in zip(g.padding, g.up, strict=True)]
    scalars = (
        *taps, count, c, h, w, out_h, out_w, *g.x_stride, *g.y_stride, *g.up, *g.down, taps_x, taps_y, *g.padding, *lift,
    )  # fmt: skip
    constants = {
        "SEPARABLE": separable, "HAS_F": has_f, "CHANNELS_LAST": channels_last, "ACC": _triton.accumulator(g.dtype), "BLOCK": configs.ANY.block,
        "num_warps": configs.ANY.num_warps,
    }  # fmt: skip
    return Launch(_upfirdn2d_any_kernel, scalars, constants, -(-count // configs.ANY.block), (size, size))


def _geometry(
    x: Tensor, f: Tensor | None, y: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool
) -> Geometry:
    f_size = () if f is None else tuple(f.shape)
    return Geometry(
        x.dtype, tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), f_size,
        (up[0], up[1]), (down[0], down[1]), (padding[0], padding[2]), bool(flip_filter),
    )  # fmt: skip


# ---- what op.py calls -----------------------------------------------------------------------------------------------
def can_run(
    x: Tensor, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool, gain: float
) -> str | None:
    """None if the kernels serve these arguments, else the reason why not."""
    return _triton.can_run(x)


def upfirdn2d_triton(
    x: Tensor,
    f: Tensor | None,
    y: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> None:
    """Compute upfirdn2d of ``x`` [N, C, H, W] into ``y`` [N, C, H_out, W_out], on the current stream of their device.

    Args:
        x, y: float32, float64, bfloat16 or float16, both with stride 1 along W or both with stride 1 along C; other strides
            are free.
        f: contiguous taps [taps_y, taps_x], or [taps] for both axes, or None; float32 (float64 for float64 images).
        up, down: (x, y).
        padding: (x0, x1, y0, y1).
        flip_filter: correlate instead of convolve.
        gain: factor on the result.
    """
    if y.numel() == 0:
        return
    index = x.device.index if x.is_cuda else None
    launch = plan(_geometry(x, f, y, up, down, padding, flip_filter), _triton.multiprocessors(index))
    taps = x if f is None else f
    if index is None or index == torch.cuda.current_device():
        launch.kernel[(launch.programs,)](x, taps, y, float(gain), *launch.scalars, **launch.constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            launch.kernel[(launch.programs,)](x, taps, y, float(gain), *launch.scalars, **launch.constants)


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launcher would compile for every sample, layout and dtype."""
    from gankern import _layout
    from gankern._samples import DTYPES
    from gankern.ops.upfirdn2d import arguments
    from gankern.ops.upfirdn2d.samples import SAMPLES

    for sample, layout, dtype, args in _triton.fake_inputs(SAMPLES, DTYPES, arguments.prepare):
        x, f, up, down, padding, flip_filter, gain = args
        size = (*x.shape[:2], *arguments.output_size(x.shape[2], x.shape[3], f, up, down, padding))
        y = _layout.empty(x, size)
        if y.numel() == 0:
            continue
        launch = plan(_geometry(x, f, y, up, down, padding, flip_filter), _triton.multiprocessors(None))
        taps = torch.float64 if dtype == torch.float64 else torch.float32
        yield _triton.CompileCase(
            sample=f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}",
            kernel=launch.kernel,
            args=(dtype, dtype if f is None else taps, dtype, gain, *launch.scalars),
            constants=launch.constants,
            dtype=dtype,
            # 16-byte accesses are required where networks spend their time.
            vector=launch.vector if sample.tags & {"quick", "full"} else (0, 0),
        )
