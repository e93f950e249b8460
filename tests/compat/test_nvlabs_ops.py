"""The functions of torch_utils.ops under the shim: names, values, derivatives, switches."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankern import ops
from gankern.compat import nvlabs

OPS = "torch_utils.ops."
NAMES = {
    "upfirdn2d": "setup_filter upfirdn2d upsample2d downsample2d filter2d _parse_padding _parse_scaling _get_filter_size _init "
    "_plugin _upfirdn2d_ref _upfirdn2d_cuda",
    "bias_act": "bias_act activation_funcs _init _plugin _bias_act_ref _bias_act_cuda _null_tensor",
    "filtered_lrelu": "filtered_lrelu _init _plugin _filtered_lrelu_ref _filtered_lrelu_cuda",
    "conv2d_gradfix": "conv2d conv_transpose2d no_weight_gradients enabled weight_gradients_disabled _should_use_custom_op "
    "_conv2d_gradfix _tuple_of_ints",
    "grid_sample_gradfix": "grid_sample enabled _should_use_custom_op _GridSample2dForward",
    "conv2d_resample": "conv2d_resample _conv2d_wrapper _get_weight_shape _parse_padding _get_filter_size",
    "fma": "fma _unbroadcast _FusedMultiplyAdd",
}
SIGNATURES = {
    "upfirdn2d.setup_filter": "f device normalize flip_filter gain separable",
    "upfirdn2d.upfirdn2d": "x f up down padding flip_filter gain impl",
    "upfirdn2d.filter2d": "x f padding flip_filter gain impl",
    "upfirdn2d.upsample2d": "x f up padding flip_filter gain impl",
    "upfirdn2d.downsample2d": "x f down padding flip_filter gain impl",
    "bias_act.bias_act": "x b dim act alpha gain clamp impl",
    "filtered_lrelu.filtered_lrelu": "x fu fd b up down padding gain slope clamp flip_filter impl",
    "conv2d_gradfix.conv2d": "input weight bias stride padding dilation groups",
    "conv2d_gradfix.conv_transpose2d": "input weight bias stride padding output_padding groups dilation",
    "conv2d_gradfix.no_weight_gradients": "disable",
    "conv2d_resample.conv2d_resample": "x w f up down padding groups flip_weight flip_filter",
    "grid_sample_gradfix.grid_sample": "input grid",
    "fma.fma": "a b c",
}


@pytest.fixture
def shim(no_nvlabs: None) -> Iterator[None]:
    with nvlabs.installed():
        yield


def module(name: str) -> Any:
    return importlib.import_module(OPS + name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_without_a_checkout(shim: None, name: str) -> None:
    found = module(name)
    for attribute in NAMES[name].split():
        getattr(found, attribute)
    from torch_utils import custom_ops

    assert custom_ops.verbosity == "brief" and callable(custom_ops.get_plugin)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_codebases(shim: None, name: str) -> None:
    file, function = name.split(".")
    assert list(inspect.signature(getattr(module(file), function)).parameters) == SIGNATURES[name].split()


def test_activations_are_read_by_attribute(shim: None) -> None:
    specs = module("bias_act").activation_funcs
    assert set(specs) == {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"}
    spec = specs["lrelu"]
    assert (spec.def_alpha, spec.def_gain, spec.cuda_idx, spec.ref, spec.has_2nd_grad) == (0.2, 2**0.5, 3, "y", False)
    assert specs["swish"].ref == "x" and specs["swish"]["has_2nd_grad"] and specs["linear"].ref == ""
    x = torch.tensor([-1.0, 2.0])
    assert spec.func(x, alpha=0.5).tolist() == [-0.5, 2.0] and specs["relu"].func(x, alpha=0).tolist() == [0.0, 2.0]


# ---- values and derivatives against the stand-in's plain PyTorch ---------------------------------------------------------
def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TAPS, LINE = torch.tensor([[1.0, 2.0], [3.0, 5.0]]) / 11, torch.tensor([1.0, 2.0, 5.0, 3.0]) / 11
X = numbers(2, 3, 6, 5)
CALLS: list[tuple[str, list[Tensor], dict[str, Any]]] = [
    ("upfirdn2d.upfirdn2d", [X], {"f": TAPS, "up": [2, 1], "down": [1, 2], "padding": [2, -1, 3, 0], "gain": 1.5}),
    ("upfirdn2d._upfirdn2d_ref", [X], {"f": LINE, "up": 2, "padding": 3, "flip_filter": True}),
    ("upfirdn2d.filter2d", [X], {"f": LINE, "padding": 1, "gain": 2}),
    ("upfirdn2d.upsample2d", [X], {"f": TAPS, "padding": [1, 0], "flip_filter": True}),
    ("upfirdn2d.downsample2d", [X], {"f": LINE, "down": 3, "padding": 2}),
    ("bias_act.bias_act", [X, numbers(3, seed=1)], {"act": "lrelu", "alpha": 0.3, "clamp": 0.8}),
    ("bias_act.bias_act", [numbers(4, 6), numbers(4, seed=1)], {"dim": 0, "act": "swish", "gain": 2}),
    ("bias_act.bias_act", [X], {"act": "softplus"}),
    ("filtered_lrelu.filtered_lrelu", [X], {"fu": LINE, "fd": TAPS, "up": 2, "down": 2, "padding": [3, 2, 3, 2], "clamp": 0.7}),
    ("conv2d_gradfix.conv2d", [X, numbers(4, 3, 3, 2, seed=2), numbers(4, seed=3)], {"padding": [1, 0], "stride": 2}),
    ("conv2d_gradfix.conv_transpose2d", [X, numbers(3, 2, 3, 3, seed=2)], {"stride": 2, "padding": 1, "output_padding": 1}),
    ("conv2d_resample.conv2d_resample", [X, numbers(2, 3, 3, 3, seed=2)], {"f": LINE, "up": 2, "padding": 1}),
    ("conv2d_resample.conv2d_resample", [X, numbers(3, 1, 3, 3, seed=2)],
     {"f": TAPS, "down": 2, "padding": [1, 0], "groups": 3, "flip_weight": False, "flip_filter": True}),
    ("grid_sample_gradfix.grid_sample", [X, numbers(2, 4, 3, 2, seed=4) * 0.5], {}),
    ("fma.fma", [X, numbers(3, 1, 1, seed=5), numbers(6, 1, seed=6)], {}),
]  # fmt: skip


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], settings: dict[str, Any]) -> list[Tensor]:
    """Values, first and second derivatives along fixed directions."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    y = function(*inputs, **settings)
    first = torch.autograd.grad(
        (y.square() * torch.cos(torch.arange(y.numel()).reshape(y.shape))).sum(), inputs, create_graph=True
    )
    second = torch.autograd.grad(sum((g * torch.sin(g)).sum() for g in first), inputs)
    return [y, *first, *second]


