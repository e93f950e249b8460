"""modulated_conv2d of both signatures: the codebases' semantics, and which functions are replaced."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gankern import ops
from gankern.compat import nvlabs
from gankern.compat._shims import CompatWarning

SG2, SG3 = "training.networks_stylegan2", "training.networks_stylegan3"


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def to_second_order(function: Any, inputs: dict[str, Tensor], settings: dict[str, Any]) -> list[Tensor]:
    inputs = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    y = function(**inputs, **settings)
    first = torch.autograd.grad((y.square() * torch.cos(torch.arange(y.numel()).reshape(y.shape))).sum(), list(inputs.values()),
                                create_graph=True)  # fmt: skip
    penalty = sum(((g / g.detach().norm()).square() * torch.sin(torch.arange(g.numel())).reshape(g.shape)).sum() for g in first)
    second = torch.autograd.grad(penalty, list(inputs.values()))
    return [t.detach() for t in (y, *first, *second)]


TAPS = torch.tensor([[1.0, 2.0], [3.0, 5.0]]) / 11
IMAGES = {"x": numbers(2, 3, 5, 4), "weight": numbers(4, 3, 3, 3, seed=1), "styles": numbers(2, 3, seed=2)}
ALIAS_FREE = {"x": IMAGES["x"], "w": IMAGES["weight"], "s": IMAGES["styles"]}
CASES: list[tuple[str, dict[str, Tensor], dict[str, Any]]] = [
    (SG2, IMAGES, {"padding": 1}),
    (SG2, IMAGES | {"noise": numbers(2, 1, 5, 4, seed=3)}, {"padding": 1, "demodulate": False}),
    (SG2, IMAGES | {"noise": numbers(10, 8, seed=3)}, {"up": 2, "padding": 1, "resample_filter": TAPS, "flip_weight": False}),
    (SG2, IMAGES | {"noise": numbers(2, 1, 10, 8, seed=3)}, {"up": 2, "padding": 1, "fused_modconv": False}),
    (SG2, IMAGES, {"down": 2, "padding": [1, 2], "resample_filter": TAPS, "demodulate": False, "fused_modconv": False}),
    (SG3, ALIAS_FREE, {"padding": [1, 2]}),
    (SG3, ALIAS_FREE | {"s": 1e-3 * IMAGES["styles"], "input_gain": numbers(seed=4)}, {"padding": 2}),
    (SG3, ALIAS_FREE | {"w": 1e-3 * IMAGES["weight"], "input_gain": numbers(3, seed=4)}, {}),
    (SG3, ALIAS_FREE | {"input_gain": numbers(2, 3, seed=4)}, {"demodulate": False}),
]  # fmt: skip


@pytest.mark.parametrize("name, inputs, settings", CASES, ids=[str(i) for i in range(len(CASES))])
def test_values_and_derivatives(nvlabs_tree: Path, name: str, inputs: dict[str, Tensor], settings: dict[str, Any]) -> None:
    networks = importlib.import_module(name)
    own = networks.modulated_conv2d
    want = to_second_order(own, inputs, settings)
    with nvlabs.installed():
        assert networks.modulated_conv2d is not own and networks.modulated_conv2d.__name__ == "modulated_conv2d"
        got = to_second_order(networks.modulated_conv2d, inputs, settings)
    for a, b in zip(got, want, strict=True):
        # StyleGAN3: the 1e-8 under the square root is scaled as the original scales it to this accuracy.
        assert float((a - b).norm()) <= 2e-8 * float(b.norm())


@pytest.mark.parametrize("fused_modconv", [True, False])
def test_half_precision_does_not_overflow(nvlabs_tree: Path, fused_modconv: bool) -> None:
    networks = importlib.import_module(SG2)
    inputs = {"x": IMAGES["x"], "weight": 300 * IMAGES["weight"], "styles": 300 * IMAGES["styles"]}
    settings = {"padding": 1, "fused_modconv": fused_modconv}
    exact = networks.modulated_conv2d(**inputs, **settings)
    half = {"x": inputs["x"].half(), "weight": inputs["weight"].float(), "styles": inputs["styles"].float()}
    with nvlabs.installed():
        got = networks.modulated_conv2d(**half, noise=numbers(5, 4, dtype=torch.float32), **settings)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.double(), exact + numbers(5, 4), rtol=5e-3, atol=5e-3)


def test_a_gain_that_needs_broadcasting(nvlabs_tree: Path) -> None:
    networks = importlib.import_module(SG3)
    inputs = (IMAGES["x"], IMAGES["weight"], IMAGES["styles"])
    want = networks.modulated_conv2d(*inputs, input_gain=numbers(2, 1, seed=4))
    with nvlabs.installed():
        torch.testing.assert_close(networks.modulated_conv2d(*inputs, input_gain=numbers(2, 1, seed=4)), want)


def test_images_of_stylegan3_go_on_in_nchw(nvlabs_tree: Path) -> None:
    """Its first layer's come from a permutation; what is like them is filled in the order of memory."""
    networks = importlib.import_module(SG3)
    x = IMAGES["x"].to(memory_format=torch.channels_last)
    want = networks.modulated_conv2d(x, IMAGES["weight"], IMAGES["styles"])
    with nvlabs.installed():
        assert networks.modulated_conv2d(x, IMAGES["weight"], IMAGES["styles"]).stride() == want.stride()


