"""modulated_conv2d: against a loop over samples in float64, what it allocates and leaves undone, half precision, bad input."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern.bench.memory import peak
from gankern.ops import modulated_conv2d, setup_filter, upfirdn2d
from gankern.ops.modulated_conv2d import plan
from gankern.ops.modulated_conv2d.factors import factors
from gankern.ops.modulated_conv2d.plan import Way
from gankern.testing import assert_close

REFERENCE = gankern._dispatch.OPS["modulated_conv2d"].reference


def by_loop(x: Tensor, weight: Tensor, styles: Tensor, mix: Tensor | None = None, demodulate: bool = True, up: int = 1,
            down: int = 1, f: Tensor | None = None, padding: int = 0, input_gain: Tensor | None = None) -> Tensor:  # fmt: skip
    """One sample after the other, with the weight that the paper writes down; resampling by StyleGAN2's own order."""
    outputs = []
    for n in range(x.shape[0]):
        w = weight if mix is None else sum(m * k for m, k in zip(mix[n], weight, strict=True))
        w = w * styles[n][None, :, None, None]
        if demodulate:
            w = torch.stack([kernel / (kernel.square().sum() + 1e-8).sqrt() for kernel in w])
        if input_gain is not None:
            w = w * input_gain.expand(x.shape[:2])[n][None, :, None, None]
        image = x[n : n + 1]
        if up > 1:
            assert f is not None
            before, after = (f.shape[0] + up - 1) // 2 + padding, (f.shape[0] - up) // 2 + padding
            image = upfirdn2d(image, f, up=up, gain=up**2, padding=[before, after, before, after])
        else:
            image = F.pad(image, [padding] * 4)
        if down > 1:
            assert f is not None
            before, after = (f.shape[0] - down + 1) // 2, (f.shape[0] - down) // 2
            image = upfirdn2d(image, f, padding=[before, after, before, after])
        outputs.append(F.conv2d(image, w, stride=down))
    return torch.cat(outputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        {"padding": 1},
        {"padding": 1, "demodulate": False},
        {"padding": 1, "up": 2, "f": setup_filter([1, 3, 3, 1])},
        {"padding": 1, "down": 2, "f": setup_filter([1, 3, 3, 1])},
        {"padding": 0, "input_gain": torch.tensor(0.3, dtype=torch.float64)},
        {"padding": 2, "input_gain": torch.linspace(0.5, 2, 15, dtype=torch.float64).reshape(3, 5)},
        {"padding": 1, "mix": torch.rand(3, 4, dtype=torch.float64)},
    ],
    ids=lambda c: "-".join(c),
)
def test_is_the_loop(case: dict[str, Any], grad: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_(grad)
    weight = torch.randn(*([4] if "mix" in case else []), 6, 5, 3, 3, dtype=torch.float64, requires_grad=grad)
    styles = torch.randn(3, 5, dtype=torch.float64, requires_grad=grad)
    names = {"f": "resample_filter", "mix": "kernel_mix"}
    y = modulated_conv2d(x, weight, styles, **{names.get(k, k): v for k, v in case.items()})
    expected = by_loop(x, weight, styles, **case)
    assert y.is_contiguous(memory_format=layout)
    assert_close(y, expected)
    if grad:
        v = torch.randn_like(y)
        leaves = [x, weight, styles]
        for a, e in zip(torch.autograd.grad(y, leaves, v), torch.autograd.grad(expected, leaves, v), strict=True):
            assert_close(a, e)


def test_epilogue() -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    noise, bias = torch.randn(6, 6), torch.randn(4)
    plain = by_loop(x.double(), weight.double(), styles.double(), padding=1)
    expected = F.leaky_relu(plain + noise.double() + bias.double()[:, None, None], 0.3).mul(2).clamp(-1.5, 1.5)
    settings = {"padding": 1, "noise": noise, "bias": bias, "act": "lrelu", "alpha": 0.3, "gain": 2.0, "clamp": 1.5}
    for grad in (True, False):
        assert_close(modulated_conv2d(x.requires_grad_(grad), weight, styles, **settings), expected)


# ---- what is allocated, and what is not computed ---------------------------------------------------------------------
@pytest.mark.parametrize("grad", [False, True])
def test_no_weight_is_made_for_each_sample(grad: bool) -> None:
    """16 samples with a weight 16 times as large as an image: N weights would be 37 MB."""
    n, c, size = 16, 256, 4
    x, styles = torch.randn(n, c, size, size), torch.randn(n, c)
    weight = torch.randn(c, c, 3, 3, requires_grad=grad)
    of_a_weight = weight.numel() * 4

    def run() -> Any:
        y = modulated_conv2d(x, weight, styles, padding=1, act="lrelu")
        return torch.autograd.grad(y.sum(), weight) if grad else y

    def run_reference() -> Any:
        y = REFERENCE(x, weight, styles, padding=1, act="lrelu")
        return torch.autograd.grad(y.sum(), weight) if grad else y

    used, theirs = peak(run, torch.device("cpu")), peak(run_reference, torch.device("cpu"))
    assert used is not None and theirs is not None
    images = n * c * size * size * 4
    # A squared weight, its gradient, their sum in another layout; and the images around the convolution.
    assert used < (6 if grad else 3) * of_a_weight + 8 * images
    assert theirs > n * of_a_weight


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(function).removeprefix("gankern.").removesuffix(".default")] += 1
        return function(*args, **(kwargs or {}))


