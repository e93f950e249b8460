"""bias_act against outside oracles (torch.nn.functional, hand-computed values), what it saves and launches, its bad input, and
random arguments."""

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
from gankern.ops.bias_act.reference import bias_act_reference
from gankern.testing import assert_close, compare

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ACTS = list(ops.activation_funcs)
PIECEWISE_LINEAR = ["linear", "relu", "lrelu"]


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


def test_there_is_an_oracle_for_every_activation() -> None:
    assert set(BUILT_IN) == set(ACTS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act", ACTS)
def test_against_torch(act: str, dtype: torch.dtype, backend: str) -> None:
    """Over the whole range in which the functions bend, and far beyond it; relative to each element where it is not near 0."""
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -100.0, -50.0, -0.0, 1e-6, -1e-6, 30, 90, 1e4])])
    x = x.to(dtype).reshape(2, 5, 401)
    b = torch.linspace(-1, 1, 5, dtype=dtype)
    expected = BUILT_IN[act]((x + b[:, None]).double())
    with gankern.use_backend(backend):
        y = ops.bias_act(x, b, act=act, gain=1)
    assert y.dtype == dtype
    rtol, atol = (1e-6, 1e-7) if dtype == torch.float32 else (1e-13, 1e-14)
    torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ACTS)
def test_first_and_second_derivative_against_torch(act: str, backend: str) -> None:
    """Of PyTorch's own function, by its own derivative formulas, with bias, noise and clamp around it."""
    generator = torch.Generator().manual_seed(3)
    x, b, noise, strength = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, 4, 5), (3,), (2, 1, 4, 5), ()]
    )
    leaves = [x, b, noise, strength]
    with gankern.use_backend(backend):
        y = ops.bias_act(x, b, act=act, gain=1.5, clamp=1.25, noise=noise, noise_strength=strength)
    expected = (BUILT_IN[act](x + noise * strength + b[:, None, None]) * 1.5).clamp(-1.25, 1.25)
    assert bool((expected.abs() < 1.25).any())
    torch.testing.assert_close(y, expected)
    results = []
    for value in (y, expected):
        with gankern.use_backend(backend):
            first = torch.autograd.grad(value.pow(3).sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
        results.append([*first, *second])
    for result, truth in zip(*results, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    b = torch.tensor([0.5, 1.0])
    with gankern.use_backend(backend):
        assert ops.bias_act(x, b).tolist() == [[1.5, -1.0], [3.5, -3.0]]
        assert ops.bias_act(x, b, dim=0).tolist() == [[1.5, -1.5], [4.0, -3.0]]
        assert ops.bias_act(x, b, dim=-2).tolist() == [[1.5, -1.5], [4.0, -3.0]]
        assert ops.bias_act(x, b, act="relu", gain=2).tolist() == [[3.0, 0.0], [7.0, 0.0]]
        assert ops.bias_act(x, act="lrelu", alpha=0.25, gain=4).tolist() == [[4.0, -2.0], [12.0, -4.0]]
        assert ops.bias_act(x, clamp=2).tolist() == [[1.0, -2.0], [2.0, -2.0]]
        assert ops.bias_act(x, clamp=0).tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert ops.bias_act(x, act="linear", gain=-1, clamp=3.5).tolist() == [[-1.0, 2.0], [-3.0, 3.5]]
        image = x.reshape(1, 2, 1, 2)
        noise = torch.tensor([10.0, 20.0])
        assert ops.bias_act(image, b, noise=noise).tolist() == [[[[11.5, 18.5]], [[14.0, 17.0]]]]
        assert ops.bias_act(image, noise=noise, noise_strength=0.5).tolist() == [[[[6.0, 8.0]], [[8.0, 6.0]]]]
        assert ops.bias_act(torch.zeros(1), act="sigmoid").item() == 0.5
        torch.testing.assert_close(ops.bias_act(torch.zeros(1), act="softplus").item(), math.log(2), rtol=1e-6, atol=0)
        torch.testing.assert_close(ops.bias_act(torch.tensor([1.0]), act="relu").item(), math.sqrt(2), rtol=1e-6, atol=0)


def test_defaults() -> None:
    funcs = ops.activation_funcs
    gains = {name: funcs[name].def_gain for name in ACTS}
    assert {name for name, gain in gains.items() if gain != 1} == {"relu", "lrelu", "swish"}
    assert all(gains[name] == math.sqrt(2) for name in ("relu", "lrelu", "swish"))
    assert funcs["lrelu"].def_alpha == 0.2


@pytest.mark.parametrize("act", ACTS)
def test_second_derivative_by_finite_differences(act: str) -> None:
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, b: Tensor, noise: Tensor) -> Tensor:
        return ops.bias_act(x, b, act=act, gain=0.8, clamp=1.7, noise=noise, noise_strength=0.5)

    assert torch.autograd.gradcheck(function, (x, b, noise))
    assert torch.autograd.gradgradcheck(function, (x, b, noise))


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "elu", "softplus", "swish", "lrelu"])
def test_third_derivative(act: str) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    values = [function(x, b, act=act).pow(4).sum() for function in (ops.bias_act, bias_act_reference)]
    for _ in range(3):
        grads = [torch.autograd.grad(value, (x, b), create_graph=True) for value in values]
        for result, truth in zip(*grads, strict=True):
            torch.testing.assert_close(result, truth)
        values = [g_x.square().sum() + g_b.pow(3).sum() for g_x, g_b in grads]