@pytest.mark.parametrize("name, inputs, settings", CALLS, ids=[f"{i}-{c[0]}" for i, c in enumerate(CALLS)])
def test_functions_equal_plain_pytorch_to_second_order(
    nvlabs_tree: Path, name: str, inputs: list[Tensor], settings: dict[str, Any]
) -> None:
    file, function = name.split(".")
    want = derivatives(getattr(module(file), function), inputs, settings)
    with nvlabs.installed():
        found = getattr(module(file), function)
        assert found.__code__.co_filename.endswith("_ops.py")
        got = derivatives(found, inputs, settings)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name, args, settings, reference",
    [
        ("upfirdn2d.upfirdn2d", (X, LINE), {}, "upfirdn2d"),
        ("upfirdn2d.upsample2d", (X, LINE), {}, "upfirdn2d"),
        ("upfirdn2d.downsample2d", (X, LINE), {}, "upfirdn2d"),
        ("upfirdn2d.filter2d", (X, LINE), {}, "upfirdn2d"),
        ("bias_act.bias_act", (X,), {"act": "relu"}, "bias_act"),
        ("filtered_lrelu.filtered_lrelu", (X,), {"fu": LINE, "up": 2, "padding": 3}, "filtered_lrelu"),
    ],
)
def test_impl_ref_runs_the_reference(
    shim: None, monkeypatch: pytest.MonkeyPatch, name: str, args: Any, settings: Any, reference: str
) -> None:
    file, function = name.split(".")
    run = getattr(module(file), function)
    want = run(*args, **settings)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(ops, reference, refuse)
    torch.testing.assert_close(run(*args, **settings, impl="ref"), want)
    with pytest.raises(AssertionError, match="the kernel ran"):
        run(*args, **settings, impl="cuda")


def test_numbers_of_numpy_are_numbers(shim: None) -> None:
    import numpy as np

    y = module("bias_act").bias_act(X, act="lrelu", gain=np.float32(2), clamp=np.float64(3), alpha=torch.tensor(0.5))
    torch.testing.assert_close(y, (torch.nn.functional.leaky_relu(X, 0.5) * 2).clamp(-3, 3))
    assert module("upfirdn2d").setup_filter([1, 3, 3, 1], gain=np.float32(4)).sum() == pytest.approx(4)


