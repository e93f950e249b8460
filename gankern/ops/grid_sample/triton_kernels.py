"""grid_sample in Triton: a program takes a tile of samples and walks along their channels.

What is the same for all channels, a sample's position and its four pixels, is worked out once. Tiles are [samples, channels]
where channels are contiguous (LAST), else [channels, samples]: neighbouring threads take neighbours along the second.

The gradient in x is a scatter. It sums 64-bit integers, multiples of a power of two, so that it is the same in any order, as in
csrc/grid_sample/grid_sample_fixed.cuh, and a second kernel converts the sums.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import jit, narrow, tl
from gankern.ops.grid_sample import configs


# ---- samples --------------------------------------------------------------------------------------------------------
@jit
def _bracket(g, size, ACC: tl.constexpr):
    """(pixel at or before the position of grid value ``g``, how far it is past it, which of the two pixels exist)."""
    # As in grid_sample_math.h: a leading half of g, whose product and sum are exact, and a rest.
    half = size.to(ACC) * 0.5
    shift: tl.constexpr = 100663296.0 if ACC == tl.float64 else 6144.0  # noqa: SIM300
    leading = (g + shift) - shift
    exact = leading * half + (half - 0.5)
    rest = (g - leading) * half
    position = exact + rest
    near = (position > -2) & (position < size.to(ACC) + 1)  # false for NaN
    low = tl.floor(tl.where(near, position, 0.0))
    part = (tl.where(near, exact, 0.0) - low) + tl.where(near, rest, 0.0)
    low = tl.where(part < 0, low - 1, low)
    part = tl.where(part < 0, part + 1, part)
    low = tl.where(part >= 1, low + 1, low)
    part = tl.where(part >= 1, part - 1, part)
    index = low.to(tl.int64)
    return index, part, near & (index >= 0) & (index < size), near & (index >= -1) & (index + 1 < size)


@jit
def _along(LAST: tl.constexpr, first, COUNT: tl.constexpr):
    """Numbers of the samples of a tile that begins at ``first``, along the tile's axis of samples."""
    p = first + tl.arange(0, COUNT)
    if LAST:
        return p[:, None]
    else:
        return p[None, :]


