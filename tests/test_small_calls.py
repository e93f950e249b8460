"""Calls that are short: small images take the definition, usual convolutions a plan; neither may lose what the long way has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import _dispatch, _usage, nn, ops
from gankern._library import NATIVE
from gankern.ops.conv2d import op as conv2d_op
from gankern.ops.conv2d import usual


def randn(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    assert _dispatch.forced_backend() is None


CALLS: dict[str, Callable[..., Tensor]] = {
    "bias_act": lambda x, w, v: ops.bias_act(x, v, act="lrelu", clamp=0.8),
    "bias_act curved": lambda x, w, v: ops.bias_act(x, v, act="swish"),
    "bias_act alone": lambda x, w, v: ops.bias_act(x, act="tanh") * v[:, None, None],
    "modulate": lambda x, w, v: ops.modulate(x, v.expand(2, 4), b=v, act="lrelu", clamp=0.8),
    "conv2d": lambda x, w, v: ops.conv2d(x, w, v, 2, 1),
    "conv2d dilated": lambda x, w, v: ops.conv2d(x, w, v, 1, 2, 2),
    "conv_transpose2d": lambda x, w, v: ops.conv_transpose2d(x, w, v, 2, 1, 1),
    "spectral_norm": lambda x, w, v: ops.conv2d(x, normalised(w), v, 1, 1),
    "spectral_norm transposed": lambda x, w, v: ops.conv2d(x, normalised(w, 1, 2), v, 1, 1),
    "spectral_norm frozen": lambda x, w, v: ops.conv2d(x, normalised(1 + w, 0, 0), v, 1, 1),
}


def normalised(w: Tensor, dim: int = 0, count: int = 1) -> Tensor:
    u = torch.nn.functional.normalize(torch.arange(1.0, 5.0, dtype=w.dtype), dim=0)
    v = torch.nn.functional.normalize(torch.arange(1.0, 37.0, dtype=w.dtype), dim=0)
    y = ops.spectral_norm(w, u, v, dim, count)
    return y + 0.1 * (u.sum() + v.sum())  # the buffers count, too


def derivatives(call: Callable[..., Tensor]) -> list[Tensor]:
    """The value, and derivatives of first and second order in all three."""
    torch.manual_seed(1)
    leaves = [randn(2, 4, 6, 6, grad=True), randn(4, 4, 3, 3, grad=True), randn(4, grad=True)]
    y = call(*leaves)
    with torch.no_grad():
        value = call(*leaves)
    first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True, allow_unused=True)
    again = torch.autograd.grad(call(*leaves).sin().sum(), leaves, allow_unused=True)
    total = sum((g.square().sum() for g in first if g is not None), torch.zeros((), dtype=torch.float64))
    second = torch.autograd.grad(total, leaves, allow_unused=True)
    return [y, value, *(torch.zeros(()) if g is None else g for g in (*first, *again, *second))]


@pytest.mark.parametrize("name", CALLS)
def test_values_and_derivatives_are_those_of_the_long_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = derivatives(CALLS[name])
    monkeypatch.setattr(_dispatch, "SMALL", 0)
    monkeypatch.setattr(usual.Usual, "plan", lambda *_: None)
    long = derivatives(CALLS[name])
    with gankern.use_backend("reference"):
        law = derivatives(CALLS[name])
    assert [t.stride() for t in short[:2]] == [t.stride() for t in long[:2]]
    for a, b, c in zip(short, long, law, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(a, c, rtol=1e-11, atol=1e-12)


# ---- which way is taken ----------------------------------------------------------------------------------------------------
def test_small_images_take_the_definition_and_explain_says_so() -> None:
    x = torch.randn(1, 4, 8, 8)
    with _usage.recording() as usage:
        ops.bias_act(x, act="relu")
        ops.modulate(x, act="relu")
    assert [(e.op, e.backend, e.calls) for e in sorted(usage.entries(), key=lambda e: e.op)] == [
        ("bias_act", "reference", 1),
        ("modulate", "reference", 1),
    ]
    assert gankern.explain(ops.bias_act, x)[0] == ("reference", None)
    large = torch.zeros(_dispatch.SMALL + 1)
    names = [name for name, reason in gankern.explain(ops.bias_act, large) if reason is None]
    assert names == (["cpu"] if NATIVE.cpu else []) + ["reference"]


@pytest.mark.parametrize("passes, most", [(1, 1.0), (2, 0.25), (5, 0.25)])
def test_the_more_passes_the_smaller(passes: int, most: float) -> None:
    size = int(_dispatch.SMALL * most)
    assert _dispatch.small(torch.empty(size), passes)
    assert not _dispatch.small(torch.empty(size + 1), passes)


def test_what_is_never_small() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert _dispatch.small(x) and _dispatch.small(torch.nn.Parameter(x))
    for other in (x[:, :, ::2], x.to(memory_format=torch.channels_last), x.bfloat16(), x[:0], x.to("meta")):
        assert not _dispatch.small(other)
    with gankern.use_backend("reference"):
        assert not _dispatch.small(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _dispatch.small(x)
    with gankern.export.standard_operators():
        assert not _dispatch.small(x)


def test_usual_convolutions_count() -> None:
    x, w = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    with _usage.recording() as usage:
        ops.conv2d(x, w, padding=1).square().sum().backward()
        with gankern.use_backend("reference"):
            ops.conv2d(x, w, padding=1)
    found = {(e.op, e.backend): e.calls for e in usage.entries()}
    assert found == {("conv2d", "aten"): 1, ("conv2d_gradients", "aten"): 1, ("conv2d", "reference"): 1}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["expanded", "channels_last", "of one column"])
def test_gradients_of_any_strides_are_usual(layout: str, bias: bool) -> None:
    """The gradient of a sum is one number seen everywhere, that of what follows may be in another layout."""
    x, w = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 6, 6), (4, 3, 3, 3)))
    b = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
    given = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    if layout == "expanded":
        given = given[:1, :1, :1, :1].expand(2, 4, 6, 6)
    elif layout == "channels_last":
        given = given.to(memory_format=torch.channels_last)
    else:
        given = given[..., :1].expand(2, 4, 6, 6)
    asked = [t for t in (x, w, b) if t is not None]
    with _usage.recording() as usage:
        found = torch.autograd.grad(ops.conv2d(x, w, b, padding=1), asked, given)
    assert {(e.op, e.calls) for e in usage.entries()} == {("conv2d", 1), ("conv2d_gradients", 1)}
    with gankern.use_backend("reference"):
        expected = torch.autograd.grad(ops.conv2d(x, w, b, padding=1), asked, given)
    for a, c in zip(found, expected, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        assert a.is_contiguous()


class Seen(TorchDispatchMode):
    """Names of the operators that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_operators() -> None:
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    ops.conv2d(x, w), ops.bias_act(x, act="relu")
    with Seen() as seen:
        ops.bias_act(ops.conv2d(x, w), act="relu")
        ops.bias_act_(x, act="relu")
    assert [name for name in seen.names if name.startswith("gankern.")] == [
        "gankern.conv2d.default",
        "gankern.bias_act.default",
        "gankern.bias_act_.default",
    ]