def write(tree: Path, name: str, source: str) -> None:
    (tree / "training" / f"{name}.py").write_text(source)
    importlib.invalidate_caches()


def original(tree: Path) -> str:
    return (tree / "training" / "networks_stylegan3.py").read_text()


def test_found_by_its_signature_wherever_it_is(nvlabs_tree: Path) -> None:
    write(nvlabs_tree, "own_name", original(nvlabs_tree))
    write(nvlabs_tree, "user", "from training.own_name import modulated_conv2d\nfrom training import own_name\n")
    with nvlabs.installed():
        user = importlib.import_module("training.user")
        assert user.modulated_conv2d is user.own_name.modulated_conv2d
        assert "gankern" in user.modulated_conv2d.__code__.co_filename
    assert user.modulated_conv2d is user.own_name.modulated_conv2d
    assert "gankern" not in user.modulated_conv2d.__code__.co_filename
    with nvlabs.installed():
        assert user.modulated_conv2d is user.own_name.modulated_conv2d
        assert "gankern" in user.modulated_conv2d.__code__.co_filename


@pytest.mark.parametrize(
    "old, new, warning",
    [
        ("+ 1e-8).rsqrt()", "+ 1e-8).rsqrt() * 1.5", "its result differs from gankern's by"),
        ("return y.reshape(n, -1, *y.shape[2:])", "return y.reshape(n, -1)", "it gives a tensor .* where gankern gives"),
        ("    n, i = s.shape", "    n, i = s.shape\n    raise KeyError('nothing')", "it raises KeyError"),
        ("padding=0, input_gain=None):", "padding=1, input_gain=None):", None),
        ("padding=0, input_gain=None):", "padding=0, input_gain=None, *, extra=None):", None),
    ],
)
def test_a_function_that_computes_something_else_is_left(nvlabs_tree: Path, old: str, new: str, warning: str | None) -> None:
    assert old in original(nvlabs_tree)
    write(nvlabs_tree, "fork", original(nvlabs_tree).replace(old, new))
    with warnings.catch_warnings(record=True) as caught, nvlabs.installed():
        warnings.simplefilter("always")
        fork = importlib.import_module("training.fork")
        assert "gankern" not in fork.modulated_conv2d.__code__.co_filename
    messages = [str(w.message) for w in caught if issubclass(w.category, CompatWarning)]
    assert len(messages) == (warning is not None)
    if warning is not None:
        with pytest.raises(AssertionError, match=rf"training\.fork\.modulated_conv2d has a known signature .*{warning}"):
            raise AssertionError(messages[0])


def test_random_numbers_are_not_used_up(nvlabs_tree: Path) -> None:
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    with nvlabs.installed():
        importlib.import_module(SG2)
        importlib.import_module(SG3)
        assert torch.equal(torch.rand(3), want)


def test_other_things_of_that_name_are_left(nvlabs_tree: Path) -> None:
    module = ModuleType("training_values")
    for value in (3, "text", ops.modulated_conv2d, len, type("modulated_conv2d", (), {})):
        module.modulated_conv2d = value  # type: ignore[attr-defined]
        sys.modules["training_values"] = module
        try:
            with nvlabs.installed():
                assert module.modulated_conv2d is value
        finally:
            del sys.modules["training_values"]
