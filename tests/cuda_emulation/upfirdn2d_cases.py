"""upfirdn2d's CUDA kernels at their seams: specialisations, tile edges, vector paths, strides, alignment, large offsets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cuda_emulation import harness
from gankern import _layout
from gankern.ops.upfirdn2d import op
from gankern.ops.upfirdn2d.arguments import prepare
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FACTORS = {"same": (1, 1), "up": (2, 1), "down": (1, 2)}


def run(x: Tensor, f: Tensor | None, up: Any, down: Any, padding: Any, flip: bool, gain: float, shift: int, what: str) -> None:
    """The kernel against the float64 reference, on an output full of NaN that begins `shift` elements into its memory."""
    x, f, up, down, padding, flip, gain = prepare(x, f, up, down, padding, flip, gain)
    x = _layout.with_unit_stride(x)
    like = op._empty_output(x, f, up, down, padding)
    memory = torch.full((like.numel() + shift + 8,), float("nan"), dtype=x.dtype)
    y = memory.as_strided(like.shape, like.stride(), shift)
    taps = op._taps(x, f)
    torch.ops.gankern_native.upfirdn2d_cuda(x, taps, y, up[0], up[1], down[0], down[1], padding[0], padding[2], flip, gain)
    wide = None if f is None else f.double()
    expected = upfirdn2d_reference(x.double(), wide, up, down, padding, flip, gain)
    size = upfirdn2d_reference(
        x.double().abs(), None if wide is None else wide.abs(), up, down, padding, flip, abs(gain)
    ).amax()
    error = (y.double() - expected).abs() / size.clamp(min=1e-30)
    bad = ~(error <= TOLERANCE[x.dtype])
    assert not bad.any(), (
        f"{what}: {int(bad.sum())} of {bad.numel()} outputs wrong, the first at {bad.nonzero()[0].tolist()}, "
        f"{int(y.isnan().sum())} NaN; x {tuple(x.shape)} {x.stride()} {x.dtype}, f {None if f is None else tuple(f.shape)}, "
        f"up {up}, down {down}, padding {padding}, flip {flip}, gain {gain}, y {y.stride()} shifted {shift}"
    )
    assert memory[:shift].isnan().all() and memory[-8:].isnan().all(), f"{what}: wrote outside of y"


def filters(generator: torch.Generator, width: int, height: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """One of each kind: separable, a product of a column and a row, no product, nearly a product."""
    column, row = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (height, width))
    near = torch.outer(column, row)
    near[height // 2, width // 2] *= 1 + 2e-6
    full = torch.randn(height, width, generator=generator, dtype=torch.float64)
    kinds = {"separable": row, "product": torch.outer(column, row), "full": full, "near": near}
    return {kind: f.to(dtype) for kind, f in kinds.items()}


def specialisations() -> Iterator[tuple[Any, ...]]:
    """Every compiled kernel, its two forms of taps, just past a tile and a strip."""
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        vector = 16 // dtype.itemsize
        for channels_last in (False, True):
            for mode, (up, down) in FACTORS.items():
                for taps in (4, 8 if mode == "same" else 12):
                    kinds = ("separable", "product", "full", "near") if dtype == torch.float32 else ("product", "full")
                    for kind, f in filters(generator, taps, taps, torch.float32).items():
                        if kind not in kinds:
                            continue
                        c, h, w = (2 * vector, 19, 130 // down) if channels_last else (3, 37, 67 * down)
                        x = torch.randn(1, c, h, w, generator=generator, dtype=torch.float64).to(dtype)
                        if channels_last:
                            x = x.contiguous(memory_format=torch.channels_last)
                        pad = [taps // 2, taps // 2 - 1 + h % 2, taps // 2 - 1, taps // 2]
                        yield x, f, up, down, pad, False, 1.5, 0, f"{mode} {taps} taps, {kind}"


def fuzz(count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Random shapes, factors, paddings, taps, strides and alignments; whatever lies outside of a view is NaN."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for i in range(count):
        dtype = draw.choice([*DTYPES, *DTYPES, torch.float64])
        vector = 16 // dtype.itemsize
        mode = draw.choice([*FACTORS, "odd"])
        up, down = FACTORS.get(mode, ([draw.randint(1, 3), draw.randint(1, 3)], [draw.randint(1, 3), draw.randint(1, 3)]))
        ups = [up, up] if isinstance(up, int) else up
        channels_last = draw.random() < 0.5
        n = draw.choice([1, 1, 2, 3])
        c = vector * draw.choice([1, 2, 3, 4, 8, 9]) if channels_last and draw.random() < 0.8 else draw.choice([1, 2, 3, 5, 7])
        h = draw.choice([1, 2, 3, 5, 8, 13, 21, 40, 70])
        w = draw.choice([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70, 129])
        if n * c * h * w > 30000:
            h, n = min(h, 5), 1
        most = draw.choice([4, 4, 4, 8, 12, 14])
        kw, kh = draw.randint(1, most), draw.randint(1, most)
        kind, f = draw.choice(
            list(filters(generator, kw, kh, torch.float64 if dtype == torch.float64 else torch.float32).items())
        )
        kh = f.shape[0]
        taps = None if draw.random() < 0.07 else f
        kw, kh = (1, 1) if taps is None else (kw, kh)
        pad = [draw.randint(-3, kw + 2), draw.randint(-3, kw + 2), draw.randint(-3, kh + 2), draw.randint(-3, kh + 2)]
        pad[1] += max(0, kw - (w * ups[0] + pad[0] + pad[1]))  # leave at least one output
        pad[3] += max(0, kh - (h * ups[1] + pad[2] + pad[3]))
        view = draw.choice(["whole", "whole", "shifted", "sliced", "channels"])
        wide = [0, 0, 0, 0] if view == "whole" else [1, draw.choice([1, vector]), 2, draw.choice([1, 2, 3, vector])]
        shape = [a + b for a, b in zip((n, c, h, w), wide, strict=True)]
        fmt = torch.channels_last if channels_last else torch.contiguous_format
        memory = torch.full(shape, float("nan"), dtype=dtype).contiguous(memory_format=fmt)
        first = [0, wide[1] if view == "channels" else 0, wide[2] // 2, 1 if view == "shifted" else 0]
        x = memory[:n, first[1] : first[1] + c, first[2] : first[2] + h, first[3] : first[3] + w]
        x.copy_(torch.randn(x.shape, generator=generator, dtype=torch.float64))
        shift = draw.choice([0, 0, 0, 1, 2])
        yield x, taps, up, down, pad, draw.random() < 0.5, draw.choice([1.0, 4.0, -0.7]), shift, f"fuzz {seed}/{i}, {kind}"


def large_offsets() -> None:
    """Images that lie more than 2^31 elements, or bytes, apart, in memory that is reserved but hardly touched."""
    for channels_last in (False, True):
        far = 2**31 + 64
        shape, inner = (2, 8, 6, 24), (24, 8 * 24, 1) if channels_last else (6 * 24, 24, 1)
        strides = (far, 1, 24 * 8, 8) if channels_last else (far, *inner)
        x = torch.empty(far + 2000, dtype=torch.float16).as_strided(shape, strides)
        y = torch.empty(far + 2000, dtype=torch.float16).as_strided(shape, strides)
        x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        y.fill_(float("nan"))
        f = torch.tensor([0.125, 0.375, 0.375, 0.125])
        torch.ops.gankern_native.upfirdn2d_cuda(x, f, y, 1, 1, 1, 1, 2, 2, False, 1.0)
        expected = upfirdn2d_reference(x.double(), f.double(), padding=[2, 1, 2, 1])
        assert torch.allclose(y.double(), expected, atol=2e-3), "large offsets"
    # Rows far apart.
    x = torch.empty(far + 24, dtype=torch.float16).as_strided((1, 1, 2, 24), (2 * far, 2 * far, far, 1))
    x.copy_(torch.randn(2, 24, generator=torch.Generator().manual_seed(1)))
    run(x, f, 1, 1, 2, False, 1.0, 0, "rows far apart")
    # Coordinates beyond 32 bits: of a row of 2^33 pixels all but the neighbourhood of the second input pixel is cropped.
    big = 2**33
    x = torch.randn(1, 1, 3, 2, generator=torch.Generator().manual_seed(2))
    y = torch.full((1, 1, 5, 4), float("nan"))
    torch.ops.gankern_native.upfirdn2d_cuda(x, f, y, big, 2, 1, 1, 2 - big, 1, False, 1.0)
    expected = upfirdn2d_reference(x[..., 1:], f, [1, 2], 1, [2, 4, 1, 1])
    assert torch.allclose(y, expected, atol=1e-6), "huge factor"


def run_all(count: int, seed: int, orders: tuple[int, ...], every: int = 1) -> None:
    """The specialisations (every n-th), then `count` random cases, in changing orders of threads."""
    for i, case in enumerate([*list(specialisations())[::every], *fuzz(count, seed)]):
        harness.set_order(orders[i % len(orders)])
        run(*case)
    harness.set_order()
