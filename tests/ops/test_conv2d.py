"""conv2d and conv_transpose2d: against torch.nn.functional in float64, what backward does and leaves undone, and bad input."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gankern import ops
from gankern.ops import conv2d, conv_transpose2d, no_weight_gradients
from gankern.testing import assert_close

backends = importlib.import_module("gankern.ops.conv2d.backends")
scope = importlib.import_module("gankern.ops.conv2d.scope")

_randn = torch.randn


def derivatives(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Value, first, second and third derivatives of a curved function of the output, in all leaves."""
    y = function(*leaves)
    found = [y]
    value = y.sin().sum()
    for order in range(3):
        gradients = torch.autograd.grad(value, leaves, create_graph=order < 2)
        found += gradients
        value = sum((g * g).sum() for g in gradients)
    return found


# ---- outside oracle: torch.nn.functional in float64 ---------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_conv2d_is_pytorchs_to_third_order(data: Any) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    kernel = [data.draw(st.integers(1, 4)) for _ in "yx"]
    stride = [data.draw(st.integers(1, 3)) for _ in "yx"]
    dilation = [data.draw(st.integers(1, 3)) for _ in "yx"]
    padding = [data.draw(st.integers(0, 3)) for _ in "yx"]
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    size = [n + data.draw(st.integers(0, 5)) for n in least]
    inputs, outputs = (data.draw(st.integers(1, 2)) * groups for _ in "io")
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = _randn(data.draw(st.integers(1, 2)), inputs, *size, dtype=torch.float64, requires_grad=True)
    w = _randn(outputs, inputs // groups, *kernel, dtype=torch.float64, requires_grad=True)
    b = _randn(outputs, dtype=torch.float64, requires_grad=True)
    mine = derivatives(lambda x, w, b: conv2d(x, w, b, stride, padding, dilation, groups), [x, w, b])
    theirs = derivatives(lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, groups), [x, w, b])
    for a, e in zip(mine, theirs, strict=True):
        assert_close(a, e, factor=100)  # third derivatives square sums of hundreds of products twice


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_conv_transpose2d_is_pytorchs_to_third_order(data: Any) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2]))
    kernel = [data.draw(st.integers(1, 4)) for _ in "yx"]
    stride = [data.draw(st.integers(1, 3)) for _ in "yx"]
    dilation = [data.draw(st.integers(1, 3)) for _ in "yx"]
    more = [data.draw(st.integers(0, max(stride[i], dilation[i]) - 1)) for i in (0, 1)]
    size = [data.draw(st.integers(1, 5)) for _ in "yx"]
    full = [(size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + more[i] + 1 for i in (0, 1)]
    padding = [data.draw(st.integers(0, (full[i] - 1) // 2)) for i in (0, 1)]
    inputs, outputs = (data.draw(st.integers(1, 2)) * groups for _ in "io")
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = _randn(data.draw(st.integers(1, 2)), inputs, *size, dtype=torch.float64, requires_grad=True)
    w = _randn(inputs, outputs // groups, *kernel, dtype=torch.float64, requires_grad=True)
    b = _randn(outputs, dtype=torch.float64, requires_grad=True)
    arguments = (stride, padding, more, groups, dilation)
    mine = derivatives(lambda x, w, b: conv_transpose2d(x, w, b, *arguments), [x, w, b])
    y = F.conv_transpose2d(x, w, b, *arguments)
    torch.testing.assert_close(mine[0], y)
    # PyTorch's own third derivative refuses output_padding, and its gradients are wrong where that reaches a stride.
    if any(more):
        theirs = derivatives(lambda x, w, b: _transposed_by_scatter(x, w, b, *arguments), [x, w, b])
    else:
        theirs = derivatives(lambda x, w, b: F.conv_transpose2d(x, w, b, *arguments), [x, w, b])
    for a, e in zip(mine, theirs, strict=True):
        assert_close(a, e, factor=100)


def _transposed_by_scatter(
    x: Tensor, w: Tensor, b: Tensor, stride: list[int], padding: list[int], more: list[int], groups: int, dilation: list[int]
) -> Tensor:
    """Every pixel times every tap, added where it belongs."""
    n, _, height, width = x.shape
    kernel = w.shape[2:]
    full = [(x.shape[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + more[i] + 1 + padding[i] for i in (0, 1)]
    y = x.new_zeros(n, w.shape[1] * groups, *full)
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            taps = w[:, :, ky, kx].unflatten(0, (groups, -1))
            part = torch.einsum("ngihw,gio->ngohw", x.unflatten(1, (groups, -1)), taps).flatten(1, 2)
            y0, x0 = ky * dilation[0], kx * dilation[1]
            spread = torch.zeros_like(y)
            spread[:, :, y0 : y0 + height * stride[0] : stride[0], x0 : x0 + width * stride[1] : stride[1]][
                :, :, :height, :width
            ] = part
            y = y + spread
    size = [(x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + more[i] + 1 for i in (0, 1)]
    y = y[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return y + b[:, None, None]


def test_gradients_of_many_forms_against_finite_differences() -> None:
    torch.manual_seed(0)
    x = _randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    w = _randn(4, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    g = _randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def strided(x: Tensor, w: Tensor) -> Tensor:
        return conv2d(x, w, stride=2, padding=1, dilation=2, groups=2)

    def transposed(x: Tensor, g: Tensor) -> Tensor:
        return conv_transpose2d(x, g, stride=2, padding=1, output_padding=1, dilation=2)

    for function, leaves in ((strided, (x, w)), (transposed, (x, g))):
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0), [1, 1]])
def test_paddings(padding: Any) -> None:
    x, w = _randn(2, 3, 7, 8), _randn(4, 3, 3, 4)
    torch.testing.assert_close(conv2d(x, w, padding=padding), F.conv2d(x, w, padding=padding))


# ---- what is computed, and what is not ----------------------------------------------------------------------------------
class Units(TorchDispatchMode):
    """Counts convolutions: each forward, input gradient and weight gradient of a layer is one unit of work."""

    NAMES = ("gankern.conv2d.default", "gankern.conv_transpose2d.default", "gankern.conv2d_weight_gradient.default")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.units = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        self.calls[name] += 1
        if name in self.NAMES or name == "aten.convolution.default":
            self.units += 1
        elif name == "aten.convolution_backward.default":
            self.units += sum(args[-1][:2])
        return function(*args, **(kwargs or {}))


LAYERS = 4


def critic(conv: Callable[..., Tensor], weights: list[Tensor], biases: list[Tensor], head: Tensor, x: Tensor) -> Tensor:
    for w, b in zip(weights, biases, strict=True):
        x = ops.bias_act(conv(x, w, padding=1), b, act="lrelu")
    return x.mean((2, 3)) @ head


@pytest.fixture
def parameters() -> tuple[list[Tensor], list[Tensor], Tensor]:
    torch.manual_seed(1)
    weights = [(_randn(6, 6, 3, 3) * 0.2).requires_grad_() for _ in range(LAYERS)]
    biases = [_randn(6).requires_grad_() for _ in range(LAYERS)]
    return weights, biases, _randn(6, 1).requires_grad_()


def count(
    conv: Callable[..., Tensor], step: str, parameters: Any, device: torch.device | None = None
) -> tuple[Units, list[Tensor]]:
    """Units of a step of ``LAYERS`` layers, and the parameters' gradients."""
    weights, biases, head = parameters
    leaves = [*weights, *biases, head]
    x = _randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_(step != "plain")
    with Units() as units:
        logits = critic(conv, weights, biases, head, x)
        loss = F.softplus(-logits).mean()
        if step != "plain":
            (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            penalty = g.square().sum((1, 2, 3)).mean()
            loss = penalty if step == "penalty" else loss + penalty
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return units, [torch.zeros_like(p) if d is None else d for p, d in zip(leaves, gradients, strict=True)]


@pytest.mark.parametrize(
    "step, units",
    [
        ("plain", 3 * LAYERS - 1),  # forward, input gradient (not of the images), weight gradient
        ("r1", 6 * LAYERS - 1),  # and the penalty's input gradient, its adjoint in the cotangent, its adjoint in the weight
        ("penalty", 4 * LAYERS),  # of a penalty alone, nothing flows back through a piecewise linear forward pass
    ],
)
def test_units_of_a_step(step: str, units: int, parameters: Any) -> None:
    mine, gradients = count(conv2d, step, parameters)
    theirs, expected = count(F.conv2d, step, parameters)
    assert mine.units == units, mine.calls
    assert theirs.units >= units
    for a, e in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-6)


def test_eager_does_more_for_a_penalty(parameters: Any) -> None:
    """What the units above are compared with: PyTorch's own layers, 5.5 units a layer and more."""

    def eager_critic_penalty() -> int:
        weights, biases, head = parameters
        x = _randn(2, 6, 8, 8, requires_grad=True)
        with Units() as units:
            y = x
            for w, b in zip(weights, biases, strict=True):
                y = F.leaky_relu(F.conv2d(y, w, b, padding=1), 0.2)
            (g,) = torch.autograd.grad((y.mean((2, 3)) @ head).sum(), x, create_graph=True)
            torch.autograd.grad(g.square().sum(), [*weights, *biases, head], allow_unused=True)
        return units.units

    assert eager_critic_penalty() >= 5.5 * LAYERS - 2
    assert count(conv2d, "penalty", parameters)[0].units == 4 * LAYERS


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_unit_is_one_call_of_pytorchs_arithmetic(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()
    monkeypatch.setattr(backends, "_aten", _counting(calls))
    x = _randn(2, 6, 8, 8, requires_grad=True)
    w = _randn(6, 6 // groups, 3, 3, requires_grad=True)
    y = conv2d(x, w, padding=1, groups=groups)
    assert calls == {"convolution": 1}
    gx, gw = torch.autograd.grad(y, [x, w], _randn(y.shape), create_graph=True)
    assert calls == {"convolution": 2, "convolution_backward": 1}
    torch.autograd.grad(gx.square().sum() + gw.square().sum(), [x, w])
    # gx = T(g, w) gives w W(u, g), and gw = W(x, g) gives x T(g, v); g is a constant here. Nothing runs once per group.
    assert calls == {"convolution": 3, "convolution_backward": 2}


def _counting(calls: Counter[str]) -> Any:
    """PyTorch's convolutions as backends.py calls them, counted."""

    def counted(name: str) -> Any:
        real = getattr(backends._aten, name)

        def call(*args: Any) -> Any:
            # Of the gradients only that of the weight counts, which is the second of the mask.
            calls[name] += name == "convolution" or args[-1][1]
            return real(*args)

        return call

    return SimpleNamespace(convolution=counted("convolution"), convolution_backward=counted("convolution_backward"))


def test_gradients_that_nobody_wants_are_not_computed() -> None:
    x, w, b = _randn(2, 3, 6, 6, requires_grad=True), _randn(4, 3, 3, 3, requires_grad=True), _randn(4, requires_grad=True)
    for function in (conv2d, conv_transpose2d):
        kernel = w if function is conv2d else w.detach().transpose(0, 1).clone().requires_grad_()
        y = function(x, kernel, b).square().sum()
        with Units() as units:
            torch.autograd.grad(y, x, retain_graph=True)
        assert units.units == 1 and "aten.sum.dim_IntList" not in units.calls
        with Units() as units:
            torch.autograd.grad(y, b, retain_graph=True)
        assert units.units == 0 and units.calls["aten.sum.dim_IntList"] == 1
        with Units() as units:
            torch.autograd.grad(y, kernel)
        assert units.calls[Units.NAMES[2]] == 1 and units.units == 1


# ---- no_weight_gradients -------------------------------------------------------------------------------------------------
@pytest.fixture
def weight_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts weight gradients that are really computed."""
    calls = Counter[str]()
    monkeypatch.setattr(backends, "_aten", _counting(calls))
    yield calls
    assert not scope.weight_gradients_disabled(), "a scope was left open"


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    return _randn(2, 3, 6, 6, requires_grad=True), _randn(4, 3, 3, 3, requires_grad=True), _randn(4, requires_grad=True)


def test_scope_skips_weight_gradients(weight_calls: Counter[str]) -> None:
    x, w, b = leaves()
    with no_weight_gradients():
        conv2d(x, w, b).square().sum().backward()
        assert scope.weight_gradients_disabled()
    assert x.grad is not None and b.grad is not None and w.grad is None
    assert weight_calls["convolution_backward"] == 0
    conv2d(x, w, b).square().sum().backward()
    assert w.grad is not None and weight_calls["convolution_backward"] == 1


def test_scope_can_be_switched_off_and_nested(weight_calls: Counter[str]) -> None:
    x, w, _ = leaves()
    with no_weight_gradients(disable=False):
        assert not scope.weight_gradients_disabled()
    with no_weight_gradients():
        with no_weight_gradients(this_thread=True):
            pass
        assert scope.weight_gradients_disabled()
        assert torch.autograd.grad(conv2d(x, w).sum(), [x, w], allow_unused=True)[1] is None
    with pytest.raises(ZeroDivisionError), no_weight_gradients():
        raise ZeroDivisionError
    assert not scope.weight_gradients_disabled()
    for bad in ({"disable": 1}, {"this_thread": "yes"}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            no_weight_gradients(**bad)


def test_second_derivative_outside_the_scope_is_whole(weight_calls: Counter[str]) -> None:
    x, w, _ = leaves()
    results = []
    for disable in (True, False):
        with no_weight_gradients(disable=disable):
            (g,) = torch.autograd.grad(conv2d(x, w).sin().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), [x, w]))
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e)


class Reentrant(torch.autograd.Function):
    """Backward inside backward, so deep that autograd goes on in threads of its own pool, as it does for a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, depth: int, inner: Callable[[], None]) -> Tensor:
        ctx.depth, ctx.inner = depth, inner
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        if ctx.depth == 0:
            ctx.inner()
        else:
            with torch.enable_grad():
                x = torch.ones(1, requires_grad=True)
                Reentrant.apply(x, ctx.depth - 1, ctx.inner).backward()
        return g, None, None


@pytest.mark.parametrize("this_thread", [False, True])
def test_scope_holds_in_autograds_own_threads(this_thread: bool, weight_calls: Counter[str]) -> None:
    seen = []

    def inner() -> None:
        x, w, _ = leaves()
        with torch.enable_grad():
            conv2d(x, w).sum().backward()
        seen.append((threading.get_ident(), w.grad))

    with no_weight_gradients(this_thread=this_thread):
        Reentrant.apply(torch.ones(1, requires_grad=True), 80, inner).backward()
    ((thread, gradient),) = seen
    assert thread != threading.get_ident(), "autograd did not change threads: the test shows nothing"
    assert gradient is None and weight_calls["convolution_backward"] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("this_thread", [False, True])
def test_scope_holds_in_the_gpus_device_thread(this_thread: bool, weight_calls: Counter[str]) -> None:
    x, w, _ = (t.detach().cuda().requires_grad_() for t in leaves())
    threads = set()

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            threads.add(threading.get_ident())
            return g

    with no_weight_gradients(this_thread=this_thread):
        Seen.apply(conv2d(x, w)).square().sum().backward()
    assert threads and threading.get_ident() not in threads, "backward ran in this thread: the test shows nothing"
    assert w.grad is None and x.grad is not None and weight_calls["convolution_backward"] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("step, units", [("plain", 3 * LAYERS - 1), ("r1", 6 * LAYERS - 1), ("penalty", 4 * LAYERS)])
def test_units_of_a_step_on_the_gpu(step: str, units: int, parameters: Any) -> None:
    """In the device thread no dispatch mode is active: PyTorch's profiler counts."""
    weights, biases, head = parameters
    moved = ([w.detach().cuda().requires_grad_() for w in weights], [b.detach().cuda().requires_grad_() for b in biases],
             head.detach().cuda().requires_grad_())  # fmt: skip
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        count(conv2d, step, moved, torch.device("cuda"))
    names = Counter(event.name for event in profile.events())
    assert names["aten::convolution"] + names["aten::convolution_backward"] == units


@pytest.mark.parametrize("this_thread", [False, True])
def test_scope_and_other_python_threads(this_thread: bool, weight_calls: Counter[str]) -> None:
    """For the whole process unless it is for one thread only, whose neighbours then lose nothing."""
    x, w, _ = leaves()

    def work() -> None:
        conv2d(x, w).sum().backward()

    with no_weight_gradients(this_thread=this_thread):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert (w.grad is None) == (not this_thread)
    assert weight_calls["convolution_backward"] == int(this_thread)


def test_many_threads_open_and_close_scopes() -> None:
    def work() -> None:
        for i in range(200):
            with no_weight_gradients(this_thread=i % 2 == 0):
                assert scope.weight_gradients_disabled()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not scope.weight_gradients_disabled()


def test_scope_around_a_compiled_function(weight_calls: Counter[str]) -> None:
    """Compiled outside the scope or inside: what counts is where its backward runs."""
    x, w, _ = leaves()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w: conv2d(x, w, padding=1).square(), fullgraph=True, backend="aot_eager")
    for inside_first in (True, False):
        torch._dynamo.reset()
        for inside in (inside_first, not inside_first):
            weight_calls.clear()
            with no_weight_gradients(disable=inside):
                dx, dw = torch.autograd.grad(compiled(x, w).sum(), [x, w])
            assert dx.any()
            assert bool(dw.any()) != inside
            assert weight_calls["convolution_backward"] == int(not inside)


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch cannot trace autograd.grad")
def test_scope_inside_a_compiled_function(weight_calls: Counter[str]) -> None:
    x, w, _ = leaves()

    def penalty(x: Tensor, w: Tensor) -> Tensor:
        y = conv2d(x, w, padding=1).sin().sum()
        with no_weight_gradients():
            g, none = torch.autograd.grad(y, [x, w], create_graph=True, allow_unused=True)
        assert none is None
        return g.square().sum()

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
        result = torch.autograd.grad(compiled(x, w), [x, w])
    assert weight_calls["convolution_backward"] == 2  # of the second derivative: W(u, g) and W(x, g')
    for a, e in zip(result, torch.autograd.grad(penalty(x, w), [x, w]), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


# ---- layouts, dtypes, devices ---------------------------------------------------------------------------------------------
def test_layouts() -> None:
    """channels_last if an operand is, through every derivative."""
    last = torch.channels_last
    for x_last, w_last in ((False, False), (True, False), (False, True), (True, True)):
        x, w = _randn(2, 8, 6, 6), _randn(4, 8, 3, 3)
        x = x.contiguous(memory_format=last) if x_last else x
        w = w.contiguous(memory_format=last) if w_last else w
        expected = last if x_last or w_last else torch.contiguous_format
        y = conv2d(x.requires_grad_(), w.requires_grad_(), padding=1)
        assert y.is_contiguous(memory_format=expected)
        gx, gw = torch.autograd.grad(y, [x, w], torch.ones_like(y))
        assert gx.is_contiguous(memory_format=expected) and gw.is_contiguous(memory_format=expected)


def test_penalty_inside_an_autocast_region() -> None:
    """float32 weights and images, bfloat16 arithmetic, in both passes; gradients come back in float32."""
    x, w, _ = leaves()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv2d(x, w, padding=1)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert y.dtype == torch.bfloat16 and g.dtype == torch.float32
        (dw,) = torch.autograd.grad(g.square().sum(), w)
    assert dw.dtype == torch.float32
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    (g64,) = torch.autograd.grad(F.conv2d(x64, w64, padding=1).square().sum(), x64, create_graph=True)
    (expected,) = torch.autograd.grad(g64.square().sum(), w64)
    assert float((dw - expected).norm() / expected.norm()) < 0.02


def test_backward_of_float32_inside_autocast_stays_float32() -> None:
    x, w, _ = leaves()
    y = conv2d(x, w, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gx, gw = torch.autograd.grad(y.sum(), [x, w])
    expected = torch.autograd.grad(conv2d(x, w, padding=1).sum(), [x, w])
    assert torch.equal(gx, expected[0]) and torch.equal(gw, expected[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_depthwise_kernels_in_half_precision_return(dtype: torch.dtype) -> None:
    """PyTorch 2.13's own never do on the CPU, from 14 taps along x on."""
    x, w = _randn(1, 4, 5, 20).to(dtype).requires_grad_(), _randn(4, 1, 3, 15).to(dtype).requires_grad_()
    y = conv2d(x, w, groups=4)
    torch.testing.assert_close(y, F.conv2d(x.float(), w.float(), groups=4).to(dtype), rtol=1e-2, atol=1e-2)
    gradients = torch.autograd.grad(y.sum(), [x, w])
    expected = torch.autograd.grad(F.conv2d(x.float(), w.float(), groups=4).sum(), [x, w])
    for a, e in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-2, atol=2e-2)


def test_meta_tensors() -> None:
    x, w = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    assert conv2d(x, w, stride=2).shape == (2, 4, 3, 3)
    assert conv_transpose2d(x, w.transpose(0, 1), stride=2).shape == (2, 4, 17, 17)


# ---- bad input --------------------------------------------------------------------------------------------------------------
X, W = torch.zeros(2, 4, 6, 6), torch.zeros(6, 4, 3, 3)
BAD = [
    ({"input": [1.0]}, TypeError, "input must be a torch.Tensor"),
    ({"input": X[0]}, ValueError, "input must have 4 dimensions"),
    ({"input": X.int()}, TypeError, "input must be float32.*int32"),
    ({"input": X[:, :3]}, ValueError, "input must have 4 channels .*got 3"),
    ({"input": X[:, :, :0]}, ValueError, "input must have at least one pixel"),
    ({"weight": None}, TypeError, "weight must be a torch.Tensor"),
    ({"weight": W[0]}, ValueError, "weight must be .*kh, kw"),
    ({"weight": W[:, :, :, :0]}, ValueError, "none of them 0"),
    ({"weight": W.double()}, TypeError, "weight must have the dtype of input .*float32.*float64"),
    ({"weight": W.to("meta")}, ValueError, "weight must be on the device of input .*meta"),
    ({"bias": torch.zeros(5)}, ValueError, r"bias must have shape \[6\].*\[5\]"),
    ({"bias": torch.zeros(6).double()}, TypeError, "bias must have the dtype of input"),
    ({"bias": 1.0}, TypeError, r"bias must be a torch.Tensor \[6\]"),
    ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ({"groups": 1.0}, TypeError, "groups must be an int"),
    ({"groups": 4}, ValueError, "groups must divide out_channels = 6"),
    ({"groups": 2}, ValueError, "input must have 8 channels .*groups 2, got 4"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"stride": [1, 2, 3]}, ValueError, r"stride must be an int or \[y, x\]"),
    ({"stride": 1.5}, TypeError, r"stride must be an int or \[y, x\]"),
    ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    ({"dilation": [1, -2]}, ValueError, "dilation must be at least 1"),
    ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ({"padding": "full"}, ValueError, "'same' or 'valid', got 'full'"),
    ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1"),
    ({"dilation": 4}, ValueError, "padding leaves no output pixel along y: 6 pixels .*kernel's 9"),
]


@pytest.mark.parametrize("change, error, message", BAD, ids=lambda v: next(iter(v)) if isinstance(v, dict) else None)
def test_conv2d_names_what_is_wrong(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"conv2d: .*{message}"):
        conv2d(**{"input": X, "weight": W, **change})


BAD_TRANSPOSE = [
    ({"input": X[0]}, ValueError, "input must have 4 dimensions"),
    ({"weight": W}, ValueError, "input must have 6 channels .*got 4"),
    ({"groups": 3}, ValueError, "groups must divide in_channels = 4"),
    ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \[6\]"),
    ({"output_padding": 1}, ValueError, "output_padding must be less than stride or dilation, got 1 along y"),
    ({"output_padding": -1}, ValueError, "output_padding must be at least 0"),
    ({"padding": "same"}, TypeError, r"padding must be an int or \[y, x\]"),
    ({"padding": 9}, ValueError, "padding leaves no output pixel along y"),
    ({"dilation": -1}, ValueError, "dilation must be at least 1"),
]


@pytest.mark.parametrize("change, error, message", BAD_TRANSPOSE, ids=lambda v: next(iter(v)) if isinstance(v, dict) else None)
def test_conv_transpose2d_names_what_is_wrong(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"conv_transpose2d: .*{message}"):
        conv_transpose2d(**{"input": X, "weight": W.transpose(0, 1), **change})
