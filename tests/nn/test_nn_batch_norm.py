from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from gankern import nn


def layer(**settings: object) -> nn.BatchNormAct2d:
    torch.manual_seed(0)
    made = nn.BatchNormAct2d(5, **settings)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
        made.norm.running_mean.normal_()
        made.norm.running_var.uniform_(0.5, 2)
    return made.double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", [{}, {"act": "lrelu", "affine": False}, {"act": "tanh", "gain": None}], ids=str)
def test_equals_torch_and_its_reference_to_second_order(training: bool, settings: dict[str, object]) -> None:
    module = layer(**settings).train(training)
    act = {"relu": F.relu, "lrelu": lambda v: F.leaky_relu(v, 0.2), "tanh": torch.tanh}[module.settings["act"]]
    plain = copy.deepcopy(module.norm)
    twin = copy.deepcopy(module)
    twin.reference = True
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for run, parameters in (
        (module, list(module.parameters())),
        (twin, list(twin.parameters())),
        (lambda v: act(plain(v)), list(plain.parameters())),
    ):
        y = run(x)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        seconds = torch.autograd.grad(g.square().sum(), [x, *parameters], allow_unused=True)
        found.append([y, g, *(s for s in seconds if s is not None)])
    for other in found[1:]:
        assert len(other) == len(found[0])
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(module.norm.running_var, plain.running_var)


@pytest.mark.parametrize("training", [True, False])
def test_layouts_autocast_and_inference(training: bool) -> None:
    module = layer().float().train(training)
    module.norm.momentum = 0.0
    x = torch.randn(2, 5, 4, 6)
    expected = module(x)
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
    assert torch.equal(x, kept)
    torch.testing.assert_close(module(x.bfloat16()).float(), expected, atol=0.05, rtol=0.02)


def test_sync_batch_norm_finds_it() -> None:
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer())
    assert isinstance(converted.norm, torch.nn.SyncBatchNorm)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"BatchNormAct2d: x must have shape \[N, 5, H, W\], got \[2, 4, 3, 3\]"):
        layer()(torch.randn(2, 4, 3, 3))
    with pytest.raises(ValueError, match="BatchNormAct2d: act must be one of"):
        nn.BatchNormAct2d(5, act="gelu")