def test_private_helpers(shim: None) -> None:
    up, gradfix = module("upfirdn2d"), module("conv2d_gradfix")
    assert up._parse_padding([1, 2]) == (1, 1, 2, 2) and up._parse_scaling(3) == (3, 3)
    assert up._get_filter_size(torch.ones(2, 3)) == (3, 2) and up._get_filter_size(None) == (1, 1)
    assert up._init() is True and up._plugin is not None
    with pytest.raises(AttributeError, match="no plugin is built"):
        _ = up._plugin.upfirdn2d
    w = numbers(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(
        up._upfirdn2d_cuda(up=2, padding=1).apply(X, TAPS.double()), up.upfirdn2d(X, TAPS.double(), up=2, padding=1)
    )
    torch.testing.assert_close(module("bias_act")._bias_act_cuda(act="relu").apply(X, None), X.relu() * 2**0.5)
    args = {"stride": (1, 1), "padding": (1, 1), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}
    conv = gradfix._conv2d_gradfix(transpose=False, weight_shape=(4, 3, 3, 3), **args)
    torch.testing.assert_close(conv.apply(X, w, None), torch.nn.functional.conv2d(X, w, padding=1))
    torch.testing.assert_close(
        module("conv2d_resample")._conv2d_wrapper(X, w, flip_weight=False), torch.nn.functional.conv2d(X, w.flip(2, 3))
    )
    assert module("fma")._unbroadcast(X, [3, 1, 1]).shape == (3, 1, 1)
    plain = module("filtered_lrelu")._filtered_lrelu_cuda(up=2, padding=3).apply(X, LINE, None, None, None, 0, 0)
    torch.testing.assert_close(plain, module("filtered_lrelu")._filtered_lrelu_ref(X, LINE, up=2, padding=3))


# ---- switches ------------------------------------------------------------------------------------------------------------
def test_no_weight_gradients_gives_none_and_keeps_the_second_derivative(shim: None) -> None:
    gradfix = module("conv2d_gradfix")
    x, w = X.clone().requires_grad_(), numbers(4, 3, 3, 3, seed=1).requires_grad_()
    y = torch.nn.functional.softplus(gradfix.conv2d(x, w, padding=1)).sum()
    assert not gradfix.weight_gradients_disabled
    with gradfix.no_weight_gradients():
        assert gradfix.weight_gradients_disabled
        gx, gw = torch.autograd.grad(y, [x, w], create_graph=True, allow_unused=True)
        with gradfix.no_weight_gradients(False):
            assert gradfix.weight_gradients_disabled
    assert gw is None and not gradfix.weight_gradients_disabled
    got = torch.autograd.grad(gx.square().sum(), w)[0]
    y = torch.nn.functional.softplus(torch.nn.functional.conv2d(x, w, padding=1)).sum()
    want = torch.autograd.grad(torch.autograd.grad(y, x, create_graph=True)[0].square().sum(), w)[0]
    torch.testing.assert_close(got, want)


def test_weight_gradients_disabled_can_be_written(nvlabs_tree: Path) -> None:
    from torch_utils.ops import conv2d_gradfix

    with nvlabs.installed():
        conv2d_gradfix.weight_gradients_disabled = True
        w = numbers(4, 3, 3, 3).requires_grad_()
        x = X.clone().requires_grad_()
        y = conv2d_gradfix.conv2d(x, w).sum()
        assert torch.autograd.grad(y, [x, w], allow_unused=True)[1] is None
        conv2d_gradfix.weight_gradients_disabled = False
        assert not conv2d_gradfix.weight_gradients_disabled
        conv2d_gradfix.weight_gradients_disabled = True
    assert conv2d_gradfix.weight_gradients_disabled is False
    y = ops.conv2d(x, w).sum()
    assert torch.autograd.grad(y, w)[0] is not None, "uninstall ends what was written"


@pytest.mark.parametrize(
    "name, function, args, own, torchs",
    [
        ("conv2d_gradfix", "conv2d", (X, numbers(4, 3, 3, 3)), "conv2d", "conv2d"),
        ("conv2d_gradfix", "conv_transpose2d", (X, numbers(3, 4, 3, 3)), "conv_transpose2d", "conv_transpose2d"),
        ("grid_sample_gradfix", "grid_sample", (X, numbers(2, 4, 3, 2) * 0.5), "grid_sample", "grid_sample"),
    ],
)
def test_enabled_false_is_torchs_own_function(
    shim: None, monkeypatch: pytest.MonkeyPatch, name: str, function: str, args: Any, own: str, torchs: str
) -> None:
    found = module(name)
    want = getattr(found, function)(*args)
    calls = []
    for place, key in ((ops, own), (torch.nn.functional, torchs)):
        real = getattr(place, key)
        monkeypatch.setattr(place, key, lambda *a, _place=place, _real=real, **k: (calls.append(_place), _real(*a, **k))[1])
    assert found.enabled is True
    getattr(found, function)(*args)
    assert calls[0] is ops
    calls.clear()
    found.enabled = False
    torch.testing.assert_close(getattr(found, function)(*args), want)
    assert calls == [torch.nn.functional]


def test_fma_of_half_and_float_promotes(shim: None) -> None:
    got = module("fma").fma(torch.ones(2, 1, dtype=torch.float16), torch.full((2,), 0.5), 3)
    assert got.dtype == torch.float32 and got.tolist() == [[3.5, 3.5]] * 2


def test_plugins(nvlabs_tree: Path) -> None:
    from torch_utils import custom_ops
    from torch_utils.ops import upfirdn2d

    with nvlabs.installed():
        assert upfirdn2d._init() and custom_ops.get_plugin("upfirdn2d_plugin", sources=["x.cu"]) is not None
        assert custom_ops.get_plugin("my_plugin", ["a.cu"]) == ("built", "my_plugin", ("a.cu",)), "a fork's own plugin is built"
    assert upfirdn2d._plugin is None


def test_an_unknown_plugin_without_a_checkout_says_so(shim: None) -> None:
    from torch_utils import custom_ops

    with pytest.raises(RuntimeError, match=r"'my_plugin'.*upfirdn2d_plugin"):
        custom_ops.get_plugin("my_plugin", sources=[])
