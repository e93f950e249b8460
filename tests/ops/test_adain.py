"""adain and its relatives against outside oracles (PyTorch's instance_norm in float64, numpy, finite differences), what they
save and launch, statistics that are hard to take, bad input, and random arguments."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import Calls
from torch import Tensor

import gankern
from gankern import ops
from gankern.ops.adain import configs, samples
from gankern.ops.adain.reference import (
    adain_from_features_reference,
    adain_reference,
    instance_norm_reference,
)
from gankern.testing import assert_close
from gankern.testing.checks import compare_gradient, derivatives, in_float64

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
NAMES = ("x", "scale", "shift", "pre_noise", "pre_bias")

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


def formula(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, b: Tensor, act: str, gain: float, pre_act: str) -> Tensor:
    """Written out with means, not with anybody's normalisation."""
    v = BUILT_IN[pre_act](x + noise.expand(x.shape) + b.view(1, -1, 1, 1).expand(x.shape))
    centred = v - v.sum((2, 3), keepdim=True) / v[0, 0].numel()
    n = centred / (centred.square().sum((2, 3), keepdim=True) / v[0, 0].numel() + 1e-5).sqrt()
    if scale.dim() == 2:
        scale, shift = scale[..., None, None], shift[..., None, None]
    return gain * BUILT_IN[act](scale * n + shift)


def operands(
    shape: tuple[int, int, int, int] = (2, 3, 4, 5), dtype: torch.dtype = torch.float64, spatial: bool = False
) -> list[Tensor]:
    """x, scale, shift, pre_noise, pre_bias."""
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = shape
    sizes = [shape, shape if spatial else (n, c), shape if spatial else (n, c), (n, 1, h, w), (c,)]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def call(x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, **rest: Any) -> Tensor:
    return ops.adain(x, scale, shift, pre_noise=noise, pre_bias=b, **rest)


def test_there_is_an_oracle_for_every_activation() -> None:
    assert set(BUILT_IN) == set(ops.activation_funcs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize(
    "act, pre_act", [*zip(ACTS, ACTS[3:] + ACTS[:3], strict=True), ("linear", "lrelu"), ("lrelu", "linear")]
)
def test_derivatives_against_torch(act: str, pre_act: str, spatial: bool, layout: torch.memory_format, backend: str) -> None:
    """Value, first and second derivative in all five, by PyTorch's own formulas, of functions that mix all of them."""
    leaves = operands(spatial=spatial)
    x = leaves[0].contiguous(memory_format=layout)
    expected = formula(x, *leaves[1:], act, 1.5, pre_act)
    results = []
    with gankern.use_backend(backend):
        for value in (call(x, *leaves[1:], act=act, gain=1.5, pre_act=pre_act), expected):
            first = torch.autograd.grad(value.pow(3).sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
            results.append([value, *first, *second])
    for result, truth in zip(*results, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-9, atol=1e-9 * (1 + float(truth.detach().abs().max())))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_against_torch(affine: bool, layout: torch.memory_format, backend: str) -> None:
    x, weight, bias = torch.randn(3, 5, 6, 7, dtype=torch.float64), torch.randn(5).double(), torch.randn(5).double()
    leaves = [x.requires_grad_(), *([weight.requires_grad_(), bias.requires_grad_()] if affine else [])]
    v = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    results = []
    with gankern.use_backend(backend):
        for function in (ops.instance_norm, F.instance_norm):
            image = leaves[0].contiguous(memory_format=layout)
            y = function(image, weight=leaves[1], bias=leaves[2], eps=0.1) if affine else function(image)
            first = torch.autograd.grad(y.pow(3), leaves, v, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
            results.append([y, *first, *second])
    for result, truth in zip(*results, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ["linear", "relu"])
def test_against_numpy(act: str, backend: str) -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 5, 4))
    weight, bias = np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.2, 0.3])
    n = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-3)
    expected = n * weight[:, None, None] + bias[:, None, None]
    if act == "relu":
        expected = np.maximum(expected, 0) * math.sqrt(2)  # the default gain
    with gankern.use_backend(backend):
        y = ops.instance_norm(torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias), 1e-3, act)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_adain_from_features_against_numpy(batch: int, backend: str) -> None:
    rng = np.random.default_rng(1)
    content, style = rng.normal(1, 3, (2, 3, 4, 5)), rng.normal(-2, 0.5, (batch, 3, 7, 6))

    def moments(t: Any) -> tuple[Any, Any]:
        return t.mean((2, 3), keepdims=True), np.sqrt(t.var((2, 3), keepdims=True) + 1e-5)

    (m, s), (style_m, style_s) = moments(content), moments(style)
    with gankern.use_backend(backend):
        y = ops.adain_from_features(torch.from_numpy(content), torch.from_numpy(style))
        np.testing.assert_allclose(y.numpy(), (content - m) / s * style_s + style_m, rtol=1e-12, atol=1e-12)
        leaves = [torch.from_numpy(t).requires_grad_() for t in (content, style)]
        assert torch.autograd.gradcheck(ops.adain_from_features, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(ops.adain_from_features, leaves, fast_mode=True)
    torch.testing.assert_close(adain_from_features_reference(*leaves), y)


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("act, pre_act", [("linear", "linear"), ("swish", "tanh"), ("lrelu", "softplus")])
def test_second_derivative_by_finite_differences(act: str, pre_act: str, spatial: bool) -> None:
    leaves = operands((2, 2, 2, 3), spatial=spatial)

    def function(*leaves: Tensor) -> Tensor:
        return call(*leaves, act=act, gain=0.8, pre_act=pre_act, eps=0.05)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("act, pre_act", [("linear", "softplus"), ("tanh", "lrelu"), ("lrelu", "swish")])
@pytest.mark.parametrize("spatial", [False, True])
def test_third_derivative(spatial: bool, act: str, pre_act: str) -> None:
    leaves = operands((2, 2, 3, 4), spatial=spatial)
    rest: dict[str, Any] = {"act": act, "pre_act": pre_act, "eps": 0.1}
    found = []
    for function in (ops.adain, adain_reference):
        generator = torch.Generator().manual_seed(1)
        some: Any = [function(*leaves[:3], pre_noise=leaves[3], pre_bias=leaves[4], **rest)]
        for _ in range(3):
            value = sum((g * torch.randn(g.shape, generator=generator, dtype=g.dtype)).sum() for g in some)
            some = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
            some = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, some, strict=True)]
        found.append(some)
    assert sum(bool(truth.any()) for truth in found[1]) >= 4
    for result, truth in zip(*found, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-8, atol=1e-8)


