"""Random calls of every public op: equal to the float64 reference, or a TypeError or ValueError that names an argument."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_calls import Call, calls
from torch import Tensor

from gankern import ops
from gankern.testing import Values, compare, derivatives
from gankern.testing.checks import compare_gradient

EPSILON = {torch.float32: 2.0**-23, torch.float64: 2.0**-52, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def leaves(call: Call, wide: bool = False, shaken: torch.Generator | None = None) -> dict[str, Any]:
    """The arguments as new leaves, which require gradients as the order of derivatives asks.

    ``wide``: in float64. ``shaken``: first moved by a few roundings of their dtype.
    """
    result = {}
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value = value.detach()
            if shaken is not None and value.dtype in EPSILON:
                noise = torch.randn(value.shape, generator=shaken, dtype=torch.float64)
                value = (value.double() * (1 + 4 * EPSILON[value.dtype] * noise)).to(value.dtype)
            if name in ("u", "v"):  # overwritten
                value = value.clone()
            value = value.double() if wide else value
            if call.order and name in call.differentiable:
                value = value.detach().requires_grad_()
        result[name] = value
    return result


def evaluated(call: Call, function: Any, arguments: dict[str, Any], rounding: dict[str, torch.dtype] | None = None) -> Values:
    names = tuple(k for k in call.differentiable if isinstance(arguments.get(k), Tensor) and arguments[k].requires_grad)
    with torch.set_grad_enabled(call.order > 0):
        return derivatives(function, arguments, names, call.order if names else 0, rounding)


def named_refusal(call: Call, error: Exception) -> bool:
    """Whether a message names one of the function's arguments as a word."""
    text = str(error).split(", got ")[0]
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in inspect.signature(call.function).parameters)


def check_call(call: Call) -> None:
    before = {k: v.detach().clone() for k, v in call.arguments.items() if isinstance(v, Tensor) and v.device.type == "cpu"}
    arguments = leaves(call)
    try:
        result = evaluated(call, call.function, arguments)
    except (TypeError, ValueError) as error:
        assert call.broken is not None, f"{call}: right, but refused: {error}"
        assert named_refusal(call, error), f"{call}: the message names no argument: {type(error).__name__}: {error}"
        if call.name not in ("conv2d", "conv_transpose2d"):  # whose references are PyTorch's functions, with its own errors
            with pytest.raises((TypeError, ValueError)):
                evaluated(call, call.reference, leaves(call))
        return
    for name, value in before.items():
        assert torch.equal(call.arguments[name].detach(), value) or not torch.isfinite(value).all(), (
            f"{call}: {name} was changed"
        )
    if not isinstance(result.output, Tensor) or result.output.device.type == "meta" or call.huge:
        return
    hold_to_reference(call, result)
    if call.order == 0 and hasattr(ops, f"{call.name}_"):
        x = arguments["x"].clone()
        with torch.no_grad():
            assert getattr(ops, f"{call.name}_")(**{**arguments, "x": x}) is x
        assert torch.allclose(x, result.output, rtol=4 * EPSILON[x.dtype], atol=0, equal_nan=True), f"{call}: in place"


def hold_to_reference(call: Call, result: Values) -> None:
    dtype = result.output.dtype
    rounding = {"output": dtype, **{k: v.dtype for k, v in call.arguments.items() if isinstance(v, Tensor)}}
    truth = evaluated(call, call.reference, leaves(call, wide=True), rounding)
    half = any(isinstance(v, Tensor) and v.dtype in (torch.bfloat16, torch.float16) for v in call.arguments.values())
    eager = evaluated(call, call.reference, leaves(call)) if half else None
    failures = differences(call, result, truth, eager)
    if not failures:
        return
    # A kink between two roundings, or a badly conditioned case. How far does the truth go if its arguments move by roundings,
    # and how far is PyTorch, which knows no kernel of ours, from the truth around here?
    moved = []
    for seed in range(8):
        right = evaluated(call, call.reference, leaves(call, True, torch.Generator().manual_seed(seed)), rounding)
        plain = evaluated(call, call.reference, leaves(call, False, torch.Generator().manual_seed(seed)))
        moved.append((right, plain))
    for kind, name, message in failures:
        wanted, got = part(truth, kind, name), part(result, kind, name)
        assert wanted is not None and got is not None and got.shape == wanted.shape, f"{call}: {kind} {name}: {message}"
        most = 0.0
        for values in moved:
            right, plain = (part(v, kind, name) for v in values)
            assert right is not None and plain is not None
            most = max(most, farthest(right, wanted), farthest(plain, right))
        assert farthest(got, wanted) <= 4 * most, f"{call}: {kind} {name}: {message}; roundings make {most:.3g}"


def farthest(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max())


def part(values: Values, kind: str, name: str) -> Tensor | None:
    return values.output.detach() if kind == "forward" else (values.first if kind == "vjp" else values.second).get(name)