@jit
def _locate(
    grid, samples, per_image, out_w, height, width, tiles, LAST: tl.constexpr, P: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Of the program's samples: number, mask, (image, row, column) in the output, and the four pixels around them."""
    p = _along(LAST, (tl.program_id(0) % tiles).to(INDEX) * P, P)
    live = p < samples
    n = p // per_image
    rest = p - n * per_image
    oy = rest // out_w
    ox = rest - oy * out_w
    at = p.to(tl.int64) * 2
    x, tx, left, right = _bracket(tl.load(grid + at, mask=live, other=-9.0), width, ACC)
    y, ty, above, below = _bracket(tl.load(grid + at + 1, mask=live, other=-9.0), height, ACC)
    return at, live, n.to(tl.int64), oy.to(tl.int64), ox.to(tl.int64), x, y, tx, ty, left, right, above, below


@jit
def _channels(step, steps, tiles, channels, LAST: tl.constexpr, UNIT: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr):
    """Channels of one step, along the tile's axis of channels, and their mask."""
    first = ((tl.program_id(0) // tiles).to(INDEX) * steps + step) * C
    c = _along(not LAST, first, C)
    return c.to(tl.int64), c < channels.to(INDEX) * UNIT


@jit
def _gather(base, stride_y, stride_x, live, left, right, above, below, ACC: tl.constexpr):
    """The four pixels, ``base`` pointing to the first: (0, 0), (0, 1), (1, 0), (1, 1). 0 where there is none."""
    v00 = tl.load(base, mask=live & above & left, other=0.0).to(ACC)
    v01 = tl.load(base + stride_x, mask=live & above & right, other=0.0).to(ACC)
    v10 = tl.load(base + stride_y, mask=live & below & left, other=0.0).to(ACC)
    v11 = tl.load(base + stride_y + stride_x, mask=live & below & right, other=0.0).to(ACC)
    return v00, v01, v10, v11


@jit
def _mix(v00, v01, v10, v11, tx, ty):
    """Interpolated value."""
    return (1 - ty) * ((1 - tx) * v00 + tx * v01) + ty * ((1 - tx) * v10 + tx * v11)


# ---- sums in any order ----------------------------------------------------------------------------------------------
@jit
def _power_of_two(exponent, ACC: tl.constexpr):
    """2**exponent, within the normal numbers of ACC."""
    if ACC == tl.float64:  # noqa: SIM300
        return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@jit
def _shift(bound, samples_log2, ACC: tl.constexpr):
    """Exponent k of the unit 2**-k: a contribution within ``bound`` times 2**k is below 2**(62 - samples_log2)."""
    if ACC == tl.float64:  # noqa: SIM300
        exponent = (((bound.to(tl.int64, bitcast=True) >> 52) & 2047) - 1022).to(tl.int32)
    else:
        exponent = ((bound.to(tl.int32, bitcast=True) >> 23) & 255) - 126
    return 62 - samples_log2 - exponent


@jit
def _units(v, k, ACC: tl.constexpr):
    """``v`` times 2**k, rounded to the nearest integer, ties to even. In two steps, for 2**k may be beyond ACC."""
    v = v * _power_of_two(k >> 1, ACC) * _power_of_two(k - (k >> 1), ACC)
    low = tl.floor(v)
    part = v - low
    whole = low.to(tl.int64)
    return whole + ((part > 0.5) | ((part == 0.5) & ((whole & 1) == 1))).to(tl.int64)


@jit
def _add(sums, v, k, live, ACC: tl.constexpr):
    """Add ``v`` in units of 2**-k."""
    tl.atomic_add(sums, _units(tl.where(live, v, 0.0), k, ACC), mask=live, sem="relaxed")


@jit(do_not_specialize=["elements", "samples_log2"])
def _grid_sample_finish_kernel(sums, bound, dx, elements, samples_log2, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Sums to numbers; NaN if nothing bounds the contributions. ``dx`` is dense."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    limit = tl.load(bound)
    k = _shift(limit, samples_log2, ACC)
    v = tl.load(sums + i, mask=i < elements, other=0).to(ACC)
    v = v * _power_of_two(-(k >> 1), ACC) * _power_of_two((k >> 1) - k, ACC)
    v = tl.where(limit < float("inf"), v, float("nan"))
    tl.store(dx + i, narrow(v, dx.dtype.element_ty), mask=i < elements)


# ---- kernels --------------------------------------------------------------------------------------------------------
# Strides of a tensor t [N, C, H, W] are t_n, t_c, t_y, t_x; all but t_c, and the number of channels, come divided by UNIT, so
# that Triton sees alignment. LAST: every t_c is 1.
_SHAPE = ["samples", "per_image", "out_w", "height", "width", "channels", "tiles", "steps"]
_X, _Y, _U, _D, _DX = ([f"{name}_{axis}" for axis in "ncyx"] for name in ("x", "y", "u", "d", "dx"))


@jit(do_not_specialize=[*_SHAPE, *_X, *_Y])
def _grid_sample_fwd_kernel(
    x, grid, y, samples, per_image, out_w, height, width, channels, tiles, steps, x_n, x_c, x_y, x_x, y_n, y_c, y_y, y_x,
    LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _, live, n, oy, ox, ix, iy, tx, ty, left, right, above, below = _locate(
        grid, samples, per_image, out_w, height, width, tiles, LAST, P, INDEX, ACC
    )
    pixel = x + (n * x_n + iy * x_y + ix * x_x) * UNIT
    out = y + (n * y_n + oy * y_y + ox * y_x) * UNIT
    for step in range(steps):
        c, c_live = _channels(step, steps, tiles, channels, LAST, UNIT, C, INDEX)
        x_at, y_at = c, c
        if not LAST:
            x_at, y_at = c * x_c, c * y_c
        v00, v01, v10, v11 = _gather(pixel + x_at, x_y * UNIT, x_x * UNIT, c_live, left, right, above, below, ACC)
        tl.store(out + y_at, narrow(_mix(v00, v01, v10, v11, tx, ty), y.dtype.element_ty), mask=live & c_live)


@jit(do_not_specialize=[*_SHAPE, "samples_log2", *_X, *_Y, *_DX])
def _grid_sample_bwd_kernel(
    dy, x, grid, dx_fixed, bound, dgrid, samples, per_image, out_w, height, width, channels, tiles, steps, samples_log2,
    x_n, x_c, x_y, x_x, y_n, y_c, y_y, y_x, dx_n, dx_c, dx_y, dx_x,
    WANT_X: tl.constexpr, WANT_GRID: tl.constexpr,
    LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    at, live, n, oy, ox, ix, iy, tx, ty, left, right, above, below = _locate(
        grid, samples, per_image, out_w, height, width, tiles, LAST, P, INDEX, ACC
    )
    pixel = x + (n * x_n + iy * x_y + ix * x_x) * UNIT
    out = dy + (n * y_n + oy * y_y + ox * y_x) * UNIT
    some = (left | right) & (above | below)  # a sample outside has no gradient, whatever dy is
    if WANT_X:
        target = dx_fixed + (n * dx_n + iy * dx_y + ix * dx_x) * UNIT
        limit = tl.load(bound + tl.zeros((1, 1), tl.int32))  # no scalar: the interpreter broadcasts none of booleans
        summed = (limit > 0) & (limit < float("inf"))
        k = _shift(limit, samples_log2, ACC)
    if WANT_GRID:
        along_x = tl.zeros((P, C) if LAST else (C, P), ACC)
        along_y = tl.zeros((P, C) if LAST else (C, P), ACC)
    for step in range(steps):
        c, c_live = _channels(step, steps, tiles, channels, LAST, UNIT, C, INDEX)
        x_at, y_at, dx_at = c, c, c
        if not LAST:
            x_at, y_at, dx_at = c * x_c, c * y_c, c * dx_c
        g = tl.load(out + y_at, mask=live & c_live & some, other=0.0).to(ACC)
        if WANT_GRID:
            v00, v01, v10, v11 = _gather(pixel + x_at, x_y * UNIT, x_x * UNIT, c_live, left, right, above, below, ACC)
            along_x += g * ((1 - ty) * (v01 - v00) + ty * (v11 - v10))
            along_y += g * ((1 - tx) * (v10 - v00) + tx * (v11 - v01))
        if WANT_X:
            to, add = target + dx_at, c_live & summed
            _add(to, (1 - ty) * (1 - tx) * g, k, add & above & left, ACC)
            _add(to + dx_x * UNIT, (1 - ty) * tx * g, k, add & above & right, ACC)
            _add(to + dx_y * UNIT, ty * (1 - tx) * g, k, add & below & left, ACC)
            _add(to + (dx_y * UNIT + dx_x * UNIT), ty * tx * g, k, add & below & right, ACC)
    if WANT_GRID:
        AXIS: tl.constexpr = 1 if LAST else 0
        tl.store(dgrid + at, tl.sum(along_x, AXIS, keep_dims=True) * (width.to(ACC) * 0.5), mask=live)
        tl.store(dgrid + at + 1, tl.sum(along_y, AXIS, keep_dims=True) * (height.to(ACC) * 0.5), mask=live)


@jit(do_not_specialize=[*_SHAPE, "samples_log2", *_X, *_Y, *_U, *_D, *_DX])
def _grid_sample_double_bwd_kernel(
    u_x, u_grid, dy, x, grid, d_dy, dx_fixed, bound, d_grid,
    samples, per_image, out_w, height, width, channels, tiles, steps, samples_log2,
    x_n, x_c, x_y, x_x, y_n, y_c, y_y, y_x, u_n, u_c, u_y, u_x_, d_n, d_c, d_y, d_x, dx_n, dx_c, dx_y, dx_x,
    HAS_X: tl.constexpr, HAS_GRID: tl.constexpr,
    WANT_DY: tl.constexpr, WANT_X: tl.constexpr, WANT_GRID: tl.constexpr,
    LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """HAS_X, HAS_GRID: which cotangents there are, u_x of dx and u_grid of dgrid."""
    at, live, n, oy, ox, ix, iy, tx, ty, left, right, above, below = _locate(
        grid, samples, per_image, out_w, height, width, tiles, LAST, P, INDEX, ACC
    )
    pixel = x + (n * x_n + iy * x_y + ix * x_x) * UNIT
    u_pixel = u_x + (n * u_n + iy * u_y + ix * u_x_) * UNIT
    out = (n * y_n + oy * y_y + ox * y_x) * UNIT
    d_out = (n * d_n + oy * d_y + ox * d_x) * UNIT
    some = (left | right) & (above | below)
    if HAS_GRID:  # in pixels
        vx = tl.load(u_grid + at, mask=live & some, other=0.0) * (width.to(ACC) * 0.5)
        vy = tl.load(u_grid + at + 1, mask=live & some, other=0.0) * (height.to(ACC) * 0.5)
    if WANT_X:
        target = dx_fixed + (n * dx_n + iy * dx_y + ix * dx_x) * UNIT
        limit = tl.load(bound + tl.zeros((1, 1), tl.int32))  # no scalar: the interpreter broadcasts none of booleans
        summed = (limit > 0) & (limit < float("inf"))
        k = _shift(limit, samples_log2, ACC)
    if WANT_GRID:
        along_x = tl.zeros((P, C) if LAST else (C, P), ACC)
        along_y = tl.zeros((P, C) if LAST else (C, P), ACC)
    for step in range(steps):
        c, c_live = _channels(step, steps, tiles, channels, LAST, UNIT, C, INDEX)
        x_at, y_at, u_at, d_at, dx_at = c, c, c, c, c
        if not LAST:
            x_at, y_at, u_at, d_at, dx_at = c * x_c, c * y_c, c * u_c, c * d_c, c * dx_c
        if WANT_GRID or WANT_X:
            g = tl.load(dy + (out + y_at), mask=live & c_live & some, other=0.0).to(ACC)
        value = tl.zeros((P, C) if LAST else (C, P), ACC)
        if HAS_X:
            v00, v01, v10, v11 = _gather(u_pixel + u_at, u_y * UNIT, u_x_ * UNIT, c_live, left, right, above, below, ACC)
            value += _mix(v00, v01, v10, v11, tx, ty)
            if WANT_GRID:
                along_x += g * ((1 - ty) * (v01 - v00) + ty * (v11 - v10))
                along_y += g * ((1 - tx) * (v10 - v00) + tx * (v11 - v01))
        if HAS_GRID:
            if WANT_DY or WANT_GRID:
                v00, v01, v10, v11 = _gather(pixel + x_at, x_y * UNIT, x_x * UNIT, c_live, left, right, above, below, ACC)
                value += vx * ((1 - ty) * (v01 - v00) + ty * (v11 - v10)) + vy * ((1 - tx) * (v10 - v00) + tx * (v11 - v01))
                if WANT_GRID:
                    twist = (v00 - v01) - (v10 - v11)  # their mixed derivative
                    along_x += g * (vy * twist)
                    along_y += g * (vx * twist)
            if WANT_X:
                to, add = target + dx_at, c_live & summed
                _add(to, (-vx * (1 - ty) - vy * (1 - tx)) * g, k, add & above & left, ACC)
                _add(to + dx_x * UNIT, (vx * (1 - ty) - vy * tx) * g, k, add & above & right, ACC)
                _add(to + dx_y * UNIT, (vy * (1 - tx) - vx * ty) * g, k, add & below & left, ACC)
                _add(to + (dx_y * UNIT + dx_x * UNIT), (vx * ty + vy * tx) * g, k, add & below & right, ACC)
        if WANT_DY:
            tl.store(d_dy + (d_out + d_at), narrow(value, d_dy.dtype.element_ty), mask=live & c_live)
    if WANT_GRID:
        AXIS: tl.constexpr = 1 if LAST else 0
        tl.store(d_grid + at, tl.sum(along_x, AXIS, keep_dims=True) * (width.to(ACC) * 0.5), mask=live)
        tl.store(d_grid + at + 1, tl.sum(along_y, AXIS, keep_dims=True) * (height.to(ACC) * 0.5), mask=live)


# ---- how a problem is cut up ----------------------------------------------------------------------------------------
_FAR = 2**30
"""Numbers of samples and channels that 32-bit arithmetic holds with room to spare."""


class Launch(NamedTuple):
    """Integer arguments (without strides), constants and number of programs of a kernel, and ceil(log2(samples an image))."""

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    samples_log2: int


@lru_cache(maxsize=4096)
def plan(
    images: int, channels: int, height: int, width: int, out_h: int, out_w: int, dtype: torch.dtype, unit: int,
    derivative: bool, summed: bool,
) -> Launch:  # fmt: skip
    """``unit``: as in the kernels, 0 where channels are not contiguous. ``summed``: over channels, for a gradient in grid."""
    samples = images * out_h * out_w
    t = configs.tile(samples, channels, unit, dtype.itemsize, derivative, summed)
    last, unit = unit > 0, max(unit, 1)
    constants = {
        "LAST": last, "UNIT": unit, "P": t.samples, "C": t.channels,
        "INDEX": tl.int64 if max(samples, channels) + t.samples + t.channels >= _FAR else tl.int32,
        "ACC": _triton.accumulator(dtype), "num_warps": t.warps,
    }  # fmt: skip
    scalars = (samples, out_h * out_w, out_w, height, width, channels // unit, t.tiles, t.steps)
    return Launch(scalars, constants, t.tiles * t.chunks, max(out_h * out_w - 1, 0).bit_length())


def _unit(limit: int, *tensors: Any) -> int:
    """Channels, at most ``limit``, that are a vector in all tensors (None: absent); 0 where neighbours are samples."""
    given = [t for t in tensors if t is not None]
    if any(t.stride(1) != 1 for t in given) or given[0].shape[1] == 1:
        return 0
    strides = [s for t in given for s in (t.stride(0), t.stride(2), t.stride(3))]
    unit = _triton.alignment(min(limit, 16 // given[0].element_size()), given[0].shape[1], *strides)
    return 0 if unit == 1 and given[0].shape[1] <= configs.GPU.channels else unit


def _strides(unit: int, *tensors: Any) -> tuple[int, ...]:
    unit = max(unit, 1)
    found: list[int] = []
    for t in tensors:
        n, c, y, x = (0, 0, 0, 0) if t is None else t.stride()
        found += (n // unit, c, y // unit, x // unit)
    return tuple(found)


def _forward(x: Any, y: Any) -> tuple[Launch, tuple[int, ...]]:
    unit = _unit(16, x, y)
    launch = plan(*x.shape, *y.shape[2:], x.dtype, unit, False, False)
    return launch, (*launch.scalars, *_strides(unit, x, y))


def _backward(dy: Any, x: Any, dx: Any, dgrid: Any) -> tuple[Launch, tuple[int, ...], dict[str, Any]]:
    unit = _unit(configs.GPU.vector, x, dy, dx)
    launch = plan(*x.shape, *dy.shape[2:], x.dtype, unit, True, dgrid is not None)
    numbers = (*launch.scalars, launch.samples_log2, *_strides(unit, x, dy, dx))
    return launch, numbers, {"WANT_X": dx is not None, "WANT_GRID": dgrid is not None}


def _double_backward(
    u_x: Any, u_grid: Any, dy: Any, x: Any, d_dy: Any, d_x: Any, d_grid: Any
) -> tuple[Launch, tuple[int, ...], dict[str, Any]]:
    unit = _unit(configs.GPU.vector, x, dy, u_x, d_dy, d_x)
    launch = plan(*x.shape, *dy.shape[2:], x.dtype, unit, True, d_grid is not None)
    numbers = (*launch.scalars, launch.samples_log2, *_strides(unit, x, dy, u_x, d_dy, d_x))
    flags = {
        "HAS_X": u_x is not None, "HAS_GRID": u_grid is not None,
        "WANT_DY": d_dy is not None, "WANT_X": d_x is not None, "WANT_GRID": d_grid is not None,
    }  # fmt: skip
    return launch, numbers, flags


# ---- what backends.py calls -----------------------------------------------------------------------------------------
def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _launch(
    kernel: Any, like: Tensor, programs: int, tensors: tuple[Any, ...], numbers: tuple[int, ...], constants: dict[str, Any]
) -> None:
    """Run ``kernel``; an absent tensor's place is taken by another that it will not touch."""
    if programs == 0:
        return
    pointers = [like if t is None else t for t in tensors]
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        kernel[(programs,)](*pointers, *numbers, **constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            kernel[(programs,)](*pointers, *numbers, **constants)


def _finish(dx: Tensor, dx_fixed: Any, bound: Any, samples_log2: int) -> None:
    block = configs.GPU.finish
    constants = {"BLOCK": block, "ACC": _triton.accumulator(dx.dtype)}
    numbers = (dx.numel(), samples_log2)
    _launch(_grid_sample_finish_kernel, dx, -(-dx.numel() // block), (dx_fixed, bound, dx), numbers, constants)


def grid_sample_triton(x: Tensor, grid: Tensor, y: Tensor) -> None:
    """Write the samples of ``x`` at ``grid`` into ``y``; semantics as in grid_sample_params.h."""
    launch, numbers = _forward(x, y)
    _launch(_grid_sample_fwd_kernel, x, launch.programs, (x, grid, y), numbers, launch.constants)


def grid_sample_backward_triton(
    dy: Tensor, x: Tensor, grid: Tensor, dx: Tensor | None, dgrid: Tensor | None, dx_fixed: Tensor | None, bound: Tensor | None
) -> None:
    """Write dx and dgrid, as far as they are wanted; semantics as in grid_sample_params.h."""
    launch, numbers, flags = _backward(dy, x, dx, dgrid)
    tensors = (dy, x, grid, dx_fixed, bound, dgrid)
    _launch(_grid_sample_bwd_kernel, x, launch.programs, tensors, numbers, {**launch.constants, **flags})
    if dx is not None:
        _finish(dx, dx_fixed, bound, launch.samples_log2)


def grid_sample_double_backward_triton(
    u_x: Tensor | None, u_grid: Tensor | None, dy: Tensor, x: Tensor, grid: Tensor, d_dy: Tensor | None, d_x: Tensor | None,
    d_grid: Tensor | None, dx_fixed: Tensor | None, bound: Tensor | None,
) -> None:  # fmt: skip
    """Write the gradients in dy, x and grid, as far as they are wanted; semantics as in grid_sample_params.h."""
    launch, numbers, flags = _double_backward(u_x, u_grid, dy, x, d_dy, d_x, d_grid)
    tensors = (u_x, u_grid, dy, x, grid, d_dy, dx_fixed, bound, d_grid)
    _launch(_grid_sample_double_bwd_kernel, x, launch.programs, tensors, numbers, {**launch.constants, **flags})
    if d_x is not None:
        _finish(d_x, dx_fixed, bound, launch.samples_log2)


# ---- the compile gate -----------------------------------------------------------------------------------------------
def _cases(x: Any, grid: Any) -> Iterator[tuple[Any, ...]]:
    """(kernel, pointers' dtypes, numbers, constants, bytes of vectors to load and store), everything present and wanted."""
    from gankern.ops.grid_sample.backends import output

    dtype, y = x.dtype, output(x, grid)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    launch, numbers = _forward(x, y)
    vector = launch.constants["UNIT"] * dtype.itemsize
    yield _grid_sample_fwd_kernel, (dtype, wide, dtype), numbers, launch.constants, (vector, vector)
    launch, numbers, flags = _backward(y, x, x, grid)
    vector = launch.constants["UNIT"] * dtype.itemsize
    pointers: tuple[Any, ...] = (dtype, dtype, wide, torch.int64, wide, wide)
    yield _grid_sample_bwd_kernel, pointers, numbers, {**launch.constants, **flags}, (vector, 0)
    launch, numbers, flags = _double_backward(x, grid, y, x, y, x, grid)
    pointers = (dtype, wide, dtype, dtype, wide, dtype, torch.int64, wide, wide)
    yield _grid_sample_double_bwd_kernel, pointers, numbers, {**launch.constants, **flags}, (vector, vector)
    constants = {"BLOCK": configs.GPU.finish, "ACC": launch.constants["ACC"]}
    yield _grid_sample_finish_kernel, (torch.int64, wide, dtype), (x.numel(), launch.samples_log2), constants, (0, 0)


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the networks' shapes: one of each kernel, layout and dtype. Half types differ only
    in how a number is loaded and stored: bfloat16 stands for both.
    """
    from gankern.ops.grid_sample.arguments import prepare
    from gankern.ops.grid_sample.samples import SAMPLES

    seen: set[tuple[Any, ...]] = set()
    networks = [s for s in SAMPLES if s.tags & {"quick", "full"}]
    # Drawn, not fake: the samples' grids are made by looking at their values.
    for sample, dtype in itertools.product(networks, (torch.float32, torch.float64, torch.bfloat16)):
        for layout in sample.layouts:
            for kernel, pointers, numbers, constants, vector in _cases(*prepare(**sample.inputs(dtype, layout))):
                key = (kernel, dtype, constants.get("LAST"))
                if key in seen:
                    continue
                seen.add(key)
                yield _triton.CompileCase(
                    sample=f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}",
                    kernel=kernel,
                    args=(*pointers, *numbers),
                    constants=constants,
                    dtype=dtype,
                    vector=vector,
                )
