"""filtered_lrelu on random arguments, against the reference in float64, and on bad ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankern import ops
from gankern.ops.filtered_lrelu.reference import filtered_lrelu_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def randn(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    shape = [draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 12))]
    if draw(st.booleans()):
        axis = draw(st.integers(0, 3))
        shape[axis] = draw(st.integers(0, 3)) if axis == 0 else draw(st.integers(0 if axis == 1 else 1, 40))

    def taps() -> tuple[int, ...] | None:
        kind = draw(st.sampled_from(["none", "separable", "typical", "full"]))
        if kind == "full":
            return draw(st.integers(1, 13)), draw(st.integers(1, 13))
        return {"none": None, "typical": (12,), "separable": (draw(st.integers(1, 30)),)}[kind]

    fu, fd = taps(), taps()
    up = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    pads = [draw(st.integers(-4, 9)) for _ in range(4)]
    for axis in (0, 1):  # one output pixel at least
        reach = sum(1 if f is None else f[-1 - axis if len(f) == 2 else 0] for f in (fu, fd)) - 1
        pads[2 * axis + 1] += max(0, reach - shape[3 - axis] * up[axis] - pads[2 * axis] - pads[2 * axis + 1])
    return {
        "shape": tuple(shape),
        "fu": fu,
        "fd": fd,
        "up": up if draw(st.booleans()) else [up[0]] * 2,
        "down": [draw(st.integers(1, 4)), draw(st.integers(1, 4))] if draw(st.booleans()) else [2, 2],
        "padding": pads,
        "bias": draw(st.booleans()),
        "gain": draw(st.sampled_from([2**0.5, 1.0, 0.3])),
        "slope": draw(st.sampled_from([0.2, 0.0, 1.0, 1.5])),
        "clamp": draw(st.sampled_from([None, 0.0, 0.5, 256.0])),
        "flip_filter": draw(st.booleans()),
        "layout": draw(st.sampled_from(["contiguous", "channels_last", "strided", "transposed"])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 1000)),
    }


def check_call(call: dict[str, Any]) -> None:
    """Forward in any type; in float64, where no rounding moves a number across a kink, also first and second derivatives."""
    dtype, shape, seed = call["dtype"], call["shape"], call["seed"]
    rest = {k: call[k] for k in ("up", "down", "padding", "gain", "slope", "clamp", "flip_filter")}
    up = rest["up"]
    for axis in (0, 1):  # the factors may have been made equal
        lengths = [1 if f is None else f[-1 - axis if len(f) == 2 else 0] for f in (call["fu"], call["fd"])]
        if shape[3 - axis] * up[axis] + sum(call["padding"][2 * axis : 2 * axis + 2]) < sum(lengths) - 1:
            return
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    filters = {n: None if call[n] is None else randn(*call[n], dtype=wide, seed=seed + i) for i, n in enumerate(("fu", "fd"))}
    b = randn(shape[1], dtype=dtype, seed=seed + 2) if call["bias"] else None
    x = randn(*shape, 2, dtype=dtype, seed=seed + 3)[..., 1]
    if call["layout"] == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    elif call["layout"] != "strided":
        last = call["layout"] == "channels_last"
        x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def run(function: Callable[..., Tensor], kind: torch.dtype | None) -> tuple[Tensor, list[Tensor]]:
        given = {"x": x, "b": b, **filters}
        given = {k: v if v is None or kind is None else v.to(kind) for k, v in given.items()}
        leaves = [given[k].detach().requires_grad_() for k in ("x", "b") if given[k] is not None]
        given.update(zip(("x", "b"), leaves, strict=False))
        y = function(**given, **rest)
        if dtype != torch.float64 or not y.numel():
            return y.detach(), []
        dy = randn(*y.shape, seed=seed + 4).requires_grad_()
        first = torch.autograd.grad(y, leaves, dy, create_graph=True)
        (second,) = torch.autograd.grad(sum(g.pow(2).sum() for g in first), dy)
        return y.detach(), [g.detach() for g in (*first, second)]

    y, grads = run(ops.filtered_lrelu, None)
    truth, right = run(filtered_lrelu_reference, torch.float64)
    assert y.dtype == dtype and y.shape == truth.shape
    if not y.numel():
        return
    eager = run(filtered_lrelu_reference, None)[0].double() if dtype.itemsize == 2 else truth
    # A sum's rounding is relative to the magnitudes of its terms.
    magnitudes = {k: None if v is None else v.double().abs() for k, v in filters.items()}
    positive = {**rest, "slope": max(1.0, rest["slope"]), "clamp": None}
    terms = filtered_lrelu_reference(x.double().abs(), b=None if b is None else b.double().abs(), **magnitudes, **positive)
    unit = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-6 + 2.0**-8, torch.float16: 1e-6 + 2.0**-11}[dtype]
    eager_error = (eager - truth).abs().nan_to_num(0).max()
    rounded = float(terms.max()) * min(unit, 1e-6) + float(truth.abs().max()) * unit + 2 * float(eager_error)
    error = float((y.double() - truth).abs().max())
    assert error <= rounded + (6e-8 if dtype == torch.float16 else 0), f"error {error:.3g}, allowed {rounded:.3g}"
    for result, expected in zip(grads, right, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-11 * float(expected.abs().max()))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_ten_thousand_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


# ---- bad input ----------------------------------------------------------------------------------------------------------
X, F = torch.zeros(2, 3, 4, 5), torch.ones(6)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("not a tensor", TypeError, r"x must be a torch\.Tensor \[N, C, H, W\], got list", {"x": [1.0]}),
    ("integers", TypeError, r"x must be float32, float64, bfloat16 or float16, got int64", {"x": X.long()}),
    ("3-D", ValueError, r"x must have 4 dimensions \[N, C, H, W\], got 3", {"x": X[0]}),
    ("no pixels", ValueError, r"x must have at least one pixel, got \[2, 3, 0, 5\]", {"x": X[:, :, :0]}),
    ("filter is a list", TypeError, r"fu must be a torch\.Tensor \[taps\] or .*, or None, got list", {"fu": [1.0]}),
    ("integer filter", TypeError, r"fd must have a floating-point dtype, got int64", {"fd": F.long()}),
    ("3-D filter", ValueError, r"fu must be \[taps\] or \[taps_y, taps_x\] .* got \[1, 1, 6\]", {"fu": F[None, None]}),
    ("empty filter", ValueError, r"fd must be .* with at least one tap, got \[0\]", {"fd": F[:0]}),
    ("filter elsewhere", ValueError, r"fd must be on the device of x \(cpu\), got meta", {"fd": F.to("meta")}),
    ("bias too long", ValueError, r"b must have shape \[C\] = \[3\].* got \[4\]", {"b": torch.zeros(4)}),
    ("bias 2-D", ValueError, r"b must have shape \[C\] = \[3\].* got \[3, 1\]", {"b": torch.zeros(3, 1)}),
    ("integer bias", TypeError, r"b must be a floating-point .* got dtype int64", {"b": torch.arange(3)}),
    ("bias elsewhere", ValueError, r"b must be on the device of x", {"b": torch.zeros(3, device="meta")}),
    ("up 0", ValueError, r"up must be at least 1, got 0", {"up": 0}),
    ("up a float", TypeError, r"up must be an int or \[x, y\], got 2\.0", {"up": 2.0}),
    ("down of three", ValueError, r"down must be an int or \[x, y\], got \[1, 1, 1\]", {"down": [1, 1, 1]}),
    ("down negative", ValueError, r"down must be at least 1, got \[1, -2\]", {"down": [1, -2]}),
    ("padding of three", ValueError, r"padding must be an int, \[x, y\] or \[x0, x1, y0, y1\]", {"padding": [1, 2, 3]}),
    ("gain 0", ValueError, r"gain must be positive, got 0\.0", {"gain": 0}),
    ("gain None", TypeError, r"gain must be a real number, got None", {"gain": None}),
    ("negative slope", ValueError, r"slope must not be negative, got -0\.1", {"slope": -0.1}),
    ("slope is NaN", ValueError, r"slope must be finite, got nan", {"slope": math.nan}),
    ("negative clamp", ValueError, r"clamp must not be negative \(None for no clamping\), got -1", {"clamp": -1}),
    ("clamp is infinite", ValueError, r"clamp must be finite, got inf", {"clamp": math.inf}),
    ("flip a number", TypeError, r"flip_filter must be a bool, got 1", {"flip_filter": 1}),
    (
        "filters too long",
        ValueError,
        r"no output pixel along y: 4 pixels \* up 2 \+ padding 1 \+ 1 is less than the 11 that the filters of 6 and 6 taps",
        {"fu": F, "fd": F, "up": 2, "padding": 1},
    ),
    ("cropped away", ValueError, r"no output pixel along x: 5 pixels \* up 1 \+ padding -3 \+ -2", {"padding": [-3, -2, 0, 0]}),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.filtered_lrelu, filtered_lrelu_reference], ids=["op", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="filtered_lrelu: .*" + message):
        function(**{"x": X, **change})
