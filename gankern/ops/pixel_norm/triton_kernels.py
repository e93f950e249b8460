"""pixel_norm in Triton: a program owns a tile of pixels with all their channels.

- PLANES (inner > 1, NCHW): a tile's rows are channels, its columns are pixels;
- otherwise (channels_last): rows are pixels, columns are channels.

Where the channels fit (WHOLE) a tile is loaded once and stays in registers from the sums to the outputs; otherwise the program
walks along the channels twice, the second time through the caches.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import jit, narrow, tl
from gankern.ops.pixel_norm import configs


@jit
def _place(step, first, outer, channels, inner, PLANES: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr):
    """Of the tile's elements at channels ``step`` and on: their offsets from the program's origin, and which of them exist."""
    down, across = tl.arange(0, TR)[:, None], tl.arange(0, TC)[None, :]
    if PLANES:
        row, column = step + down, first + across
        return row.to(INDEX) * inner + column, (row < channels) & (column < inner)
    else:
        column = step + across
        return down.to(INDEX) * channels + column, (first + down < outer) & (column < channels)


@jit
def _get(pointer, at, live, ACC: tl.constexpr):
    return tl.load(pointer + at, mask=live, other=0.0).to(ACC)


@jit
def _pixel_norm_kernel(
    x, dy, u, out, d_dy, eps: tl.float64, inverse: tl.float64, outer, channels, inner,
    PASS: tl.constexpr, PLANES: tl.constexpr, WHOLE: tl.constexpr, WANT_DY: tl.constexpr,
    TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """PASS 0: ``out`` is y. 1: dx. 2: d_x, and with WANT_DY also d_dy. ``inverse`` is 1 / channels; see pixel_norm_math.h."""
    AXIS: tl.constexpr = 0 if PLANES else 1
    DEPTH: tl.constexpr = TR if PLANES else TC
    pid = tl.program_id(0)
    if PLANES:
        tiles = tl.cdiv(inner, TC)
        first = (pid % tiles) * TC
        origin = (pid // tiles).to(tl.int64) * channels * inner
    else:
        first = pid.to(tl.int64) * TR
        origin = first * channels
    x += origin
    dy += origin
    u += origin
    out += origin
    d_dy += origin

    xx = tl.zeros((TR, TC), ACC)
    if PASS > 0:
        xg = tl.zeros((TR, TC), ACC)
    if PASS == 2:
        xw = tl.zeros((TR, TC), ACC)
        gw = tl.zeros((TR, TC), ACC)
    if WHOLE:
        at, live = _place(0, first, outer, channels, inner, PLANES, TR, TC, INDEX)
        v = _get(x, at, live, ACC)
        xx = v * v
        if PASS > 0:
            g = _get(dy, at, live, ACC)
            xg = v * g
        if PASS == 2:
            w = _get(u, at, live, ACC)
            xw = v * w
            gw = g * w
    else:
        for step in range(0, channels, DEPTH):
            at, live = _place(step, first, outer, channels, inner, PLANES, TR, TC, INDEX)
            v = _get(x, at, live, ACC)
            xx += v * v
            if PASS > 0:
                g = _get(dy, at, live, ACC)
                xg += v * g
            if PASS == 2:
                w = _get(u, at, live, ACC)
                xw += v * w
                gw += g * w

    share = tl.full((), inverse, ACC)
    r = 1.0 / tl.sqrt(tl.expand_dims(tl.sum(xx, AXIS), AXIS) * share + tl.full((), eps, ACC))
    if PASS > 0:
        cube = -r * r * r
        m = tl.expand_dims(tl.sum(xg, AXIS), AXIS) * share
        of_u = cube * m
    if PASS == 2:
        b = tl.expand_dims(tl.sum(xw, AXIS), AXIS) * share
        of_g = cube * b
        of_x = cube * (tl.expand_dims(tl.sum(gw, AXIS), AXIS) * share - 3.0 * (r * m) * (r * b))

    if WHOLE:
        if PASS == 0:
            y = r * v
        elif PASS == 1:
            y = r * g + of_u * v
        else:
            y = of_g * g + of_u * w + of_x * v
            if WANT_DY:
                tl.store(d_dy + at, narrow(r * w + of_g * v, d_dy.dtype.element_ty), mask=live)
        tl.store(out + at, narrow(y, out.dtype.element_ty), mask=live)
    else:
        for step in range(0, channels, DEPTH):
            at, live = _place(step, first, outer, channels, inner, PLANES, TR, TC, INDEX)
            v = _get(x, at, live, ACC)
            if PASS == 0:
                y = r * v
            else:
                g = _get(dy, at, live, ACC)
                if PASS == 1:
                    y = r * g + of_u * v
                else:
                    w = _get(u, at, live, ACC)
                    y = of_g * g + of_u * w + of_x * v
                    if WANT_DY:
                        tl.store(d_dy + at, narrow(r * w + of_g * v, d_dy.dtype.element_ty), mask=live)
            tl.store(out + at, narrow(y, out.dtype.element_ty), mask=live)


# ---- launching ---------------------------------------------------------------------------------------------------------------
class Launch(NamedTuple):
    """Of a kernel: its constants, the number of programs, and the bytes of its vectors."""

    constants: dict[str, Any]
    programs: int
    vector: int


@lru_cache(maxsize=4096)
def plan(outer: int, channels: int, inner: int, dtype: torch.dtype, order: int) -> Launch:
    """For one geometry; ``order`` is 0 for forward, 1 and 2 for its derivatives."""
    size = dtype.itemsize
    pixels, deep = configs.tile(outer, channels, inner, size, order)
    planes = inner > 1
    constants = {
        "PASS": order,
        "PLANES": planes,
        "WHOLE": deep >= channels,
        "TR": deep if planes else pixels,
        "TC": pixels if planes else deep,
        # Offsets from a program's origin, rows past its end included.
        "INDEX": tl.int64 if (channels + deep) * (inner if planes else pixels) >= 2**31 else tl.int32,
        "ACC": _triton.accumulator(dtype),
        # Of a small tile each thread has one vector.
        "num_warps": max(1, min(configs.GPU.warps, pixels * deep * size // 512)),
    }
    programs = outer * -(-inner // pixels) if planes else -(-outer // pixels)
    row = (inner, pixels) if planes else (channels, deep)
    # What Triton sees of alignment: of sizes it knows whether 16 divides them.
    vector = 16 if row[0] % 16 == 0 and row[1] * size >= 16 else size
    return Launch(constants, programs, vector)


def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _launch(tensors: tuple[Any, ...], like: Tensor, order: int, outer: int, channels: int, inner: int, eps: float) -> None:
    """Run the kernel; an absent tensor's place is taken by another that it will not touch."""
    launch = plan(outer, channels, inner, like.dtype, order)
    pointers = [like if t is None else t for t in tensors]
    arguments = (*pointers, float(eps), 1 / channels, outer, channels, inner)
    flags = {**launch.constants, "WANT_DY": order == 2 and tensors[-1] is not None}
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        _pixel_norm_kernel[(launch.programs,)](*arguments, **flags)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            _pixel_norm_kernel[(launch.programs,)](*arguments, **flags)