# ---- what is saved, what is launched --------------------------------------------------------------------------------------
@pytest.mark.parametrize("act", ACTS)
def test_what_is_saved(act: str) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    y, kept = saved_by(lambda: ops.bias_act(x, act=act))
    if act == "linear":
        assert kept == []
    else:
        wanted = x if act == "swish" else y
        assert [t.data_ptr() for t in kept] == [wanted.data_ptr()]
    with torch.no_grad():
        assert saved_by(lambda: ops.bias_act(x, act=act))[1] == []
    assert saved_by(lambda: ops.bias_act(x.detach(), act=act))[1] == []


def test_the_input_is_saved_where_the_output_does_not_tell_the_branch() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    for setting in ({"act": "lrelu", "alpha": -0.5}, {"act": "tanh", "gain": 0.0}):
        _, kept = saved_by(lambda setting=setting: ops.bias_act(x, **setting))
        assert [t.data_ptr() for t in kept] == [x.data_ptr()]
    y, kept = saved_by(lambda: ops.bias_act(x, clamp=1.0))
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


@pytest.mark.parametrize("train_bias", [False, True])
@pytest.mark.parametrize("act", PIECEWISE_LINEAR)
def test_penalty_of_a_piecewise_linear_activation(act: str, train_bias: bool) -> None:
    """R1: only the gradient's gradient. It goes to the cotangent alone, and no second derivative is computed."""
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    b = torch.randn(3, requires_grad=train_bias)
    dy = torch.randn(2, 3, 4, 5, requires_grad=True)
    with Calls() as calls:
        y = ops.bias_act(x, b, act=act, gain=1.5)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        to_dy, *others = torch.autograd.grad(dx.square().sum(), (dy, x, b) if train_bias else (dy, x), allow_unused=True)
    assert all(other is None for other in others)
    torch.testing.assert_close(to_dy, 2 * dx.detach() * (dx / dy).detach())
    for name, arguments in calls.arguments:
        if name == "bias_act_backward":
            # autograd.grad(y, x) throws the gradient of a trained bias away: it is not computed.
            assert arguments[-1] == [True, False, False]
        if name == "bias_act_double_backward":
            assert arguments[-1] == [True, False]  # no second derivative
    second = {} if act == "linear" else {"bias_act_double_backward": 1}  # a linear one only scales
    assert calls.count == {"bias_act": 1, "bias_act_backward": 1, **second}


def test_the_identity_launches_nothing_in_backward() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with Calls() as calls:
        ops.bias_act(x, torch.zeros(3)).sum().backward()
    assert calls.count == {"bias_act": 1}