# ---- statistics that are hard to take ---------------------------------------------------------------------------------------
@NATIVE  # the reference's statistics are PyTorch's own
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 1), (9, 11), (128, 130)])
def test_a_mean_that_dwarfs_the_deviation(size: tuple[int, int], layout: torch.memory_format) -> None:
    """Mean 1e4, deviation 1, in float32: the mean itself, a float, is off by 2^-11 at most, half its last digit; nothing but
    that may be lost."""
    x = (1e4 + torch.randn(2, 20, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()
    truth = adain_reference(x.double(), None, None)
    y = ops.instance_norm(x.contiguous(memory_format=layout))
    deviation = (x.double().var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    assert float(((y.double() - truth) * deviation).abs().max()) <= 2.0**-11 + 1e-5


@NATIVE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("distance", [1.0, 1e4])
def test_a_plane_that_begins_unlike_the_rest(distance: float, layout: torch.memory_format) -> None:
    """The first sixteenth, of which the kernels deviate, is far from the mean: 16 roundings of the variance at worst."""
    x = 1e-3 * torch.randn(1, 20, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, :4] += distance
    x = x.float()
    truth = adain_reference(x.double(), None, None)
    y = ops.instance_norm(x.contiguous(memory_format=layout)).double()
    assert float((y - truth).abs().max()) <= 16 * 2.0**-23 * float(truth.abs().max())


@NATIVE
@pytest.mark.skipif("GANKERN_CPU_LEVEL" in os.environ, reason="this is such a process")
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets(level: str) -> None:
    """Narrower vectors make longer sums: the tests of precision once more."""
    environment = {**os.environ, "GANKERN_CPU_LEVEL": level}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "dwarfs or unlike or large_planes", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1 / 3, -3e4])
def test_constant_planes(value: float, dtype: torch.dtype, layout: torch.memory_format, backend: str) -> None:
    x = torch.full((2, 17, 33, 31), value, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    scale, shift = torch.randn(2, 17, requires_grad=True), torch.randn(2, 17, requires_grad=True)
    with gankern.use_backend(backend):
        y = ops.adain(x, scale, shift)
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y), create_graph=True)
        grads = torch.autograd.grad(dx.float().square().sum(), (x, scale))
    if backend == "cpu":  # the reference's statistics are PyTorch's own
        torch.testing.assert_close(y, shift.to(dtype)[..., None, None].expand_as(y), atol=2e-3, rtol=2e-3)
    assert all(bool(t.isfinite().all()) for t in (y, dx, *grads) if t.dtype != torch.float16)


