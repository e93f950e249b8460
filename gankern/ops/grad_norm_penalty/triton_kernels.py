"""grad_norm_penalty in Triton: sums of pieces, totals of samples, and the gradient piece by piece.

A program of the first and the last kernel owns a piece of a sample, a program of the totals one sample. Every sum has a fixed
order.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gankern import _dtypes, _triton
from gankern._triton import jit, narrow, tl
from gankern.ops.grad_norm_penalty import configs


@jit
def _piece(inner, chunk, chunks, ALIGN: tl.constexpr):
    """Of this program's piece: its sample, its first element and its length."""
    piece = tl.program_id(0)
    sample = piece // chunks
    start = (piece % chunks).to(tl.int64) * chunk
    # The launcher knows what divides every sample's first offset; Triton only sees what divides `inner` by 16.
    origin = tl.multiple_of(sample.to(tl.int64) * inner + start, ALIGN)
    return sample, origin, tl.minimum(inner - start, chunk).to(tl.int32)


@jit
def _slope(squares, center, weight, CENTERED: tl.constexpr):
    """The formulas are those of grad_norm_penalty_math.h; CENTERED: ``center`` is not 0."""
    if CENTERED:
        zero = squares == 0.0
        return tl.where(zero, 0.0, 2.0 * weight * (1.0 - center / tl.sqrt(tl.where(zero, 1.0, squares))))
    else:
        return 2.0 * weight


