"""bias_act in Triton: every tensor is read once and written once, in 16-byte vectors, backward's reductions on the way.

A tile is [TR rows, TC columns], columns contiguous in memory. What they are is the FORM of the launch:

- "planes" (inner > 1, NCHW): a row belongs to one channel, columns are positions;
- "pixels" (inner == 1, channels_last or [N, C]): a row is a position, columns are channels;
- "folded" (inner == 1, few channels): a row is FOLD positions with all their channels, so that rows can be whole vectors. With
  one channel that is a flat tensor: the form of everything that needs neither channel nor position.

Forward and double backward give each program one tile. Backward gives it the rectangle chunk x channel_chunk whose partial
sums it owns: it walks along one side, keeps the sums across the walk in registers and stores the sums along the other.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._activations import activation_funcs, reference_tensor
from gankern._triton import jit, narrow, tl
from gankern._triton_activations import activate, slopes
from gankern.ops.bias_act import configs
from gankern.ops.bias_act.geometry import Geometry, geometry

_NAMES = tuple(activation_funcs)


@jit
def _pre_activation(
    x, b, noise, offset, live, c, c_live, m, m_live, HAS_B: tl.constexpr, HAS_NOISE: tl.constexpr, ACC: tl.constexpr
):
    """Pre-activation x + noise + b at ``offset``, with noise at ``m`` and b at ``c``."""
    v = tl.load(x + offset, mask=live, other=0.0).to(ACC)
    if HAS_NOISE:
        v += tl.load(noise + m, mask=m_live, other=0.0).to(ACC)
    if HAS_B:
        v += tl.load(b + c, mask=c_live, other=0.0).to(ACC)
    return v


# ---- forward and double backward: a tile a program ------------------------------------------------------------------
@jit
def _tile(
    rows, columns, channels, noise_outer, tiles, total,
    FORM: tl.constexpr, FOLD: tl.constexpr, PERIOD: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Of the program's tile: (offsets, mask), (channels, mask), (positions, positions in the noise, mask)."""
    pid = tl.program_id(0)
    width = columns.to(INDEX) * UNIT
    row = ((pid // tiles).to(INDEX) * TR + tl.arange(0, TR))[:, None]
    column = ((pid % tiles).to(INDEX) * TC + tl.arange(0, TC))[None, :]
    row_live = row < rows
    column_live = column < width
    offset = row.to(tl.int64) * width + column
    live = row_live & column_live
    if FORM == "planes":
        outer = row // channels
        c = row - outer * channels
        c_live = row_live
        m = outer.to(tl.int64) * width + column
        m_noise = (outer % noise_outer).to(tl.int64) * width + column
        m_live = live
    elif FORM == "pixels":
        c = column
        c_live = column_live
        m = row
        m_noise = row % noise_outer
        m_live = row_live
    else:
        live = live & (offset < total.to(tl.int64) * UNIT)
        c = column % PERIOD
        c_live = column_live
        m = row * FOLD + column // PERIOD
        m_noise = m % noise_outer
        m_live = live
    return offset, live, c, c_live, m, m_noise, m_live


_TILE = ["rows", "columns", "channels", "noise_outer", "tiles", "total"]


@jit(do_not_specialize=_TILE)
def _bias_act_fwd_kernel(
    x, b, noise, y, alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    rows, columns, channels, noise_outer, tiles, total,
    ACT: tl.constexpr, CLAMPED: tl.constexpr, HAS_B: tl.constexpr, HAS_NOISE: tl.constexpr,
    FORM: tl.constexpr, FOLD: tl.constexpr, PERIOD: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``columns`` and ``total`` are whole numbers of UNIT elements and come divided by it, so that Triton sees alignment."""
    offset, live, c, c_live, _, m_noise, m_live = _tile(
        rows, columns, channels, noise_outer, tiles, total, FORM, FOLD, PERIOD, UNIT, TR, TC, INDEX
    )
    v = _pre_activation(x, b, noise, offset, live, c, c_live, m_noise, m_live, HAS_B, HAS_NOISE, ACC)
    f = activate(v, tl.full((), alpha, ACC), ACT) * tl.full((), gain, ACC)
    if CLAMPED:
        limit = tl.full((), clamp, ACC)
        f = tl.where(f > limit, limit, tl.where(f < -limit, -limit, f))
    tl.store(y + offset, narrow(f, y.dtype.element_ty), mask=live)


@jit(do_not_specialize=_TILE)
def _bias_act_double_bwd_kernel(
    u, u_b, u_noise, dy, saved, b, noise, d_dy, d_saved,
    alpha: tl.float64, gain: tl.float64, inverse: tl.float64, clamp: tl.float64,
    rows, columns, channels, noise_outer, tiles, total,
    ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr, HAS_B: tl.constexpr, HAS_NOISE: tl.constexpr,
    HAS_U: tl.constexpr, HAS_U_B: tl.constexpr, HAS_U_NOISE: tl.constexpr, WANT_DY: tl.constexpr, WANT_SAVED: tl.constexpr,
    FORM: tl.constexpr, FOLD: tl.constexpr, PERIOD: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    offset, live, c, c_live, m, m_noise, m_live = _tile(
        rows, columns, channels, noise_outer, tiles, total, FORM, FOLD, PERIOD, UNIT, TR, TC, INDEX
    )
    t = tl.zeros((TR, TC), ACC)
    if HAS_U:
        t += tl.load(u + offset, mask=live, other=0.0).to(ACC)
    if HAS_U_B:
        t += tl.load(u_b + c, mask=c_live, other=0.0).to(ACC)
    if HAS_U_NOISE:
        t += tl.load(u_noise + m, mask=m_live, other=0.0).to(ACC)
    wide_gain = tl.full((), gain, ACC)
    first = wide_gain
    second = tl.zeros((TR, TC), ACC)
    if SAVED != "":
        s = _pre_activation(saved, b, noise, offset, live, c, c_live, m_noise, m_live, HAS_B, HAS_NOISE, ACC)
        first, second = slopes(
            s, tl.full((), alpha, ACC), wide_gain, tl.full((), inverse, ACC), tl.full((), clamp, ACC), ACT, SAVED, CLAMPED
        )
    if WANT_DY:
        tl.store(d_dy + offset, narrow(t * first, d_dy.dtype.element_ty), mask=live)
    if WANT_SAVED:
        v = t * tl.load(dy + offset, mask=live, other=0.0).to(ACC) * second
        tl.store(d_saved + offset, narrow(v, d_saved.dtype.element_ty), mask=live)


# ---- backward: a rectangle of partial sums a program ----------------------------------------------------------------
@jit
def _gradient(
    dy, saved, b, noise, dx, offset, live, c, c_live, m, m_live, alpha, gain, inverse, clamp,
    ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr, HAS_B: tl.constexpr, HAS_NOISE: tl.constexpr,
    WANT_X: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient, dy times the slope, stored as dx; zero outside of the mask, since dy is."""
    g = tl.load(dy + offset, mask=live, other=0.0).to(ACC)
    if SAVED != "":
        s = _pre_activation(saved, b, noise, offset, live, c, c_live, m, m_live, HAS_B, HAS_NOISE, ACC)
        first, _ = slopes(s, alpha, gain, inverse, clamp, ACT, SAVED, CLAMPED)
        g = g * first
    else:
        g = g * gain
    if WANT_X:
        tl.store(dx + offset, narrow(g, dx.dtype.element_ty), mask=live)
    return g


@jit(do_not_specialize=["positions", "channels", "inner", "noise_outer", "chunk", "chunks", "channel_chunk", "channel_chunks"])
def _bias_act_bwd_kernel(
    dy, saved, b, noise, dx, db_partial, dnoise_partial,
    alpha: tl.float64, gain: tl.float64, inverse: tl.float64, clamp: tl.float64,
    positions, channels, inner, noise_outer, chunk, chunks, channel_chunk, channel_chunks,
    ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr, HAS_B: tl.constexpr, HAS_NOISE: tl.constexpr,
    WANT_X: tl.constexpr, WANT_B: tl.constexpr, WANT_NOISE: tl.constexpr,
    FORM: tl.constexpr, FOLD: tl.constexpr, PERIOD: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Alignment as in forward: planes: positions, inner and chunk, pixels: channels and channel_chunk, folded: positions come
    divided by UNIT (folded: positions * channels). Folded: chunk counts rows.
    """
    pid = tl.program_id(0)
    slope = tl.full((), alpha, ACC)
    scale = tl.full((), gain, ACC)
    back = tl.full((), inverse, ACC)
    limit = tl.full((), clamp, ACC)
    sums = tl.zeros((TR, TC), ACC)
    if FORM == "planes":
        q = pid // chunks
        p = pid % chunks
        plane = inner.to(INDEX) * UNIT
        last = positions.to(INDEX) * UNIT
        length = chunk.to(INDEX) * UNIT
        c_first = q.to(INDEX) * channel_chunk
        m_first = p.to(INDEX) * length
        if WANT_NOISE:
            # The chunk is TC positions wide; walk through the channels.
            local = tl.arange(0, TC)[None, :]
            m = m_first + local
            m_live = (local < length) & (m < last)
            o = m // plane
            i = m - o * plane
            base = o.to(tl.int64) * channels * plane + i
            at_noise = (o % noise_outer).to(tl.int64) * plane + i
            for step in range(0, channel_chunk, TR):
                row = step + tl.arange(0, TR)[:, None]
                c = c_first + row
                c_live = (row < channel_chunk) & (c < channels)
                g = _gradient(
                    dy, saved, b, noise, dx, base + c.to(tl.int64) * plane, c_live & m_live, c, c_live, at_noise, m_live,
                    slope, scale, back, limit, ACT, SAVED, CLAMPED, HAS_B, HAS_NOISE, WANT_X, ACC,
                )  # fmt: skip
                sums += g
                if WANT_B:
                    tl.store(db_partial + p.to(tl.int64) * channels + c, tl.sum(g, 1)[:, None], mask=c_live)
            tl.store(dnoise_partial + q.to(tl.int64) * last + m, tl.sum(sums, 0)[None, :], mask=m_live)
        else:
            # The channels of the rectangle are TR rows; walk through the positions.
            row = tl.arange(0, TR)[:, None]
            c = c_first + row
            c_live = (row < channel_chunk) & (c < channels)
            for step in range(0, length, TC):
                local = step + tl.arange(0, TC)[None, :]
                m = m_first + local
                m_live = (local < length) & (m < last)
                o = m // plane
                i = m - o * plane
                offset = (o.to(tl.int64) * channels + c) * plane + i
                at_noise = (o % noise_outer).to(tl.int64) * plane + i
                sums += _gradient(
                    dy, saved, b, noise, dx, offset, c_live & m_live, c, c_live, at_noise, m_live,
                    slope, scale, back, limit, ACT, SAVED, CLAMPED, HAS_B, HAS_NOISE, WANT_X, ACC,
                )  # fmt: skip
            if WANT_B:
                tl.store(db_partial + p.to(tl.int64) * channels + c, tl.sum(sums, 1)[:, None], mask=c_live)
    else:
        # Rows are positions, or groups of them; walk through them.
        q = pid % channel_chunks
        p = pid // channel_chunks
        column = tl.arange(0, TC)[None, :]
        if FORM == "pixels":
            width = channels.to(INDEX) * UNIT
            part = channel_chunk.to(INDEX) * UNIT
            c = q.to(INDEX) * part + column
            c_live = (column < part) & (c < width)
            total = positions.to(tl.int64) * width
        else:
            width = FOLD * PERIOD
            c = column
            c_live = column < width
            total = positions.to(tl.int64) * UNIT
        r_first = p.to(INDEX) * chunk
        for step in range(0, chunk, TR):
            local = step + tl.arange(0, TR)[:, None]
            r = r_first + local
            offset = r.to(tl.int64) * width + c
            if FORM == "pixels":
                r_live = (local < chunk) & (r < positions)
                live = r_live & c_live
                at_b = c
                at_noise = r % noise_outer
                noise_live = r_live
            else:
                r_live = local < chunk
                live = r_live & c_live & (offset < total)
                at_b = c % PERIOD
                at_noise = (r * FOLD + c // PERIOD) % noise_outer
                noise_live = live
            g = _gradient(
                dy, saved, b, noise, dx, offset, live, at_b, c_live, at_noise, noise_live,
                slope, scale, back, limit, ACT, SAVED, CLAMPED, HAS_B, HAS_NOISE, WANT_X, ACC,
            )  # fmt: skip
            if WANT_B:
                sums += g
            if WANT_NOISE:
                tl.store(dnoise_partial + q.to(tl.int64) * positions + r, tl.sum(g, 1)[:, None], mask=r_live)
        if WANT_B:
            if FORM == "pixels":
                tl.store(db_partial + p.to(tl.int64) * width + c, tl.sum(sums, 0)[None, :], mask=c_live)
            else:
                for i in tl.static_range(PERIOD):
                    one = tl.sum(tl.sum(tl.where(c % PERIOD == i, sums, 0.0), 1), 0)
                    tl.store(db_partial + p.to(tl.int64) * PERIOD + i, one)


# ---- how a tensor is cut up -----------------------------------------------------------------------------------------
_FAR = 2**30
"""Numbers of rows, columns and positions that 32-bit arithmetic holds with room to spare."""


class Launch(NamedTuple):
    """Integer arguments, constants and number of programs of a kernel, and the bytes of its vectors."""

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    vector: int


def _common(dtype: torch.dtype, act: int, clamp: float, far: int) -> dict[str, Any]:
    return {
        "ACT": _NAMES[act],
        "CLAMPED": clamp >= 0,
        "INDEX": tl.int64 if far >= _FAR else tl.int32,
        "ACC": _triton.accumulator(dtype),
        "num_warps": configs.GPU.warps,
    }


@lru_cache(maxsize=4096)
def plan(
    g: Geometry, dtype: torch.dtype, act: int, clamped: bool, by_channel: bool, by_position: bool, noise_outer: int
) -> Launch:
    """Of forward and double backward: one tile a program. ``by_channel``, ``by_position``: which tensors beside full ones."""
    size = dtype.itemsize
    vector = 16 // size
    elements = configs.GPU.tile(size)
    total = g.positions * g.channels
    if not (by_channel or by_position):
        g = Geometry(total, 1, 1)
    fold = configs.folded(g.channels, size, configs.GPU.fold) if g.inner == 1 else 0
    if fold:
        form, rows, columns, tc = "folded", -(-g.positions // fold), fold * g.channels, configs.GPU.folded_columns
        unit = _triton.alignment(vector, columns, total)
    elif g.inner == 1:
        form, rows, columns, tc = "pixels", g.positions, g.channels, configs.columns(g.channels, elements)
        unit = _triton.alignment(vector, columns)
    else:
        form, rows, columns, tc = "planes", g.outer * g.channels, g.inner, configs.columns(g.inner, elements)
        unit = _triton.alignment(vector, columns)
    tr = max(1, min(elements // tc, _triton.power_of_two(rows)))
    tiles = -(-columns // tc)
    # noise is read at a position modulo its own, in elements of the form's rows
    scalars = (rows, columns // unit, g.channels, noise_outer, tiles, total // unit)
    constants = {
        **_common(dtype, act, 0.0 if clamped else -1.0, max(rows * max(fold, 1), columns) + elements),
        "FORM": form, "FOLD": fold, "PERIOD": g.channels if fold else 1, "UNIT": unit, "TR": tr, "TC": tc,
    }  # fmt: skip
    return Launch(scalars, constants, -(-rows // tr) * tiles, unit * size)


@lru_cache(maxsize=4096)
def plan_backward(
    g: Geometry, dtype: torch.dtype, act: int, clamped: bool, pointwise: bool, with_noise: bool, noise_outer: int,
    chunk: int, channel_chunk: int,
) -> Launch:  # fmt: skip
    """Of backward: the rectangle chunk x channel_chunk a program. ``pointwise``: neither sums nor per-channel tensors."""
    size = dtype.itemsize
    vector = 16 // size
    elements = configs.GPU.tile(size)
    total = g.positions * g.channels
    if pointwise:
        g = Geometry(total, 1, 1)
        channel_chunk = 1
        chunk = configs.reduction_chunks("triton", g, size, False)[0]
    fold = configs.folded(g.channels, size, configs.GPU.fold_sums) if g.inner == 1 and not with_noise else 0
    chunks, channel_chunks = -(-g.positions // chunk), -(-g.channels // channel_chunk)
    positions, channels, inner = g.positions, g.channels, g.inner
    if fold and chunk % fold == 0:
        form, tc = "folded", configs.GPU.folded_columns
        unit = _triton.alignment(vector, fold * channels, total)
        positions, chunk = total // unit, chunk // fold
        tr = max(1, min(elements // tc, _triton.power_of_two(chunk)))
        channel_chunks = 1
    elif inner == 1:
        form, fold, tc = "pixels", 0, _triton.power_of_two(min(channel_chunk, channels))
        unit = _triton.alignment(vector, channels, channel_chunk)
        channels, channel_chunk = channels // unit, channel_chunk // unit
        if unit < vector:
            elements //= 2
        tr = max(1, min(elements // tc, _triton.power_of_two(chunk)))
    else:
        form, fold, unit = "planes", 0, _triton.alignment(vector, inner, chunk)
        positions, inner, chunk = positions // unit, inner // unit, chunk // unit
        if unit < vector:
            elements //= 2  # more addresses take more registers
        if with_noise:
            tc = _triton.power_of_two(chunk * unit)
            tr = max(1, min(elements // tc, _triton.power_of_two(channel_chunk)))
        else:
            tr = _triton.power_of_two(min(channel_chunk, channels))
            tc = max(1, min(elements // tr, _triton.power_of_two(chunk * unit)))
    scalars = (positions, channels, inner, noise_outer, chunk, chunks, channel_chunk, channel_chunks)
    constants = {
        **_common(dtype, act, 0.0 if clamped else -1.0, max(g.positions, g.channels) + 2 * max(chunk * unit, elements)),
        "FORM": form, "FOLD": fold, "PERIOD": g.channels if fold else 1, "UNIT": unit, "TR": tr, "TC": tc,
    }  # fmt: skip
    return Launch(scalars, constants, chunks * channel_chunks, unit * size)


# ---- what backends.py calls -----------------------------------------------------------------------------------------
def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _launch(
    kernel: Any, like: Tensor, launch: Launch, tensors: tuple[Any, ...], numbers: tuple[float, ...], **flags: Any
) -> None:
    """Run ``kernel``; an absent tensor's place is taken by another that it will not touch."""
    pointers = [like if t is None else t for t in tensors]
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants, **flags)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants, **flags)


def _inverse(gain: float) -> float:
    return 1 / gain if gain else 0.0  # of a gain of 0 the input is saved: nothing is divided by it


def _forward(
    x: Any, b: Any, noise: Any, g: Geometry, noise_outer: int, dtype: torch.dtype, act: int, clamp: float
) -> tuple[Launch, dict[str, Any]]:
    launch = plan(g, dtype, act, clamp >= 0, b is not None, noise is not None, noise_outer)
    return launch, {"HAS_B": b is not None, "HAS_NOISE": noise is not None}


def _backward(
    y: Any, x: Any, b: Any, noise: Any, dx: Any, db: Any, dnoise: Any, g: Geometry, noise_outer: int,
    dtype: torch.dtype, act: int, clamp: float, chunk: int, channel_chunk: int,
) -> tuple[Launch, dict[str, Any]]:  # fmt: skip
    saved = "y" if y is not None else "x" if x is not None else ""
    has_b, has_noise = saved == "x" and b is not None, saved == "x" and noise is not None
    pointwise = not (has_b or has_noise) and db is None and dnoise is None
    launch = plan_backward(g, dtype, act, clamp >= 0, pointwise, dnoise is not None, noise_outer, chunk, channel_chunk)
    flags = {
        "SAVED": saved, "HAS_B": has_b, "HAS_NOISE": has_noise,
        "WANT_X": dx is not None, "WANT_B": db is not None, "WANT_NOISE": dnoise is not None,
    }  # fmt: skip
    return launch, flags


def _double_backward(
    u: Any, u_b: Any, u_noise: Any, y: Any, x: Any, b: Any, noise: Any, d_dy: Any, d_saved: Any, g: Geometry, noise_outer: int,
    dtype: torch.dtype, act: int, clamp: float,
) -> tuple[Launch, dict[str, Any]]:  # fmt: skip
    saved = "y" if y is not None else "x" if x is not None else ""
    has_b, has_noise = saved == "x" and b is not None, saved == "x" and noise is not None
    by_channel, by_position = has_b or u_b is not None, has_noise or u_noise is not None
    launch = plan(g, dtype, act, clamp >= 0, by_channel, by_position, noise_outer)
    flags = {
        "SAVED": saved, "HAS_B": has_b, "HAS_NOISE": has_noise,
        "HAS_U": u is not None, "HAS_U_B": u_b is not None, "HAS_U_NOISE": u_noise is not None,
        "WANT_DY": d_dy is not None, "WANT_SAVED": d_saved is not None,
    }  # fmt: skip
    return launch, flags


def _noise_outer(noise: Tensor | None, inner: int) -> int:
    return 1 if noise is None else noise.numel() // inner


def bias_act_triton(
    x: Tensor, b: Tensor | None, noise: Tensor | None, y: Tensor, outer: int, channels: int, inner: int, act: int, alpha: float,
    gain: float, clamp: float,
) -> None:  # fmt: skip
    """Write clamp(gain * f(x + noise + b)) into ``y``, which may be ``x``; semantics as in bias_act_params.h."""
    launch, flags = _forward(x, b, noise, Geometry(outer, channels, inner), _noise_outer(noise, inner), x.dtype, act, clamp)
    _launch(_bias_act_fwd_kernel, x, launch, (x, b, noise, y), (float(alpha), float(gain), float(clamp)), **flags)


def bias_act_backward_triton(
    dy: Tensor, y: Tensor | None, x: Tensor | None, b: Tensor | None, noise: Tensor | None, dx: Tensor | None,
    db_partial: Tensor | None, dnoise_partial: Tensor | None, chunk: int, channel_chunk: int,
    outer: int, channels: int, inner: int, act: int, alpha: float, gain: float, clamp: float,
) -> None:  # fmt: skip
    """Write dx and the partial sums of the gradients of b and noise; semantics as in bias_act_params.h."""
    launch, flags = _backward(
        y, x, b, noise, dx, db_partial, dnoise_partial, Geometry(outer, channels, inner), _noise_outer(noise, inner),
        dy.dtype, act, clamp, chunk, channel_chunk,
    )  # fmt: skip
    tensors = (dy, x if y is None else y, b, noise, dx, db_partial, dnoise_partial)
    _launch(_bias_act_bwd_kernel, dy, launch, tensors, (float(alpha), float(gain), _inverse(gain), float(clamp)), **flags)


def bias_act_double_backward_triton(
    u: Tensor | None, u_b: Tensor | None, u_noise: Tensor | None, dy: Tensor, y: Tensor | None, x: Tensor | None,
    b: Tensor | None, noise: Tensor | None, d_dy: Tensor | None, d_saved: Tensor | None,
    outer: int, channels: int, inner: int, act: int, alpha: float, gain: float, clamp: float,
) -> None:  # fmt: skip
    """d_dy and d_saved; semantics as in bias_act_params.h."""
    launch, flags = _double_backward(
        u, u_b, u_noise, y, x, b, noise, d_dy, d_saved, Geometry(outer, channels, inner), _noise_outer(noise, inner),
        dy.dtype, act, clamp,
    )  # fmt: skip
    tensors = (u, u_b, u_noise, dy, x if y is None else y, b, noise, d_dy, d_saved)
    _launch(
        _bias_act_double_bwd_kernel, dy, launch, tensors, (float(alpha), float(gain), _inverse(gain), float(clamp)), **flags
    )


# ---- the compile gate -----------------------------------------------------------------------------------------------
def _cases(
    x: Any, b: Any, noise: Any, dim: int, act: str, alpha: float, gain: float, clamp: float
) -> Iterator[tuple[Any, ...]]:
    """(kernel, pointers' dtypes, numbers, (launch, flags)) of the three kernels as the front door calls them."""
    g, dtype, number = geometry(x, dim), x.dtype, _NAMES.index(act)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    outer = _noise_outer(noise, g.inner)
    numbers = (alpha, gain, _inverse(gain), clamp)
    launch = _forward(x, b, noise, g, outer, dtype, number, clamp)
    yield _bias_act_fwd_kernel, (dtype,) * 4, (alpha, gain, clamp), launch
    saved = reference_tensor(act, alpha, gain, clamp)
    by_x = saved == "x"
    y_saved, x_saved = (x if saved == "y" else None), (x if by_x else None)
    x_b, x_noise = (b if by_x else None), (noise if by_x else None)
    chunk, channel_chunk = configs.reduction_chunks("triton", g, dtype.itemsize, noise is not None)
    launch = _backward(y_saved, x_saved, x_b, x_noise, x, b, noise, g, outer, dtype, number, clamp, chunk, channel_chunk)
    yield _bias_act_bwd_kernel, (dtype,) * 5 + (wide,) * 2, numbers, launch
    curved = x if activation_funcs[act].curved else None
    launch = _double_backward(x, b, noise, y_saved, x_saved, x_b, x_noise, x, curved, g, outer, dtype, number, clamp)
    yield _bias_act_double_bwd_kernel, (dtype,) * 9, numbers, launch


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the samples, in every layout and dtype: each specialisation of the networks' shapes;
    of the contract's shapes, which are all odd, one of each formula and one of each form with each set of tensors.
    """
    from gankern._samples import DTYPES
    from gankern.ops.bias_act import arguments
    from gankern.ops.bias_act.samples import SAMPLES

    seen: set[tuple[Any, ...]] = set()
    samples = sorted(SAMPLES, key=lambda s: not s.tags & {"quick", "full"})  # networks' shapes stand for the others, too
    for sample, layout, dtype, args in _triton.fake_inputs(samples, DTYPES, arguments.prepare):
        if args[0].numel() == 0:
            continue
        for kernel, pointers, numbers, (launch, flags) in _cases(*args):
            constants = {**launch.constants, **flags}
            formula = (kernel, dtype, constants["ACT"], constants.get("SAVED"), constants["CLAMPED"])
            tensors = (kernel, dtype, constants["FORM"], *flags.values())
            exact = (kernel, dtype, *constants.values())
            if exact in seen or ({formula, tensors} <= seen and not sample.tags & {"quick", "full"}):
                continue
            seen |= {formula, tensors, exact}
            yield _triton.CompileCase(
                sample=f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}",
                kernel=kernel,
                args=(*pointers, *numbers, *launch.scalars),
                constants=constants,
                dtype=dtype,
                # 16-byte accesses are required where networks spend their time.
                vector=(launch.vector, launch.vector) if sample.tags & {"quick", "full"} else (0, 0),
            )