def test_path_length_does_no_weight_gradient_in_its_first_backward() -> None:
    torch.manual_seed(0)
    x, styles = torch.randn(2, 4, 8, 8), torch.randn(2, 4, requires_grad=True)
    weight, bias = torch.randn(4, 4, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    hidden = modulated_conv2d(x, weight, styles * 1.0, padding=1, bias=bias, act="lrelu")
    y = modulated_conv2d(hidden, weight, styles * 2.0, padding=1, bias=bias, act="lrelu")
    with Calls() as first:
        (g,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), styles, create_graph=True)
    assert first.calls["conv2d_weight_gradient"] == 0
    assert first.calls["conv_transpose2d"] == 2, "the style gradient is made of the input gradient"
    with Calls() as second:
        torch.autograd.grad(g.square().sum().sqrt(), [weight, bias])
    assert second.calls["conv2d_weight_gradient"] <= 4


def test_inference_is_one_operator() -> None:
    x, weight, styles = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3), torch.randn(2, 4)
    with Calls() as calls:
        modulated_conv2d(x, weight, styles, padding=1)
    assert calls.calls["modulated_conv2d_inference"] == 1 and calls.calls["conv2d"] == 0


# ---- the ways of a call without gradients ----------------------------------------------------------------------------
LAST, NCHW = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize(
    ("kernel", "image", "half", "of_nchw", "of_last"),
    [
        ((64, 64, 3, 3), (1, 64, 256, 256), False, Way(True, NCHW, 1), Way(True, LAST, 1)),
        ((64, 64, 3, 3), (4, 64, 128, 128), False, Way(False, LAST, 1), Way(True, LAST, 1)),
        ((64, 64, 3, 3), (4, 64, 16, 16), False, Way(False, LAST, 4), Way(False, LAST, 4)),
        ((256, 256, 3, 3), (4, 256, 64, 64), False, Way(False, NCHW, 4), Way(False, LAST, 4)),
        ((256, 256, 3, 3), (4, 256, 64, 64), True, Way(False, LAST, 1), Way(False, LAST, 4)),
        ((512, 512, 3, 3), (4, 512, 16, 16), False, Way(False, NCHW, 4), Way(False, LAST, 4)),
        ((512, 512, 3, 3), (4, 512, 4, 4), False, Way(False, NCHW, 4), Way(False, NCHW, 4)),
        ((512, 512, 3, 3), (4, 512, 4, 4), True, Way(False, NCHW, 4), Way(False, LAST, 4)),
        ((3, 512, 1, 1), (4, 512, 4, 4), False, Way(False, NCHW, 4), Way(False, LAST, 4)),
        ((64, 64, 3, 3), (0, 64, 16, 16), False, Way(False, NCHW, 0), Way(False, LAST, 0)),
    ],
)
def test_ways(kernel: Any, image: Any, half: bool, of_nchw: Way, of_last: Way) -> None:
    assert plan.way(kernel, image, NCHW, half) == of_nchw
    assert plan.way(kernel, image, LAST, half) == of_last


