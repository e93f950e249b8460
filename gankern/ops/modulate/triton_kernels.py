"""modulate in Triton: every image is read once and written once, in 16-byte vectors, backward's reductions on the way.

A program owns a rectangle of one sample, pixel_chunk pixels times channel_chunk channels, and its partial sums. It walks down
the rectangle in tiles of [TR rows, TC columns], columns contiguous in memory:

- PLANES (NCHW): rows are channels, columns are pixels;
- otherwise (channels_last): rows are pixels, columns are channels.

A tile is as wide as the rectangle, so that a row's sums are done with its tile; a column's sums stay in registers until the
walk ends. Which inputs and outputs there are is a number known at run time, ``have``: it becomes part of the masks. So it makes
no variants to compile, and what is absent moves no bytes.
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
from gankern.ops.modulate import configs

_NAMES = tuple(activation_funcs)
_SIZES = ["have", "noise_samples", "channels", "pixels", "channel_chunk", "channel_chunks", "pixel_chunk", "pixel_chunks"]


# ---- what the kernels share --------------------------------------------------------------------------------------------------
@jit
def _rectangle(
    channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, PLANES: tl.constexpr, UNIT: tl.constexpr
):
    """Of the program: the sample; its rectangle's number along pixels and along channels; first row, rows of the rectangle and
    of the sample; the same of columns. At a sample's end there are fewer. Neighbours in time are neighbours in memory.

    Numbers of columns come divided by UNIT, so that Triton sees alignment.
    """
    pid = tl.program_id(0)
    if PLANES:
        chunk = pid % pixel_chunks
        line = pid // pixel_chunks
        part = line % channel_chunks
        n = (line // channel_chunks).to(tl.int64)
        return (
            n, chunk, part, part * channel_chunk, channel_chunk, channels,
            chunk * (pixel_chunk * UNIT), pixel_chunk * UNIT, pixels * UNIT,
        )  # fmt: skip
    else:
        part = pid % channel_chunks
        line = pid // channel_chunks
        chunk = line % pixel_chunks
        n = (line // pixel_chunks).to(tl.int64)
        return (
            n, chunk, part, chunk * pixel_chunk, pixel_chunk, pixels,
            part * (channel_chunk * UNIT), channel_chunk * UNIT, channels * UNIT,
        )  # fmt: skip


@jit
def _number(table, at, live, have, BIT: tl.constexpr, absent: tl.constexpr):
    """``table[at]``; where that is absent, a number that changes nothing."""
    return tl.load(table + at, mask=live & ((have & BIT) != 0), other=absent)


@jit
def _image(image, at, live, have, BIT: tl.constexpr, ACC: tl.constexpr):
    return tl.load(image + at, mask=live & ((have & BIT) != 0), other=0.0).to(ACC)


@jit
def _put(image, at, value, live, have, BIT: tl.constexpr):
    tl.store(image + at, narrow(value, image.dtype.element_ty), mask=live & ((have & BIT) != 0))


# ---- forward -----------------------------------------------------------------------------------------------------------------
@jit(do_not_specialize=_SIZES)
def _modulate_fwd_kernel(
    x, scale, noise, b, y, alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, CLAMPED: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 noise, 4 b."""
    n, _, _, row0, length, rows, column0, breadth, width = _rectangle(
        channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, PLANES, UNIT
    )
    image = n * rows * width
    of_noise = noise + (n % noise_samples) * (width if PLANES else rows)
    of_scale = scale + n * (rows if PLANES else width)
    across = tl.arange(0, TC)[None, :]
    column = column0 + across
    column_live = (across < breadth) & (column < width)
    if PLANES:
        m_noise = _number(of_noise, column, column_live, have, 2, 0.0)
    else:
        c_scale = _number(of_scale, column, column_live, have, 1, 1.0)
        c_b = _number(b, column, column_live, have, 4, 0.0)
    slope = tl.full((), alpha, ACC)
    factor = tl.full((), gain, ACC)
    limit = tl.full((), clamp, ACC)
    for step in range(0, length, TR):
        down = step + tl.arange(0, TR)[:, None]
        row = row0 + down
        row_live = (down < length) & (row < rows)
        live = row_live & column_live
        at = image + (row.to(INDEX) * width + column)
        if PLANES:
            c_scale = _number(of_scale, row, row_live, have, 1, 1.0)
            c_b = _number(b, row, row_live, have, 4, 0.0)
        else:
            m_noise = _number(of_noise, row, row_live, have, 2, 0.0)
        v = tl.load(x + at, mask=live, other=0.0).to(ACC) * c_scale + m_noise + c_b
        f = activate(v, slope, ACT) * factor
        if CLAMPED:
            f = tl.where(f > limit, limit, tl.where(f < -limit, -limit, f))
        tl.store(y + at, narrow(f, y.dtype.element_ty), mask=live)