@jit
def _grad_norm_penalty_sums_kernel(
    grad, u, partial, inner, chunk, chunks,
    TWICE: tl.constexpr, ALIGN: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``partial``: of each piece the sum of grad grad, or with TWICE of grad u."""
    _, origin, length = _piece(inner, chunk, chunks, ALIGN)
    grad += origin
    u += origin
    total = tl.zeros((TILE,), ACC)
    lane = tl.arange(0, TILE)
    for step in range(0, length, TILE):
        at = step + lane
        live = at < length
        g = tl.load(grad + at, mask=live, other=0.0).to(ACC)
        if TWICE:
            total += g * tl.load(u + at, mask=live, other=0.0).to(ACC)
        else:
            total += g * g
    tl.store(partial + tl.program_id(0), tl.sum(total, 0))


@jit
def _grad_norm_penalty_totals_kernel(
    partial, squares, penalty, products, d_dp, center: tl.float64, weight: tl.float64, chunks,
    TWICE: tl.constexpr, CENTERED: tl.constexpr, WANT_DP: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``squares`` and ``penalty``; with TWICE ``products`` and, if wanted, ``d_dp``."""
    sample = tl.program_id(0)
    partial += sample.to(tl.int64) * chunks
    c = tl.full((), center, ACC)
    w = tl.full((), weight, ACC)
    sums = tl.zeros((TILE,), tl.float64)
    lane = tl.arange(0, TILE)
    for step in range(0, chunks, TILE):
        sums += tl.load(partial + step + lane, mask=step + lane < chunks, other=0.0).to(tl.float64)
    total = tl.sum(sums, 0).to(ACC)
    if TWICE:
        tl.store(products + sample, total)
        if WANT_DP:
            tl.store(d_dp + sample, _slope(tl.load(squares + sample), c, w, CENTERED) * total)
    else:
        tl.store(squares + sample, total)
        if CENTERED:
            off = tl.sqrt(total) - c
            tl.store(penalty + sample, w * (off * off))
        else:
            tl.store(penalty + sample, w * total)


@jit
def _grad_norm_penalty_scale_kernel(
    grad, u, squares, dp, products, out, center: tl.float64, weight: tl.float64, inner, chunk, chunks,
    TWICE: tl.constexpr, CENTERED: tl.constexpr, ALIGN: tl.constexpr, TILE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``out``: dp slope grad, or with TWICE dp (slope u + along grad)."""
    sample, origin, length = _piece(inner, chunk, chunks, ALIGN)
    grad += origin
    u += origin
    out += origin
    c = tl.full((), center, ACC)
    w = tl.full((), weight, ACC)
    norm2 = tl.load(squares + sample)
    given = tl.load(dp + sample)
    factor = given * _slope(norm2, c, w, CENTERED)
    if TWICE and CENTERED:
        zero = norm2 == 0.0
        safe = tl.where(zero, 1.0, norm2)
        along = given * tl.where(zero, 0.0, 2.0 * w * c / tl.sqrt(safe) * (tl.load(products + sample) / safe))
    lane = tl.arange(0, TILE)
    for step in range(0, length, TILE):
        at = step + lane
        live = at < length
        if TWICE:
            v = factor * tl.load(u + at, mask=live, other=0.0).to(ACC)
            if CENTERED:
                v += along * tl.load(grad + at, mask=live, other=0.0).to(ACC)
        else:
            v = factor * tl.load(grad + at, mask=live, other=0.0).to(ACC)
        tl.store(out + at, narrow(v, out.dtype.element_ty), mask=live)


# ---- launching ---------------------------------------------------------------------------------------------------------------
def can_run(x: Tensor) -> str | None:
    """None if the kernels serve tensors like ``x``, else the reason why not."""
    return _triton.can_run(x)


def _cut(grad: Tensor, chunk: int) -> tuple[int, int, int]:
    """(samples, elements of one, its pieces)."""
    inner = math.prod(grad.shape[1:])
    return grad.shape[0], inner, -(-inner // chunk)


def _tiles(dtype: torch.dtype, inner: int, chunk: int) -> dict[str, Any]:
    """What the kernels of pieces have in common."""
    return {
        "ALIGN": _triton.alignment(16, inner, chunk),
        "TILE": configs.tile(dtype.itemsize),
        "ACC": _triton.accumulator(dtype),
        "num_warps": configs.GPU.warps,
    }


def _totals_tile(chunks: int) -> int:
    return min(_triton.power_of_two(chunks), 1024)


def _on_device(like: Tensor, run: Callable[[], None]) -> None:
    """Triton launches on the current device, whatever device the tensors are on."""
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        run()
    else:
        with torch.cuda.device(index):
            run()


def grad_norm_penalty_triton(
    grad: Tensor, partial: Tensor, squares: Tensor, penalty: Tensor, center: float, weight: float, chunk: int
) -> None:
    """Write ``squares`` and ``penalty``; semantics as in grad_norm_penalty_params.h."""
    _sums(grad, None, partial, squares, penalty, None, None, center, weight, chunk)


def _sums(
    grad: Tensor, u: Tensor | None, partial: Tensor, squares: Tensor, penalty: Tensor | None,
    products: Tensor | None, d_dp: Tensor | None, center: float, weight: float, chunk: int,
) -> None:  # fmt: skip
    samples, inner, chunks = _cut(grad, chunk)
    tiles = _tiles(grad.dtype, inner, chunk)
    # An absent tensor's place is taken by another that will not be touched.
    numbers = [squares if t is None else t for t in (penalty, products, d_dp)]

    def run() -> None:
        pieces = (grad, grad if u is None else u, partial, inner, chunk, chunks)
        _grad_norm_penalty_sums_kernel[(samples * chunks,)](*pieces, TWICE=u is not None, **tiles)
        _grad_norm_penalty_totals_kernel[(samples,)](
            partial, squares, *numbers, float(center), float(weight), chunks,
            TWICE=u is not None, CENTERED=center != 0, WANT_DP=d_dp is not None,
            TILE=_totals_tile(chunks), ACC=tiles["ACC"], num_warps=1,
        )  # fmt: skip

    _on_device(grad, run)


def _scale(
    grad: Tensor, u: Tensor | None, squares: Tensor, dp: Tensor, products: Tensor | None, out: Tensor,
    center: float, weight: float, chunk: int,
) -> None:  # fmt: skip
    samples, inner, chunks = _cut(grad, chunk)
    tensors = (grad, grad if u is None else u, squares, dp, squares if products is None else products, out)

    def run() -> None:
        _grad_norm_penalty_scale_kernel[(samples * chunks,)](
            *tensors, float(center), float(weight), inner, chunk, chunks,
            TWICE=u is not None, CENTERED=center != 0, **_tiles(grad.dtype, inner, chunk),
        )  # fmt: skip

    _on_device(grad, run)


def grad_norm_penalty_backward_triton(
    dp: Tensor, grad: Tensor, squares: Tensor, dgrad: Tensor, center: float, weight: float, chunk: int
) -> None:
    """Write the gradient in grad into ``dgrad``."""
    _scale(grad, None, squares, dp, None, dgrad, center, weight, chunk)


def grad_norm_penalty_double_backward_triton(
    u: Tensor, dp: Tensor, grad: Tensor, squares: Tensor, partial: Tensor | None, products: Tensor | None,
    d_dp: Tensor | None, d_grad: Tensor | None, center: float, weight: float, chunk: int,
) -> None:  # fmt: skip
    """Write ``products`` and those of ``d_dp`` and ``d_grad`` that are given."""
    if partial is not None:
        _sums(grad, u, partial, squares, None, products, d_dp, center, weight, chunk)
    if d_grad is not None:
        _scale(grad, u, squares, dp, products, d_grad, center, weight, chunk)


# ---- the compile gate ----------------------------------------------------------------------------------------------------
def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launchers would compile for the samples: one of each dtype, alignment and form."""
    from gankern._samples import DTYPES
    from gankern.ops.grad_norm_penalty import arguments
    from gankern.ops.grad_norm_penalty.samples import SAMPLES

    seen: set[tuple[Any, ...]] = set()
    samples = sorted(SAMPLES, key=lambda s: not s.tags & {"quick", "full"})
    for sample, layout, dtype, (grad, center, weight) in _triton.fake_inputs(samples, DTYPES, arguments.prepare):
        if grad.numel() == 0:
            continue
        chunk = configs.chunk("triton", grad.shape[0], math.prod(grad.shape[1:]))
        _, inner, chunks = _cut(grad, chunk)
        full, wide, tiles = bool(sample.tags & {"quick", "full"}), _dtypes.wide(dtype), _tiles(dtype, inner, chunk)
        centered = center != 0
        totals = {"TILE": _totals_tile(chunks), "ACC": tiles["ACC"], "num_warps": 1}
        numbers, cut = (center, weight), (inner, chunk, chunks)
        for twice in (False, True):
            cases = (
                (_grad_norm_penalty_sums_kernel, ((dtype,) * 2 + (wide,) + cut), {"TWICE": twice, **tiles}, (16, 0)),
                (_grad_norm_penalty_totals_kernel, ((wide,) * 5 + (*numbers, chunks)),
                 {"TWICE": twice, "CENTERED": centered, "WANT_DP": twice, **totals}, (0, 0)),
                (_grad_norm_penalty_scale_kernel, ((dtype,) * 2 + (wide,) * 3 + (dtype, *numbers, *cut)),
                 {"TWICE": twice, "CENTERED": centered, **tiles}, (16, 16)),
            )  # fmt: skip
            for kernel, args, constants, vector in cases:
                key = (kernel.__name__, dtype, inner % 16 == 0, chunks == 1, *constants.values())
                if key in seen:
                    continue
                seen.add(key)
                yield _triton.CompileCase(
                    sample=f"{sample.name}{'_twice' if twice else ''}/{layout}/{str(dtype).removeprefix('torch.')}",
                    kernel=kernel,
                    args=args,
                    constants=constants,
                    dtype=dtype,
                    # 16-byte accesses are required where networks spend their time.
                    vector=vector if full else (0, 0),
                )