@pytest.mark.parametrize("act", ["tanh", "swish"])
def test_penalty_of_a_curved_activation(act: str) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    with Calls() as calls:
        y = ops.bias_act(x, b, act=act)
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.autograd.grad(dx.square().sum(), (x, b))
    # One second derivative; one more backward takes its result to x and b (or only sums it, where x was saved).
    assert calls.count == {"bias_act": 1, "bias_act_backward": 2, "bias_act_double_backward": 1}


@pytest.mark.parametrize("wanted", [("x",), ("b",), ("noise",), ("x", "b"), ("b", "noise"), ("x", "b", "noise")])
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_only_what_is_needed_is_computed(act: str, wanted: tuple[str, ...], channels_last: bool) -> None:
    tensors = {
        "x": torch.randn(2, 3, 4, 5, dtype=torch.float64),
        "b": torch.randn(3, dtype=torch.float64),
        "noise": torch.randn(2, 1, 4, 5, dtype=torch.float64),
    }
    if channels_last:
        tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
    for name in wanted:
        tensors[name].requires_grad_()
    leaves = [tensors[name] for name in wanted]
    with Calls() as calls:
        result = torch.autograd.grad(ops.bias_act(**tensors, act=act).pow(2).sum(), leaves)
    truth = torch.autograd.grad(bias_act_reference(**tensors, act=act).pow(2).sum(), leaves)
    for got, expected in zip(result, truth, strict=True):
        torch.testing.assert_close(got, expected)
    masks = [arguments[-1] for name, arguments in calls.arguments if name == "bias_act_backward"]
    if not (act == "linear" and wanted == ("x",)):
        assert masks == [[name in wanted for name in ("x", "b", "noise")]]


def test_outputs_that_are_not_wanted_are_empty() -> None:
    dy, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    tail = (1, "tanh", 0.0, 1.0, -1.0)
    backward, double = torch.ops.gankern.bias_act_backward, torch.ops.gankern.bias_act_double_backward
    for i in range(3):
        outputs = backward(dy, y, None, None, None, *tail, [k == i for k in range(3)])
        assert [o.numel() > 0 for o in outputs] == [k == i for k in range(3)]
    for i in range(2):
        outputs = double(dy, None, None, dy, y, None, None, None, *tail, [k == i for k in range(2)])
        assert [o.numel() > 0 for o in outputs] == [k == i for k in range(2)]


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
    x = make[form](base.clone())
    b = torch.randn(x.shape[1])
    noise = torch.randn(1, 1, *x.shape[2:])
    arguments: dict[str, Any] = {"act": "selu", "gain": 1.2, "clamp": 1.5, "noise": noise, "noise_strength": 0.3}
    with gankern.use_backend(backend):
        expected = ops.bias_act(x, b, **arguments)
        version = x._version
        result = ops.bias_act_(x, b, **arguments)
    assert result is x and x._version > version
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


def test_in_place_leaves_the_rest_of_a_view_alone() -> None:
    base = torch.full((4, 6), 3.0)
    ops.bias_act_(base[1:3, 2:4], torch.tensor([1.0, 2.0]))
    expected = torch.full((4, 6), 3.0)
    expected[1:3, 2], expected[1:3, 3] = 4, 5
    assert torch.equal(base, expected)


@pytest.mark.parametrize("leaf", ["x", "b", "noise", "noise_strength"])
def test_in_place_refuses_gradients(leaf: str) -> None:
    tensors = {"x": torch.zeros(1, 2, 3, 4), "b": torch.zeros(2), "noise": torch.zeros(3, 4), "noise_strength": torch.zeros(())}
    tensors[leaf].requires_grad_()
    with pytest.raises(RuntimeError, match="bias_act_: works in place and has no gradient"):
        ops.bias_act_(**tensors)
    with torch.no_grad():
        ops.bias_act_(**tensors)


