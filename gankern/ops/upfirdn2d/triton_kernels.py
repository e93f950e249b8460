"""upfirdn2d in Triton: one pass over the image, polyphase, the rows of a column sliding through registers.

Along each axis an output ``o`` meets the taps ``k`` with ``o * down - pad + k`` divisible by ``up``, so outputs repeat with a
period of ``up / gcd(up, down)``. A *lane* computes some neighbouring outputs (a multiple of the period) from a *window* of
input pixels; which tap meets which pixel of the window is then known when the kernel is compiled, and the zeros that
upsampling puts in are neither read nor multiplied. ``triton_plan.Axis`` is that geometry.

``_upfirdn2d_fwd_kernel`` walks down the image. Each step reads the rows that are new in the window and finishes
``Axis.outputs`` rows. What earlier rows contribute stays in registers, in the smaller of two forms: sums of the outputs that
are not finished yet, or the older rows of the window (if the filter is separable: filtered along x).

- channels_last: a lane is a group of pixels; vectors run over channels; every column of the window is its own vector load.
- NCHW: vectors run along x; the window is read in aligned vectors, taken apart in registers, and the results put together.

``_upfirdn2d_any_kernel`` takes what registers cannot hold (many taps, large factors) with loops of any length.
"""

# ruff: noqa: RUF005 (Triton has no starred tuples)
# mypy: disable-error-code="no-untyped-def,assignment"
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import constexpr_function, jit, narrow, tl
from gankern.ops.upfirdn2d.triton_plan import (
    Geometry,
    Launch,
    outputs_of,
    pending_of,
    pixels_of,
    plan,
    step_of,
    tap_of,
    taps_of,
)


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
    them, the first SKIP pixels too many; without BLOCKS every column is loaded by itself, ``stride`` from the last.
    """
    columns = ()
    if len(BLOCKS) > 0:
        for b in tl.static_range(len(BLOCKS)):
            i = BLOCKS[b][0] + tl.arange(0, BLOCKS[b][1])[None, None, :]
            at = column[:, :, None] + i
            v = tl.load(row[:, :, None] + i, mask=live[:, :, None] & (at >= 0) & (at < width), other=0.0)
            columns = columns + _take_apart(v.to(ACC), BLOCKS[b][1])
        columns = columns[SKIP:]
    else:
        for j in tl.static_range(pixels_of(AX)):
            v = tl.load(row + j * stride, mask=live & (column + j >= 0) & (column + j < width), other=0.0)
            columns = columns + (v.to(ACC),)
    return columns


@jit
def _filter_x(columns, taps_x, AX: tl.constexpr):
    """The lane's outputs along x of one row."""
    outputs = ()
    for o in tl.static_range(outputs_of(AX)):
        v = tl.zeros_like(columns[0])
        for j in tl.static_range(pixels_of(AX)):
            if tap_of(AX, o, j) >= 0:
                v += columns[j] * taps_x[tap_of(AX, o, j)]
        outputs = outputs + (v,)
    return outputs


@jit
def _add_row(v, features, o, j, OX: tl.constexpr, taps, taps_x, AY: tl.constexpr, AX: tl.constexpr, SEPARABLE: tl.constexpr):
    """Add to ``v``, the lane's output (o, OX), what row ``j`` of the window contributes."""
    if tap_of(AY, o, j) >= 0:
        if SEPARABLE:
            v += features[OX] * taps[tap_of(AY, o, j)]
        else:
            for i in tl.static_range(pixels_of(AX)):
                if tap_of(AX, OX, i) >= 0:
                    v += features[i] * taps[tap_of(AY, o, j) * taps_of(AX) + tap_of(AX, OX, i)]
    return v


@jit
def _store_rows(
    y, lane, live, column, row, row_stride, column_stride, height, width, sums,
    AY: tl.constexpr, AX: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store a lane's outputs: AY.outputs rows from ``row`` on; VECTOR of them side by side at a time if it is not 0."""
    for o in tl.static_range(outputs_of(AY)):
        at_row = y + (lane + (row + o).to(tl.int64) * row_stride)
        inside = live & (row + o >= 0) & (row + o < height)
        if VECTOR > 0:
            for g in tl.static_range(outputs_of(AX) // VECTOR):
                i = g * VECTOR + tl.arange(0, VECTOR)[None, None, :]
                v = _put_together(sums, o * outputs_of(AX) + g * VECTOR, 1, VECTOR)
                mask = inside[:, :, None] & (column[:, :, None] + i < width)
                tl.store(at_row[:, :, None] + i, narrow(v, y.dtype.element_ty), mask=mask)
        else:
            for i in tl.static_range(outputs_of(AX)):
                v = sums[o * outputs_of(AX) + i]
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
    column0 by COLUMN_UNIT.
    """
    OUT_Y: tl.constexpr = outputs_of(AY)
    OUT_X: tl.constexpr = outputs_of(AX)
    STEP_Y: tl.constexpr = step_of(AY)
    PIXELS_Y: tl.constexpr = pixels_of(AY)
    STEP_X: tl.constexpr = step_of(AX)

    # Taps, times the gain. 1-D taps serve both axes; the gain goes into y's.
    scale = tl.full((), gain, ACC)
    taps = ()
    taps_x = ()
    if not HAS_F:
        taps = taps + (scale,)
    elif SEPARABLE:
        for k in tl.static_range(taps_of(AY)):
            tap = tl.load(f + tap0 + k * tap_x).to(ACC)
            taps = taps + (tap * scale,)
            taps_x = taps_x + (tap,)
    else:
        for ky in tl.static_range(taps_of(AY)):
            for kx in tl.static_range(taps_of(AX)):
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
        PENDING: tl.constexpr = pending_of(AY)
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
_ANY_SCALARS = [
    "tap0", "tap_y", "tap_x", "count", "channels", "height", "width", "out_h", "out_w", "xn", "xc", "xh", "xw",
    "yn", "yc", "yh", "yw", "up_x", "up_y", "down_x", "down_y", "taps_x", "taps_y", "pad_x", "pad_y", "lift_x", "lift_y",
]  # fmt: skip


@jit(do_not_specialize=_ANY_SCALARS)
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


# ---- what op.py calls -----------------------------------------------------------------------------------------------
def _geometry(
    x: Tensor, f: Tensor | None, y: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool
) -> Geometry:
    f_size = () if f is None else tuple(f.shape)
    return Geometry(
        x.dtype, tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), f_size,
        (up[0], up[1]), (down[0], down[1]), (padding[0], padding[2]), bool(flip_filter),
    )  # fmt: skip


def _kernel(launch: Launch) -> Any:
    return _upfirdn2d_fwd_kernel if launch.sliding else _upfirdn2d_any_kernel


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
        x: images, float32, float64, bfloat16 or float16.
        f: contiguous taps [taps_y, taps_x], or [taps] for both axes, or None; float32 (float64 for float64 images).
        y: the result, in the dtype of ``x``. Both have stride 1 along W, or both along C; other strides are free.
        up: (x, y).
        down: (x, y).
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
        _kernel(launch)[(launch.programs,)](x, taps, y, float(gain), *launch.scalars, **launch.constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            _kernel(launch)[(launch.programs,)](x, taps, y, float(gain), *launch.scalars, **launch.constants)


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
            kernel=_kernel(launch),
            args=(dtype, dtype if f is None else taps, dtype, gain, *launch.scalars),
            constants=launch.constants,
            dtype=dtype,
            # 16-byte accesses are required where networks spend their time.
            vector=launch.vector if sample.tags & {"quick", "full"} else (0, 0),
        )