def pixel_norm_triton(x: Tensor, y: Tensor, outer: int, channels: int, inner: int, eps: float, chunk: int) -> None:
    """Write x r into ``y``; semantics as in pixel_norm_params.h. ``chunk`` is the CPU's."""
    _launch((x, None, None, y, None), x, 0, outer, channels, inner, eps)


def pixel_norm_backward_triton(
    dy: Tensor, x: Tensor, dx: Tensor, outer: int, channels: int, inner: int, eps: float, chunk: int
) -> None:
    """Write the gradient in x into ``dx``."""
    _launch((x, dy, None, dx, None), x, 1, outer, channels, inner, eps)


def pixel_norm_double_backward_triton(
    u: Tensor, dy: Tensor, x: Tensor, d_dy: Tensor | None, d_x: Tensor,
    outer: int, channels: int, inner: int, eps: float, chunk: int,
) -> None:  # fmt: skip
    """Write ``d_dy``, unless it is None, and ``d_x``."""
    _launch((x, dy, u, d_x, d_dy), x, 2, outer, channels, inner, eps)


# ---- the compile gate ----------------------------------------------------------------------------------------------------
def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the samples: every specialisation of the networks' shapes, and of the contract's,
    which are all odd, one of each form and dtype.
    """
    from gankern._samples import DTYPES
    from gankern.ops.pixel_norm import arguments
    from gankern.ops.pixel_norm.backends import geometry
    from gankern.ops.pixel_norm.samples import SAMPLES

    seen: set[tuple[Any, ...]] = set()
    samples = sorted(SAMPLES, key=lambda s: not s.tags & {"quick", "full"})
    for sample, layout, dtype, (x, dim, eps) in _triton.fake_inputs(samples, DTYPES, arguments.prepare):
        if x.numel() == 0:
            continue
        full = bool(sample.tags & {"quick", "full"})
        outer, channels, inner = geometry(x, dim)
        for order in (0, 1, 2):
            launch = plan(outer, channels, inner, dtype, order)
            constants = {**launch.constants, "WANT_DY": order == 2}
            form = (dtype, order, constants["PLANES"], constants["WHOLE"])
            exact = (dtype, channels % 16 == 0, inner % 16 == 0, inner == 1, *constants.values())
            if exact in seen or (form in seen and not full):
                continue
            seen |= {form, exact}
            yield _triton.CompileCase(
                sample=f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}/order{order}",
                kernel=_pixel_norm_kernel,
                args=(*(dtype,) * 5, eps, 1 / channels, outer, channels, inner),
                constants=constants,
                dtype=dtype,
                # 16-byte accesses are required where networks spend their time.
                vector=(launch.vector, launch.vector) if full else (0, 0),
            )
