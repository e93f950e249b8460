"""adain in Triton: planes that a program can hold are read once and written once, longer ones are read twice.

A program owns a rectangle of one sample, pixel_chunk pixels times channel_chunk channels, as a tile of [TR rows, TC columns],
columns contiguous in memory:

- PLANES (NCHW): rows are channels, columns are pixels. Only for the noise's gradient does a program walk over channels;
- otherwise (channels_last): rows are pixels, columns are channels.

The tile stays in registers between its sums and what is made of them. STAGE says what a launch does: "whole" planes, or
"sums" of rectangles, which a finishing kernel adds up plane by plane, and then "apply". Formulas, sums and coefficients are
those of adain_params.h. Which inputs and outputs there are is a number known at run time, ``have``: it becomes part of the
masks, makes no variants to compile, and what is absent moves no bytes.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._activations import activation_funcs
from gankern._triton import jit, narrow, tl
from gankern._triton_activations import activate
from gankern.ops.adain import configs
from gankern.ops.adain.triton_double_backward import _adain_double_bwd_finish_kernel, _adain_double_bwd_kernel
from gankern.ops.adain.triton_tiles import SIZES, factor_at, finished, line, number, put, q_at, slopes_at, tile, totals

_NAMES = tuple(activation_funcs)


# ---- forward -----------------------------------------------------------------------------------------------------------------
@jit(do_not_specialize=SIZES)
def _adain_fwd_kernel(
    x, scale, shift, noise, b, y, mean, rstd, partial, alpha: tl.float64, gain: tl.float64, pre_alpha: tl.float64,
    eps: tl.float64, have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, PRE: tl.constexpr, SPATIAL: tl.constexpr, STAGE: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 shift, 4 noise, 8 b."""
    AXIS: tl.constexpr = 1 if PLANES else 0
    n, chunk, _, c, hw, count, channel, channel_live, pixel, pixel_live, at = tile(
        0, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, STAGE, PLANES, UNIT, TR, TC, INDEX
    )
    live = channel_live & pixel_live
    plane = n * c + channel
    q = q_at(x, noise, b, n, noise_samples, hw, at, live, channel, channel_live, pixel, pixel_live, have, ACC)
    v = activate(q, tl.full((), pre_alpha, ACC), PRE)
    if STAGE == "apply":
        m = tl.load(mean + plane, mask=channel_live, other=0.0)
        r = tl.load(rstd + plane, mask=channel_live, other=0.0)
    else:
        count = count.to(ACC)
        m = tl.sum(tl.where(live, v, 0.0), AXIS, keep_dims=True) / count
        d = tl.where(live, v - m, 0.0)
        squares = tl.sum(d * d, AXIS, keep_dims=True)
    if STAGE == "sums":
        to = (n * pixel_chunks + chunk) * 3 * c + channel
        tl.store(partial + to, m, mask=channel_live)
        # Where means are far from 0, those of rectangles must not differ by their rounding.
        tl.store(partial + to + c, tl.sum(d, AXIS, keep_dims=True), mask=channel_live)
        tl.store(partial + to + 2 * c, squares, mask=channel_live)
    else:
        if STAGE == "whole":
            r = 1 / tl.sqrt(squares / count + tl.full((), eps, ACC))
            tl.store(mean + plane, m, mask=channel_live)
            tl.store(rstd + plane, r, mask=channel_live)
        a = (v - m) * r * factor_at(scale, at, live, plane, channel_live, have, 1, 1.0, SPATIAL, ACC)
        a += factor_at(shift, at, live, plane, channel_live, have, 2, 0.0, SPATIAL, ACC)
        f = activate(a, tl.full((), alpha, ACC), ACT) * tl.full((), gain, ACC)
        tl.store(y + at, narrow(f, y.dtype.element_ty), mask=live)


