"""upfirdn2d against outside oracles (scipy, hand-computed values), its bad input, and random arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gankern
from gankern import ops
from gankern._samples import DTYPES
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference
from gankern.testing import assert_close

scipy_signal = pytest.importorskip("scipy.signal", reason="scipy is the outside oracle")
BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels"))]


# ---- outside oracles --------------------------------------------------------------------------------------------------
def by_scipy(x: np.ndarray, taps_y: np.ndarray, taps_x: np.ndarray, up: tuple[int, int], down: tuple[int, int]) -> np.ndarray:
    """scipy.signal.upfirdn along both axes: convolution with full padding, starting at the first tap on the first pixel."""
    rows = scipy_signal.upfirdn(taps_x, x, up[0], down[0], axis=-1)
    return scipy_signal.upfirdn(taps_y, rows, up[1], down[1], axis=-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("up", [(1, 1), (2, 2), (3, 1), (4, 5)])
@pytest.mark.parametrize("down", [(1, 1), (2, 2), (1, 3), (5, 2)])
@pytest.mark.parametrize("taps", [(1, 1), (4, 4), (12, 12), (3, 6)])
def test_against_scipy(up: tuple[int, int], down: tuple[int, int], taps: tuple[int, int], backend: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 9, 14))
    taps_y, taps_x = rng.standard_normal(taps[0]), rng.standard_normal(taps[1])
    expected = by_scipy(x, taps_y, taps_x, up, down)
    # scipy stops at the last input pixel times the taps: it has no zeros behind the last pixel.
    padding = [taps[1] - 1, taps[1] - up[0], taps[0] - 1, taps[0] - up[1]]
    f = torch.from_numpy(np.outer(taps_y, taps_x))
    with gankern.use_backend(backend):
        y = ops.upfirdn2d(torch.from_numpy(x), f, up=up, down=down, padding=padding)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_separable_filter_against_scipy(backend: str) -> None:
    rng = np.random.default_rng(1)
    x, taps = rng.standard_normal((1, 2, 21, 17)), rng.standard_normal(12)
    expected = by_scipy(x, taps, taps, (2, 2), (3, 3))
    with gankern.use_backend(backend):
        y = ops.upfirdn2d(torch.from_numpy(x), torch.from_numpy(taps), up=2, down=3, padding=[11, 10, 11, 10])
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    f = torch.tensor([[1.0, 10.0]])
    with gankern.use_backend(backend):
        # Convolution reverses the taps: y[o] = 10 x[o] + 1 x[o + 1].
        assert ops.upfirdn2d(x, f).tolist() == [[[[12.0], [34.0]]]]
        assert ops.upfirdn2d(x, f, flip_filter=True).tolist() == [[[[21.0], [43.0]]]]
        assert ops.upfirdn2d(x, None, up=2).tolist() == [[[[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]]]
        assert ops.upfirdn2d(x, None, down=2, gain=3).tolist() == [[[[3.0]]]]
        assert ops.upfirdn2d(x, None, padding=[-1, 0, 0, 1]).tolist() == [[[[2.0], [4.0], [0.0]]]]
        assert ops.upfirdn2d(x, f.T.contiguous(), padding=[0, 0, 1, 0]).tolist() == [[[[1.0, 2.0], [13.0, 24.0]]]]


def test_upsampling_keeps_a_constant_image() -> None:
    f = ops.setup_filter([1, 3, 3, 1])
    y = ops.upsample2d(torch.ones(1, 1, 8, 8), f)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(ops.downsample2d(torch.ones(1, 1, 8, 8), f)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


def test_resampling_functions_have_the_documented_sizes() -> None:
    x = torch.randn(1, 2, 12, 18)
    for taps in range(1, 8):
        f = ops.setup_filter([1.0] * taps)
        assert ops.filter2d(x, f).shape == x.shape
        assert ops.upsample2d(x, f, up=[3, 2], padding=[1, 0, 2, 0]).shape == (1, 2, 26, 55)
        assert ops.downsample2d(x, f, down=[3, 2]).shape == (1, 2, 6, 6)


def test_against_torch_interpolation() -> None:
    """Bilinear upsampling by 2 is the filter [1, 3, 3, 1] / 4 (scale 2), away from the border."""
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    f = ops.setup_filter([1, 3, 3, 1]).double()
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ops.upsample2d(x, f)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_setup_filter() -> None:
    f = ops.setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4) and f.dtype == torch.float32
    torch.testing.assert_close(f * 64, torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])))
    assert ops.setup_filter([1.0] * 8).shape == (8,)
    assert ops.setup_filter([1.0] * 8, separable=False).shape == (8, 8)
    assert ops.setup_filter(None).tolist() == [[1.0]]
    assert ops.setup_filter(2.0, normalize=False).tolist() == [[4.0]]
    torch.testing.assert_close(ops.setup_filter([1, 2], flip_filter=True, separable=True), torch.tensor([2 / 3, 1 / 3]))
    # The gain is that of the 2-D filter: a separable one acts twice.
    torch.testing.assert_close(ops.setup_filter([1, 1], gain=4, separable=True), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(ops.setup_filter([1, 1], gain=4), torch.ones(2, 2))
    torch.testing.assert_close(ops.setup_filter(torch.ones(2, 3)), torch.full((2, 3), 1 / 6))


# ---- derivatives ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("taps", [(3, 4), (4,)])
def test_filter_gradient_by_finite_differences(taps: tuple[int, ...]) -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    f = torch.randn(taps, dtype=torch.float64, requires_grad=True)

    def function(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return ops.upfirdn2d(x, f, up=[2, 1], down=[1, 2], padding=[3, 2, 1, 2], gain=1.5)

    assert torch.autograd.gradcheck(function, (x, f))
    assert torch.autograd.gradgradcheck(function, (x, f))


def test_third_derivative() -> None:
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    f = ops.setup_filter([1, 2, 1]).double()
    value = ops.filter2d(x, f).pow(4).sum()
    expected = upfirdn2d_reference(x, f, padding=1).pow(4).sum()
    for _ in range(3):
        (value,) = torch.autograd.grad(value, x, create_graph=True)
        (expected,) = torch.autograd.grad(expected, x, create_graph=True)
        torch.testing.assert_close(value, expected)
        value, expected = value.square().sum(), expected.square().sum()


def test_nothing_is_saved_or_computed_that_is_not_needed() -> None:
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    f = ops.setup_filter([1, 1])
    y = ops.upfirdn2d(x, f)
    assert not any(t is x for t in y.grad_fn.saved_tensors if t is not None)
    dead = torch.randn(1, 1, 4, 4)
    assert not ops.upfirdn2d(dead, f).requires_grad
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert not g.requires_grad  # linear: the gradient does not depend on x


# ---- every backend on awkward values ------------------------------------------------------------------------------------
@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels (PyTorch's own convolution smears NaN in bfloat16)")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nan_and_infinity_stay_where_they_are(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 1, 40, 40, dtype=dtype)
    x[0, 0, 20, 20] = float("nan")
    x[0, 0, 5, 5] = float("inf")
    y = ops.filter2d(x, torch.ones(3, 3))
    bad = ~torch.isfinite(y[0, 0])
    rows, columns = torch.nonzero(bad, as_tuple=True)
    expected = {(r, c) for r in (4, 5, 6) for c in (4, 5, 6)} | {(r, c) for r in (19, 20, 21) for c in (19, 20, 21)}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert torch.isinf(y[0, 0, 5, 5]) and torch.isnan(y[0, 0, 20, 20])


@pytest.mark.skipif(
    not gankern.NATIVE.cpu, reason="no native CPU kernels (PyTorch's own convolution takes half-precision taps)"
)
def test_half_results_are_rounded_once() -> None:
    """Half types accumulate in float32 and round to nearest at the end."""
    x = torch.randn(1, 4, 33, 47).to(torch.bfloat16)
    f = torch.randn(5, 5)
    exact = upfirdn2d_reference(x.double(), f.double())
    result = ops.upfirdn2d(x, f)
    error = (result.double() - exact).abs() / exact.abs().clamp_min(1e-3)
    assert float(error.max()) <= 2**-8 + 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
def test_more_than_2_31_elements() -> None:
    width = 1 << 16
    x = torch.zeros(1, 1, (1 << 15) + 2, width, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[0, 0, -1, -1] = 1
    x[0, 0, 0, 0] = 2
    y = ops.upfirdn2d(x, torch.tensor([[1.0, 2.0]]), padding=[1, 0, 0, 0])
    assert y.shape == x.shape
    assert float(y[0, 0, -1, -1]) == 1 and float(y[0, 0, 0, 0]) == 2 and float(y[0, 0, 0, 1]) == 4
    assert int(torch.count_nonzero(y)) == 3  # not (y != 0).sum(), which makes an int64 of every element


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    taps = draw(st.one_of(st.none(), st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 7), st.integers(1, 7))))
    up = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    down = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 70))
    taps_x, taps_y = (1, 1) if taps is None else (taps[-1], taps[0])
    padding = []
    for size, factor, k in ((width, up[0], taps_x), (height, up[1], taps_y)):
        before = draw(st.integers(-6, 9))
        least = max(k - size * factor - before, -6)
        padding += [before, draw(st.integers(least, max(least, 9)))]
    return {
        "shape": (draw(st.integers(0, 3)), draw(st.integers(1, 20)), height, width),
        "taps": taps,
        "up": up,
        "down": down,
        "padding": padding,
        "flip_filter": draw(st.booleans()),
        "gain": draw(st.sampled_from([1.0, -2.5, 0.125])),
        # Without kernels PyTorch's own convolution runs, which rounds taps and sums to the half types.
        "dtype": draw(st.sampled_from(list(DTYPES if gankern.NATIVE.cpu else DTYPES[:2]))),
        "channels_last": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


def check_call(call: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(call["seed"])
    x = torch.randn(call["shape"], generator=generator, dtype=torch.float64).to(call["dtype"])
    if call["channels_last"]:
        x = x.contiguous(memory_format=torch.channels_last)
    f = None if call["taps"] is None else torch.randn(call["taps"], generator=generator)
    rest = {k: call[k] for k in ("up", "down", "padding", "flip_filter", "gain")}
    truth = upfirdn2d_reference(x.double(), None if f is None else f.double(), **rest)
    # The scale of rounding errors is the sum of magnitudes, which cancellation cannot reduce.
    bound = upfirdn2d_reference(
        x.double().abs(), None if f is None else f.double().abs(), **{**rest, "gain": abs(rest["gain"])}
    )
    result = ops.upfirdn2d(x, f, **rest)
    assert result.shape == truth.shape and result.dtype == x.dtype
    if result.numel():
        unit = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-11}[call["dtype"]]
        smallest = 2.0**-24 if call["dtype"] == torch.float16 else 0.0  # half of float16's smallest step
        excess = (result.double() - truth).abs() - (bound * unit + smallest)
        assert float(excess.max()) <= 1e-30


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_ten_thousand_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


# ---- bad input ----------------------------------------------------------------------------------------------------------
X = torch.zeros(1, 2, 5, 6)
F = torch.ones(3, 3)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("not a tensor", TypeError, r"x must be a torch\.Tensor \[N, C, H, W\], got list", {"x": [1.0]}),
    ("three dimensions", ValueError, r"x must have 4 dimensions \[N, C, H, W\], got 3: \[2, 5, 6\]", {"x": X[0]}),
    ("integer images", TypeError, r"x must be float32, float64, bfloat16 or float16, got int64", {"x": X.long()}),
    ("complex images", TypeError, r"x must be .* got complex64", {"x": X.to(torch.complex64)}),
    ("no pixels", ValueError, r"x must have at least one pixel, got \[1, 2, 0, 6\]", {"x": X[:, :, :0]}),
    ("list as filter", TypeError, r"f must be a torch\.Tensor .* got list", {"f": [1.0, 2.0]}),
    ("integer filter", TypeError, r"f must have a floating-point dtype, got int64", {"f": torch.ones(3, dtype=torch.int64)}),
    ("3-D filter", ValueError, r"f must be \[taps\] or \[taps_y, taps_x\].*got \[1, 3, 3\]", {"f": F[None]}),
    ("empty filter", ValueError, r"f must be .* at least one tap, got \[0\]", {"f": torch.ones(0)}),
    ("filter elsewhere", ValueError, r"f must be on the device of x \(cpu\), got meta", {"f": F.to("meta")}),
    ("zero up", ValueError, r"up must be at least 1, got 0", {"up": 0}),
    ("negative down", ValueError, r"down must be at least 1, got \[2, -1\]", {"down": [2, -1]}),
    ("float factor", TypeError, r"up must be an int or \[x, y\], got 2\.0", {"up": 2.0}),
    ("bool factor", TypeError, r"up must be an int or \[x, y\], got True", {"up": True}),
    ("three factors", ValueError, r"down must be an int or \[x, y\], got \[1, 2, 3\]", {"down": [1, 2, 3]}),
    (
        "three paddings",
        ValueError,
        r"padding must be an int, \[x, y\] or \[x0, x1, y0, y1\], got \[1, 2, 3\]",
        {"padding": [1, 2, 3]},
    ),
    ("float padding", ValueError, r"padding must be .* got \[1\.5, 0\]", {"padding": [1.5, 0]}),
    (
        "no pixel left",
        ValueError,
        r"padding leaves no output pixel along y: 5 pixels \* up 1 \+ padding -3 \+ 0",
        {"padding": [0, 0, -3, 0]},
    ),
    (
        "filter too wide",
        ValueError,
        r"padding leaves no output pixel along x: 6 .*less than the filter's 9 taps",
        {"f": torch.ones(1, 9)},
    ),
    ("flip is no bool", TypeError, r"flip_filter must be a bool, got 1", {"flip_filter": 1}),
    ("gain is no number", TypeError, r"gain must be a real number, got '2'", {"gain": "2"}),
    ("gain is NaN", ValueError, r"gain must be finite, got nan", {"gain": math.nan}),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.upfirdn2d, upfirdn2d_reference], ids=["op", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="upfirdn2d: " + message):
        function(**{"x": X, "f": F, **change})


@pytest.mark.parametrize(
    "kind, message, arguments",
    [
        (TypeError, "setup_filter: f must hold numbers", {"f": "abc"}),
        (ValueError, r"setup_filter: f must be \[taps\].* got \[1, 1, 1\]", {"f": [[[1.0]]]}),
        (ValueError, r"setup_filter: f must be .* got \[0\]", {"f": []}),
        (ValueError, "sum other than 0", {"f": [1.0, -1.0]}),
        (ValueError, "separable=True takes 1-D taps", {"f": [[1.0, 2.0]], "separable": True}),
        (ValueError, "must not be negative", {"f": [1.0, 2.0], "separable": True, "gain": -1}),
    ],
)
def test_setup_filter_bad_input(kind: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(kind, match=message):
        ops.setup_filter(**arguments)


def test_resampling_functions_name_themselves() -> None:
    with pytest.raises(ValueError, match="upsample2d: up must be at least 1"):
        ops.upsample2d(X, F, up=0)
    with pytest.raises(ValueError, match="downsample2d: down must be"):
        ops.downsample2d(X, F, down=[1, 2, 3])
    with pytest.raises(TypeError, match="filter2d: f must be"):
        ops.filter2d(X, 3)


def test_close_helper_can_fail() -> None:
    with pytest.raises(AssertionError, match="error"):
        assert_close(torch.ones(3), torch.ones(3, dtype=torch.float64) + 1e-4)
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(torch.tensor([math.nan]), torch.ones(1, dtype=torch.float64))
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(3), torch.ones(2, dtype=torch.float64))