def test_torch_compile_sees_operators() -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    layer = nn.Conv2d(3, 4, 3, act="lrelu")
    x = torch.randn(2, 3, 6, 6)
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, backend=backend, fullgraph=True)(x), expected)
    called = {str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert {"gankern.conv2d.default", "gankern.bias_act.default"} <= called
    torch._dynamo.reset()


# ---- what must not be skipped ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"stride": True}, TypeError, "stride must be"),
        ({"stride": 1.0}, TypeError, "stride must be"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"padding": -1}, ValueError, "padding must be at least 0"),
        ({"groups": True}, TypeError, "groups must be an int"),
        ({"groups": 2}, ValueError, "input must have 6 channels"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \[4\]"),
        ({"bias": torch.zeros(4, dtype=torch.float64)}, TypeError, "bias must have the dtype of input"),
        ({"weight": torch.zeros(4, 3, 3, 3, dtype=torch.float64)}, TypeError, "weight must have the dtype of input"),
        ({"weight": torch.zeros(4, 3, 9, 9)}, ValueError, "padding leaves no output pixel"),
        ({"weight": None}, TypeError, "weight must be a torch.Tensor"),
    ],
)
def test_bad_calls_after_a_good_one_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"input": torch.randn(2, 3, 6, 6), "weight": torch.randn(4, 3, 3, 3), "stride": 1, "groups": 1}
    for _ in range(2):
        ops.conv2d(**good)
        with pytest.raises(error, match=message) as caught:
            ops.conv2d(**{**good, **change})
        assert caught.value.__context__ is None