def differences(call: Call, result: Values, truth: Values, eager: Values | None) -> list[tuple[str, str, str]]:
    """(kind, name, message) of everything that is farther from the truth than the contract allows."""
    half = eager is not None
    # A float32 companion of float64 images has float32 gradients, and what is differentiated through those is no better.
    coarse = any(v is not None and v.dtype == torch.float32 for v in result.first.values())
    found = []
    factors = [1.0] * 3 if call.stages == 1 or not half else [1.0 * call.stages, 2.0 * call.stages, 4.0 * call.stages]
    forward = compare(result.output, truth.output, eager.output if eager else None, factors[0])
    if not forward.ok:
        found.append(("forward", "", str(forward)))
    for kind, got, right, eagers, factor in (
        ("vjp", result.first, truth.first, eager.first if eager else {}, factors[1]),
        ("double vjp", result.second, truth.second, eager.second if eager else {}, factors[2]),
    ):
        for name, value in got.items():
            if value is not None and value.dtype == torch.float64 and kind == "double vjp" and coarse:
                value = value.float()
            comparison = compare_gradient(value, right.get(name), eagers.get(name), result.output.numel(), factor)
            if not comparison.ok:
                found.append((kind, name, str(comparison)))
    return found


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_calls(call: Call) -> None:
    check_call(call)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_many_random_calls(call: Call) -> None:
    check_call(call)


@st.composite
def filters(draw: Any) -> dict[str, Any]:
    """Arguments of setup_filter, odd ones among them."""
    number = st.floats(-3, 3) | st.integers(-3, 3) | st.sampled_from([math.nan, math.inf, 10**400, 1j, "x", None, True])
    row = st.lists(number, max_size=10)
    odd = st.sampled_from(["x", {}, object(), 2, torch.ones(2, 3), torch.ones(2, 3, 4), torch.ones(3, device="meta"), b"1"])
    return {
        "f": draw(row | st.lists(row, max_size=3) | st.none() | odd),
        "device": draw(st.sampled_from(["cpu", "cpu", "cpu", torch.device("cpu"), "nonsense", None, 1.5])),
        "normalize": draw(st.sampled_from([True, False, None])),
        "flip_filter": draw(st.sampled_from([True, False, "x"])),
        "gain": draw(st.sampled_from([1, 1, 0.5, -2, 10**400, "x", True])),
        "separable": draw(st.sampled_from([None, None, True, False, 3])),
    }


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(filters())
def test_random_filters(arguments: dict[str, Any]) -> None:
    try:
        taps = ops.setup_filter(**arguments)
    except (TypeError, ValueError) as error:
        assert any(re.search(rf"\b{name}\b", str(error).split(", got ")[0]) for name in arguments), error
        return
    f, gain = torch.as_tensor(1 if arguments["f"] is None else arguments["f"]).float(), float(arguments["gain"])
    f = f.reshape(1) if f.dim() == 0 else f
    separable = arguments["separable"] or (arguments["separable"] is None and f.dim() == 1 and len(f) >= 8)
    full = torch.outer(f, f) if f.dim() == 1 else f
    if arguments["normalize"]:
        full = full / full.sum()
    full = full.flip(0, 1) if arguments["flip_filter"] else full
    assert taps.dtype == torch.float32 and taps.dim() == (1 if separable else 2)
    got = torch.outer(taps, taps) if separable else taps
    scale = full[torch.isfinite(full)].abs().max() if torch.isfinite(full).any() else torch.ones(())
    assert torch.allclose(got, full * gain, rtol=1e-4, atol=1e-5 * float(scale * abs(gain)), equal_nan=True)


# ---- what random calls have found, and the seeds of today may not find again -----------------------------------------------
def test_a_stride_of_an_axis_of_one_pixel() -> None:
    """contiguous() leaves such a stride as it is; the kernel wanted rows of stride 1."""
    x = torch.randn(2, 2, 1, 4).transpose(2, 3)
    assert x.stride(3) == 4
    want = ops.upfirdn2d(x.clone(memory_format=torch.contiguous_format), None, up=3, padding=[6, 4])
    assert torch.equal(ops.upfirdn2d(x, None, up=3, padding=[6, 4]), want)


def test_the_strength_of_noise_on_another_device() -> None:
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="noise_strength must be on the device of x"):
        ops.bias_act(x, noise=torch.randn(4, 4), noise_strength=torch.ones((), device="meta"))


def test_numbers_that_no_float_holds() -> None:
    with pytest.raises(ValueError, match="gain must be finite"):
        ops.bias_act(torch.ones(2, 2), gain=10**400)
    penalty = ops.grad_norm_penalty(torch.ones(2, 0), center=2.0**70)  # its square overflows float32
    assert torch.isinf(penalty).all()