@jit(do_not_specialize=["channels", "pixels", "pixel_chunk", "pixel_chunks"])
def _adain_finish_kernel(
    partial, mean, rstd, eps: tl.float64, channels, pixels, pixel_chunk, pixel_chunks, TK: tl.constexpr, TC: tl.constexpr,
):  # fmt: skip
    """Mean and rstd of a plane from the sums of its rectangles."""
    n, channel, live = finished(channels, TC)
    chunk = tl.arange(0, TK)[:, None]
    of = partial + n * pixel_chunks * 3 * channels + channel[None, :]
    total = tl.zeros((TK, TC), tl.float64)
    for first in range(0, pixel_chunks, TK):
        there = (first + chunk < pixel_chunks) & live[None, :]
        at = of + (first + chunk).to(tl.int64) * 3 * channels
        count = tl.minimum(pixel_chunk, pixels - (first + chunk) * pixel_chunk).to(tl.float64)
        total += tl.load(at, mask=there, other=0.0).to(tl.float64) * count
        total += tl.load(at + channels, mask=there, other=0.0).to(tl.float64)
    m = tl.sum(total, 0) / pixels
    squares = tl.zeros((TK, TC), tl.float64)
    for first in range(0, pixel_chunks, TK):
        there = (first + chunk < pixel_chunks) & live[None, :]
        at = of + (first + chunk).to(tl.int64) * 3 * channels
        count = tl.minimum(pixel_chunk, pixels - (first + chunk) * pixel_chunk).to(tl.float64)
        off = tl.load(at, mask=there, other=0.0).to(tl.float64) - m[None, :]
        # Of (d + off)^2, where d are deviations from the number that m is off by.
        here = off * (off * count + 2 * tl.load(at + channels, mask=there, other=0.0).to(tl.float64))
        here += tl.load(at + 2 * channels, mask=there, other=0.0).to(tl.float64)
        squares += tl.where(there, here, 0.0)
    r = 1 / tl.sqrt(tl.sum(squares, 0) / pixels + eps)
    tl.store(mean + n * channels + channel, m.to(mean.dtype.element_ty), mask=live)
    tl.store(rstd + n * channels + channel, r.to(rstd.dtype.element_ty), mask=live)