@pytest.mark.parametrize("layout", [NCHW, LAST], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(
    "way",
    [Way(True, NCHW, 1), *(Way(False, inside, n) for inside in (NCHW, LAST) for n in (1, 3))],
    ids=lambda way: "fold" if way.fold else f"around-{'last' if way.inside == LAST else 'nchw'}-{way.samples}",
)
def test_every_way_is_the_loop(way: Way, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    if way.fold:  # turns no images
        way = way._replace(inside=layout)
    taken = []
    monkeypatch.setattr(plan, "way", lambda *_: taken.append(way) or way)
    torch.manual_seed(0)
    f = setup_filter([1, 3, 3, 1])
    x = torch.randn(3, 17, 8, 7, dtype=torch.float64).contiguous(memory_format=layout)
    weight, styles, b = torch.randn(18, 17, 3, 3).double(), torch.randn(3, 17).double(), torch.randn(18).double()
    for settings in ({}, {"demodulate": False}, {"up": 2, "f": f}, {"input_gain": torch.rand(3, 17).double()}):
        expected = by_loop(x, weight, styles, padding=1, **settings)
        for samples in (1, 3):
            noise = torch.randn(samples, 1, *expected.shape[2:], dtype=torch.float64)
            named = {{"f": "resample_filter"}.get(k, k): v for k, v in settings.items()}
            before = x.clone()
            y = modulated_conv2d(x, weight, styles, padding=1, noise=noise, bias=b, act="lrelu", clamp=2.0, **named)
            assert y.is_contiguous(memory_format=layout) and torch.equal(x, before)
            assert_close(y, (F.leaky_relu(expected + noise + b[:, None, None], 0.2) * 2**0.5).clamp(-2, 2))
    assert len(taken) == 8


@pytest.mark.parametrize("layout", [NCHW, LAST], ids=["nchw", "channels_last"])
def test_large_samples_one_by_one(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the plan has it for large images: what is kept for one sample is not kept for all."""
    monkeypatch.setattr(plan, "LARGE", 1)
    x, weight, styles = (
        torch.randn(3, 16, 40, 40).contiguous(memory_format=layout),
        torch.randn(16, 16, 3, 3),
        torch.randn(3, 16),
    )
    assert plan.way(weight.shape, x.shape, layout, False) == Way(layout == LAST, LAST, 1)
    assert_close(modulated_conv2d(x, weight, styles, padding=1), by_loop(x, weight, styles, padding=1))


@pytest.mark.parametrize("shape", [(5, 70, 3, 3), (3, 65, 1, 1), (2, 7, 5, 3), (0, 4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_comes_turned(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, styles = torch.randn(shape, dtype=dtype), torch.randn(2, shape[1], dtype=dtype)
    plain, turned = (factors(weight, styles, None, True, False, last) for last in (False, True))
    assert plain.w is weight and torch.equal(turned.w, weight)
    assert turned.w.is_contiguous(memory_format=LAST) or not gankern.NATIVE.cpu
    expected = (styles.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
    for made in (plain, turned):
        assert made.d is not None
        assert_close(made.d, expected)


# ---- half precision --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_large_and_small_styles_in_half_precision(magnitude: float, dtype: torch.dtype, grad: bool) -> None:
    """Without normalisation styles of 1e3 overflow float16 in the sum over 256 channels times 9 taps."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 256, 6, 6).mul(50).to(dtype).requires_grad_(grad), 30 * torch.randn(32, 256, 3, 3)
    styles = (magnitude * torch.randn(2, 256)).requires_grad_(grad)
    y = modulated_conv2d(x, weight, styles, padding=1)
    expected = by_loop(x.detach().double(), weight.double(), styles.detach().double(), padding=1)
    assert torch.isfinite(y).all()
    assert float((y.detach().double() - expected).norm() / expected.norm()) < 8 * torch.finfo(dtype).eps
    if grad:
        dx, ds = torch.autograd.grad(y.float().square().mean(), [x, styles])
        assert torch.isfinite(dx).all() and torch.isfinite(ds).all()


def test_normalisation_keeps_eps_where_it_is() -> None:
    """Styles so small that 1e-8 decides: half types give what float64 gives, and zeros give no NaN."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 8, 5, 5), torch.randn(4, 8, 3, 3)
    for size in (1e-5, 3e-4, 0.0):
        styles = size * torch.randn(1, 8)
        y = modulated_conv2d(x.bfloat16(), weight, styles)
        expected = by_loop(x.bfloat16().double(), weight.double(), styles.double())
        assert torch.isfinite(y).all()
        assert float((y.double() - expected).abs().max()) <= 0.02 * float(expected.abs().max())


# ---- bad input -------------------------------------------------------------------------------------------------------
X, W, S = torch.zeros(2, 4, 6, 6), torch.zeros(3, 4, 3, 3), torch.zeros(2, 4)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": 1}, TypeError, "x must be a torch.Tensor"),
        ({"x": X[0]}, ValueError, "x must have 4 dimensions"),
        ({"x": X[..., :0]}, ValueError, "x must have at least one pixel"),
        ({"weight": W[0]}, ValueError, "weight must be .*with kernel_mix"),
        ({"weight": W.int()}, TypeError, "weight must be a floating-point torch.Tensor"),
        ({"weight": W[:, :3]}, ValueError, r"weight \[3, 3, 3, 3\] takes 3 channels, x has 4"),
        ({"weight": W[None]}, ValueError, r"weight of 5 dimensions .* needs kernel_mix \[N, K\] = \[2, 1\]"),
        ({"weight": W.to("meta")}, ValueError, "weight must be on the device of x"),
        ({"styles": S[:, :3]}, ValueError, r"styles must have shape \[N, in_channels\] = \[2, 4\], got \[2, 3\]"),
        ({"styles": S[:1]}, ValueError, r"styles must have shape .*got \[1, 4\]"),
        ({"styles": None}, TypeError, "styles must be a floating-point torch.Tensor"),
        ({"noise": torch.zeros(5, 6)}, ValueError, r"noise must broadcast to \[N, 1, Ho, Wo\] = \[2, 1, 6, 6\], got \[5, 6\]"),
        ({"noise": torch.zeros(2, 3, 6, 6)}, ValueError, "noise must broadcast"),
        ({"noise": 0.1}, TypeError, "noise must be a floating-point torch.Tensor"),
        ({"kernel_mix": torch.zeros(2, 1)}, ValueError, "kernel_mix needs a weight of 5 dimensions"),
        ({"kernel_mix": torch.zeros(2, 2), "weight": W[None]}, ValueError, r"kernel_mix must have shape \[N, K\] = \[2, 1\]"),
        ({"up": 2, "down": 2}, ValueError, "up and down must not both be above 1, got up 2 and down 2"),
        ({"up": 0}, ValueError, "up must be at least 1"),
        ({"down": 2.0}, TypeError, "down must be an int"),
        ({"padding": "same"}, TypeError, "padding must be an int"),
        ({"resample_filter": [1, 2]}, TypeError, "resample_filter must be a torch.Tensor"),
        ({"demodulate": 1}, TypeError, "demodulate must be a bool"),
        ({"flip_weight": None}, TypeError, "flip_weight must be a bool"),
        ({"input_gain": torch.zeros(3)}, ValueError, r"input_gain must have shape \[\], .*got \[3\]"),
        ({"input_gain": "1"}, TypeError, "input_gain must be a real number"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \[out_channels\] = \[3\]"),
        ({"act": "gelu"}, ValueError, "act must be one of linear"),
        ({"clamp": -1}, ValueError, "clamp must not be negative"),
        ({"padding": -2}, ValueError, "padding leaves no output pixel"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_names_what_is_wrong(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"modulated_conv2d: .*{message}"):
        modulated_conv2d(**{"x": X, "weight": W, "styles": S, "padding": 1, **change})