@NATIVE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 2, 300, 301), (1, 40, 100, 90), (3, 5, 70, 71), (1, 149, 20, 33)])
def test_large_planes_on_the_cpu(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    """Several rows and several rectangles of a plane, of unlike lengths: values and derivatives against float64."""
    sample = samples._sample("large", shape, "swish", noise=(1, 1, *shape[2:]), bias=True, pre_act="lrelu")
    name = "channels_last" if layout == torch.channels_last else "nchw"
    kwargs, spec = sample.inputs(torch.float32, name), gankern._dispatch.OPS["adain"]
    rounding = {name: torch.float32 for name in ("output", *sample.differentiable)}
    truth = derivatives(spec.reference, in_float64(kwargs), sample.differentiable, 2, rounding)
    eager = derivatives(spec.reference, sample.inputs(torch.float32), sample.differentiable)
    with gankern.use_backend("cpu"):
        mine = derivatives(spec.public, kwargs, sample.differentiable)
    assert_close(mine.output, truth.output)
    for what in ("first", "second"):
        for key, right in getattr(truth, what).items():
            # Among so many pixels there are some whose derivative the rounding of their input changes by more than 1e-6 of
            # the largest: there PyTorch's own error is the measure, as for half types.
            own = float((getattr(eager, what)[key].double() - right).detach().abs().max())
            found = compare_gradient(getattr(mine, what)[key], right, None, truth.output.numel())
            assert not found.message and found.error <= max(found.allowed, 2 * own), f"{what} {key}: {found}, eager {own}"


def test_cuts() -> None:
    """At least one element; planes of one image that are few are cut in either layout; sums for the noise do not weigh."""
    for n, c, pixels in [(1, 1, 2), (4, 512, 16), (2, 64, 65536), (1, 3, 1 << 20), (1, 1000, 1089), (1, 37, 5000), (3, 0, 4)]:
        for last in (False, True):
            across, rows = configs.cpu_chunks(last, n, c, pixels, True)
            assert 1 <= across <= pixels and 1 <= rows <= max(c, 1)
            assert n * -(-pixels // across) * -(-c // rows) >= min(8, n * c * pixels // 65536)
    assert configs.cpu_chunks(False, 1, 64, 65536, True)[1] >= 8


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 67])
def test_results_do_not_depend_on_the_number_of_threads(channels: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    leaves = operands((2, channels, 48, 61), dtype)
    leaves[0] = leaves[0].detach().contiguous(memory_format=layout).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = call(*leaves, act="tanh", pre_act="lrelu")
            first = torch.autograd.grad(y.float().square().mean(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.float().square().mean() for g in first), leaves)
            results.append((y, *first, *second))
    finally:
        torch.set_num_threads(threads)
    assert all(bool(t.isfinite().all()) for t in results[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@NATIVE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_noise_and_bias_of_half_images_stay_float32(dtype: torch.dtype) -> None:
    """2^-13 beside 1 is lost in a half number."""
    x = torch.tensor([-1.0, 1.0], dtype=dtype).reshape(1, 1, 1, 2)
    y = ops.adain(x, torch.tensor([[1 + 2.0**-13]]), torch.tensor([[1.0]]), eps=1e-12)
    assert y.dtype == dtype and float(y[0, 0, 0, 0]) == -(2.0**-13)
    zero = torch.zeros(1, 1, 1, 2, dtype=dtype)
    noise = torch.tensor([1.0, 1 + 2.0**-13])
    y = ops.adain(zero, None, None, eps=1e-14, pre_noise=noise)
    torch.testing.assert_close(y.float().flatten(), torch.tensor([-1.0, 1.0]), rtol=0.01, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_of_the_factors(backend: str) -> None:
    x, scale, shift, _, _ = (t.detach() for t in operands())
    image = scale[..., None, None].expand(x.shape)
    with gankern.use_backend(backend):
        expected = ops.adain(x, scale, shift)
        for a, b in [
            (scale[..., None, None], shift[..., None, None]),
            (image, shift),
            (scale, shift[..., None, None].expand(x.shape)),
            (image.contiguous(memory_format=torch.channels_last), shift[..., None, None]),
        ]:
            torch.testing.assert_close(ops.adain(x, a, b), expected)
        torch.testing.assert_close(ops.adain(x, scale[:1], None), ops.adain(x, scale[:1].expand(2, 3), torch.zeros(2, 3)))
        torch.testing.assert_close(ops.adain(x, image[:1], None)[0], ops.adain(x, scale, None)[0])


# ---- what is saved, what is launched --------------------------------------------------------------------------------------
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_what_is_saved(act: str) -> None:
    """Of images x alone, not the output nor what lies between; and two numbers a plane beside the arguments."""
    leaves = operands(dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call(*leaves, act=act, pre_act="lrelu")
    assert [t.data_ptr() for t in kept if t.shape == leaves[0].shape] == [leaves[0].data_ptr()]
    numbers = sum(t.numel() for t in kept if t.dim() == 2)
    assert numbers == 6 * (4 if act != "linear" else 3)  # scale, mean, rstd; shift where the slope looks at it
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), torch.no_grad():
        call(*leaves, act=act)
    assert kept == []


SUBSETS = [("x",), ("scale",), ("shift",), ("pre_noise",), ("pre_bias",), ("scale", "shift"), ("x", "pre_bias"), NAMES]


@pytest.mark.parametrize("wanted", SUBSETS, ids="-".join)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_is_needed_is_computed(act: str, wanted: tuple[str, ...], layout: torch.memory_format) -> None:
    tensors = {name: t.detach().requires_grad_(name in wanted) for name, t in zip(NAMES, operands(), strict=True)}
    tensors["x"] = tensors["x"].detach().contiguous(memory_format=layout).requires_grad_("x" in wanted)
    leaves = [tensors[name] for name in wanted]
    with Calls() as calls:
        result = torch.autograd.grad(ops.adain(**tensors, act=act, pre_act="lrelu").pow(2).sum(), leaves)
    truth = torch.autograd.grad(adain_reference(**tensors, act=act, pre_act="lrelu").pow(2).sum(), leaves)
    for got, expected in zip(result, truth, strict=True):
        torch.testing.assert_close(got, expected)
    assert calls.masks("adain_backward") == [[name in wanted for name in NAMES]]


@pytest.mark.parametrize("act", ["relu", "swish"])
def test_gradients_that_autograd_would_throw_away(act: str) -> None:
    """autograd.grad(y, x) with everything trained, as in a gradient penalty, and its second derivative in dy alone."""
    leaves = operands()
    dy = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    x = leaves[0] * 2  # a layer's result, no leaf
    with Calls() as calls:
        y = call(x, *leaves[1:], act=act)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        (to_dy,) = torch.autograd.grad(dx.square().sum(), dy)
    # dx is linear in dy.
    torch.testing.assert_close((to_dy * dy).sum(), 2 * dx.square().sum())
    assert calls.masks("adain_backward") == [[True, False, False, False, False]]
    assert calls.masks("adain_double_backward") == [[True, False, False, False, False, False]]


@pytest.mark.parametrize("act, shift_too", [("lrelu", False), ("swish", True)])
def test_what_a_penalty_launches(act: str, shift_too: bool) -> None:
    leaves = operands()
    with Calls() as calls:
        (dx,) = torch.autograd.grad(call(*leaves, act=act).sum(), leaves[0], create_graph=True)
        torch.autograd.grad(dx.square().sum(), leaves, allow_unused=True)
    assert calls.count == {"adain": 1, "adain_backward": 1, "adain_double_backward": 1}
    assert calls.masks("adain_double_backward") == [[False, True, True, shift_too, True, True]]


@pytest.mark.parametrize("spatial", [False, True])
def test_outputs_that_are_not_wanted_are_empty(spatial: bool) -> None:
    x, scale, shift, noise, b = (t.detach() for t in operands(spatial=spatial))
    settings_ = ("tanh", 0.0, 1.0, "lrelu", 0.2, 1e-5)
    y, mean, rstd = torch.ops.gankern.adain(x, scale, shift, noise, b, *settings_)
    saved = (torch.randn_like(x), x, scale, shift, noise, b, mean, rstd, *settings_, spatial)
    for i in range(6):
        mask = [k == i for k in range(6)]
        outputs = torch.ops.gankern.adain_backward(*saved, mask[:5])
        assert [o.numel() > 0 for o in outputs] == mask[:5]
        outputs = torch.ops.gankern.adain_double_backward(y, scale, None, None, b, *saved, mask)
        assert [o.numel() > 0 for o in outputs] == mask


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("given", range(5))
def test_one_cotangent_alone(given: int, spatial: bool, layout: torch.memory_format) -> None:
    """Double backward with one of its cotangents, against the composed formulas: absent ones are zero."""
    from gankern.ops.adain import backends

    x, scale, shift, noise, b = (t.detach() for t in operands((2, 19, 4, 5), spatial=spatial))
    x = x.contiguous(memory_format=layout)
    cotangents: list[Any] = [torch.randn_like(t) if i == given else None for i, t in enumerate((x, scale, shift, noise, b))]
    settings_ = ("swish", 0.0, 1.3, "tanh", 0.0, 1e-3)
    _, mean, rstd = torch.ops.gankern.adain(x, scale, shift, noise, b, *settings_)
    args = (*cotangents, torch.randn_like(x), x, scale, shift, noise, b, mean, rstd, *settings_, spatial, [True] * 6)
    truth = backends.DOUBLE_BACKWARD.row("reference").run(*args)
    for result, expected in zip(backends.DOUBLE_BACKWARD(*args), truth, strict=True):
        torch.testing.assert_close(result, expected)


# ---- random arguments ---------------------------------------------------------------------------------------------------
@st.composite
def calls(draw: Any) -> dict[str, Any]:
    n, c, h, w = (draw(st.integers(0, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(2, 9)))
    if draw(st.booleans()):
        w = draw(st.integers(2, 900))
    factor = st.sampled_from([None, (n, c), (1, c), (n, c, h, w), (1, c, h, w), (n, c, 1, 1)])
    return {
        "shape": (n, c, h, w),
        "scale": draw(factor),
        "shift": draw(factor),
        "pre_noise": [1 if draw(st.booleans()) else s for s in (n, 1, h, w)] if draw(st.booleans()) else None,
        "pre_bias": (c,) if draw(st.booleans()) else None,
        "act": draw(st.sampled_from(ACTS)),
        "alpha": draw(st.sampled_from([None, 0.1, 0.0, -0.5])),
        "gain": draw(st.sampled_from([None, 1.0, -1.5, 0.0])),
        "pre_act": draw(st.sampled_from(ACTS)),
        "layout": draw(st.sampled_from(["contiguous", "channels_last", "strided"])),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls())
def test_random_arguments(arguments: dict[str, Any]) -> None:
    """In float64, forward and the first derivative with a cotangent of another layout."""
    generator = torch.Generator().manual_seed(arguments["seed"])
    shape = arguments["shape"]

    def randn(size: Any) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    tensors = {name: randn(arguments[name]).requires_grad_() for name in NAMES[1:] if arguments[name] is not None}
    x = randn((*shape, 2))[..., 1] if arguments["layout"] == "strided" else randn(shape)
    if arguments["layout"] == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    tensors = {"x": x.requires_grad_(), **tensors}
    rest = {k: arguments[k] for k in ("act", "alpha", "gain", "pre_act")}
    rest |= {name: None for name in ("scale", "shift") if name not in tensors}
    dy = randn(shape)
    results = []
    for function in (ops.adain, adain_reference):
        y = function(**tensors, **rest, eps=0.01)
        results.append((y, *torch.autograd.grad(y, list(tensors.values()), dy)))
    for got, truth in zip(*results, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    x = torch.zeros(1, 2, (1 << 15) + 1, 1 << 15, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[0, 0, 0, 0], x[0, -1, -1, -1] = 1, -1
    with torch.no_grad():
        y = ops.adain(x, None, torch.tensor([[3.0, 5.0]]), eps=1.0)
    assert [float(y[0, 0, 0, 0]), float(y[0, 0, -1, -1]), float(y[0, 1, 0, 0]), float(y[0, -1, -1, -1])] == [4, 3, 5, 4]


# ---- bad input ----------------------------------------------------------------------------------------------------------
X = torch.zeros(2, 3, 4, 5)
BAD: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("not a tensor", TypeError, r"x must be a torch\.Tensor \[N, C, H, W\], got list", {"x": [1.0]}),
    ("integers", TypeError, r"x must be float32, float64, bfloat16 or float16, got int64", {"x": X.long()}),
    ("3-D", ValueError, r"x must have 4 dimensions \[N, C, H, W\], got 3", {"x": X[0]}),
    ("one pixel", ValueError, r"x must have planes of at least 2 pixels.* got \[2, 3, 1, 1\]", {"x": X[:, :, :1, :1]}),
    ("no pixel", ValueError, r"x must have planes of at least 2 pixels.* got \[2, 3, 0, 5\]", {"x": X[:, :, :0]}),
    (
        "scale too long",
        ValueError,
        r"scale must have shape \[N, C\] = \[2, 3\] or .* got \[2, 4\]",
        {"scale": torch.ones(2, 4)},
    ),
    ("scale 1-D", ValueError, r"scale must have shape .* got \[3\]", {"scale": torch.ones(3)}),
    ("shift of another size", ValueError, r"shift must have shape .* got \[2, 3, 4, 4\]", {"shift": X[..., :4]}),
    ("shift of another batch", ValueError, r"shift must have shape .* got \[4, 3\]", {"shift": torch.ones(4, 3)}),
    ("scale is a number", TypeError, r"scale must be a floating-point torch\.Tensor or None, got float", {"scale": 2.0}),
    ("integer shift", TypeError, r"shift must be a floating-point .* got dtype int64", {"shift": torch.ones(2, 3).long()}),
    ("scale elsewhere", ValueError, r"scale must be on the device of x \(cpu\), got meta", {"scale": X[:, :, 0, 0].to("meta")}),
    ("noise is a number", TypeError, r"pre_noise must be a floating-point .* got float", {"pre_noise": 1.0}),
    ("noise a channel", ValueError, r"pre_noise must broadcast to \[N, 1, H, W\] = \[2, 1, 4, 5\], got", {"pre_noise": X}),
    ("bias too long", ValueError, r"pre_bias must have shape \[C\] = \[3\].* got \[4\]", {"pre_bias": torch.zeros(4)}),
    ("unknown activation", ValueError, r"act must be one of linear, relu, .*, swish, got 'gelu'", {"act": "gelu"}),
    ("unknown pre_act", ValueError, r"pre_act must be one of linear, relu, .*, swish, got 'gelu'", {"pre_act": "gelu"}),
    ("alpha is NaN", ValueError, r"alpha must be finite, got nan", {"alpha": math.nan}),
    ("gain is a bool", TypeError, r"gain must be a real number, got True", {"gain": True}),
    ("eps is zero", ValueError, r"eps must be positive, got 0", {"eps": 0}),
    ("eps is negative", ValueError, r"eps must be positive, got -1e-05", {"eps": -1e-5}),
    ("eps is no number", TypeError, r"eps must be a real number, got '1'", {"eps": "1"}),
]


@pytest.mark.parametrize("kind, message, change", [pytest.param(*case[1:], id=case[0]) for case in BAD])
@pytest.mark.parametrize("function", [ops.adain, adain_reference], ids=["op", "reference"])
def test_bad_input(function: Any, kind: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(kind, match="adain: " + message):
        function(**{"x": X, "scale": None, "shift": None, **change})


@pytest.mark.parametrize("function", [ops.instance_norm, instance_norm_reference], ids=["op", "reference"])
def test_bad_input_of_instance_norm(function: Any) -> None:
    with pytest.raises(ValueError, match=r"instance_norm: x must have planes of at least 2 pixels"):
        function(X[:, :, :1, :1])
    with pytest.raises(ValueError, match=r"instance_norm: weight must have shape \[C\] = \[3\].* got \[4\]"):
        function(X, torch.ones(4))
    with pytest.raises(TypeError, match=r"instance_norm: bias must be a floating-point .* got list"):
        function(X, None, [1.0])


@pytest.mark.parametrize("function", [ops.adain_from_features, adain_from_features_reference], ids=["op", "reference"])
def test_bad_input_of_adain_from_features(function: Any) -> None:
    with pytest.raises(ValueError, match=r"adain_from_features: style must have planes of at least 2 pixels"):
        function(X, X[:, :, :1, :1])
    with pytest.raises(ValueError, match=r"adain_from_features: style must have the dtype and device of content"):
        function(X, X.double())
    with pytest.raises(ValueError, match=r"style must have 2 samples \(or 1 for all\) of 3 channels as content, got"):
        function(X, X[:, :2])
    with pytest.raises(ValueError, match=r"adain_from_features: eps must be positive"):
        function(X, X, 0.0)
