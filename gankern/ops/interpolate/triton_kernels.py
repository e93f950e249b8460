"""interpolate in Triton: a program owns a piece of a sample, which has one eps, and walks through it tile by tile.

Sums of a piece stay in a tile of registers until its end.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gankern import _dtypes, _triton
from gankern._triton import jit, narrow, tl
from gankern.ops.interpolate import configs


@jit
def _interpolate_kernel(
    dy, real, fake, eps, y, d_real, d_fake, partial, inner, chunk, chunks,
    BACKWARD: tl.constexpr, HAS_REAL: tl.constexpr, HAS_FAKE: tl.constexpr,
    WANT_REAL: tl.constexpr, WANT_FAKE: tl.constexpr, WANT_EPS: tl.constexpr,
    ALIGN: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``y``, or with BACKWARD ``d_real``, ``d_fake`` and ``partial``, each if it is wanted; see interpolate_params.h."""
    piece = tl.program_id(0)
    sample = piece // chunks
    start = (piece % chunks).to(tl.int64) * chunk
    # The launcher knows what divides every sample's first offset; Triton only sees what divides `inner` by 16.
    origin = tl.multiple_of(sample.to(tl.int64) * inner + start, ALIGN)
    length = tl.minimum(inner - start, chunk).to(tl.int32)
    if BACKWARD:
        dy += origin
        d_real += origin
        d_fake += origin
    else:
        y += origin
    real += origin
    fake += origin
    if not BACKWARD or WANT_REAL or WANT_FAKE:
        e = tl.load(eps + sample).to(ACC)
        rest = 1.0 - e
    if WANT_EPS:
        total = tl.zeros((TILE,), ACC)
    lane = tl.arange(0, TILE)
    for step in range(0, length, TILE):
        at = step + lane
        live = at < length
        if not BACKWARD:
            a = tl.load(real + at, mask=live, other=0.0).to(ACC)
            b = tl.load(fake + at, mask=live, other=0.0).to(ACC)
            tl.store(y + at, narrow(e * a + rest * b, y.dtype.element_ty), mask=live)
        else:
            g = tl.load(dy + at, mask=live, other=0.0).to(ACC)
            if WANT_REAL:
                tl.store(d_real + at, narrow(e * g, d_real.dtype.element_ty), mask=live)
            if WANT_FAKE:
                tl.store(d_fake + at, narrow(rest * g, d_fake.dtype.element_ty), mask=live)
            if WANT_EPS:
                difference = tl.zeros((TILE,), ACC)
                if HAS_REAL:
                    difference += tl.load(real + at, mask=live, other=0.0).to(ACC)
                if HAS_FAKE:
                    difference -= tl.load(fake + at, mask=live, other=0.0).to(ACC)
                total += g * difference
    if WANT_EPS:
        tl.store(partial + piece, tl.sum(total, 0))


# ---- launching ---------------------------------------------------------------------------------------------------------------
def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _constants(dtype: torch.dtype, inner: int, chunk: int, present: tuple[bool, ...] | None) -> dict[str, Any]:
    """The kernel's; ``present`` says of real, fake, d_real, d_fake and partial which there are in backward."""
    names = ("HAS_REAL", "HAS_FAKE", "WANT_REAL", "WANT_FAKE", "WANT_EPS")
    flags = present or (True, True, False, False, False)
    return {
        "BACKWARD": present is not None,
        **dict(zip(names, flags, strict=True)),
        "ALIGN": _triton.alignment(16, inner, chunk),
        "TILE": configs.tile(dtype.itemsize),
        "ACC": _triton.accumulator(dtype),
        "num_warps": configs.GPU.warps,
    }


def _launch(tensors: tuple[Any, ...], like: Tensor, chunk: int, present: tuple[bool, ...] | None) -> None:
    """Run the kernel; an absent tensor's place is taken by another that it will not touch."""
    samples, inner = like.shape[0], math.prod(like.shape[1:])
    chunks = -(-inner // chunk)
    arguments = (*[like if t is None else t for t in tensors], inner, chunk, chunks)
    constants = _constants(like.dtype, inner, chunk, present)
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        _interpolate_kernel[(samples * chunks,)](*arguments, **constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            _interpolate_kernel[(samples * chunks,)](*arguments, **constants)


def interpolate_triton(real: Tensor, fake: Tensor, eps: Tensor, y: Tensor, chunk: int) -> None:
    """Write eps real + (1 - eps) fake into ``y``; semantics as in interpolate_params.h."""
    _launch((None, real, fake, eps, y, None, None, None), real, chunk, None)


def interpolate_backward_triton(
    dy: Tensor, real: Tensor | None, fake: Tensor | None, eps: Tensor | None,
    d_real: Tensor | None, d_fake: Tensor | None, partial: Tensor | None, chunk: int,
) -> None:  # fmt: skip
    """Write those of ``d_real``, ``d_fake`` and ``partial`` that are given."""
    present = tuple(t is not None for t in (real, fake, d_real, d_fake, partial))
    _launch((dy, real, fake, eps, None, d_real, d_fake, partial), dy, chunk, present)


# ---- the compile gate ----------------------------------------------------------------------------------------------------
def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the samples: one of each dtype, alignment and set of outputs."""
    from gankern._samples import DTYPES
    from gankern.ops.interpolate import arguments
    from gankern.ops.interpolate.samples import SAMPLES

    forms = {
        "forward": None,
        "images": (False, False, True, True, False),
        "eps": (True, True, False, False, True),
        "all": (True, True, True, True, True),
    }
    seen: set[tuple[Any, ...]] = set()
    samples = sorted(SAMPLES, key=lambda s: not s.tags & {"quick", "full"})
    for sample, layout, dtype, (real, _, _) in _triton.fake_inputs(samples, DTYPES, arguments.prepare):
        if real.numel() == 0:
            continue
        inner = math.prod(real.shape[1:])
        chunk = configs.chunk("triton", real.shape[0], inner)
        wide = _dtypes.wide(dtype)
        for name, form in forms.items():
            constants = _constants(dtype, inner, chunk, form)
            key = (dtype, inner % 16 == 0, inner == 1, *constants.values())
            if key in seen:
                continue
            seen.add(key)
            full = bool(sample.tags & {"quick", "full"})
            stores = form is None or form[2] or form[3]
            yield _triton.CompileCase(
                sample=f"{sample.name}_{name}/{layout}/{str(dtype).removeprefix('torch.')}",
                kernel=_interpolate_kernel,
                args=(*(dtype,) * 3, wide, *(dtype,) * 3, wide, inner, chunk, -(-inner // chunk)),
                constants=constants,
                dtype=dtype,
                # 16-byte accesses are required where networks spend their time.
                vector=(16, 16 if stores else 0) if full else (0, 0),
            )