def test_autocast_after_a_plan() -> None:
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    assert ops.conv2d(x, w).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.conv2d(x, w).dtype == torch.bfloat16
        assert ops.bias_act(x, act="relu").dtype == torch.float32
        assert nn.Conv2d(3, 4, 3, act="relu")(x).dtype == torch.bfloat16
    y = ops.conv2d(x.requires_grad_(), w.requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_transforms_and_forward_mode_after_a_plan() -> None:
    x, w, t = randn(2, 3, 6, 6), randn(4, 3, 3, 3), randn(2, 3, 6, 6)

    def layer(x: Tensor) -> Tensor:
        return ops.bias_act(ops.conv2d(x, w, padding=1), act="tanh")

    y = layer(x)
    slope = 1 - y * y
    torch.testing.assert_close(torch.func.vmap(layer)(torch.stack([x, t]))[0], y)
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (t,))[1], slope * ops.conv2d(t, w, padding=1))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, t))).tangent
    torch.testing.assert_close(tangent, slope * ops.conv2d(t, w, padding=1))
    expected = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).sum())(x.detach()), expected)


def test_a_tensor_that_is_left_over_from_a_transform() -> None:
    kept: list[Tensor] = []

    def leak(x: Tensor) -> Tensor:
        kept.append(x)
        return x.sum()

    x, w = randn(2, 3, 6, 6), randn(4, 3, 3, 3, grad=True)
    torch.func.grad(leak)(x)
    y = ops.conv2d(kept[0], w, padding=1)
    torch.testing.assert_close(y, ops.conv2d(x, w, padding=1))
    y.sum().backward()
    assert w.grad is not None


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[list[bool]] = []
    real = conv2d_op.backends._aten.convolution_backward

    def backward(*args: Any) -> Any:
        masks.append(list(args[-1]))
        return real(*args)

    monkeypatch.setattr(conv2d_op.backends._aten, "convolution_backward", backward)
    x, w, b = randn(2, 3, 6, 6, grad=True), randn(4, 3, 3, 3, grad=True), randn(4, grad=True)
    for asked, expected in (
        ([x], [[True, False, False]]),
        ([w], [[False, True, False]]),
        ([b], []),
        ([x, b], [[True, False, False]]),
        ([w, b], [[False, True, True]]),
        ([x, w, b], [[True, True, True]]),
    ):
        masks.clear()
        torch.autograd.grad(ops.conv2d(x, w, b).square().sum(), asked)
        assert masks == expected
    masks.clear()
    with ops.no_weight_gradients():
        ops.conv2d(x, w, b).square().sum().backward()
    assert masks == [[True, False, False]] and w.grad is None and x.grad is not None and b.grad is not None


def test_frozen_weights_keep_no_images() -> None:
    kept: list[Tensor] = []
    x, w = randn(2, 3, 6, 6, grad=True), randn(4, 3, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        ops.conv2d(x, w)
    assert [t.shape for t in kept] == [w.shape]


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "tanh", "sigmoid", "swish"])
def test_inputs_are_not_overwritten_and_results_are_new(act: str) -> None:
    x = torch.randn(2, 3, 4, 4)
    before = x.clone()
    layers = [nn.BiasAct(3, act, gain=1.0, bias=False), nn.BatchNormAct2d(3, act=act).eval(), nn.BatchNormAct2d(3, act=act)]
    for call in (lambda: ops.bias_act(x, act=act, gain=1.0), lambda: ops.modulate(x, act=act, gain=1.0)):
        assert call().data_ptr() != x.data_ptr() and torch.equal(x, before)
    for layer in layers:
        with torch.no_grad():
            y = layer(x)
        assert y.data_ptr() != x.data_ptr() and torch.equal(x, before)
        for module in layer.modules():
            if hasattr(module, "reference"):
                module.reference = True
        torch.testing.assert_close(layer(x), y)


def test_modules_on_small_and_on_large_images_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias is the convolution's of small images, and the epilogue's of large ones."""
    x = randn(2, 3, 8, 8, grad=True)
    for layer in (
        nn.Conv2d(3, 4, 3, act="lrelu", clamp=1.0),
        nn.ConvTranspose2d(3, 4, 4, 2, 1, act="relu", equalized=False),
        nn.Linear(8, 5, act="lrelu", lr_multiplier=0.1),
    ):
        layer.double()
        torch.nn.init.normal_(layer.bias)  # type: ignore[arg-type]
        results = []
        for small in (_dispatch.SMALL, 0):
            monkeypatch.setattr(_dispatch, "SMALL", small)
            y = layer(x)
            results.append([y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usual, "_MOST", 4)
    made = usual.Usual(False, *(getattr(conv2d_op._USUAL, k) for k in ("prepare", "table", "output", "backward")))
    w = torch.randn(2, 2, 1, 1)
    for size in range(3, 15):
        assert made.plan(torch.randn(1, 2, size, size), w, None, (1, 0, 1, 1)) is not None
        assert len(made.plans) <= 4