# ---- awkward values -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_input_with_a_float32_bias(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 5).to(dtype).requires_grad_()
    b = torch.randn(3, requires_grad=True)
    y = ops.bias_act(x, b, act="swish")
    assert y.dtype == dtype
    assert_close(y, bias_act_reference(x.double(), b.to(dtype).double(), act="swish"), bias_act_reference(x, b, act="swish"))
    y.sum().backward()
    assert b.grad is not None and b.grad.dtype == torch.float32 and x.grad is not None and x.grad.dtype == dtype


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_nan_and_infinity(act: str, dtype: torch.dtype, backend: str) -> None:
    """As PyTorch's own function has them, clamped or not; long enough for whole vectors and a rest."""
    x = torch.zeros(1, 3, 7, 11, dtype=dtype)
    x[0, 1, 3, 4], x[0, 0, 0, 0], x[0, 2, 6, 10] = math.nan, math.inf, -math.inf
    for clamp in (None, 2.0):
        with gankern.use_backend(backend):
            y = ops.bias_act(x, torch.ones(3, dtype=dtype), act=act, gain=1.0, clamp=clamp)
        expected = BUILT_IN[act](x.double() + 1)
        if act == "swish":
            expected[0, 2, 6, 10] = math.nan  # sigmoid(v) * v, a product of 0 and infinity
        expected = expected if clamp is None else expected.clamp(-clamp, clamp)
        assert torch.equal(torch.isnan(y), torch.isnan(expected)) and torch.isnan(y[0, 1, 3, 4])
        infinite = torch.isinf(expected)
        assert torch.equal(torch.isinf(y), infinite) and torch.equal(y[infinite].double(), expected[infinite])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_that_the_type_cannot_hold(dtype: torch.dtype, backend: str) -> None:
    """0.9 is rounded in half types: what was clamped must still be seen as clamped, and has no gradient."""
    x = torch.linspace(-2, 2, 81, dtype=torch.float64).to(dtype).reshape(1, 3, 27).requires_grad_()
    with gankern.use_backend(backend):
        y = ops.bias_act(x, act="lrelu", gain=1, clamp=0.9)
        (dx,) = torch.autograd.grad(y.sum(), x)
    v = x.detach().double()
    assert torch.equal(dx == 0, (v >= y.detach().max().double()) | (v * 0.2 <= -0.9))
    assert float(y.max().detach()) == float(torch.tensor(0.9, dtype=dtype))


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="PyTorch's own sums do")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype, channels_last: bool) -> None:
    x = torch.randn(4, 67, 24, 41).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    b = torch.randn(67).to(dtype).requires_grad_()
    noise = torch.randn(4, 1, 24, 41).to(dtype).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.bias_act(x, b, act="swish", noise=noise)
            results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, b, noise))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def assert_gradients_close(names: Any, results: Any, truths: Any, eager: Any, dim: int, dy: Tensor, gain: float) -> None:
    """Of x: the slope comes from the output, rounded to its type. Sums: the magnitudes of their terms, not what is left of them
    after cancellation, are the scale of rounding."""
    rounding = torch.finfo(dy.dtype).eps * dy.double().abs() * max(1, abs(gain))
    sum_rounding = rounding + (1e-12 if dy.dtype == torch.float64 else 1e-6) * truths[0].abs()
    for name, result, truth, own in zip(names, results, truths, eager, strict=True):
        slack = rounding
        if name == "b":
            slack = sum_rounding.movedim(dim, 0).reshape(truth.numel(), -1).sum(1)
        elif name == "noise":
            slack = sum_rounding.sum_to_size(truth.shape)
        comparison = compare(result, truth, own)
        assert not comparison.message, f"gradient of {name}: {comparison}"
        assert comparison.error <= comparison.allowed + float(slack.max()), f"gradient of {name}: {comparison}"


