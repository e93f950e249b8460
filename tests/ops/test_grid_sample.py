"""grid_sample against outside oracles (torch.nn.functional.grid_sample, finite differences, hand-computed values), what it
launches, awkward values and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import ops
from gankern.ops.grid_sample.reference import grid_sample_reference
from gankern.testing import assert_close
from gankern.testing.compare import RELATIVE

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]


def oracle(input: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def positions(n: int, height: int, width: int, spread: float = 1.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * (2 * torch.rand(n, height, width, 2, generator=generator, dtype=torch.float64) - 1)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between_pixels(grid: Tensor, height: int, width: int) -> Tensor:
    """``grid`` with every position at least 0.1 pixels from a pixel's centre, where the slope jumps."""
    size = torch.tensor([width, height], dtype=grid.dtype)
    position = ((grid + 1) * size - 1) / 2
    low = position.floor()
    return ((low + (position - low).clamp(0.1, 0.9)) * 2 + 1) / size - 1


# ---- outside oracles --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 9, 16, 33])
@pytest.mark.parametrize("channels_last", [False, True])
def test_against_torch(channels: int, channels_last: bool, backend: str) -> None:
    """Value and first derivatives, with samples inside, across the border and outside."""
    x = images(2, channels, 6, 9)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    grid = positions(2, 17, 19).requires_grad_()
    dy = images(2, channels, 17, 19, seed=2)
    with gankern.use_backend(backend):
        y = ops.grid_sample(x, grid)
        grads = torch.autograd.grad(y, (x, grid), dy)
    expected = oracle(x, grid)
    assert bool((expected == 0).any()) and bool((expected != 0).any())
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for result, truth in zip(grads, torch.autograd.grad(expected, (x, grid), dy), strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [ops.grid_sample, grid_sample_reference], ids=["op", "reference"])
@pytest.mark.parametrize("channels", [1, 3, 9])
def test_derivatives_by_finite_differences(function: Callable[..., Tensor], channels: int) -> None:
    n = 2 if channels < 9 else 1
    x = images(n, channels, 3, 4 if channels < 9 else 2).requires_grad_()
    grid = between_pixels(positions(n, 3, 2), *x.shape[2:]).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, grid))
    assert torch.autograd.gradgradcheck(function, (x, grid))


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    # The centres of the four pixels are at +-0.5; 0 is the middle of all, -1 the outer edge, half a pixel out.
    grid = torch.tensor([[[[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.0, 0.0], [-1.0, -0.5], [-1.0, -1.0], [-1.5, 0.0]]]])
    with gankern.use_backend(backend):
        y = ops.grid_sample(x, grid)
        assert y.tolist() == [[[[1.0, 2.0, 3.0, 2.5, 0.5, 0.25, 0.0]]]]
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.tolist() == [[[[1 + 0.25 + 0.5 + 0.25, 1.25], [1.25, 0.25]]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_slope_at_a_pixel_is_that_of_the_cell_after_it(backend: str) -> None:
    x = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    grid = torch.tensor([[[[-0.75, 0.0], [-0.25, 0.0], [0.25, 0.0], [0.75, 0.0]]]], requires_grad=True)
    with gankern.use_backend(backend):
        (dgrid,) = torch.autograd.grad(ops.grid_sample(x, grid).sum(), grid)
    assert dgrid[0, 0, :, 0].tolist() == [2 * 1.0, 2 * 2.0, 2 * 4.0, 2 * -8.0]  # two pixels to a unit of the grid


def test_penalty_through_an_augmentation() -> None:
    """R1 through augmentation: the penalty's gradient in image, angle and scale against differences of the penalty."""
    x = images(2, 3, 7, 6)
    weight = images(2, 3, 5, 5, seed=3)
    generator = torch.Generator().manual_seed(5)
    parameters = torch.rand(2, 2, generator=generator, dtype=torch.float64) * 0.6 + 0.7

    def penalty(x: Tensor, parameters: Tensor) -> Tensor:
        c, s = parameters[:, 1] * parameters[:, 0].cos(), parameters[:, 1] * parameters[:, 0].sin()
        theta = torch.stack((c, -s, 0 * c + 0.03, s, c, 0 * c - 0.07), 1).view(2, 2, 3)
        image = x if x.requires_grad else x.clone().requires_grad_()
        y = ops.grid_sample(image, F.affine_grid(theta, [2, 3, 5, 5], align_corners=False))
        (g,) = torch.autograd.grad((y.tanh() * weight).sum(), image, create_graph=True)
        return g.square().sum()

    leaves = (x.clone().requires_grad_(), parameters.clone().requires_grad_())
    first = torch.autograd.grad(penalty(*leaves), leaves)
    step = 1e-6
    for index, gradient in enumerate(first):
        values = [x, parameters]
        direction = images(*values[index].shape, seed=9)
        moved = []
        for sign in (1, -1):
            changed = list(values)
            changed[index] = values[index] + sign * step * direction
            moved.append(float(penalty(*changed).detach()))
        difference = (moved[0] - moved[1]) / (2 * step)
        assert abs(difference) > 1e-3
        torch.testing.assert_close(float((gradient * direction).sum()), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("channels", [2, 9])
def test_third_derivative(channels: int) -> None:
    x, grid = images(1, channels, 4, 5).requires_grad_(), positions(1, 3, 3, 0.8).requires_grad_()
    values = [function(x, grid).pow(4).sum() for function in (ops.grid_sample, grid_sample_reference)]
    for _ in range(3):
        grads = [torch.autograd.grad(value, (x, grid), create_graph=True) for value in values]
        for result, truth in zip(*grads, strict=True):
            torch.testing.assert_close(result, truth)
        values = [g_x.square().sum() + g_grid.pow(3).sum() for g_x, g_grid in grads]


# ---- what is launched -------------------------------------------------------------------------------------------------------
class Calls(TorchDispatchMode):
    """gankern's operators in order, with the masks they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "gankern":
            self.seen.append((func._schema.name.removeprefix("gankern::"), args[-1] if isinstance(args[-1], list) else None))
        return func(*args, **(kwargs or {}))


def test_only_what_is_needed_is_computed() -> None:
    x, grid = images(1, 2, 4, 5).requires_grad_(), positions(1, 3, 3).requires_grad_()
    for leaf, mask in ((x, [True, False]), (grid, [False, True])):
        with Calls() as calls:
            torch.autograd.grad(ops.grid_sample(x, grid).sum(), leaf)
        assert calls.seen == [("grid_sample", None), ("grid_sample_backward", mask)]
    dy = images(1, 2, 3, 3).requires_grad_()
    with Calls() as calls:  # R1: the image's gradient, and of it the gradient in what comes after
        (dx,) = torch.autograd.grad(ops.grid_sample(x, grid.detach()), x, dy, create_graph=True)
        torch.autograd.grad(dx.square().sum(), dy)
    assert [mask for _, mask in calls.seen] == [None, [True, False], [True, False, False]]


def test_outputs_that_are_not_wanted_are_empty() -> None:
    x, grid, dy = images(1, 2, 4, 5), positions(1, 3, 3), images(1, 2, 3, 3)
    for i in range(2):
        outputs = torch.ops.gankern.grid_sample_backward(dy, x, grid, [k == i for k in range(2)])
        assert [o.numel() > 0 for o in outputs] == [k == i for k in range(2)]
    for i in range(3):
        mask = [k == i for k in range(3)]
        outputs = torch.ops.gankern.grid_sample_double_backward(x, grid, dy, x, grid, mask)
        assert [o.numel() > 0 for o in outputs] == mask


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given", ["u_x", "u_grid"])
def test_one_cotangent_at_a_time(given: str, backend: str) -> None:
    x, grid, dy = images(2, 3, 4, 5), positions(2, 3, 3), images(2, 3, 3, 3)
    u_x, u_grid = (images(2, 3, 4, 5, seed=7), None) if given == "u_x" else (None, positions(2, 3, 3, seed=8))
    leaves = [t.clone().requires_grad_() for t in (dy, x, grid)]
    first = torch.autograd.grad(grid_sample_reference(*leaves[1:]), leaves[1:], leaves[0], create_graph=True)
    inner = (first[0] * u_x).sum() if u_x is not None else (first[1] * u_grid).sum()
    truths = torch.autograd.grad(inner, leaves, allow_unused=True)
    with gankern.use_backend(backend):
        results = torch.ops.gankern.grid_sample_double_backward(u_x, u_grid, dy, x, grid, [True] * 3)
    for result, truth in zip(results, truths, strict=True):
        torch.testing.assert_close(result, torch.zeros_like(result) if truth is None else truth)


# ---- awkward values -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 20])
def test_grid_of_nan_and_infinity(channels: int, dtype: torch.dtype, backend: str) -> None:
    """Such samples are outside: value and gradients 0, and nothing of them reaches another."""
    x = images(1, channels, 5, 6).to(dtype).requires_grad_()
    grid = positions(1, 4, 7, 0.9).to(torch.float64 if dtype == torch.float64 else torch.float32)
    clean = grid.clone()
    bad = torch.zeros(1, 4, 7, dtype=torch.bool)
    for i, (axis, value) in enumerate([(0, math.nan), (1, math.inf), (0, -math.inf), (1, math.nan), (0, 1e30), (1, -3e38)]):
        grid[0, i % 4, i, axis] = value
        bad[0, i % 4, i] = True
    clean[bad] = 5.0  # outside
    results = []
    with gankern.use_backend(backend):
        for g in (grid.requires_grad_(), clean.requires_grad_()):
            y = ops.grid_sample(x, g)
            dx, dgrid = torch.autograd.grad(y.square().sum(), (x, g), create_graph=True)
            results.append((y, dx, dgrid, *torch.autograd.grad(dx.square().sum() + dgrid.square().sum(), (x, g))))
    y, _, dgrid, _, d_grid = results[0]
    assert not y[0, :, bad[0]].any() and not dgrid[bad].any() and not d_grid[bad].any()
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected) and bool(expected.any())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_a_pixel_that_is_not_touched_does_not_matter(channels: int, backend: str) -> None:
    """NaN beside the four pixels of a sample, also beside those at the border that lie next to it in memory."""
    x = torch.full((1, channels, 5, 5), math.nan)
    x[..., :2, :2] = 1
    x[..., 4, 4] = 2
    grid = torch.tensor([[[[-0.7, -0.7], [-0.9, -0.9], [0.95, 0.9]]]])
    with gankern.use_backend(backend):
        y = ops.grid_sample(x, grid)
    torch.testing.assert_close(y, oracle(x, grid))
    assert bool(torch.isfinite(y[..., :2]).all())
    assert bool(torch.isfinite(y[..., 2]).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_input_with_a_float32_grid(dtype: torch.dtype, backend: str) -> None:
    """Positions stay in float32: a half type could not tell these samples apart."""
    x = images(1, 3, 4, 256).to(dtype).requires_grad_()
    grid = torch.zeros(1, 1, 64, 2)
    grid[..., 0] = 0.9 + torch.arange(64) * 1e-4
    grid.requires_grad_()
    with gankern.use_backend(backend):
        y = ops.grid_sample(x, grid)
        dx, dgrid = torch.autograd.grad(y.float().sum(), (x, grid))
    assert y.dtype == dtype and dx.dtype == dtype and dgrid.dtype == torch.float32
    wide_x, wide_grid = x.detach().double().requires_grad_(), grid.detach().double().requires_grad_()
    truth = oracle(wide_x, wide_grid)
    assert_close(y, truth, truth.to(dtype))
    true_dx, true_dgrid = torch.autograd.grad(truth.sum(), (wide_x, wide_grid))
    assert_close(dx, true_dx, true_dx.to(dtype))
    # Not the slope's own error, but that of the position, which the mixed derivative carries into dgrid: 256 * eps.
    torch.testing.assert_close(dgrid.double(), true_dgrid, rtol=0, atol=1e-4 * float(true_dgrid.abs().max()))


@pytest.mark.parametrize("dtype", HALF)
def test_grid_of_the_inputs_half_type(dtype: torch.dtype) -> None:
    x = images(2, 3, 5, 6).to(dtype)
    grid = positions(2, 4, 4).to(dtype).requires_grad_()
    y = ops.grid_sample(x, grid)
    assert torch.equal(y, ops.grid_sample(x, grid.float()))
    (dgrid,) = torch.autograd.grad(y.float().sum(), grid)
    assert dgrid.dtype == dtype


def test_float64_input_with_a_float32_grid() -> None:
    x, grid = images(1, 2, 4, 4), positions(1, 3, 3).float().requires_grad_()
    y = ops.grid_sample(x, grid)
    assert torch.equal(y, ops.grid_sample(x, grid.double()))
    (dgrid,) = torch.autograd.grad(y.sum(), grid)
    assert dgrid.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 40])
@pytest.mark.parametrize("channels_last", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(channels: int, dtype: torch.dtype, channels_last: bool) -> None:
    x = images(3, channels, 24, 31).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    grid = positions(3, 40, 41).to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.grid_sample(x, grid)
            dx, dgrid = torch.autograd.grad(y.square().sum(), (x, grid), create_graph=True)
            penalty = dx.square().sum() + 1e-4 * dgrid.square().sum()  # within what float16 can hold
            results.append((y, dx, dgrid, *torch.autograd.grad(penalty, (x, grid))))
    finally:
        torch.set_num_threads(threads)
    assert all(bool(torch.isfinite(t).all()) for t in results[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", [(2, 3, 5, 1), (2, 3, 1, 5), (2, 1, 1, 5), (1, 16, 5, 1), (2, 20, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_one_row_or_column(shape: tuple[int, int, int, int], channels_last: bool) -> None:
    for dtype in (torch.float64, torch.float32):
        x = images(*shape).to(dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        wide = torch.stack((x, x), 4)[..., 0].requires_grad_()  # rows with gaps
        for candidate in (x.requires_grad_(), wide):
            grid = positions(shape[0], 6, 5).to(dtype)
            y = ops.grid_sample(candidate, grid)
            (dx,) = torch.autograd.grad(y.square().sum(), candidate)
            torch.testing.assert_close(y, oracle(candidate, grid))
            torch.testing.assert_close(dx, torch.autograd.grad(oracle(candidate, grid).square().sum(), candidate)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 32])
def test_cotangents_of_other_layouts(channels: int, backend: str) -> None:
    """dy expanded, transposed, sliced or in the other memory format; results have the layout of the input."""
    makes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.mean((0, 2, 3), keepdim=True).expand(t.shape),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.stack((t, -t), 4)[..., 0],
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t,
    ]
    for channels_last in (False, True):
        x = images(2, channels, 6, 7)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x.requires_grad_()
        grid = positions(2, 5, 8).requires_grad_()
        for make in makes:
            dy = make(images(2, channels, 5, 8, seed=4))
            with gankern.use_backend(backend):
                y = ops.grid_sample(x, grid)
                grads = torch.autograd.grad(y, (x, grid), dy)
            assert y.is_contiguous(memory_format=layout) and grads[0].is_contiguous(memory_format=layout)
            for result, truth in zip(grads, torch.autograd.grad(oracle(x, grid), (x, grid), dy), strict=True):
                torch.testing.assert_close(result, truth)


def test_autocast_changes_nothing() -> None:
    x, grid = images(1, 3, 5, 5).float(), positions(1, 4, 4).float()
    expected = ops.grid_sample(x, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.grid_sample(x, grid), expected)
        assert ops.grid_sample(x.bfloat16(), grid).dtype == torch.bfloat16


@pytest.mark.slow
@NATIVE
@pytest.mark.parametrize("channels, side, layout", [(3, 30_000, torch.contiguous_format), (16, 12_000, torch.channels_last)])
def test_more_than_2_31_elements(channels: int, side: int, layout: torch.memory_format) -> None:
    """Of a fresh allocation only the pages that are touched take memory, and the kernels read four pixels in place."""
    x = torch.empty(1, channels, side, side, memory_format=layout)
    assert x.numel() > 2**31
    x[0, :, -2:, -2:] = 0
    x[0, -1, -1, -1] = 3
    grid = torch.full((1, 1, 1, 2), 1 - 2 / side, requires_grad=True)  # near the middle of the last four pixels
    y = ops.grid_sample(x, grid)
    (dgrid,) = torch.autograd.grad(y[0, -1].sum(), grid)
    part = (1 - 2 / side) * side / 2 + (side - 1) / 2 - (side - 2)
    assert not y[0, :-1].any()
    torch.testing.assert_close(float(y[0, -1].detach()), 3 * part**2, rtol=0.05, atol=0)  # the position: 2^-9 pixels
    torch.testing.assert_close(dgrid.flatten().tolist(), [3 * part * side / 2] * 2, rtol=0.05, atol=0)


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    return {
        "n": draw(st.integers(1, 3)),
        "channels": draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 64, 70])),
        "size": draw(st.tuples(st.integers(1, 8), st.integers(1, 8))),
        "out": draw(st.tuples(st.integers(1, 20), st.integers(1, 40))),
        "spread": draw(st.sampled_from([0.5, 1.0, 1.5, 5.0])),
        "layouts": [draw(st.sampled_from(["contiguous", "channels_last", "strided"])) for _ in range(3)],
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "seed": draw(st.integers(0, 1000)),
    }


def laid_out(t: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last)
    return torch.stack((t, t), 4)[..., 1] if layout == "strided" else t


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_arguments(call: dict[str, Any]) -> None:
    """First and second derivatives of what dispatch takes, with every tensor in a layout of its own, against the reference."""
    dtype, shape = call["dtype"], (call["n"], call["channels"], *call["size"])
    x, u_x = images(*shape, seed=call["seed"]), images(*shape, seed=call["seed"] + 1)
    dy = images(*shape[:2], *call["out"], seed=call["seed"] + 2)
    grid = between_pixels(positions(call["n"], *call["out"], call["spread"], call["seed"]), *call["size"])
    u_grid = positions(call["n"], *call["out"], 1.0, call["seed"] + 3)
    x, dy, u_x, grid, u_grid = (t.to(dtype) for t in (x, dy, u_x, grid, u_grid))
    x, dy, u_x = (laid_out(t, layout) for t, layout in zip((x, dy, u_x), call["layouts"], strict=True))

    def run(function: Callable[..., Tensor], wide: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if wide else t).detach().requires_grad_() for t in (dy, x, grid)]
        cotangents = [t.to(leaves[0].dtype) for t in (u_x, u_grid)]
        y = function(*leaves[1:])
        first = torch.autograd.grad(y, leaves[1:], leaves[0], create_graph=True)
        return (y, *first, *torch.autograd.grad(first, leaves, cotangents))

    # Largest terms of the six sums: rounding does not get smaller where they cancel, or where weights are small. Twice the
    # relative error that kernels are held to: as much again comes from the position, which is off by up to 2^-21 pixels.
    half, root = max(call["size"]) / 2, call["channels"] ** 0.5
    a, b, c, d = (float(t.abs().max()) for t in (x, dy, u_x, u_grid))
    along = 2 * half * d
    terms = [a, b, root * b * a * half, c + along * a, along * b, root * b * half * (c + along * a)]
    names = ("y", "dx", "dgrid", "d_dy", "d_x", "d_grid")
    results, truths = run(ops.grid_sample, False), run(grid_sample_reference, True)
    for name, term, result, truth in zip(names, terms, results, truths, strict=True):
        assert result.shape == truth.shape and result.dtype == dtype
        summed = max(1.0, dy.numel() / truth.numel()) ** 0.5  # samples that meet in a pixel
        error = float((result - truth).detach().abs().max())
        assert error <= 2 * RELATIVE[dtype] * summed * max(term, float(truth.detach().abs().max())), f"{name}: {error}"


# ---- bad input ----------------------------------------------------------------------------------------------------------
X, G = torch.zeros(2, 3, 4, 5), torch.zeros(2, 6, 7, 2)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("input is a list", TypeError, r"input must be a torch\.Tensor \[N, C, H, W\], got list", {"input": [1.0]}),
    ("input 3-D", ValueError, r"input must have 4 dimensions \[N, C, H, W\], got 3", {"input": X[0]}),
    ("input 5-D", ValueError, r"input must have 4 dimensions .* got 5", {"input": X[None]}),
    ("integer input", TypeError, r"input must be float32, float64, bfloat16 or float16, got int64", {"input": X.long()}),
    ("no rows", ValueError, r"input must have at least one pixel, got \[2, 3, 0, 5\]", {"input": X[:, :, :0]}),
    ("no columns", ValueError, r"input must have at least one pixel, got \[2, 3, 4, 0\]", {"input": X[..., :0]}),
    (
        "a side of 2^31",
        ValueError,
        r"input must have fewer than 2\*\*31 pixels along an axis",
        {"input": torch.zeros(1, 1, 1, 1).expand(2, 3, 1, 2**31)},
    ),
    ("grid is a number", TypeError, r"grid must be a torch\.Tensor \[N, H_out, W_out, 2\], got float", {"grid": 1.0}),
    ("integer grid", TypeError, r"grid must be float32 for an input of float32, got int64", {"grid": G.long()}),
    ("float64 grid", TypeError, r"grid must be float32 for an input of float32, got float64", {"grid": G.double()}),
    (
        "another half type",
        TypeError,
        r"grid must be bfloat16 or float32 for an input of bfloat16, got float16",
        {"input": X.bfloat16(), "grid": G.half()},
    ),
    ("grid 3-D", ValueError, r"grid must have shape \[N, H_out, W_out, 2\], got \[6, 7, 2\]", {"grid": G[0]}),
    ("three coordinates", ValueError, r"grid must have shape .* got \[2, 6, 7, 3\]", {"grid": torch.zeros(2, 6, 7, 3)}),
    ("another batch", ValueError, r"grid must have the batch size of input \(2\), got 1", {"grid": G[:1]}),
    ("grid elsewhere", ValueError, r"grid must be on the device of input \(cpu\), got meta", {"grid": G.to("meta")}),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.grid_sample, grid_sample_reference], ids=["op", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="grid_sample: " + message):
        function(**{"input": X, "grid": G, **change})
