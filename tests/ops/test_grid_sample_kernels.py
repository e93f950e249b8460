"""grid_sample's CUDA and Triton kernels: the integer sums of the scatter, samples without pixels, and the ways they are cut.

(What they compute at all is tested by test_contract.py.) Without a GPU the CUDA kernels run in the emulation, and Triton's in a
process of their own with TRITON_INTERPRET=1, which the last test starts.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import HAS_GPU, INTERPRETED
from torch import Tensor

import gankern
from gankern.ops.grid_sample import configs
from gankern.ops.grid_sample.reference import backward_composed, double_backward_composed, grid_sample_composed
from gankern.testing.compare import assert_close

NAN, INF = float("nan"), float("inf")


class Kernels:
    """The three launchers of a backend, with outputs full of NaN."""

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device

    def _call(self, name: str, *args: Any) -> None:
        if self.name == "triton":
            from gankern.ops.grid_sample import triton_kernels

            getattr(triton_kernels, f"{name}_triton")(*args)
        else:
            getattr(torch.ops.gankern_native, f"{name}_cuda")(*args)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        y = torch.empty((*x.shape[:2], *grid.shape[1:3]), dtype=x.dtype, device=x.device, memory_format=layout(x)).fill_(NAN)
        self._call("grid_sample", x, grid, y)
        return y

    def backward(
        self, dy: Tensor, x: Tensor, grid: Tensor, bound: float | None = None, mask: Sequence[bool] = (True, True)
    ) -> list[Any]:
        dx, dgrid = (t if w else None for t, w in zip((nan_like(x), torch.full_like(grid, NAN)), mask, strict=True))
        limit = dy.abs().max().to(grid.dtype) if bound is None else grid.new_tensor(bound)
        scatter = (None, None) if dx is None else (integers(dx), limit)
        self._call("grid_sample_backward", dy, x, grid, dx, dgrid, *scatter)
        return [dx, dgrid]

    def double_backward(
        self, u_x: Tensor | None, u_grid: Tensor | None, dy: Tensor, x: Tensor, grid: Tensor, bound: float = 1.0,
        mask: Sequence[bool] = (True, True, True),
    ) -> list[Any]:  # fmt: skip
        """d_x depends on u_grid only, and is not asked for without it."""
        d_dy = torch.empty(dy.shape, dtype=dy.dtype, device=x.device, memory_format=layout(x)).fill_(NAN)
        mask = (mask[0], mask[1] and u_grid is not None, mask[2])
        results = [t if w else None for t, w in zip((d_dy, nan_like(x), torch.full_like(grid, NAN)), mask, strict=True)]
        scatter = (None, None) if results[1] is None else (integers(results[1]), grid.new_tensor(bound))
        self._call("grid_sample_double_backward", u_x, u_grid, dy, x, grid, *results, *scatter)
        return results


def layout(x: Tensor) -> torch.memory_format:
    last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format


def nan_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout(x)).fill_(NAN)


def integers(dx: Tensor) -> Tensor:
    return torch.zeros_like(dx, dtype=torch.int64)


def cases() -> list[Kernels]:
    if INTERPRETED:
        return [Kernels("triton", "cpu")]
    return [Kernels("cuda", "cuda"), Kernels("triton", "cuda")] if HAS_GPU else [Kernels("cuda", "cpu")]


@pytest.fixture(params=cases(), ids=lambda k: f"{k.name}-{k.device}")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    case: Kernels = request.param
    if case.name == "cuda" and case.device == "cpu":
        from cuda_emulation import harness

        if (missing := harness.missing()) and not os.environ.get("GANKERN_REQUIRE_EMULATION"):
            pytest.skip(f"CUDA emulation: {missing}")
        harness.load()
    elif case.name == "cuda" and not gankern.NATIVE.cuda:
        pytest.skip(f"no native CUDA kernels: {gankern.NATIVE.reason('cuda')}")
    elif case.name == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
    yield case


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


# ---- integer sums ---------------------------------------------------------------------------------------------------
def on_one_pixel(kernels: Kernels, dy: Tensor, bound: float | None = None) -> float:
    """What the middle pixel of 3x3 gets when all samples [Ho, Wo] stand at its centre; the others get nothing."""
    dy = dy.to(kernels.device)[None, None]
    grid = torch.zeros((*dy.shape[:1], *dy.shape[2:], 2), dtype=dy.dtype, device=dy.device)
    dx, _ = kernels.backward(dy, torch.ones((1, 1, 3, 3), dtype=dy.dtype, device=dy.device), grid, bound)
    assert int((dx != 0).sum()) <= 1
    return float(dx[0, 0, 1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_many_samples_on_one_pixel(kernels: Kernels, dtype: torch.dtype) -> None:
    """The argument of grid_sample_fixed.cuh: each of n contributions is rounded by half a unit, 2^(e + l - 62), with
    2^e <= 2 bound and 2^l < 2 n; then the sum is, to the type of dx. Floating-point sums of these would be far off.
    """
    dy = numbers((20, 33), 0, dtype)
    dy[1::2] = -dy[:-1:2] * (1 + 2**-12)  # sums of both signs: nearly nothing is left
    n, bound = dy.numel(), float(dy.abs().max())
    exact = math.fsum(dy.flatten().tolist())
    allowed = torch.finfo(dtype).eps / 2 * abs(exact) + n * 2 * bound * 2 * n * 2.0**-62 / 2
    assert abs(on_one_pixel(kernels, dy) - exact) <= allowed
    if dtype == torch.float32:
        assert abs(float(functools.reduce(torch.add, dy.flatten())) - exact) > 10 * allowed  # this is what it is about


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (32, 32)], ids=str)
def test_the_largest_sum_does_not_overflow(kernels: Kernels, size: tuple[int, int]) -> None:
    """All contributions at the bound, for bounds at both ends of a power of two: the sum is their number."""
    n = size[0] * size[1]
    for value in (1.0, -1.0, 2 - 2**-23, -(2 - 2**-23)):
        dy = torch.full(size, value)
        expected = torch.tensor(n * float(dy[0, 0]), dtype=torch.float64).to(torch.float32)
        assert on_one_pixel(kernels, dy) == float(expected)


@pytest.mark.parametrize("exponent", [-126, -110, 110])
def test_bounds_near_the_ends_of_float32(kernels: Kernels, exponent: int) -> None:
    """Bounds from 1e-38 to 1e34: the same bits, times a power of two."""
    dy = numbers((1, 2, 6, 7), 1, device=kernels.device)
    dy = dy.sign() * dy.abs().clamp(0.5, 2)
    x, grid = numbers((1, 2, 5, 4), 2, device=kernels.device), 0.8 * numbers((1, 6, 7, 2), 3, device=kernels.device)
    plain, _ = kernels.backward(dy, x, grid)
    scaled, _ = kernels.backward(dy * 2.0**exponent, x, grid)
    if exponent > -126:  # else contributions are denormal, and lose what they had below 2^-149
        torch.testing.assert_close(scaled, plain * 2.0**exponent, rtol=0, atol=0)
    else:
        torch.testing.assert_close(scaled, plain * 2.0**exponent, rtol=0, atol=42 * 2.0**-149)


@pytest.mark.parametrize("value", [2.0**-149, 1e-42, 1e-38, 1e37, 3e38])
def test_one_extreme_bound(kernels: Kernels, value: float) -> None:
    dy = torch.tensor([[1.0, -1.0, 1.0], [0.0, 0.5, -0.5]]) * value
    if kernels.name == "triton" and kernels.device == "cuda" and value < 2**-126:
        pytest.skip("a GPU may take denormal numbers for 0")
    assert on_one_pixel(kernels, dy) == math.fsum(dy.flatten().tolist())


def test_extreme_bounds_of_float64(kernels: Kernels) -> None:
    for value in (2.0**-1022, 1e-300, 1e300, 2.0**1023):
        dy = torch.tensor([[1.0, -1.0, 1.0], [0.0, 0.5, -0.75]], dtype=torch.float64) * value
        assert on_one_pixel(kernels, dy) == math.fsum(dy.flatten().tolist())


@pytest.mark.parametrize("bound", [INF, NAN])
def test_without_a_bound_dx_is_nan(kernels: Kernels, bound: float) -> None:
    args = (
        numbers((2, 3, 4, 5), 1, device=kernels.device), numbers((2, 3, 6, 4), 2, device=kernels.device),
        numbers((2, 4, 5, 2), 3, device=kernels.device),
    )  # fmt: skip
    dx, dgrid = kernels.backward(*args, bound=bound)
    assert bool(dx.isnan().all())
    _, expected = kernels.backward(*args)
    assert torch.equal(dgrid, expected) and bool(dgrid.isfinite().all())
    _, d_x, _ = kernels.double_backward(None, numbers((2, 4, 5, 2), 4, device=kernels.device), *args, bound=bound)
    assert bool(d_x.isnan().all())


def test_bound_of_zero(kernels: Kernels) -> None:
    x, grid = numbers((1, 2, 6, 4), 2, device=kernels.device), numbers((1, 4, 5, 2), 3, device=kernels.device)
    dx, dgrid = kernels.backward(torch.zeros((1, 2, 4, 5), device=kernels.device), x, grid)
    assert torch.equal(dx, torch.zeros_like(x)) and torch.equal(dgrid, torch.zeros_like(grid))


# ---- samples without pixels -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [3, 16])
def test_nothing_outside_is_touched(kernels: Kernels, dtype: torch.dtype, channels: int) -> None:
    """Neither pixels nor cotangents get anywhere, though all of them are NaN."""
    far = [NAN, INF, -INF, 1e38, -1e38, 3e9, -3e9, 2.0**63, -(2.0**64), 1.5, -1.5]
    for fmt in (torch.contiguous_format, torch.channels_last):
        grid = torch.tensor([[a, b] for a in far for b in (*far, 0.0)] + [[0.0, b] for b in far], dtype=dtype)
        grid = grid.view(1, 1, -1, 2).to(kernels.device)
        x = torch.full((1, channels, 4, 5), NAN, dtype=dtype, device=kernels.device).to(memory_format=fmt)
        dy = torch.full((1, channels, 1, grid.shape[2]), NAN, dtype=dtype, device=kernels.device).to(memory_format=fmt)
        u_grid = torch.full_like(grid, INF)
        results = [kernels.forward(x, grid), *kernels.backward(dy, x, grid, bound=1.0)]
        results += kernels.double_backward(x, u_grid, dy, x, grid)
        results += [r for r in kernels.double_backward(x, None, dy, x, grid) if r is not None]
        assert all(torch.equal(r, torch.zeros_like(r)) for r in results)


# ---- how a problem is cut -------------------------------------------------------------------------------------------
CUTS = {
    "one_sample_many_channels": ((1, 600, 5, 4), (1, 1)),
    "few_samples_many_channels": ((1, 520, 4, 4), (3, 5)),
    "vectors_and_a_bit": ((2, 72, 3, 5), (4, 3)),
    "odd_channels": ((2, 37, 3, 5), (4, 3)),
    "few_channels": ((3, 4, 6, 5), (7, 9)),
    "large_output": ((1, 2, 7, 9), (60, 70)),
}


CHANNELS_LAST: dict[str, tuple[int, ...]] = {  # which of x (1), dy (2) and u_x (3)
    "nchw": (), "channels_last": (1, 2, 3), "all_but_x": (2, 3), "all_but_dy": (1, 3), "all_but_u": (1, 2),
}  # fmt: skip


def check(kernels: Kernels, x: Tensor, grid: Tensor, dy: Tensor, u_x: Tensor, u_grid: Tensor, bound: float) -> None:
    """Against the reference: everything together and each result alone, with both cotangents and with one."""
    assert_close(kernels.forward(x, grid), grid_sample_composed(x, grid), what="y")
    names, truth = ("dx", "dgrid"), backward_composed(dy, x, grid, [True, True])
    for mask in ((True, True), (True, False), (False, True)):
        for name, mine, right in zip(names, kernels.backward(dy, x, grid, None, mask), truth, strict=True):
            if mine is not None:
                assert_close(mine, right, what=f"{name} of {mask}")
    names, everything, alone = ("d_dy", "d_x", "d_grid"), (True, True, True), (True, False, False)
    requests = [((u_x, u_grid), mask) for mask in (everything, alone, (False, True, False), (False, False, True))]
    requests += [((u_x, None), everything), ((u_x, None), alone), ((None, u_grid), everything)]
    for cotangents, mask in requests:
        truth = double_backward_composed(*cotangents, dy, x, grid, [True, True, True])
        found = kernels.double_backward(*cotangents, dy, x, grid, bound, mask)
        for name, mine, right in zip(names, found, truth, strict=True):
            if mine is not None:
                assert_close(mine, right, what=f"{name} of {mask}")


@pytest.mark.parametrize("layouts", [*CHANNELS_LAST, "strided"])
@pytest.mark.parametrize("case", CUTS)
def test_every_cut(kernels: Kernels, case: str, layouts: str) -> None:
    """In float64, so that a number that is left out or taken twice cannot hide."""
    shape, out = CUTS[case]

    def image(size: tuple[int, int], seed: int) -> Tensor:
        t = numbers((*shape[:2], *size), seed, torch.float64, kernels.device)
        if layouts == "strided":
            wide = torch.full((t.shape[2], t.shape[0], t.shape[3] + 1, t.shape[1] + 3), NAN, dtype=t.dtype, device=t.device)
            return wide.permute(1, 3, 0, 2)[:, 1:-2, :, 1:].copy_(t)
        return t.contiguous(memory_format=torch.channels_last) if seed in CHANNELS_LAST[layouts] else t

    dy, u_grid = image(out, 2), numbers((shape[0], *out, 2), 4, torch.float64, kernels.device)
    grid = 0.7 * numbers((shape[0], *out, 2), 5, torch.float64, kernels.device)
    bound = float(dy.abs().max() * u_grid.abs().max()) * sum(shape[2:]) / 2
    check(kernels, image(shape[2:], 1), grid, dy, image(shape[2:], 3), u_grid, bound)


def test_a_grid_that_starts_between_pairs(kernels: Kernels) -> None:
    """Contiguous, but not aligned to two numbers: it cannot be read in pairs."""
    store = 0.7 * numbers((2, 4 * 5 * 2 + 1), 6, torch.float64, kernels.device)
    grid, u_grid = (row[1:].view(1, 4, 5, 2) for row in store)
    x, u_x = numbers((2, 1, 3, 6, 7), 7, torch.float64, kernels.device)
    dy = numbers((1, 3, 4, 5), 8, torch.float64, kernels.device)
    check(kernels, x, grid, dy, u_x, u_grid, float(dy.abs().max() * u_grid.abs().max()) * 13 / 2)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_offsets_beyond_2_31(kernels: Kernels, last: bool) -> None:
    """Images more than 2^31 elements apart, in memory that is reserved but hardly touched."""
    if kernels.device == "cuda" and torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    far, shape = 2**31 + 64, (2, 8, 3, 4)
    strides = (far, 1, 4 * 8, 8) if last else (far, 3 * 4, 4, 1)
    x, y = (torch.empty(far + 2000, dtype=torch.float16, device=kernels.device).as_strided(shape, strides) for _ in range(2))
    x.copy_(numbers(shape, 9))
    y.copy_(numbers(shape, 10))
    grid = 0.6 * numbers((2, 3, 4, 2), 11, device=kernels.device)
    _, dgrid = kernels.backward(y, x.clone(), grid)
    _, expected = kernels.backward(y.clone(), x.clone(), grid)
    torch.testing.assert_close(dgrid, expected, rtol=1e-5, atol=1e-5)
    expected = kernels.forward(x.clone(), grid)
    kernels._call("grid_sample", x, grid, y)
    torch.testing.assert_close(y.clone(), expected, rtol=0, atol=0)


@pytest.mark.skipif(INTERPRETED or HAS_GPU, reason="only the emulation can choose the order of threads")
def test_the_order_of_threads_changes_no_bit(kernels: Kernels) -> None:
    from cuda_emulation import harness

    x, dy = numbers((1, 6, 4, 4), 1), numbers((1, 6, 20, 30), 2)
    grid, u_grid = 0.4 * numbers((1, 20, 30, 2), 3), numbers((1, 20, 30, 2), 4)
    found = []
    try:
        for seed, threads in ((0, 1), (1, 1), (2, 1), (7, 2)):
            harness.set_order(seed, threads)
            found.append([*kernels.backward(dy, x, grid), *kernels.double_backward(x, u_grid, dy, x, grid, bound=100.0)])
    finally:
        harness.set_order()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("derivative, summed", [(False, False), (True, False), (True, True)])
def test_tiles_cover_everything_once(derivative: bool, summed: bool) -> None:
    for samples in (1, 24, 257, 4096, 10**6):
        for channels in (1, 2, 3, 4, 5, 8, 37, 64, 512, 1000):
            for size, vector in ((8, 0), (8, 2), (4, 0), (4, 1), (4, 4), (2, 0), (2, 1), (2, 4), (2, 8)):
                t = configs.tile(samples, channels, vector, size, derivative, summed)
                assert t.samples & (t.samples - 1) == 0 and t.channels & (t.channels - 1) == 0
                assert (t.tiles - 1) * t.samples < samples <= t.tiles * t.samples
                assert (t.chunks - 1) * t.steps * t.channels < channels <= t.chunks * t.steps * t.channels
                assert t.chunks == 1 or not summed
                assert 1 <= t.warps <= configs.GPU.warps


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")
def test_triton_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    slow = ("beyond", "many_channels", "large_output", "strided", "few_channels", "all_but")  # minutes, there
    command += ["-k", " and ".join(f"not {word}" for word in slow)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).resolve().parent.parent.parent
    run = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "failed" not in run.stdout