@pytest.mark.parametrize("channels", [1, 3, 67, 127, 128, 129, 323, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_channel_counts_and_plane_sizes(channels: int, dtype: torch.dtype, channels_last: bool) -> None:
    """Both memory forms, short and long rows, with and without noise, several chunks of the reductions."""
    for height, width in ((4, 4), (3, 5)) if channels > 200 else ((1, 5), (12, 11), (31, 17)):
        x = torch.randn(2, channels, height, width).to(dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        b = torch.randn(channels).to(dtype)
        for act, noise in (("lrelu", None), ("swish", torch.randn(2, 1, height, width).to(dtype))):
            leaves = [t.requires_grad_() for t in (x, b, noise) if t is not None]
            dy = torch.randn_like(x)
            y = ops.bias_act(x, b, act=act, noise=noise)
            grads = torch.autograd.grad(y, leaves, dy)
            wide = [t.detach().double().requires_grad_() for t in leaves]
            truth = bias_act_reference(*wide[:2], act=act, noise=None if noise is None else wide[2])
            eager = bias_act_reference(*leaves[:2], act=act, noise=noise)
            assert_close(y, truth, eager)
            true_grads = torch.autograd.grad(truth, wide, dy.double())
            eager_grads = torch.autograd.grad(eager, leaves, dy)
            assert_gradients_close(["x", "b", "noise"][: len(leaves)], grads, true_grads, eager_grads, 1, dy, 1.5)


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    x = torch.zeros(2, (1 << 30) + 5, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[-1, -1], x[0, 0] = 1, -1
    y = ops.bias_act_(x, torch.tensor([1.0, 2.0]), dim=0, act="relu", gain=1)
    assert float(y[0, 0]) == 0 and float(y[0, 1]) == 1 and float(y[1, 0]) == 2 and float(y[-1, -1]) == 3


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    dims = draw(st.integers(1, 5))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=dims, max_size=dims)))
    if draw(st.booleans()):
        stretched = draw(st.integers(0, dims - 1))
        shape = (*shape[:stretched], draw(st.integers(0, 400)), *shape[stretched + 1 :])
    with_noise = dims == 4 and draw(st.booleans())
    return {
        "shape": shape,
        "dim": 1 if with_noise else draw(st.integers(-dims, dims - 1)),
        "bias": draw(st.booleans()),
        "noise": [1 if draw(st.booleans()) else s for s in (shape[0], 1, *shape[2:])] if with_noise else None,
        "act": draw(st.sampled_from(ACTS)),
        "alpha": draw(st.sampled_from([None, 0.1, 0.0, -0.5])),
        "gain": draw(st.sampled_from([None, 1.0, 0.7, -1.5, 0.0])),
        "clamp": draw(st.sampled_from([None, 0.5, 0.9, 256.0])),
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

    x = randn(shape)
    if call["layout"] == "channels_last" and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    elif call["layout"] == "strided":
        x = randn((*shape, 2))[..., 1]
    tensors: dict[str, Tensor] = {"x": x}
    if call["bias"]:
        tensors["b"] = randn(shape[call["dim"]])
    if call["noise"] is not None:
        tensors["noise"] = randn(call["noise"])
    rest = {k: call[k] for k in ("dim", "act", "alpha", "gain", "clamp")}
    if call["clamp"] is not None:  # which elements are clamped must not hang on the rounding of 0.9
        rest["clamp"] = float(torch.tensor(call["clamp"], dtype=dtype))
    dy = randn(shape)

    def run(function: Callable[..., Tensor], wide: bool) -> tuple[Tensor, ...]:
        leaves = {k: (t.double() if wide else t).detach().requires_grad_() for k, t in tensors.items()}
        y = function(**leaves, **rest)
        return (y, *torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype)))

    got, truth, eager = run(ops.bias_act, False), run(bias_act_reference, True), run(bias_act_reference, False)
    assert got[0].shape == shape and got[0].dtype == dtype
    if x.numel() == 0:
        return
    assert_close(got[0], truth[0], eager[0], what="y")
    # Near the clamp a rounding decides whether there is a gradient: compare where both precisions agree.
    y, limit = truth[0].detach(), rest["clamp"]
    margin = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    if limit is not None and bool(((y.abs() - limit).abs() < margin * max(limit, 1))[y.abs() < limit].any()):
        return
    gain = ops.activation_funcs[call["act"]].def_gain if call["gain"] is None else call["gain"]
    assert_gradients_close(tensors, got[1:], truth[1:], eager[1:], rest["dim"], dy, gain)


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
X = torch.zeros(2, 3, 4, 5)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("not a tensor", TypeError, r"x must be a torch\.Tensor, got list", {"x": [1.0]}),
    ("integers", TypeError, r"x must be float32, float64, bfloat16 or float16, got int64", {"x": X.long()}),
    ("a scalar", ValueError, r"x must have at least one dimension, got a scalar", {"x": torch.zeros(())}),
    ("unknown activation", ValueError, r"act must be one of linear, relu, .*, swish, got 'gelu'", {"act": "gelu"}),
    ("activation is no name", ValueError, r"act must be one of linear, .* got 3", {"act": 3}),
    ("negative clamp", ValueError, r"clamp must not be negative \(None for no clamping\), got -1", {"clamp": -1}),
    ("clamp is no number", TypeError, r"clamp must be a real number, got '1'", {"clamp": "1"}),
    ("clamp is infinite", ValueError, r"clamp must be finite, got inf", {"clamp": math.inf}),
    ("alpha is NaN", ValueError, r"alpha must be finite, got nan", {"alpha": math.nan}),
    ("gain is infinite", ValueError, r"gain must be finite, got inf", {"gain": math.inf}),
    ("gain is a bool", TypeError, r"gain must be a real number, got True", {"gain": True}),
    ("bias too long", ValueError, r"b must have shape \[3\], the size of x along dim 1, got \[4\]", {"b": torch.zeros(4)}),
    ("bias 2-D", ValueError, r"b must have shape \[3\], .* got \[3, 1\]", {"b": torch.zeros(3, 1)}),
    ("integer bias", TypeError, r"b must be a floating-point torch\.Tensor or None, got dtype int64", {"b": torch.arange(3)}),
    ("bias is a list", TypeError, r"b must be a floating-point .* got list", {"b": [0.0, 0.0, 0.0]}),
    ("bias elsewhere", ValueError, r"b must be on the device of x \(cpu\), got meta", {"b": torch.zeros(3, device="meta")}),
    ("dim too large", ValueError, r"dim must be in \[-4, 3\] for x of 4 dimensions, got 4", {"b": torch.zeros(3), "dim": 4}),
    ("dim too small", ValueError, r"dim must be in \[-4, 3\] .* got -5", {"b": torch.zeros(3), "dim": -5}),
    ("dim is a float", TypeError, r"dim must be an int, got 1\.0", {"b": torch.zeros(3), "dim": 1.0}),
    ("noise is a number", TypeError, r"noise must be a floating-point torch\.Tensor or None, got float", {"noise": 1.0}),
    (
        "noise for every channel",
        ValueError,
        r"noise must broadcast to \[N, 1, H, W\] = \[2, 1, 4, 5\], got \[2, 3, 4, 5\]",
        {"noise": torch.zeros(2, 3, 4, 5)},
    ),
    ("noise 5-D", ValueError, r"noise must broadcast to .* got \[1, 1, 1, 4, 5\]", {"noise": torch.zeros(1, 1, 1, 4, 5)}),
    ("noise of a 2-D x", ValueError, r"noise needs x of 4 dimensions", {"x": torch.zeros(4, 5), "noise": torch.zeros(4, 5)}),
    (
        "noise and another dim",
        ValueError,
        r"noise needs the bias along dim 1, got dim 2",
        {"b": torch.zeros(4), "dim": 2, "noise": torch.zeros(4, 5)},
    ),
    ("noise elsewhere", ValueError, r"noise must be on the device of x", {"noise": torch.zeros(4, 5, device="meta")}),
    ("strength without noise", ValueError, r"noise_strength is given but noise is None", {"noise_strength": 1.0}),
    (
        "two strengths",
        ValueError,
        r"noise_strength must be one floating-point number, got shape \[2\]",
        {"noise": torch.zeros(4, 5), "noise_strength": torch.zeros(2)},
    ),
    (
        "strength is NaN",
        ValueError,
        r"noise_strength must be finite, got nan",
        {"noise": torch.zeros(4, 5), "noise_strength": math.nan},
    ),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.bias_act, ops.bias_act_, bias_act_reference], ids=["op", "in_place", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="bias_act: " + message):
        function(**{"x": X, **change})