# ---- backward ----------------------------------------------------------------------------------------------------------------
@jit(do_not_specialize=_SIZES)
def _modulate_bwd_kernel(
    dy, y, x, scale, noise, b, dx, dscale_partial, dnoise_partial, db_partial,
    alpha: tl.float64, gain: tl.float64, inverse: tl.float64, clamp: tl.float64,
    have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 noise, 4 b, 8 x, 16 dx, 32 dscale_partial, 64 dnoise_partial, 128 db_partial."""
    n, chunk, part, row0, length, rows, column0, breadth, width = _rectangle(
        channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, PLANES, UNIT
    )
    image = n * rows * width
    of_noise = noise + (n % noise_samples) * (width if PLANES else rows)
    of_scale = scale + n * (rows if PLANES else width)
    # Where the sums of the sample's first row or column go.
    per_channel = (n * pixel_chunks + chunk) * (rows if PLANES else width)
    per_pixel = (part * (tl.num_programs(0) // (pixel_chunks * channel_chunks)) + n) * (width if PLANES else rows)
    across = tl.arange(0, TC)[None, :]
    column = column0 + across
    column_live = (across < breadth) & (column < width)
    if PLANES:
        if SAVED == "x":
            m_noise = _number(of_noise, column, column_live, have, 2, 0.0)
    else:
        c_scale = _number(of_scale, column, column_live, have, 1, 1.0)
        if SAVED == "x":
            c_b = _number(b, column, column_live, have, 4, 0.0)
    slope = tl.full((), alpha, ACC)
    factor = tl.full((), gain, ACC)
    back = tl.full((), inverse, ACC)
    limit = tl.full((), clamp, ACC)
    sums = tl.zeros((TR, TC), ACC)
    if not PLANES:
        sums_x = tl.zeros((TR, TC), ACC)
    for step in range(0, length, TR):
        down = step + tl.arange(0, TR)[:, None]
        row = row0 + down
        row_live = (down < length) & (row < rows)
        live = row_live & column_live
        at = image + (row.to(INDEX) * width + column)
        g = tl.load(dy + at, mask=live, other=0.0).to(ACC)
        v = _image(x, at, live, have, 8, ACC)
        if PLANES:
            c_scale = _number(of_scale, row, row_live, have, 1, 1.0)
        if SAVED == "x":
            if PLANES:
                c_b = _number(b, row, row_live, have, 4, 0.0)
            else:
                m_noise = _number(of_noise, row, row_live, have, 2, 0.0)
            first, _ = slopes(v * c_scale + m_noise + c_b, slope, factor, back, limit, ACT, SAVED, CLAMPED)
            # Off the image dy is 0, which a slope of NaN would not leave so.
            g = tl.where(live, g * first, 0.0)
        elif SAVED == "y":
            s = tl.load(y + at, mask=live, other=0.0).to(ACC)
            first, _ = slopes(s, slope, factor, back, limit, ACT, SAVED, CLAMPED)
            g = g * first
        else:
            g = g * factor
        _put(dx, at, g * c_scale, live, have, 16)
        if PLANES:
            sums += g
            if have & 32:
                tl.store(dscale_partial + per_channel + row, tl.sum(g * v, 1)[:, None], mask=row_live)
            if have & 128:
                tl.store(db_partial + per_channel + row, tl.sum(g, 1)[:, None], mask=row_live)
        else:
            sums_x += g * v
            sums += g
            if have & 64:
                tl.store(dnoise_partial + per_pixel + row, tl.sum(g, 1)[:, None], mask=row_live)
    if PLANES:
        if have & 64:
            tl.store(dnoise_partial + per_pixel + column, tl.sum(sums, 0)[None, :], mask=column_live)
    else:
        if have & 32:
            tl.store(dscale_partial + per_channel + column, tl.sum(sums_x, 0)[None, :], mask=column_live)
        if have & 128:
            tl.store(db_partial + per_channel + column, tl.sum(sums, 0)[None, :], mask=column_live)


# ---- double backward ---------------------------------------------------------------------------------------------------------
@jit(do_not_specialize=_SIZES)
def _modulate_double_bwd_kernel(
    u, u_scale, u_noise, u_b, dy, y, x, scale, noise, b, d_dy, d_saved, d_x, d_scale_partial,
    alpha: tl.float64, gain: tl.float64, inverse: tl.float64, clamp: tl.float64,
    have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 noise, 4 b, 8 x, 16 u, 32 u_scale, 64 u_noise, 128 u_b, 256 d_dy, 512 d_saved, 1024 d_x,
    2048 d_scale_partial, 4096 dy.
    """
    n, chunk, _, row0, length, rows, column0, breadth, width = _rectangle(
        channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, PLANES, UNIT
    )
    image = n * rows * width
    of_noise = noise + (n % noise_samples) * (width if PLANES else rows)
    of_u_noise = u_noise + n * (width if PLANES else rows)
    of_scale = scale + n * (rows if PLANES else width)
    of_u_scale = u_scale + n * (rows if PLANES else width)
    per_channel = (n * pixel_chunks + chunk) * (rows if PLANES else width)
    across = tl.arange(0, TC)[None, :]
    column = column0 + across
    column_live = (across < breadth) & (column < width)
    if PLANES:
        m_u = _number(of_u_noise, column, column_live, have, 64, 0.0)
        if SAVED == "x":
            m_noise = _number(of_noise, column, column_live, have, 2, 0.0)
    else:
        c_scale = _number(of_scale, column, column_live, have, 1, 1.0)
        c_u_scale = _number(of_u_scale, column, column_live, have, 32, 0.0)
        c_u = _number(u_b, column, column_live, have, 128, 0.0)
        if SAVED == "x":
            c_b = _number(b, column, column_live, have, 4, 0.0)
        sums = tl.zeros((TR, TC), ACC)
    slope = tl.full((), alpha, ACC)
    factor = tl.full((), gain, ACC)
    back = tl.full((), inverse, ACC)
    limit = tl.full((), clamp, ACC)
    for step in range(0, length, TR):
        down = step + tl.arange(0, TR)[:, None]
        row = row0 + down
        row_live = (down < length) & (row < rows)
        live = row_live & column_live
        at = image + (row.to(INDEX) * width + column)
        g = _image(dy, at, live, have, 4096, ACC)
        v = _image(x, at, live, have, 8, ACC)
        w = _image(u, at, live, have, 16, ACC)
        if PLANES:
            c_scale = _number(of_scale, row, row_live, have, 1, 1.0)
            c_u_scale = _number(of_u_scale, row, row_live, have, 32, 0.0)
            c_u = _number(u_b, row, row_live, have, 128, 0.0)
        else:
            m_u = _number(of_u_noise, row, row_live, have, 64, 0.0)
        total = w * c_scale + c_u_scale * v + m_u + c_u
        if SAVED == "":
            first = tl.zeros((TR, TC), ACC) + factor
            second = tl.zeros((TR, TC), ACC)
        else:
            if SAVED == "x":
                if PLANES:
                    c_b = _number(b, row, row_live, have, 4, 0.0)
                else:
                    m_noise = _number(of_noise, row, row_live, have, 2, 0.0)
                s = v * c_scale + m_noise + c_b
            else:
                s = tl.load(y + at, mask=live, other=0.0).to(ACC)
            first, second = slopes(s, slope, factor, back, limit, ACT, SAVED, CLAMPED)
        _put(d_dy, at, total * first, live, have, 256)
        _put(d_saved, at, total * g * second, live, have, 512)
        g = g * first
        _put(d_x, at, c_u_scale * g, live, have, 1024)
        # Off the image u and dy are 0, which a slope of NaN would not leave so.
        w = tl.where(live, w * g, 0.0)
        if PLANES:
            if have & 2048:
                tl.store(d_scale_partial + per_channel + row, tl.sum(w, 1)[:, None], mask=row_live)
        else:
            sums += w
    if not PLANES:  # noqa: SIM102  (this one is decided when the kernel is compiled)
        if have & 2048:
            tl.store(d_scale_partial + per_channel + column, tl.sum(sums, 0)[None, :], mask=column_live)


# ---- how an image is cut up --------------------------------------------------------------------------------------------------
class Launch(NamedTuple):
    """Of a kernel: integer arguments after ``noise_samples``, constants, number of programs, and the bytes of its vectors."""

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    vector: int


@lru_cache(maxsize=4096)
def plan(
    shape: tuple[int, int, int], dtype: torch.dtype, act: int, clamped: bool, vectors: int,
    channels_last: bool, pixel_chunk: int, channel_chunk: int,
) -> Launch:  # fmt: skip
    """For images of ``shape`` (samples, channels, pixels). ``vectors``: of each image that a thread has at a time."""
    samples, channels, pixels = shape
    size = dtype.itemsize
    pixel_chunk, channel_chunk = min(pixel_chunk, pixels), min(channel_chunk, channels)
    pixel_chunks, channel_chunks = -(-pixels // pixel_chunk), -(-channels // channel_chunk)
    breadth, length, width = (channel_chunk, pixel_chunk, channels) if channels_last else (pixel_chunk, channel_chunk, pixels)
    # Of one chunk the length does not matter: the image ends first.
    unit = _triton.alignment(16 // size, width, width if breadth == width else breadth)
    elements = 32 * configs.GPU.warps * vectors * 16 // size
    if unit * size < 16:
        elements = max(elements // 2, 32 * configs.GPU.warps)  # more addresses take more registers
    tc = _triton.power_of_two(breadth)
    tr = max(1, min(elements // tc, _triton.power_of_two(length)))
    if channels_last:
        scalars = (channels // unit, pixels, channel_chunk // unit, channel_chunks, pixel_chunk, pixel_chunks)
    else:
        scalars = (channels, pixels // unit, channel_chunk, channel_chunks, pixel_chunk // unit, pixel_chunks)
    constants = {
        "ACT": _NAMES[act],
        "CLAMPED": clamped,
        "PLANES": not channels_last,
        "UNIT": unit,
        "TR": tr,
        "TC": tc,
        # Numbers of elements of a sample that 32-bit arithmetic holds, rows past its end included.
        "INDEX": tl.int64 if (channels + channel_chunk + tr + tc) * (pixels + pixel_chunk + tr + tc) >= 2**31 else tl.int32,
        "ACC": _triton.accumulator(dtype),
        "num_warps": configs.GPU.warps,
    }
    return Launch(scalars, constants, samples * pixel_chunks * channel_chunks, unit * size)


def _plan(kernel: str, like: Any, act: int, clamp: float, channels_last: bool, *chunks: int) -> Launch:
    n, c, h, w = like.shape
    vectors = configs.GPU.vectors[kernel][like.element_size() > 2]
    return plan((n, c, h * w), like.dtype, act, clamp >= 0, vectors, channels_last, *chunks)


# ---- what backends.py calls --------------------------------------------------------------------------------------------------
def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _bits(*tensors: Any) -> int:
    """The i-th bit says whether the i-th tensor is there."""
    return sum(1 << i for i, t in enumerate(tensors) if t is not None)


def _saved(y: Any, x: Any, act: int, clamp: float) -> str:
    """What the slope is taken from: "y", "x", or "" where it is constant."""
    return "y" if y is not None else "x" if x is not None and (clamp >= 0 or _NAMES[act] != "linear") else ""


@lru_cache(maxsize=64)
def _nothing(device: torch.device, dtype: torch.dtype) -> Tensor:
    """What stands for an absent tensor: of the same dtype, so that it makes no other variant of a kernel. It is not touched."""
    return torch.empty(4, device=device, dtype=dtype)


def _launch(
    kernel: Any, like: Tensor, launch: Launch, tensors: tuple[Any, ...], images: tuple[int, ...], numbers: tuple[float, ...],
    have: int, noise: Any, **flags: Any,
) -> None:  # fmt: skip
    """Run ``kernel`` on ``tensors``, of which those numbered ``images`` have the dtype of ``like``."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    pointers = [t if t is not None else like if i in images else _nothing(like.device, wide) for i, t in enumerate(tensors)]
    noise_samples = 1 if noise is None else noise.numel() // (like.shape[2] * like.shape[3])
    arguments = (*pointers, *numbers, have, noise_samples, *launch.scalars)
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        kernel[(launch.programs,)](*arguments, **launch.constants, **flags)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            kernel[(launch.programs,)](*arguments, **launch.constants, **flags)


def _numbers(alpha: float, gain: float, clamp: float) -> tuple[float, float, float, float]:
    # Of a gain of 0 the input is saved: nothing is divided by it.
    return float(alpha), float(gain), 1 / gain if gain else 0.0, float(clamp)


def modulate_triton(
    x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, y: Tensor,
    channels_last: bool, pixel_chunk: int, channel_chunk: int, act: int, alpha: float, gain: float, clamp: float,
) -> None:  # fmt: skip
    """Write clamp(gain * f(x * scale + noise + b)) into ``y``, which may be ``x``; semantics as in modulate_params.h."""
    launch = _plan("forward", x, act, clamp, channels_last, pixel_chunk, channel_chunk)
    _launch(
        _modulate_fwd_kernel, x, launch, (x, scale, noise, b, y), (0, 4), (float(alpha), float(gain), float(clamp)),
        _bits(scale, noise, b), noise,
    )  # fmt: skip


def modulate_backward_triton(
    dy: Tensor, y: Tensor | None, x: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    dx: Tensor | None, dscale_partial: Tensor | None, dnoise_partial: Tensor | None, db_partial: Tensor | None,
    channels_last: bool, pixel_chunk: int, channel_chunk: int, act: int, alpha: float, gain: float, clamp: float,
) -> None:  # fmt: skip
    """Write dx and the partial sums of the other gradients; semantics as in modulate_params.h."""
    launch = _plan("backward", dy, act, clamp, channels_last, pixel_chunk, channel_chunk)
    saved = _saved(y, x, act, clamp)
    if saved != "x" and dscale_partial is None:
        x = None  # nothing is made of it
    _launch(
        _modulate_bwd_kernel, dy, launch,
        (dy, y, x, scale, noise, b, dx, dscale_partial, dnoise_partial, db_partial), (0, 1, 2, 6),
        _numbers(alpha, gain, clamp),
        _bits(scale, noise, b, x, dx, dscale_partial, dnoise_partial, db_partial), noise, SAVED=saved,
    )  # fmt: skip


def modulate_double_backward_triton(
    u: Tensor | None, u_scale: Tensor | None, u_noise: Tensor | None, u_b: Tensor | None,
    dy: Tensor, y: Tensor | None, x: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    d_dy: Tensor | None, d_saved: Tensor | None, d_x: Tensor | None, d_scale_partial: Tensor | None,
    channels_last: bool, pixel_chunk: int, channel_chunk: int, act: int, alpha: float, gain: float, clamp: float,
) -> None:  # fmt: skip
    """d_dy, d_saved, d_x and the partial sums of d_scale; semantics as in modulate_params.h."""
    launch = _plan("double_backward", dy, act, clamp, channels_last, pixel_chunk, channel_chunk)
    saved = _saved(y, x, act, clamp)
    if saved != "x" and u_scale is None:
        x = None
    of_dy = dy if d_saved is not None or d_x is not None or d_scale_partial is not None else None
    _launch(
        _modulate_double_bwd_kernel, dy, launch,
        (u, u_scale, u_noise, u_b, dy, y, x, scale, noise, b, d_dy, d_saved, d_x, d_scale_partial), (0, 4, 5, 6, 10, 11, 12),
        _numbers(alpha, gain, clamp),
        _bits(scale, noise, b, x, u, u_scale, u_noise, u_b, d_dy, d_saved, d_x, d_scale_partial, of_dy), noise, SAVED=saved,
    )  # fmt: skip


# ---- the compile gate --------------------------------------------------------------------------------------------------------
def _cases(x: Any, act: str, alpha: float, gain: float, clamp: float, layout: str) -> Iterator[tuple[Any, ...]]:
    """(kernel, pointers' dtypes, numbers, launch, flags) of the three kernels as the front door calls them."""
    n, c, h, w = x.shape
    channels_last = layout == "channels_last"
    chunks = configs.chunks("triton", channels_last, n, c, h * w, x.element_size())
    number, numbers = _NAMES.index(act), _numbers(alpha, gain, clamp)
    image, wide = (x.dtype,), (torch.float64 if x.dtype == torch.float64 else torch.float32,)
    saved = {"SAVED": reference_tensor(act, alpha, gain, clamp)}
    launch = _plan("forward", x, number, clamp, channels_last, *chunks)
    yield _modulate_fwd_kernel, image + wide * 3 + image, (alpha, gain, clamp), launch, {}
    launch = _plan("backward", x, number, clamp, channels_last, *chunks)
    yield _modulate_bwd_kernel, image * 3 + wide * 3 + image + wide * 3, numbers, launch, saved
    launch = _plan("double_backward", x, number, clamp, channels_last, *chunks)
    yield _modulate_double_bwd_kernel, image + wide * 3 + image * 3 + wide * 3 + image * 3 + wide, numbers, launch, saved


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the samples: every specialisation of the networks' shapes; of the contract's samples
    each longer formula, in bfloat16 on a network's shape, where it takes most registers, and one odd shape for each layout.
    """
    from gankern._samples import DTYPES
    from gankern.ops.modulate import arguments
    from gankern.ops.modulate.samples import SAMPLES

    seen: set[tuple[Any, ...]] = set()
    network: Any = None
    samples = sorted(SAMPLES, key=lambda s: not s.tags & {"quick", "full"})
    for sample, layout, dtype, args in _triton.fake_inputs(samples, DTYPES, arguments.prepare):
        x, _, _, _, act, alpha, gain, clamp = args
        full = bool(sample.tags & {"quick", "full"})
        if full and dtype == torch.bfloat16 and layout == "channels_last":
            network = x
        longer = activation_funcs[act].curved or reference_tensor(act, alpha, gain, clamp) == "x"
        formula = not full and longer and dtype == torch.bfloat16 and layout == "channels_last"
        if not (full or formula or (dtype == torch.float32 and x.numel())):
            continue
        for kernel, pointers, numbers, launch, flags in _cases(network if formula else x, act, alpha, gain, clamp, layout):
            constants = {**launch.constants, **flags}
            kind = (kernel, act, *flags.values()) if formula else (kernel, layout)
            exact = (kernel, dtype, *constants.values())
            if exact in seen or (not full and kind in seen):
                continue
            seen |= {exact} if full else {kind, exact}
            yield _triton.CompileCase(
                sample=f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}",
                kernel=kernel,
                args=(*pointers, *numbers, 0, 1, *launch.scalars),
                constants=constants,
                dtype=dtype,
                # 16-byte accesses are required where networks spend their time.
                vector=(launch.vector, launch.vector) if full or formula else (0, 0),
            )
