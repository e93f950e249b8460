"""conv2d_resample: against scipy in float64, every path of its plan, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern.ops import conv2d_resample, setup_filter
from gankern.testing import assert_close


def by_scipy(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    flip_weight: bool,
    flip: bool,
) -> Tensor:
    """The definition, one plane at a time; ``padding`` (x0, x1, y0, y1) is the user's."""
    taps = np.ones((1, 1)) if f is None else f.double().numpy()
    taps = np.outer(taps, taps) if taps.ndim == 1 else taps
    x0, x1, y0, y1 = padding
    fh, fw = taps.shape
    if up > 1:
        x0, x1, y0, y1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2, y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1, y0, y1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2, y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2

    def filtered(plane: Any, gain: float) -> Any:
        function = scipy.signal.correlate2d if flip else scipy.signal.convolve2d
        return function(plane, taps * gain, mode="valid")

    images = []
    for image in x.detach().numpy():
        planes = []
        for plane in image:
            spread = np.zeros((plane.shape[0] * up, plane.shape[1] * up))
            spread[::up, ::up] = plane
            spread = np.pad(spread, [(max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
            h, v = spread.shape[1], spread.shape[0]
            spread = spread[max(-y0, 0) : v - max(-y1, 0), max(-x0, 0) : h - max(-x1, 0)]
            planes.append(filtered(spread, up**2) if up > 1 else spread)
        outputs = []
        for kernels in w.detach().numpy():
            function = scipy.signal.correlate2d if flip_weight else scipy.signal.convolve2d
            y = sum(function(p, k, mode="valid") for p, k in zip(planes, kernels, strict=True))
            outputs.append(filtered(y, 1)[::down, ::down] if down > 1 else y)
        images.append(np.stack(outputs))
    return torch.from_numpy(np.stack(images))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_is_the_definition(data: Any) -> None:
    """Values by scipy; gradients by the reference, whose values are scipy's as well."""
    up, down = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (4, 2)]))
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (4, 1)]))
    filters: list[Any] = [None, [1.0, 3, 3, 1], [1.0, 2, 4], [[0.1, 0.5, 0.2], [1.0, -0.3, 0.7]]]
    taps = data.draw(st.sampled_from(filters))
    f = None if taps is None else torch.tensor(taps)
    padding = tuple(data.draw(st.integers(-1, 3)) for _ in range(4))
    flip_weight, flip = data.draw(st.booleans()), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(2, 2, *(data.draw(st.integers(5, 8)) for _ in "yx"), dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, *kernel, dtype=torch.float64, requires_grad=True)
    settings_ = {"up": up, "down": down, "padding": padding, "flip_weight": flip_weight, "flip_filter": flip}
    try:
        y = conv2d_resample(x, w, f, **settings_)
    except ValueError as error:
        assert "leaves no output pixel" in str(error)
        return
    expected = by_scipy(x, w, f, up, down, padding, flip_weight, flip)
    assert_close(y, expected)
    spec = gankern._dispatch.OPS["conv2d_resample"]
    reference = spec.reference(x, w, f, **settings_)
    assert_close(reference, expected)
    v = torch.randn_like(y)
    for a, e in zip(torch.autograd.grad(y, [x, w], v), torch.autograd.grad(reference, [x, w], v), strict=True):
        assert_close(a, e)


def test_gradient_of_the_filter() -> None:
    torch.manual_seed(0)
    f = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    x, w = torch.randn(1, 2, 4, 5, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for factors in ({"up": 2}, {"down": 2}):
        assert torch.autograd.gradcheck(lambda f, w, k=factors: conv2d_resample(x, w, f, padding=2, **k), (f, w))


@pytest.mark.parametrize(
    "kernel, factors, names",
    [
        (3, {"up": 2}, ["conv_transpose2d", "upfirdn2d"]),
        (3, {"down": 2}, ["upfirdn2d", "conv2d"]),
        (1, {"up": 2}, ["conv2d", "upfirdn2d"]),
        (1, {"down": 2}, ["upfirdn2d", "conv2d"]),
        (3, {}, ["conv2d"]),
        (3, {"padding": [0, 1]}, ["conv2d"]),
        (3, {"padding": [0, 1, 1, 1]}, ["upfirdn2d", "conv2d"]),
        (3, {"up": 2, "down": 2}, ["conv_transpose2d", "upfirdn2d", "upfirdn2d"]),
    ],
)
def test_explain_shows_the_steps(kernel: int, factors: Any, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    x, w, f = torch.zeros(1, 2, 8, 8), torch.zeros(3, 2, kernel, kernel), setup_filter([1, 3, 3, 1])
    steps = gankern.explain(gankern.ops.conv2d_resample, x, w, f, **{"padding": kernel // 2, **factors})
    assert [step.split("(")[0] for step, _ in steps] == names
    assert "a composition of" in capsys.readouterr().out


def test_no_more_work_than_the_lower_resolution_asks_for() -> None:
    """An upsampling convolution does a quarter of what the definition says, and a 1x1 kernel never sees the larger side."""
    seen = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            y = function(*args, **(kwargs or {}))
            if "conv" in str(function):
                low = args[0] if "transpose" in str(function) else y
                seen.append(tuple(low.shape[2:]))
            return y

    f = setup_filter([1, 3, 3, 1])
    with Sizes():
        for kernel in (1, 3):
            x, w = torch.randn(1, 8, 16, 16), torch.randn(8, 8, kernel, kernel)
            conv2d_resample(x, w, f, up=2, padding=kernel // 2)
            conv2d_resample(x, w, f, down=2, padding=kernel // 2)
    assert seen == [(16, 16), (8, 8)] * 2


X, W, TAPS = torch.zeros(1, 4, 8, 8), torch.zeros(6, 4, 3, 3), torch.ones(4)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": None}, TypeError, "x must be a torch.Tensor"),
        ({"x": X[0]}, ValueError, "x must have 4 dimensions"),
        ({"x": X[:, :, :0]}, ValueError, "x must have at least one pixel"),
        ({"x": X[:, :3]}, ValueError, "x must have 4 channels .*got 3"),
        ({"w": 1}, TypeError, "w must be a torch.Tensor"),
        ({"w": W[0]}, ValueError, "w must be .*kh, kw"),
        ({"w": W.half()}, TypeError, "w must have the dtype of x .*float32.*float16"),
        ({"w": W.to("meta")}, ValueError, "w must be on the device of x"),
        ({"f": [1.0, 2.0]}, TypeError, "f must be a torch.Tensor"),
        ({"f": TAPS.int()}, TypeError, "f must have a floating-point dtype"),
        ({"f": TAPS[:0]}, ValueError, "f must be .*at least one tap"),
        ({"f": TAPS.to("meta")}, ValueError, "f must be on the device of x"),
        ({"up": 0}, ValueError, "up must be at least 1, got 0"),
        ({"up": [2, 2]}, TypeError, "up must be an int"),
        ({"down": 1.5}, TypeError, "down must be an int"),
        ({"padding": [1, 2, 3]}, ValueError, "padding must be an int"),
        ({"groups": 4}, ValueError, "groups must divide out_channels = 6"),
        ({"groups": 2}, ValueError, "x must have 8 channels"),
        ({"flip_weight": 1}, TypeError, "flip_weight must be a bool"),
        ({"flip_filter": None}, TypeError, "flip_filter must be a bool"),
        ({"padding": -4}, ValueError, "padding leaves no output pixel along x: 8 pixels"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_names_what_is_wrong(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"conv2d_resample: .*{message}"):
        conv2d_resample(**{"x": X, "w": W, "f": TAPS, **change})
