from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import nn, ops

Case = tuple[torch.nn.Module, tuple[Tensor, ...]]


def cases() -> list[Case]:
    torch.manual_seed(0)
    x, w, y = torch.randn(4, 6, 5, 4).double(), torch.randn(4, 8).double(), torch.tensor([0, 2, 2, 1])
    last = x.contiguous(memory_format=torch.channels_last)
    seg = torch.randn(4, 3, 10, 8).double()
    made: list[Case] = [
        (nn.InstanceNormAct(6), (x,)),
        (nn.InstanceNormAct(6, affine=True, act="lrelu"), (last,)),
        (nn.AdaIN(6, 8), (x, w)),
        (nn.AdaIN(6, 8, act="relu", gain=1.0), (last, w)),
        (nn.StyleEpilogue(6, 8, use_noise=False), (x, w)),
        (nn.StyleEpilogue(6, 8), (x, w, torch.randn(4, 1, 5, 4).double())),
        (nn.ConditionalInstanceNorm2d(6, 3, act="relu"), (x, y)),
        (nn.ConditionalBatchNorm2d(6, 3, act="swish"), (x, y)),
        (nn.ConditionalBatchNorm2d(6, 3, act="lrelu"), (last, y)),
        (nn.SPADE(6, 3, hidden=5, act="lrelu"), (x, seg)),
        (nn.SPADE(6, 3, hidden=5, kernel_size=1), (last, seg[:, :, ::2, ::2])),
        (nn.PixelNorm(), (x,)),
        (nn.PixelNorm(dim=-1, eps=1e-3), (w,)),
        (nn.MinibatchStdDev(num_channels=2), (x,)),
    ]
    for module, _ in made:
        module.double()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return made


CASES = [pytest.param(m, a, id=f"{type(m).__name__}-{i}") for i, (m, a) in enumerate(cases())]


