from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import nn

Blocks = list[tuple[torch.nn.Module, tuple[Tensor, ...]]]


def blocks() -> Blocks:
    torch.manual_seed(0)
    x, skip = torch.randn(2, 6, 8, 12).double(), torch.randn(2, 3, 16, 24).double()
    last = {"memory_format": torch.channels_last}
    made: Blocks = [
        (nn.ConvNormAct2d(6, 4, 3), (x,)),
        (nn.ConvNormAct2d(6, 4, 3, norm="instance", act="lrelu", padding_mode="reflect"), (x.contiguous(**last),)),
        (nn.ConvNormAct2d(6, 4, 7, norm="none", act="tanh", padding_mode="reflect"), (x,)),
        (nn.ConvNormAct2d(6, 4, 3, 2, norm="instance", transposed=True, output_padding=1), (x,)),
        (nn.UNetDown(6, 4), (x,)),
        (nn.UNetDown(6, 4, "none"), (x.contiguous(**last),)),
        (nn.UNetUp(6, 4), (x, skip)),
        (nn.UNetUp(6, 4, "instance"), (x.contiguous(**last), skip.contiguous(**last))),
        (nn.UNetUp(6, 4, "none"), (x,)),
    ]
    for module, _ in made:
        module.double()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return made


BLOCKS = [pytest.param(m, a, id=f"{type(m).__name__}-{i}") for i, (m, a) in enumerate(blocks())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("module, arguments", BLOCKS)
def test_equals_its_reference_with_the_same_weights(
    module: torch.nn.Module, arguments: tuple[Tensor, ...], training: bool
) -> None:
    results = []
    for reference in (False, True):
        m = copy.deepcopy(module).train(training)
        for part in m.modules():
            if hasattr(part, "reference"):
                part.reference = reference
        given = [a.clone().requires_grad_() for a in arguments]
        y = m(*given)
        assert y.is_contiguous(memory_format=torch.channels_last) or not given[0].is_contiguous(
            memory_format=torch.channels_last
        )
        (g,) = torch.autograd.grad(y.pow(3).mean(), given[:1], create_graph=True)
        leaves = [*given, *m.parameters()]
        grads = torch.autograd.grad(g.square().sum(), leaves, allow_unused=True)
        results.append((y, g, *(torch.zeros_like(p) if h is None else h for p, h in zip(leaves, grads, strict=True))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def plain(module: nn.ConvNormAct2d, norm: str, act: torch.nn.Module) -> torch.nn.Sequential:
    """The same of torch.nn's parts, with the weights of ``module``."""
    conv: Any = module.conv
    up = isinstance(conv, nn.ConvTranspose2d)
    if up:
        settings = {k: v for k, v in conv.geometry.items() if k != "groups"}
    else:
        settings = {"stride": conv.stride, "padding": conv.padding + module.reflect}
        settings["padding_mode"] = "reflect" if module.reflect else "zeros"
    sizes = list(conv.weight.shape[:2])
    kind: Any = torch.nn.ConvTranspose2d if up else torch.nn.Conv2d
    mine = kind(*(sizes if up else sizes[::-1]), conv.weight.shape[2], bias=conv.bias is not None, **settings)
    mine.load_state_dict(conv.state_dict())
    channels = mine.out_channels
    norms = {"batch": torch.nn.BatchNorm2d, "instance": torch.nn.InstanceNorm2d, "none": torch.nn.Identity}
    norm_layer = norms[norm](channels)
    if norm == "batch":
        norm_layer.load_state_dict(module.norm.norm.state_dict())  # type: ignore[union-attr]
    return torch.nn.Sequential(mine, norm_layer, act)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "stride": 1, "act": "relu"},
        {"kernel_size": 7, "stride": 1, "act": "relu", "padding_mode": "reflect"},
        {"kernel_size": 4, "stride": 2, "padding": 1, "act": "lrelu", "alpha": 0.2},
        {"kernel_size": 3, "stride": 2, "act": "tanh", "transposed": True, "output_padding": 1},
    ],
    ids=["conv", "reflect", "strided", "transposed"],
)
def test_conv_norm_act_is_torchs(norm: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.ConvNormAct2d(6, 4, norm=norm, **settings)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    act = {"relu": torch.nn.ReLU(), "lrelu": torch.nn.LeakyReLU(0.2), "tanh": torch.nn.Tanh()}[settings["act"]]
    right = plain(module, norm, act)
    x = 2 * torch.randn(2, 6, 8, 12) + 1
    for training in (True, False):
        torch.testing.assert_close(module.train(training)(x), right.train(training)(x))
    assert (module.conv.bias is None) == (norm == "batch")


def test_a_reflected_image_has_no_border_of_zeros() -> None:
    module = nn.ConvNormAct2d(1, 1, 3, norm="none", act="linear", padding_mode="reflect")
    torch.nn.init.constant_(module.conv.weight, 1 / 9)
    torch.testing.assert_close(module(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


def test_the_decoder_takes_the_skip_before_or_after_its_leaky_relu() -> None:
    torch.manual_seed(0)
    module = nn.UNetUp(6, 4)
    x, skip = torch.randn(2, 6, 3, 5), torch.randn(2, 3, 6, 10)
    y = module(x, F.leaky_relu(skip, 0.2))
    torch.testing.assert_close(y[:, :3], F.relu(skip))
    conv: Any = module.up.conv
    right = F.relu(F.batch_norm(F.conv_transpose2d(x, conv.weight, stride=2, padding=1), None, None, training=True))
    torch.testing.assert_close(y[:, 3:], right)
    torch.testing.assert_close(module(x), right)


def test_dropout_is_between_norm_and_relu_and_in_training_only() -> None:
    torch.manual_seed(0)
    module = nn.UNetUp(6, 4, dropout=0.5)
    x = torch.randn(8, 6, 8, 8)
    full = nn.UNetUp(6, 4)
    full.load_state_dict(module.state_dict())
    y, right = module(x), full(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * right[kept])
    positive = right > 0
    share = float((kept & positive).sum() / positive.sum())
    assert 0.45 < share < 0.55
    assert not torch.equal(module(x), y)
    torch.manual_seed(1)
    y = module(x)
    torch.manual_seed(1)
    torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), y)  # one mask in both layouts
    assert torch.equal(module.eval()(x), module(x))


def test_words() -> None:
    assert "dropout=0.5" in repr(nn.UNetUp(6, 4, dropout=0.5)) and "reference" not in repr(nn.UNetUp(6, 4))
    assert "reference=True" in repr(nn.UNetUp(6, 4, reference=True))
    assert "reflect=3" in repr(nn.ConvNormAct2d(6, 4, 7, padding_mode="reflect"))


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: nn.ConvNormAct2d(6, 4, 3, norm="layer"),
            "ConvNormAct2d: norm must be one of batch, instance, none, got 'layer'",
        ),
        (lambda: nn.UNetDown(6, 4, "layer"), "UNetDown: norm must be one of"),
        (lambda: nn.ConvNormAct2d(6, 4, 3, padding_mode="same"), "padding_mode must be one of zeros, reflect, got 'same'"),
        (
            lambda: nn.ConvNormAct2d(6, 4, 3, padding_mode="reflect", transposed=True),
            "padding_mode must be 'zeros' if transposed",
        ),
        (lambda: nn.ConvNormAct2d(6, 4, 3, output_padding=1), "output_padding must be 0 unless transposed, got 1"),
        (lambda: nn.ConvNormAct2d(6, 4, 3, act="gelu"), "act must be one of"),
        (lambda: nn.UNetUp(6, 4, dropout=1.0), "UNetUp: dropout must be a probability below 1, got 1.0"),
        (
            lambda: nn.UNetUp(6, 4)(torch.ones(2, 6, 4, 4), torch.ones(2, 3, 4, 4)),
            r"UNetUp: skip must be \[2, C, 8, 8\], got \[2, 3, 4, 4\]",
        ),
    ],
)
def test_bad_input_is_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
