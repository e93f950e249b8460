from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from gankern import nn


def made(**settings: object) -> nn.AdaptiveBatchNorm2d:
    torch.manual_seed(0)
    module = nn.AdaptiveBatchNorm2d(6, 5, **settings).double()  # type: ignore[arg-type]
    module.norm.running_mean.normal_()  # type: ignore[union-attr]
    module.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return module


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_by_its_formula(training: bool, channels_last: bool, reference: bool) -> None:
    module = made(reference=reference).train(training)
    form = torch.channels_last if channels_last else torch.contiguous_format
    x, w = torch.randn(3, 6, 4, 5).double().contiguous(memory_format=form), torch.randn(3, 5).double()
    mean, variance = module.norm.running_mean.clone(), module.norm.running_var.clone()  # type: ignore[union-attr]
    normed = F.batch_norm(x, mean, variance, training=training)
    expected = F.relu(
        (1 + w @ module.gains.weight.T)[:, :, None, None] * normed + (w @ module.biases.weight.T)[:, :, None, None]
    )
    y = module(x, w)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=form)
    torch.testing.assert_close(module.norm.running_mean, mean)  # F.batch_norm has moved it in training
    torch.testing.assert_close(module.norm.running_var, variance)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_are_the_references(training: bool, channels_last: bool) -> None:
    form = torch.channels_last if channels_last else torch.contiguous_format
    found = []
    for reference in (False, True):
        module = made(act="swish", reference=reference).train(training)
        x = torch.randn(3, 6, 4, 5).double().contiguous(memory_format=form).requires_grad_()
        w = torch.randn(3, 5).double().requires_grad_()
        y = module(x, w)
        g = torch.autograd.grad(y.pow(3).sum(), (x, w), create_graph=True)
        found.append((y, *g, *torch.autograd.grad(sum(v.square().sum() for v in g), (x, w, *module.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_compiles_and_keeps_half_types() -> None:
    module = made().eval()
    x, w = torch.randn(3, 6, 4, 5).double(), torch.randn(3, 5).double()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x, w), module(x, w))
    single = copy.deepcopy(module).float()
    y = single(x.float(), w.float())
    with torch.autocast("cpu", torch.bfloat16):
        low = single(x.bfloat16(), w.float())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), y, rtol=0.05, atol=0.05)


def test_bad_input_is_named() -> None:
    module = nn.AdaptiveBatchNorm2d(6, 5)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6, H, W\], got \[2, 5, 4, 4\]"):
        module(torch.zeros(2, 5, 4, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"w must have shape \[2, 5\], got \[1, 5\]"):
        module(torch.zeros(2, 6, 4, 4), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="act must be one of"):
        nn.AdaptiveBatchNorm2d(6, 5, act="mish")
    assert "6, style_dim=5" in repr(module) and "reference" not in repr(module)