@pytest.mark.parametrize("module, arguments", CASES)
def test_equals_its_reference_with_the_same_weights(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
    x, *rest = arguments
    x = x.clone().requires_grad_()
    results = []
    for reference in (False, True):
        m = copy.deepcopy(module)
        m.reference = reference
        y = m(x, *rest)
        (g,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        leaves = [x, *m.parameters()]
        grads = torch.autograd.grad(g.square().sum(), leaves, allow_unused=True)
        zero = [torch.zeros_like(p) if h is None else h for p, h in zip(leaves, grads, strict=True)]
        results.append((y, g, *zero))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("module, arguments", CASES)
def test_layout_pickle_state_and_words(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
    module = copy.deepcopy(module).eval()
    y = module(*arguments)
    x = arguments[0]
    if x.dim() == 4:
        last = x.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(*arguments), y)
    fresh = copy.deepcopy(module)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(fresh(*arguments), y)
    assert "reference" not in repr(module)
    module.reference = True
    assert "reference=True" in repr(module)


def test_instance_norm_is_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4)
    mine, right = nn.InstanceNormAct(6, affine=True, act="relu"), torch.nn.InstanceNorm2d(6, affine=True)
    torch.nn.init.normal_(mine.weight)
    right.load_state_dict(mine.state_dict())
    torch.testing.assert_close(mine(x), right(x).relu())


def test_adain_by_its_formula() -> None:
    torch.manual_seed(0)
    module = nn.AdaIN(6, 8)
    x, w = torch.randn(2, 6, 5, 4), torch.randn(2, 8)
    scale, shift = module.affine(w)[:, :6, None, None], module.affine(w)[:, 6:, None, None]
    torch.testing.assert_close(module(x, w), (1 + scale) * F.instance_norm(x) + shift)


def test_style_epilogue_by_its_formula() -> None:
    torch.manual_seed(0)
    module = nn.StyleEpilogue(6, 8)
    torch.nn.init.normal_(module.bias)
    assert module.noise_strength is not None
    torch.nn.init.constant_(module.noise_strength, 0.7)
    x, w, noise = torch.randn(2, 6, 5, 4), torch.randn(2, 8), torch.randn(2, 1, 5, 4)
    v = F.leaky_relu(x + 0.7 * noise + module.bias[:, None, None], 0.2)
    scale, shift = module.affine(w).chunk(2, 1)
    expected = (1 + scale[:, :, None, None]) * F.instance_norm(v, eps=1e-8) + shift[:, :, None, None]
    torch.testing.assert_close(module(x, w, noise), expected)
    torch.manual_seed(1)
    drawn = module(x, w)
    assert not torch.equal(drawn, module(x, w)), "noise is drawn anew"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_conditional_batch_norm_by_its_formula(training: bool, channels_last: bool) -> None:
    torch.manual_seed(0)
    module = nn.ConditionalBatchNorm2d(6, 3, act="relu").train(training)
    right = torch.nn.BatchNorm2d(6, affine=False).train(training)
    torch.nn.init.normal_(module.biases.weight)
    with torch.no_grad():
        module.gains.weight[1] = 0  # a gain of 0 keeps its bias
    x, y = 2 * torch.randn(4, 6, 5, 4) + 1, torch.tensor([0, 1, 2, 1])
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for _ in range(2):
        expected = right(x) * module.gains(y)[:, :, None, None] + module.biases(y)[:, :, None, None]
        torch.testing.assert_close(module(x, y), expected.relu())
    torch.testing.assert_close(module.norm.running_var, right.running_var)


def test_conditional_instance_norm_by_its_formula() -> None:
    torch.manual_seed(0)
    module = nn.ConditionalInstanceNorm2d(6, 3)
    torch.nn.init.normal_(module.biases.weight)
    x, y = torch.randn(3, 6, 5, 4), torch.tensor([2, 0, 2], dtype=torch.int32)
    expected = F.instance_norm(x) * module.gains(y)[:, :, None, None] + module.biases(y)[:, :, None, None]
    torch.testing.assert_close(module(x, y), expected)


def test_spade_by_its_formula() -> None:
    torch.manual_seed(0)
    module = nn.SPADE(6, 3, hidden=5)
    x, seg = torch.randn(2, 6, 8, 6), torch.randn(2, 3, 4, 3)
    hidden = F.relu(module.shared(seg.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    scale, shift = module.factors(hidden).split(6, 1)
    torch.testing.assert_close(module(x, seg), (1 + scale) * F.instance_norm(x) + shift)


def test_spectral_norm_switches_to_its_reference_and_back() -> None:
    torch.manual_seed(0)
    layer = nn.SpectralNorm.on(torch.nn.ConvTranspose2d(4, 6, 3)).double()
    p: Any = layer.parametrizations.weight[0]  # type: ignore[index,union-attr]
    assert p.dim == 1 and p._u.shape == (6,) and p._v.shape == (36,)
    twin = copy.deepcopy(layer)
    q: Any = twin.parametrizations.weight[0]  # type: ignore[index,union-attr]
    q.reference = True
    for _ in range(3):
        torch.testing.assert_close(layer.weight, twin.weight)
        torch.testing.assert_close(p._u, q._u)
    layer.eval()
    before = p._u.clone()
    assert torch.equal(layer.weight, layer.weight) and torch.equal(p._u, before)
    assert "reference=True" in repr(q)
    bias = nn.SpectralNorm.on(torch.nn.Linear(3, 4), "bias")
    torch.testing.assert_close(bias.bias.norm(), torch.tensor(1.0))


def test_a_discriminators_end_trains() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        nn.SpectralNorm.on(torch.nn.Conv2d(3, 8, 3, padding=1)), nn.MinibatchStdDev(), nn.PixelNorm(), torch.nn.Conv2d(9, 1, 4)
    )
    x = torch.randn(8, 3, 4, 4, requires_grad=True)
    score = net(x).square().sum()
    (g,) = torch.autograd.grad(score, x, create_graph=True)
    (score + g.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nn.InstanceNormAct(6, act="gelu"), "InstanceNormAct: act must be one of"),
        (lambda: nn.AdaIN(6, 8, act="gelu"), "AdaIN: act must be one of"),
        (lambda: nn.StyleEpilogue(6, 8, pre_act="gelu"), "StyleEpilogue: act must be one of"),
        (lambda: nn.ConditionalBatchNorm2d(6, 0), "ConditionalBatchNorm2d: classes must be at least 1, got 0"),
        (lambda: nn.SPADE(6, 3, kernel_size=2), "SPADE: kernel_size must be odd and positive, got 2"),
        (lambda: nn.MinibatchStdDev(0), "MinibatchStdDev: group_size must be at least 1, got 0"),
        (lambda: nn.SpectralNorm(torch.ones(3, 4), 0), "SpectralNorm: n_power_iterations must be at least 1, got 0"),
        (lambda: nn.SpectralNorm(torch.ones(3, 4), dim=2), r"SpectralNorm: dim must be in \[-2, 1\]"),
        (lambda: nn.SpectralNorm.on(torch.nn.ReLU()), "SpectralNorm.on: name must be a parameter of ReLU, got 'weight'"),
        (lambda: nn.AdaIN(6, 8)(torch.ones(2, 5, 4, 4), torch.ones(2, 8)), r"AdaIN: x must have shape \[N, 6, H, W\]"),
        (
            lambda: nn.StyleEpilogue(6, 8, use_noise=False)(torch.ones(2, 6, 4, 4), torch.ones(2, 8), torch.ones(4, 4)),
            "StyleEpilogue: noise is given",
        ),
        (
            lambda: nn.ConditionalInstanceNorm2d(6, 3)(torch.ones(2, 6, 4, 4), torch.tensor([1])),
            r"ConditionalInstanceNorm2d: y must be class numbers \[N\] = \[2\]",
        ),
        (
            lambda: nn.ConditionalBatchNorm2d(6, 3)(torch.ones(2, 6, 4, 4), torch.ones(2)),
            "ConditionalBatchNorm2d: y must be class numbers.*float32",
        ),
    ],
)
def test_bad_input_is_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_modules_follow_the_functions() -> None:
    x = torch.randn(4, 6, 4, 4)
    assert torch.equal(nn.PixelNorm()(x), ops.pixel_norm(x))
    assert torch.equal(nn.MinibatchStdDev(2, 3)(x), ops.minibatch_stddev(x, 2, 3))
