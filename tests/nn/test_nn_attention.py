from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import nn
from gankern.nn.attention import attention, attention_reference

SAGAN = {"channels": 16}
BIGGAN = {"channels": 16, "value_channels": 8, "pool": 2}


def made(settings: dict[str, int], **more: bool) -> nn.SelfAttention2d:
    """In float64 and with a factor that is not 0."""
    torch.manual_seed(0)
    module = nn.SelfAttention2d(**settings, **more).double()
    torch.nn.init.constant_(module.gamma, 0.7)
    return module


def by_hand(m: nn.SelfAttention2d, x: Tensor) -> Tensor:
    """Zhang et al. 2019, equations 1 to 3, pixel by pixel."""
    n, c, height, width = x.shape
    f, g, h = (torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], x) for conv in (m.query, m.key, m.value))
    f, g, h = f.flatten(2), F.max_pool2d(g, m.pool).flatten(2), F.max_pool2d(h, m.pool).flatten(2)
    looked = torch.zeros(n, h.shape[1], height * width, dtype=x.dtype)
    for i in range(n):
        for j in range(height * width):
            scores = torch.stack([torch.dot(f[i, :, j], g[i, :, k]) for k in range(g.shape[2])])
            share = scores.exp() / scores.exp().sum()
            looked[i, :, j] = (h[i] * share).sum(1)
    return x + m.gamma * torch.einsum("ce,nep->ncp", m.out.weight[:, :, 0, 0], looked).view(n, c, height, width)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("settings", [SAGAN, BIGGAN])
def test_by_hand(settings: dict[str, int], reference: bool) -> None:
    module = made(settings, reference=reference)
    x = torch.randn(2, 16, 4, 6).double()
    expected = by_hand(module, x)
    torch.testing.assert_close(module(x), expected)
    with torch.no_grad():  # another kernel
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("settings", [SAGAN, BIGGAN])
@pytest.mark.parametrize("channels_last", [False, True])
def test_layout_is_kept(settings: dict[str, int], channels_last: bool) -> None:
    form = torch.channels_last if channels_last else torch.contiguous_format
    module = made(settings)
    x = torch.randn(2, 16, 4, 6).double()
    y = module(x.contiguous(memory_format=form))
    assert y.is_contiguous(memory_format=form)
    torch.testing.assert_close(y, module(x))


@pytest.mark.parametrize("settings", [SAGAN, BIGGAN])
def test_differentiates_twice(settings: dict[str, int]) -> None:
    module = made(settings)
    parameters = list(module.parameters())
    x = torch.randn(1, 16, 2, 4).double().requires_grad_()

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return module(x)

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *parameters), fast_mode=True)


def test_gradient_penalty_is_the_references() -> None:
    found = []
    for reference in (False, True):
        module = made(BIGGAN, reference=reference)
        x = torch.linspace(-1, 1, 2 * 16 * 16).double().view(2, 16, 4, 4).cos().requires_grad_()
        (g,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), [x, *module.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_starts_as_the_identity_and_has_the_papers_widths() -> None:
    module = nn.SelfAttention2d(64)
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(module(x), x)
    assert [tuple(p.shape) for p in module.parameters()] == [(), (8, 64, 1, 1), (8, 64, 1, 1), (8, 64, 1, 1), (64, 8, 1, 1)]
    wide = nn.SelfAttention2d(64, value_channels=32, pool=2)
    assert wide.value.weight.shape == (32, 64, 1, 1) and wide.out.weight.shape == (64, 32, 1, 1)


@pytest.mark.parametrize("width", [4, 12])
def test_half_types_have_a_float32_softmax(width: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, n, d).bfloat16() for n, d in ((20, 4), (30, 4), (30, width)))
    right = attention_reference(query.double() * 4, key.double(), value.double())
    for function in (attention, attention_reference):
        y = function(query * 4, key, value)
        assert y.dtype == torch.bfloat16
        assert (y - right).norm() <= 2**-7 * right.norm()


def test_autocast_and_functions_of_torch_func() -> None:
    module = made(SAGAN)
    x = torch.randn(2, 16, 4, 4)
    single = copy.deepcopy(module).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = single(x)
    assert y.dtype == torch.float32  # the sum with x
    torch.testing.assert_close(y, single(x), rtol=0.05, atol=0.05)
    wide = x.double()
    mapped = torch.func.vmap(lambda image: module(image[None])[0])(wide)
    torch.testing.assert_close(mapped, module(wide))
    leaf = wide.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf).cos().sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda v: module(v).cos().sum())(wide), expected)


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_whole(grad: bool) -> None:
    module = made(BIGGAN)
    x = torch.randn(2, 16, 4, 4).double()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


def test_bad_input_is_named() -> None:
    for settings, words in (
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 8, "pool": 0}, "pool must be at least 1, got 0"),
        ({"channels": 8, "key_channels": 0}, "key_channels must be at least 1, got 0"),
        ({"channels": 8, "value_channels": -1}, "value_channels must be at least 1, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            nn.SelfAttention2d(**settings)
    module = nn.SelfAttention2d(8, pool=2)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 8, H, W\], got \[2, 4, 4, 4\]"):
        module(torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="at least 2 x 2 pixels"):
        module(torch.zeros(2, 8, 1, 4))
    assert repr(module).startswith("SelfAttention2d(\n  8, pool=2")
