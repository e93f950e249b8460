from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from gankern import nn


def modules() -> list[tuple[torch.nn.Module, tuple[Any, ...]]]:
    torch.manual_seed(0)
    x, w = torch.randn(2, 6, 8, 8), torch.randn(2, 5)
    made: list[tuple[torch.nn.Module, tuple[Any, ...]]] = [
        (nn.ModulatedConv2d(6, 4, 3, 5), (x, w)),
        (nn.ModulatedConv2d(6, 4, 3, 5, down=2), (x, w)),
        (nn.ModulatedConv2d(6, 4, 1, 5, demodulate=False), (x, w)),
        (nn.StyleLayer(6, 4, 5, 8, clamp=256.0), (x, w, "const")),
        (nn.StyleLayer(6, 4, 5, 16, up=2), (x, w, "const", 0.5)),
        (nn.StyleLayer(6, 4, 5, 8, use_noise=False, act="relu"), (x, w)),
        (nn.ToRGB(6, 3, 5, clamp=256.0), (x, w)),
        (nn.AdaptiveConv2d(6, 4, 3, num_conv_kernels=3), (x, torch.randn(2, 6), torch.randn(2, 3))),
        (nn.AdaptiveConv2d(6, 4, 1, demodulate=False), (x, torch.randn(2, 6))),
    ]
    for module, _ in made:
        for name, parameter in module.named_parameters():
            if "bias" in name or "strength" in name:
                torch.nn.init.normal_(parameter)
    return made


CASES = [pytest.param(m, a, id=f"{type(m).__name__}-{i}") for i, (m, a) in enumerate(modules())]


def doubled(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.double().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]


@pytest.mark.parametrize("module, arguments", CASES)
def test_equals_its_reference_with_the_same_weights(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    """Values, gradients, and gradients of a path length penalty."""
    module = copy.deepcopy(module).double()
    other = copy.deepcopy(module)
    for part in other.modules():
        if hasattr(part, "reference"):
            part.reference = True
    results = []
    for m in (module, other):
        given = doubled(arguments)
        y = m(*given)
        (g,) = torch.autograd.grad(y.sin().sum(), given[1], create_graph=True)
        found = torch.autograd.grad(g.square().sum().sqrt(), [given[0], *m.parameters()], allow_unused=True)
        results.append([y, g, *[torch.zeros(()) if h is None else h for h in found]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("module, arguments", CASES)
def test_inference_equals_training(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    kept = arguments[0].clone()
    expected = module(*arguments)
    with torch.no_grad():
        torch.testing.assert_close(module(*arguments), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(arguments[0], kept)


@pytest.mark.parametrize("module, arguments", CASES)
def test_state_dict_pickle_and_deepcopy(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(*arguments), module(*arguments))
    fresh = copy.deepcopy(module)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(fresh(*arguments), module(*arguments))
    assert repr(module)


@pytest.mark.parametrize("module, arguments", CASES)
def test_autocast_and_channels_last(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    expected = module(*arguments).detach()
    last = [a.contiguous(memory_format=torch.channels_last) if i == 0 else a for i, a in enumerate(arguments)]
    y = copy.deepcopy(module).to(memory_format=torch.channels_last)(*last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(*arguments).detach()
    assert half.dtype == torch.bfloat16
    assert float((half.float() - expected).norm() / expected.norm()) < 0.03


def test_sizes_and_noise() -> None:
    torch.manual_seed(1)
    x, w = torch.randn(2, 6, 8, 8), torch.randn(2, 5)
    assert nn.StyleLayer(6, 4, 5, 16, up=2)(x, w).shape == (2, 4, 16, 16)
    layer = nn.StyleLayer(6, 4, 5, 8)
    assert torch.equal(layer(x, w), layer(x, w)), "the strength of the noise is 0 at first"
    torch.nn.init.ones_(layer.noise_strength)
    assert not torch.equal(layer(x, w), layer(x, w))
    assert torch.equal(layer(x, w, "const"), layer(x, w, "const"))
    without = layer(x, w, "none")
    assert not torch.equal(layer(x, w, "const"), without)
    assert float(without.detach().square().mean()) == pytest.approx(1, abs=0.4), "demodulation keeps the variance"


def test_bad_input() -> None:
    x, w = torch.randn(2, 6, 8, 8), torch.randn(2, 5)
    with pytest.raises(ValueError, match="noise_mode must be one of random, const, none, got 'fixed'"):
        nn.StyleLayer(6, 4, 5, 8)(x, w, "fixed")
    with pytest.raises(ValueError, match="StyleLayer: act must be one of"):
        nn.StyleLayer(6, 4, 5, 8, act="gelu")
    with pytest.raises(ValueError, match="up and down must not both be above 1"):
        nn.ModulatedConv2d(6, 4, 3, 5, up=2, down=2)
    with pytest.raises(ValueError, match=r"kernel_mod \[N, 3\] must be given"):
        nn.AdaptiveConv2d(6, 4, 3, 3)(x, torch.randn(2, 6))