# ---- backward ----------------------------------------------------------------------------------------------------------------
@jit(do_not_specialize=SIZES)
def _adain_bwd_kernel(
    dy, x, scale, shift, noise, b, mean, rstd, dx, dscale, dshift, dnoise_partial, db_partial, partial, coefficients,
    alpha: tl.float64, gain: tl.float64, pre_alpha: tl.float64,
    have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, PRE: tl.constexpr, SPATIAL: tl.constexpr, STAGE: tl.constexpr, NOISE: tl.constexpr, WALK: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 shift, 4 noise, 8 b, 16 dx, 32 dscale, 64 dshift, 128 db_partial. NOISE: dnoise_partial is there."""
    AXIS: tl.constexpr = 1 if PLANES else 0
    slope = tl.full((), alpha, ACC)
    factor = tl.full((), gain, ACC)
    pre_slope = tl.full((), pre_alpha, ACC)
    if PLANES and NOISE:
        over_channels = tl.zeros((TR, TC), ACC)
    for step in range(0, channel_chunk if WALK else TR, TR):
        n, chunk, part, c, hw, _, channel, channel_live, pixel, pixel_live, at = tile(
            step, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, STAGE, PLANES, UNIT, TR, TC, INDEX
        )
        live = channel_live & pixel_live
        plane = n * c + channel
        q = q_at(x, noise, b, n, noise_samples, hw, at, live, channel, channel_live, pixel, pixel_live, have, ACC)
        r = tl.load(rstd + plane, mask=channel_live, other=0.0)
        z = (activate(q, pre_slope, PRE) - tl.load(mean + plane, mask=channel_live, other=0.0)) * r
        s = factor_at(scale, at, live, plane, channel_live, have, 1, 1.0, SPATIAL, ACC)
        a = z * s + factor_at(shift, at, live, plane, channel_live, have, 2, 0.0, SPATIAL, ACC)
        f1, _ = slopes_at(a, slope, factor, ACT)
        g = tl.load(dy + at, mask=live, other=0.0).to(ACC) * f1
        to = (n * pixel_chunks + chunk) * 2 * c + channel
        if STAGE != "apply":
            d = g * s if SPATIAL else g
            sum_d = tl.sum(d, AXIS, keep_dims=True)
            sum_dz = tl.sum(d * z, AXIS, keep_dims=True)
        if STAGE == "sums":
            tl.store(partial + to, sum_d, mask=channel_live)
            tl.store(partial + to + c, sum_dz, mask=channel_live)
        else:
            if STAGE == "whole":
                if not SPATIAL:
                    put(dshift, plane, sum_d, channel_live, have, 64)
                    put(dscale, plane, sum_dz, channel_live, have, 32)
                    sum_d *= s
                    sum_dz *= s
                c0 = sum_d / hw.to(ACC)
                c1 = sum_dz / hw.to(ACC)
            else:
                of = coefficients + n * 2 * c + channel
                c0 = tl.load(of, mask=channel_live, other=0.0)
                c1 = tl.load(of + c, mask=channel_live, other=0.0)
            if SPATIAL:
                put(dshift, at, g, live, have, 64)
                put(dscale, at, g * z, live, have, 32)
            p1, _ = slopes_at(q, pre_slope, 1.0, PRE)
            dq = tl.where(live, (g * s - c0 - z * c1) * r * p1, 0.0)
            put(dx, at, dq, live, have, 16)
            if have & 128:
                to = (n * pixel_chunks + chunk) * c + channel
                tl.store(db_partial + to, tl.sum(dq, AXIS, keep_dims=True), mask=channel_live)
            if NOISE:
                if PLANES:
                    over_channels += dq
                else:
                    to = (part * (tl.num_programs(0) // (pixel_chunks * channel_chunks)) + n) * hw + pixel
                    tl.store(dnoise_partial + to, tl.sum(dq, 1, keep_dims=True), mask=pixel_live)
    if PLANES and NOISE:
        n, chunk, part, c, hw, _, _, _, pixel, pixel_live, _ = tile(
            0, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, STAGE, PLANES, UNIT, TR, TC, INDEX
        )
        to = (part * (tl.num_programs(0) // (pixel_chunks * channel_chunks)) + n) * hw + pixel
        tl.store(dnoise_partial + to, tl.sum(over_channels, 0, keep_dims=True), mask=pixel_live)


@jit(do_not_specialize=["have", "channels", "pixels", "pixel_chunks"])
def _adain_bwd_finish_kernel(
    scale, dscale, dshift, partial, coefficients, have, channels, pixels, pixel_chunks,
    SPATIAL: tl.constexpr, TK: tl.constexpr, TC: tl.constexpr,
):  # fmt: skip
    """``have``: as the backward kernel's. Per-pixel factors have been done there."""
    n, channel, live = finished(channels, TC)
    plane = n * channels + channel
    t = totals(partial, n, channel, live, channels, pixel_chunks, 2, 2, False, False, TK, TC)
    c0 = line(t, 0, 2)
    c1 = line(t, 1, 2)
    if not SPATIAL:
        put(dshift, plane, c0, live, have, 64)
        put(dscale, plane, c1, live, have, 32)
        s = number(scale, plane, live, have, 1, 1.0)
        c0 *= s
        c1 *= s
    to = coefficients + n * 2 * channels + channel
    tl.store(to, (c0 / pixels).to(coefficients.dtype.element_ty), mask=live)
    tl.store(to + channels, (c1 / pixels).to(coefficients.dtype.element_ty), mask=live)


# ---- how an image is cut up --------------------------------------------------------------------------------------------------
class Launch(NamedTuple):
    """Of an operator's passes over the pixels: integer arguments after ``noise_samples``, constants and number of programs; of
    its finishing kernel the same, without programs where planes are whole.
    """

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    finish_scalars: tuple[int, int, int, int]
    finish_constants: dict[str, Any]
    finish_programs: int


@lru_cache(maxsize=4096)
def plan(
    name: str, heavy: bool, shape: tuple[int, int, int], dtype: torch.dtype, channels_last: bool, pixel_chunk: int,
    channel_chunk: int,
) -> Launch:  # fmt: skip
    """Of the operator ``name`` for images of ``shape`` (samples, channels, pixels); ``heavy`` as in configs.py."""
    samples, channels, pixels = shape
    size = dtype.itemsize
    pixel_chunk, channel_chunk = min(pixel_chunk, pixels), min(channel_chunk, channels)
    pixel_chunks, channel_chunks = -(-pixels // pixel_chunk), -(-channels // channel_chunk)
    breadth, width = (channel_chunk, channels) if channels_last else (pixel_chunk, pixels)
    # Of one chunk the breadth does not matter: the image ends first.
    unit = _triton.alignment(16 // size, width, width if breadth == width else breadth)
    tc = _triton.power_of_two(breadth)
    _, _, elements = configs.GPU.held(name, heavy, size, unit)
    if channels_last:
        tr = _triton.power_of_two(pixel_chunk)
        scalars = (channels // unit, pixels, channel_chunk // unit, channel_chunks, pixel_chunk, pixel_chunks)
    else:
        tr = _triton.power_of_two(channel_chunk)
        if name != "adain":  # those walk
            tr = max(1, min(elements // tc, tr))
        scalars = (channels, pixels // unit, channel_chunk, channel_chunks, pixel_chunk // unit, pixel_chunks)
    constants = {
        "PLANES": not channels_last,
        "UNIT": unit,
        "TR": tr,
        "TC": tc,
        # Numbers of elements of a sample that 32-bit arithmetic holds, rows past its end included.
        "INDEX": tl.int64 if (channels + channel_chunk + tr + tc) * (pixels + pixel_chunk + tr + tc) >= 2**31 else tl.int32,
        "ACC": _triton.accumulator(dtype),
        "num_warps": configs.GPU.warps(name, heavy, size, unit, tr * tc),
    }
    if name != "adain":
        constants["WALK"] = not channels_last and channel_chunk > tr
    tk = min(_triton.power_of_two(pixel_chunks), configs.GPU.finish)
    of = max(1, min(configs.GPU.finish // tk * 4, _triton.power_of_two(channels)))
    return Launch(
        scalars, constants, samples * pixel_chunks * channel_chunks,
        (channels, pixels, pixel_chunk, pixel_chunks), {"TK": tk, "TC": of, "num_warps": 4},
        samples * -(-channels // of) if pixel_chunks > 1 else 0,
    )  # fmt: skip


# ---- what backends.py calls --------------------------------------------------------------------------------------------------
# The kernels of an operator, and their pointers.
_KERNELS: dict[str, tuple[Any, str, Any, str]] = {
    "adain": (
        _adain_fwd_kernel, "x scale shift noise b y mean rstd partial", _adain_finish_kernel, "partial mean rstd"
    ),
    "adain_backward": (
        _adain_bwd_kernel,
        "dy x scale shift noise b mean rstd dx dscale dshift dnoise_partial db_partial partial coefficients",
        _adain_bwd_finish_kernel,
        "scale dscale dshift partial coefficients",
    ),
    "adain_double_backward": (
        _adain_double_bwd_kernel,
        "u u_scale u_shift u_noise u_b dy x scale shift noise b mean rstd d_dy d_x d_scale d_shift d_noise_partial d_b_partial "
        "partial coefficients",
        _adain_double_bwd_finish_kernel,
        "rstd scale u_scale u_shift d_scale d_shift partial coefficients",
    ),
}  # fmt: skip
_IMAGES = frozenset(["x", "y", "dy", "dx", "u", "d_dy", "d_x"])
_FACTORS = frozenset(["scale", "shift", "dscale", "dshift", "u_scale", "u_shift", "d_scale", "d_shift"])
# The bits of ``have``.
_BITS = {
    "scale": 1, "shift": 2, "noise": 4, "b": 8, "dx": 16, "dscale": 32, "dshift": 64, "db_partial": 128,
    "d_x": 16, "d_scale": 32, "d_shift": 64, "d_b_partial": 128, "d_dy": 256, "u": 512, "u_scale": 1024, "u_shift": 2048,
    "u_noise": 4096, "u_b": 8192, "dy": 16384,
}  # fmt: skip


class Settings(NamedTuple):
    """What every operator is given after its tensors; semantics as in adain_params.h."""

    channels_last: bool
    spatial: bool
    pixel_chunk: int
    channel_chunk: int
    act: int
    alpha: float
    gain: float
    pre_act: int
    pre_alpha: float
    eps: float

    @property
    def heavy(self) -> bool:
        """Whether derivatives have more to hold than as a rule: see configs.py."""
        return self.spatial or activation_funcs[_NAMES[self.act]].curved or activation_funcs[_NAMES[self.pre_act]].curved


def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


@lru_cache(maxsize=64)
def _nothing(device: torch.device, dtype: torch.dtype) -> Tensor:
    """What stands for an absent tensor: of the same dtype, so that it makes no other variant of a kernel. It is not touched."""
    return torch.empty(4, device=device, dtype=dtype)


def _launches(
    name: str, launch: Launch, s: Settings, tensors: dict[str, Any], have: int, noise_samples: int, noise: bool, apply: bool
) -> Iterator[tuple[Any, int, tuple[Any, ...], dict[str, Any]]]:
    """(kernel, programs, arguments, constants) of the operator ``name``, in their order.

    ``noise``: its gradient is wanted. ``apply``: something is wanted that planes' sums do not give.
    """
    kernel, pointers, finish, of_finish = _KERNELS[name]
    numbers: tuple[float, ...] = (float(s.alpha), float(s.gain), float(s.pre_alpha))
    if name == "adain":
        numbers += (float(s.eps),)
    args = (*(tensors[p] for p in pointers.split()), *numbers, have, noise_samples, *launch.scalars)
    constants = {"ACT": _NAMES[s.act], "PRE": _NAMES[s.pre_act], "SPATIAL": s.spatial, **launch.constants}
    factors = {"SPATIAL": s.spatial}
    if name == "adain_double_backward":
        factors["CURVED"] = constants["CURVED"] = activation_funcs[_NAMES[s.act]].curved

    def stage(which: str) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
        flags: dict[str, Any] = {"STAGE": which}
        if name != "adain":
            flags["NOISE"] = noise and which != "sums"
        return kernel, launch.programs, args, {**constants, **flags}

    if not launch.finish_programs:
        yield stage("whole")
        return
    yield stage("sums")
    of = tuple(tensors[p] for p in of_finish.split())
    channels, pixels, pixel_chunk, pixel_chunks = launch.finish_scalars
    if name == "adain":
        rest: tuple[Any, ...] = (float(s.eps), channels, pixels, pixel_chunk, pixel_chunks)
        yield finish, launch.finish_programs, (*of, *rest), launch.finish_constants
    else:
        yield (
            finish,
            launch.finish_programs,
            (*of, have, channels, pixels, pixel_chunks),
            {**factors, **launch.finish_constants},
        )
    if apply:
        yield stage("apply")


def _run(name: str, tensors: tuple[Any, ...], settings: tuple[Any, ...], apply: bool = True) -> None:
    """Run the operator ``name``; ``tensors`` in the order of its kernel's pointers."""
    s = Settings(*settings)
    given = dict(zip(_KERNELS[name][1].split(), tensors, strict=True))
    x = given["x"]
    n, c, h, w = x.shape
    launch = plan(name, s.heavy, (n, c, h * w), x.dtype, s.channels_last, s.pixel_chunk, s.channel_chunk)
    nothing = _nothing(x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
    have = sum(bit for key, bit in _BITS.items() if given.get(key) is not None)
    noise_samples = 1 if given["noise"] is None else given["noise"].numel() // (h * w)
    noise = given.get("dnoise_partial", given.get("d_noise_partial")) is not None
    for key, t in given.items():
        if t is None:
            given[key] = x if key in _IMAGES or (s.spatial and key in _FACTORS) else nothing
    index = x.device.index if x.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        for kernel, programs, args, constants in _launches(name, launch, s, given, have, noise_samples, noise, apply):
            kernel[(programs,)](*args, **constants)
        return
    # Triton launches on the current device, whatever device the tensors are on.
    with torch.cuda.device(index):
        for kernel, programs, args, constants in _launches(name, launch, s, given, have, noise_samples, noise, apply):
            kernel[(programs,)](*args, **constants)


def adain_triton(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, noise: Tensor | None, b: Tensor | None,
    y: Tensor, mean: Tensor, rstd: Tensor, partial: Tensor, *settings: Any,
) -> None:  # fmt: skip
    """Write ``y``, ``mean`` and ``rstd``; ``settings`` as :class:`Settings`, semantics as in adain_params.h."""
    _run("adain", (x, scale, shift, noise, b, y, mean, rstd, partial), settings)


def adain_backward_triton(
    dy: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, noise: Tensor | None, b: Tensor | None,
    mean: Tensor, rstd: Tensor, dx: Tensor | None, dscale: Tensor | None, dshift: Tensor | None,
    dnoise_partial: Tensor | None, db_partial: Tensor | None, partial: Tensor, coefficients: Tensor, *settings: Any,
) -> None:  # fmt: skip
    """Write dx and the gradients of factors, and partial sums of the others; ``settings`` as :class:`Settings`."""
    wanted = [dx, dnoise_partial, db_partial] + ([dscale, dshift] if Settings(*settings).spatial else [])
    _run(
        "adain_backward",
        (dy, x, scale, shift, noise, b, mean, rstd, dx, dscale, dshift, dnoise_partial, db_partial, partial, coefficients),
        settings, any(t is not None for t in wanted),
    )  # fmt: skip


def adain_double_backward_triton(
    u: Tensor | None, u_scale: Tensor | None, u_shift: Tensor | None, u_noise: Tensor | None, u_b: Tensor | None,
    dy: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, noise: Tensor | None, b: Tensor | None,
    mean: Tensor, rstd: Tensor, d_dy: Tensor | None, d_x: Tensor | None, d_scale: Tensor | None, d_shift: Tensor | None,
    d_noise_partial: Tensor | None, d_b_partial: Tensor | None, partial: Tensor, coefficients: Tensor, *settings: Any,
) -> None:  # fmt: skip
    """Write d_dy, d_x and the gradients of factors, and partial sums of the others; ``settings`` as :class:`Settings`."""
    spatial = Settings(*settings).spatial
    through_dy = any(t is not None for t in (d_x, d_scale, d_shift, d_noise_partial, d_b_partial))
    wanted = [d_dy, d_x, d_noise_partial, d_b_partial] + ([d_scale, d_shift] if spatial else [])
    _run(
        "adain_double_backward",
        (
            u, u_scale, u_shift, u_noise, u_b, dy if through_dy else None, x, scale, shift, noise, b, mean, rstd,
            d_dy, d_x, d_scale, d_shift, d_noise_partial, d_b_partial, partial, coefficients,
        ),
        settings, any(t is not None for t in wanted),
    )  # fmt: skip


# ---- the compile gate --------------------------------------------------------------------------------------------------------
def _cases(
    sample: str, shape: tuple[int, ...], dtype: torch.dtype, s: Settings, noise: bool, vectors: bool
) -> Iterator[_triton.CompileCase]:
    """Everything that the three operators launch; ``vectors``: 16-byte accesses are required."""
    n, c, h, w = shape
    images = _IMAGES | _FACTORS if s.spatial else _IMAGES
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, (_, pointers, _, _) in _KERNELS.items():
        chunks = configs.triton_chunks(name, s.heavy, s.channels_last, n, c, h * w, dtype.itemsize, noise and name != "adain")
        launch = plan(name, s.heavy, (n, c, h * w), dtype, s.channels_last, *chunks)
        tensors = {p: dtype if p in images else wide for p in pointers.split()}
        for kernel, _, args, constants in _launches(name, launch, s, tensors, 0, 1, noise, True):
            stage = constants.get("STAGE")
            vector = (16 if stage else 0, 16 if stage in ("whole", "apply") else 0) if vectors else (0, 0)
            # A kernel is compiled for each of its stages.
            case = sample.replace("/", f"_{stage}/", 1) if stage else sample
            yield _triton.CompileCase(case, kernel, args, constants, dtype, vector)


# Samples, layouts and dtypes that stand for the others: short planes and long ones, factors as images.
_GATED = (
    ("cyclegan_256x64", ("nchw",), (torch.float32, torch.float64, torch.bfloat16)),
    ("stylegan_512x32", ("channels_last",), (torch.bfloat16,)),
    ("stylegan_128x256", ("nchw", "channels_last"), (torch.bfloat16,)),
    ("spade_256x64", ("nchw",), (torch.bfloat16,)),
)


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for some networks' shapes; in bfloat16 also with the longest formulas, where they take
    most registers, with whole vectors and without.
    """
    from gankern.ops.adain import arguments
    from gankern.ops.adain.samples import SAMPLES

    samples = {sample.name: sample for sample in SAMPLES}
    for name, layouts, dtypes in _GATED:
        for sample, layout, dtype, args in _triton.fake_inputs([samples[name]], dtypes, arguments.prepare):
            x, scale, shift, noise, _, act, alpha, gain, pre_act, pre_alpha, eps = args
            if layout not in layouts:
                continue
            spatial = any(t is not None and t.dim() == 4 for t in (scale, shift))
            numbers = (alpha, gain, _NAMES.index(pre_act), pre_alpha, eps)
            s = Settings(layout == "channels_last", spatial, 0, 0, _NAMES.index(act), *numbers)
            kind = f"{sample.name}/{layout}/{str(dtype).removeprefix('torch.')}"
            yield from _cases(kind, x.shape, dtype, s, noise is not None, True)
    longest = Settings(False, True, 0, 0, _NAMES.index("swish"), 0.0, 1.4, _NAMES.index("softplus"), 0.0, 1e-5)
    for kind, shape in (("longest", (1, 256, 32, 64)), ("longest_odd", (1, 256, 31, 33))):
        yield from _cases(f"{kind}/nchw/bfloat16", shape, torch.bfloat16, longest, True, kind == "longest")
