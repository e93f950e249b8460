"""modulate against outside oracles (torch's activations around a written-out formula, finite differences), what it saves and
launches, its bad input, and random arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import Calls, saved_by
from torch import Tensor

import gankern
from gankern import ops
from gankern.ops.modulate import configs, samples
from gankern.ops.modulate.reference import modulate_reference
from gankern.testing import assert_close, check_sample, compare

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
NAMES = ("x", "scale", "noise", "b")

# ---- outside oracles --------------------------------------------------------------------------------------------------
BUILT_IN: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda v: v,
    "relu": F.relu,
    "lrelu": lambda v: F.leaky_relu(v, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
}
ACTS = list(BUILT_IN)


def formula(x: Tensor, scale: Tensor, noise: Tensor, b: Tensor, act: str, gain: float, clamp: float) -> Tensor:
    """In einsum's terms, not in those of the reference."""
    v = torch.einsum("nchw,nc->nchw", x, scale) + noise.expand(x.shape) + b.view(1, -1, 1, 1).expand(x.shape)
    return (BUILT_IN[act](v) * gain).clamp(-clamp, clamp)


def operands(
    shape: tuple[int, int, int, int] = (2, 3, 4, 5), dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """x, scale, noise, b."""
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = shape
    sizes = [shape, (n, c), (n, 1, h, w), (c,)]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def test_there_is_an_oracle_for_every_activation() -> None:
    assert set(BUILT_IN) == set(ops.activation_funcs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("act", ACTS)
def test_derivatives_against_torch(act: str, layout: torch.memory_format, backend: str) -> None:
    """Value, first and second derivative in all four, by PyTorch's own formulas, of functions that mix all of them."""
    leaves = operands()
    x = leaves[0].contiguous(memory_format=layout)
    expected = formula(x, *leaves[1:], act, 1.5, 1.25)
    assert bool((expected.abs() < 1.25).any()) and (act == "sigmoid" or bool((expected.abs() == 1.25).any()))
    results = []
    with gankern.use_backend(backend):
        for value in (ops.modulate(x, *leaves[1:], act, gain=1.5, clamp=1.25), expected):
            first = torch.autograd.grad(value.pow(3).sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
            results.append([value, *first, *second])
    for result, truth in zip(*results, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, -4.0]]).reshape(1, 2, 1, 2)
    scale, noise, b = torch.tensor([[2.0, -1.0]]), torch.tensor([10.0, 20.0]), torch.tensor([0.5, 1.0])
    with gankern.use_backend(backend):
        assert ops.modulate(x).flatten().tolist() == [1.0, -2.0, 3.0, -4.0]
        assert ops.modulate(x, scale).flatten().tolist() == [2.0, -4.0, -3.0, 4.0]
        assert ops.modulate(x, scale, noise).flatten().tolist() == [12.0, 16.0, 7.0, 24.0]
        assert ops.modulate(x, scale, noise, b).flatten().tolist() == [12.5, 16.5, 8.0, 25.0]
        assert ops.modulate(x, scale, None, b, "relu", gain=2).flatten().tolist() == [5.0, 0.0, 0.0, 10.0]
        assert ops.modulate(x, scale, act="lrelu", alpha=0.25, gain=4).flatten().tolist() == [8.0, -4.0, -3.0, 16.0]
        assert ops.modulate(x, scale, clamp=3).flatten().tolist() == [2.0, -3.0, -3.0, 3.0]
        root = float(ops.modulate(x, act="relu")[0, 0, 0, 0])
        torch.testing.assert_close(root, math.sqrt(2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("act", ACTS)
def test_second_derivative_by_finite_differences(act: str) -> None:
    leaves = operands((2, 3, 2, 3))

    def function(*leaves: Tensor) -> Tensor:
        return ops.modulate(*leaves, act, gain=0.8, clamp=1.7)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_path_length_by_finite_differences(act: str, backend: str) -> None:
    """The gradient of |J^T r| in the style, which modulates before a convolution and demodulates after it."""
    generator = torch.Generator().manual_seed(1)
    style, weight, x, r, noise, b = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in [(2, 4), (3, 4, 3, 3), (2, 4, 5, 6), (2, 3, 5, 6), (2, 1, 5, 6), (3,)]
    )

    def penalty(style: Tensor, create_graph: bool) -> Tensor:
        demodulation = (style.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
        y = F.conv2d(ops.modulate(x, style), weight, padding=1)
        y = ops.modulate(y, demodulation, noise, b, act, clamp=4.0)
        (jacobian,) = torch.autograd.grad((y * r).sum(), style, create_graph=create_graph)
        return (jacobian.square().sum(1).sqrt() - 0.5).square().mean()

    with gankern.use_backend(backend):
        leaf = style.clone().requires_grad_()
        (result,) = torch.autograd.grad(penalty(leaf, True), leaf)
        step = 1e-6
        for i in range(style.numel()):
            moved = [style.clone() for _ in range(2)]
            moved[0].view(-1)[i] += step
            moved[1].view(-1)[i] -= step
            up, down = (float(penalty(m.requires_grad_(), False)) for m in moved)
            assert abs((up - down) / (2 * step) - float(result.view(-1)[i])) < 1e-6 * max(1, float(result.abs().max()))


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "elu", "softplus", "swish", "lrelu"])
def test_third_derivative(act: str) -> None:
    leaves = operands((2, 3, 2, 4))
    values = [function(*leaves, act).pow(4).sum() for function in (ops.modulate, modulate_reference)]
    for _ in range(3):
        grads = [torch.autograd.grad(value, leaves, create_graph=True) for value in values]
        for result, truth in zip(*grads, strict=True):
            torch.testing.assert_close(result, truth)
        values = [sum(g.pow(k).sum() for k, g in enumerate(some, 2)) for some in grads]


# ---- what is saved, what is launched --------------------------------------------------------------------------------------
@pytest.mark.parametrize("train_scale", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_which_images_are_saved(act: str, train_scale: bool) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    scale = torch.randn(2, 3, requires_grad=train_scale)
    y, kept = saved_by(lambda: ops.modulate(x, scale, act=act))
    images = {t.data_ptr() for t in kept if t.dim() == 4}
    wanted = {x.data_ptr()} if train_scale or act == "swish" else set()
    if act not in ("linear", "swish"):
        wanted.add(y.data_ptr())
    assert images == wanted
    with torch.no_grad():
        assert saved_by(lambda: ops.modulate(x, scale, act=act))[1] == []
    assert saved_by(lambda: ops.modulate(x.detach(), scale.detach(), act=act))[1] == []


def test_the_identity_launches_nothing_in_backward() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    with Calls() as calls:
        ops.modulate(x, noise=torch.zeros(4, 5), b=torch.zeros(3)).sum().backward()
    assert calls.count == {"modulate": 1}


SUBSETS = [("x",), ("scale",), ("noise",), ("b",), ("x", "b"), ("scale", "noise"), ("x", "scale"), NAMES]


@pytest.mark.parametrize("wanted", SUBSETS, ids="-".join)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_needed_is_computed(act: str, wanted: tuple[str, ...], layout: torch.memory_format) -> None:
    tensors = {name: t.detach().requires_grad_(name in wanted) for name, t in zip(NAMES, operands(), strict=True)}
    tensors["x"] = tensors["x"].detach().contiguous(memory_format=layout).requires_grad_("x" in wanted)
    leaves = [tensors[name] for name in wanted]
    with Calls() as calls:
        result = torch.autograd.grad(ops.modulate(**tensors, act=act).pow(2).sum(), leaves)
    truth = torch.autograd.grad(modulate_reference(**tensors, act=act).pow(2).sum(), leaves)
    for got, expected in zip(result, truth, strict=True):
        torch.testing.assert_close(got, expected)
    assert calls.masks("modulate_backward") == [[name in wanted for name in NAMES]]


@pytest.mark.parametrize("act", ["relu", "lrelu"])
def test_gradients_that_autograd_would_throw_away(act: str) -> None:
    """autograd.grad(y, x) with everything trained, as in a gradient penalty: its second derivative is that of x alone."""
    x, scale, noise, b = operands()
    dy = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    with Calls() as calls:
        y = ops.modulate(x, scale, noise, b, act, gain=1.5)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        (to_dy,) = torch.autograd.grad(dx.square().sum(), dy)
    torch.testing.assert_close(to_dy, 2 * dx.detach() * (dx / dy).detach())
    assert calls.masks("modulate_backward") == [[True, False, False, False]]
    assert calls.masks("modulate_double_backward") == [[True, False, False, False]]
    x_given = [arguments[2] for name, arguments in calls.arguments if name == "modulate_backward"]
    assert x_given == [None]


def test_what_a_path_length_penalty_launches() -> None:
    """The gradient in the scale, then its gradient in all: one double backward, with direct terms, and for a piecewise linear
    activation none in the slope: what reaches x does so without another backward."""
    x, scale, noise, b = operands()
    dy = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    x = x * 2  # a convolution's output, no leaf
    with Calls() as calls:
        y = ops.modulate(x, scale, noise, b, "lrelu")
        (dscale,) = torch.autograd.grad(y, scale, dy, create_graph=True)
        torch.autograd.grad(dscale.square().sum(), (dy, x))
    assert calls.masks("modulate_backward") == [[False, True, False, False]]
    assert calls.masks("modulate_double_backward") == [[True, False, True, False]]


@pytest.mark.parametrize("act", ["tanh", "swish"])
def test_penalty_of_a_curved_activation(act: str) -> None:
    x, scale, noise, b = operands()
    with Calls() as calls:
        y = ops.modulate(x, scale, noise, b, act)
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.autograd.grad(dx.square().sum(), (x, b))
    # One second derivative; one more backward takes its result to x and b.
    assert calls.count == {"modulate": 1, "modulate_backward": 2, "modulate_double_backward": 1}
    assert calls.masks("modulate_double_backward")[0][2] is False  # no direct term in x: no gradient of scale was taken


def test_outputs_that_are_not_wanted_are_empty() -> None:
    dy, y, x = (torch.randn(2, 3, 4, 5) for _ in range(3))
    scale, tail = torch.randn(2, 3), ("tanh", 0.0, 1.0, -1.0)
    backward, double = torch.ops.gankern.modulate_backward, torch.ops.gankern.modulate_double_backward
    for i in range(4):
        mask = [k == i for k in range(4)]
        outputs = backward(dy, y, x, scale, None, None, *tail, mask)
        assert [o.numel() > 0 for o in outputs] == mask
        outputs = double(dy, scale, None, None, dy, y, x, scale, None, None, *tail, mask)
        assert [o.numel() > 0 for o in outputs] == mask


# ---- in place ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["contiguous", "channels_last", "view", "transposed"])
def test_in_place(form: str, dtype: torch.dtype, backend: str) -> None:
    base = torch.randn(3, 5, 6, 8).to(dtype)
    make: dict[str, Callable[[Tensor], Tensor]] = {
        "contiguous": lambda t: t,
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "view": lambda t: t[1:, ::2, :, 1:7],
        "transposed": lambda t: t.transpose(2, 3),
    }
    base = base if form != "channels_last" else make[form](base)
    x = make[form](base)
    n, c, h, w = x.shape
    arguments = (torch.randn(n, c), torch.randn(1, 1, h, w), torch.randn(c), "selu", None, 1.2, 1.5)
    with gankern.use_backend(backend):
        expected, whole = ops.modulate(x, *arguments), base.clone()
        version = x._version
        result = ops.modulate_(x, *arguments)
    assert result is x and x._version > version
    torch.testing.assert_close(x, expected, rtol=0, atol=0)
    make[form](whole).copy_(expected)
    assert torch.equal(base, whole)  # the rest of a view is left alone


@pytest.mark.parametrize("leaf", NAMES)
def test_in_place_refuses_gradients(leaf: str) -> None:
    tensors = {"x": torch.zeros(1, 2, 3, 4), "scale": torch.zeros(1, 2), "noise": torch.zeros(3, 4), "b": torch.zeros(2)}
    tensors[leaf].requires_grad_()
    with pytest.raises(RuntimeError, match="modulate_: works in place and has no gradient"):
        ops.modulate_(**tensors)
    with torch.no_grad():
        ops.modulate_(**tensors)


# ---- awkward values and shapes --------------------------------------------------------------------------------------------
@NATIVE  # the reference computes half types as eager does
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scale_noise_and_bias_of_half_images_stay_float32(dtype: torch.dtype) -> None:
    """1 + 2^-13 is no half number: rounded to one it would add nothing after the clamp at 1."""
    x = torch.ones(1, 2, 3, 4, dtype=dtype, requires_grad=True)
    scale = torch.full((1, 2), 1 + 2.0**-13, requires_grad=True)
    noise = torch.full((3, 4), -1.0, requires_grad=True)
    y = ops.modulate(x, scale, noise)
    assert y.dtype == dtype and torch.equal(y.detach(), torch.full_like(y, 2.0**-13))
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype
    for leaf, value in ((scale, 12.0), (noise, 2.0)):
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32 and bool((leaf.grad == value).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_stays_where_it_is(layout: torch.memory_format, dtype: torch.dtype, backend: str) -> None:
    x, scale, noise, b = operands((2, 35, 7, 11), dtype)
    x = x.detach().contiguous(memory_format=layout)
    x[1, 20, 3, 4], x[0, 0, 0, 0] = math.nan, math.inf
    dy = torch.ones_like(x)
    dy[0, 34, 6, 10] = math.nan
    x.requires_grad_()
    with gankern.use_backend(backend):
        y = ops.modulate(x, scale, noise, b, "lrelu", clamp=2.0)
        dx, dscale, dnoise, db = torch.autograd.grad(y, (x, scale, noise, b), dy)
    assert torch.isnan(y).nonzero().tolist() == [[1, 20, 3, 4]]
    assert torch.isnan(dx).nonzero().tolist() == [[0, 34, 6, 10]]
    assert torch.isnan(dnoise).nonzero().tolist() == [[0, 0, 6, 10]]
    assert torch.isnan(db).nonzero().tolist() == [[34]]
    # x itself is a factor of this sum: 0 * NaN.
    assert torch.isnan(dscale).nonzero().tolist() == [[0, 0], [0, 34], [1, 20]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_that_the_type_cannot_hold(dtype: torch.dtype, backend: str) -> None:
    """0.9 is rounded in half types: what was clamped must still be seen as clamped, and has no gradient."""
    x = torch.linspace(-2, 2, 81, dtype=torch.float64).to(dtype).reshape(1, 3, 27, 1).requires_grad_()
    with gankern.use_backend(backend):
        y = ops.modulate(x, torch.ones(1, 3), act="lrelu", gain=1, clamp=0.9)
        (dx,) = torch.autograd.grad(y.sum(), x)
    v = x.detach().double()
    assert torch.equal(dx == 0, (v >= y.detach().max().double()) | (v * 0.2 <= -0.9))
    assert float(y.max().detach()) == float(torch.tensor(0.9, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 67])
def test_results_do_not_depend_on_the_number_of_threads(channels: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    leaves = operands((4, channels, 48, 61), dtype)
    leaves[0] = leaves[0].detach().contiguous(memory_format=layout).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.modulate(*leaves, "swish")
            first = torch.autograd.grad(y.float().square().mean(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.float().square().mean() for g in first), leaves)
            results.append((y, *first, *second))
    finally:
        torch.set_num_threads(threads)
    assert all(bool(t.isfinite().all()) for t in results[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_rectangles(backend: str, channels_last: bool) -> None:
    """At least one element, and no partial sums that weigh: those of the noise less than 1/8 of a large image."""
    for n, c, pixels in [
        (1, 1, 1),
        (4, 512, 16),
        (2, 64, 65536),
        (1, 3, 1 << 20),
        (1, 1000, 1089),
        (8, 4096, 1),
        (1, 37, 5000),
    ]:
        across, channels = configs.chunks(backend, channels_last, n, c, pixels, 2)
        assert across >= 1 and channels >= 1
        if c * pixels >= 65536:
            assert -(-c // channels) * 8 <= max(c, 8) and -(-pixels // across) * 8 <= max(pixels, 8)


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    shape = [draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    if draw(st.booleans()):
        shape[draw(st.integers(0, 3))] = draw(st.integers(0, 400))
    n, c, h, w = shape
    return {
        "shape": tuple(shape),
        "scale": draw(st.sampled_from([None, (n, c), (1, c)])),
        "noise": [1 if draw(st.booleans()) else s for s in (n, 1, h, w)] if draw(st.booleans()) else None,
        "b": (c,) if draw(st.booleans()) else None,
        "act": draw(st.sampled_from(ACTS)),
        "alpha": draw(st.sampled_from([None, 0.1, 0.0, -0.5])),
        "gain": draw(st.sampled_from([None, 1.0, 0.7, -1.5, 0.0])),
        "clamp": draw(st.sampled_from([None, 0.5, 256.0])),
        "layout": draw(st.sampled_from(["contiguous", "channels_last", "strided"])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 1000)),
    }


def check_call(call: dict[str, Any]) -> None:
    """Forward, and the first derivative with a cotangent of another layout."""
    generator = torch.Generator().manual_seed(call["seed"])
    dtype, shape = call["dtype"], call["shape"]

    def randn(size: Any) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    tensors = {name: randn(call[name]) for name in NAMES[1:] if call[name] is not None}
    x = randn((*shape, 2))[..., 1] if call["layout"] == "strided" else randn(shape)
    tensors["x"] = x.contiguous(memory_format=torch.channels_last) if call["layout"] == "channels_last" else x
    rest = {k: call[k] for k in ("act", "alpha", "gain", "clamp")}
    dy = randn(shape)

    def run(function: Callable[..., Tensor], wide: bool) -> dict[str, Tensor]:
        leaves = {k: (t.double() if wide else t).detach().requires_grad_() for k, t in tensors.items()}
        y = function(**leaves, **rest)
        grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))
        return {"y": y, **dict(zip(leaves, grads, strict=True))}

    got, truth, eager = run(ops.modulate, False), run(modulate_reference, True), run(modulate_reference, False)
    assert got["y"].shape == shape and got["y"].dtype == dtype
    assert_close(got["y"], truth["y"], eager["y"], what="y")
    # Near the clamp a rounding decides whether there is a gradient: compare where both precisions agree.
    y, limit = truth["y"].detach(), rest["clamp"]
    margin = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    if limit is not None and bool(((y.abs() - limit).abs() < margin * max(limit, 1))[y.abs() < limit].any()):
        return
    # The slope comes from the output, rounded to its type; of a sum the magnitudes of its terms, not what is left of them
    # after cancellation, are the scale of rounding.
    gain = ops.activation_funcs[call["act"]].def_gain if call["gain"] is None else call["gain"]
    eps = torch.finfo(dtype).eps
    steepest = max(1.0, abs(gain))
    terms = eps * dy.double().abs() * steepest + (1e-12 if dtype == torch.float64 else 1e-6) * steepest * dy.double().abs()
    scale = tensors["scale"].double().abs()[..., None, None] if "scale" in tensors else torch.ones(())
    slack = {
        "x": terms * scale,
        "scale": (terms * tensors["x"].double().abs()).sum((2, 3)),
        "noise": terms.sum(1, keepdim=True),
        "b": terms.sum((0, 2, 3)),
    }
    for name in tensors:
        comparison = compare(got[name], truth[name], eager[name])
        allowed = comparison.allowed
        if truth[name].numel():
            bound = slack[name].sum_to_size(truth[name].shape) if name in ("scale", "noise") else slack[name]
            allowed += float(bound.max())
        assert not comparison.message and comparison.error <= allowed, f"gradient of {name}: {comparison}"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_ten_thousand_random_arguments(call: dict[str, Any]) -> None:
    check_call(call)


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    x = torch.zeros(1, 2, (1 << 15) + 1, 1 << 15, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[0, -1, -1, -1], x[0, 0, 0, 0] = 1, -1
    ops.modulate_(x, torch.tensor([[3.0, 5.0]]), None, torch.tensor([1.0, 2.0]), "relu", gain=1)
    assert [float(x[0, 0, 0, 0]), float(x[0, 0, 0, 1]), float(x[0, 1, 0, 0]), float(x[0, -1, -1, -1])] == [0, 1, 2, 7]


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_many_rectangles_on_the_cpu(layout: str) -> None:
    """Larger than the contract's samples: several rectangles of channels and of pixels also by the CPU's own sizes."""
    sample = samples._sample("many", (2, 160, 33, 31), "swish", noise=(2, 1, 33, 31))
    for outcome in check_sample(gankern._dispatch.OPS["modulate"], sample, "cpu", torch.float32, layout):
        assert outcome.comparison.ok, f"{outcome.what}: {outcome.comparison}"


# ---- bad input ----------------------------------------------------------------------------------------------------------
X = torch.zeros(2, 3, 4, 5)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("not a tensor", TypeError, r"x must be a torch\.Tensor \[N, C, H, W\], got list", {"x": [1.0]}),
    ("integers", TypeError, r"x must be float32, float64, bfloat16 or float16, got int64", {"x": X.long()}),
    ("3-D", ValueError, r"x must have 4 dimensions \[N, C, H, W\], got 3", {"x": X[0]}),
    ("scale too long", ValueError, r"scale must have shape \[N, C\] = \[2, 3\].* got \[2, 4\]", {"scale": torch.ones(2, 4)}),
    ("scale of another batch", ValueError, r"scale must have shape .* got \[4, 3\]", {"scale": torch.ones(4, 3)}),
    ("scale 1-D", ValueError, r"scale must have shape .* or \[1, 3\] for all samples, got \[3\]", {"scale": torch.ones(3)}),
    ("scale is a number", TypeError, r"scale must be a floating-point torch\.Tensor or None, got float", {"scale": 2.0}),
    ("integer scale", TypeError, r"scale must be a floating-point .* got dtype int64", {"scale": torch.ones(2, 3).long()}),
    ("scale elsewhere", ValueError, r"scale must be on the device of x \(cpu\), got meta", {"scale": X[:, :, 0, 0].to("meta")}),
    ("noise is a number", TypeError, r"noise must be a floating-point torch\.Tensor or None, got float", {"noise": 1.0}),
    (
        "noise for every channel",
        ValueError,
        r"noise must broadcast to \[N, 1, H, W\] = \[2, 1, 4, 5\], got \[2, 3, 4, 5\]",
        {"noise": X},
    ),
    ("noise 5-D", ValueError, r"noise must broadcast to .* got \[1, 1, 1, 4, 5\]", {"noise": torch.zeros(1, 1, 1, 4, 5)}),
    ("noise elsewhere", ValueError, r"noise must be on the device of x", {"noise": torch.zeros(4, 5, device="meta")}),
    ("bias too long", ValueError, r"b must have shape \[C\] = \[3\].* got \[4\]", {"b": torch.zeros(4)}),
    ("bias 2-D", ValueError, r"b must have shape \[C\] = \[3\].* got \[3, 1\]", {"b": torch.zeros(3, 1)}),
    ("integer bias", TypeError, r"b must be a floating-point .* got dtype int64", {"b": torch.arange(3)}),
    ("bias elsewhere", ValueError, r"b must be on the device of x", {"b": torch.zeros(3, device="meta")}),
    ("unknown activation", ValueError, r"act must be one of linear, relu, .*, swish, got 'gelu'", {"act": "gelu"}),
    ("activation is no name", ValueError, r"act must be one of linear, .* got 3", {"act": 3}),
    ("negative clamp", ValueError, r"clamp must not be negative \(None for no clamping\), got -1", {"clamp": -1}),
    ("clamp is no number", TypeError, r"clamp must be a real number, got '1'", {"clamp": "1"}),
    ("clamp is infinite", ValueError, r"clamp must be finite, got inf", {"clamp": math.inf}),
    ("alpha is NaN", ValueError, r"alpha must be finite, got nan", {"alpha": math.nan}),
    ("gain is a bool", TypeError, r"gain must be a real number, got True", {"gain": True}),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.modulate, ops.modulate_, modulate_reference], ids=["op", "in_place", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="modulate: " + message):
        function(**{"x": X, **change})
