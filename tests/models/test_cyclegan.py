from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_checks import count
from torch import Tensor

from gankern import nn as gk
from gankern.models import GAN, CycleGANConfig, ImagePool, from_config
from gankern.models.cyclegan import ResidualBlock, ResNetGenerator

TINY = CycleGANConfig(resolution=32, blocks=2, generator_channels=4, discriminator_channels=4, patch=34)


@pytest.mark.parametrize(
    "settings, generator, discriminator",
    [
        # Printed by the authors' program, in millions: 11.378 and 2.765 each; with 6 blocks 7.838.
        ({}, 11_378_179, 2_764_737),
        ({"resolution": 128}, 7_837_699, 2_764_737),
    ],
)
def test_published_numbers_of_parameters(settings: dict[str, Any], generator: int, discriminator: int) -> None:
    with torch.device("meta"):
        gan: Any = from_config("cyclegan", **settings)
    assert count(gan.generator.a_to_b) == count(gan.generator.b_to_a) == generator
    assert count(gan.discriminator.a) == count(gan.discriminator.b) == discriminator


@pytest.mark.parametrize("resolution, blocks", [(256, 9), (128, 6)])
def test_the_layers_of_the_paper(resolution: int, blocks: int) -> None:
    """Zhu et al. 2017, 7.2: c7s1-64, d128, d256, R256 times 6 or 9, u128, u64, c7s1-3."""
    r = resolution
    with torch.device("meta"):
        generator = ResNetGenerator(CycleGANConfig(resolution), "reference")
        shapes: list[list[int]] = []
        for part in generator.layers:
            part.register_forward_hook(lambda module, given, y: shapes.append(list(y.shape[1:])))
        generator(torch.empty(1, 3, r, r))
    down = [[64, r, r], [128, r // 2, r // 2], [256, r // 4, r // 4]]
    assert shapes == [*down, *blocks * [down[2]], down[1], down[0], [3, r, r]]
    kinds = [type(part) for part in generator.layers]
    assert kinds == [gk.ConvNormAct2d] * 3 + [ResidualBlock] * blocks + [gk.ConvNormAct2d] * 3


def resnet(generator: ResNetGenerator, x: Tensor) -> Tensor:
    """The generator written from the paper."""

    def conv(block: Any, y: Tensor, pad: int = 0, **settings: Any) -> Tensor:
        y = F.pad(y, [pad] * 4, "reflect") if pad else y
        function = F.conv_transpose2d if "output_padding" in settings else F.conv2d
        return function(y, block.conv.weight, block.conv.bias, **settings)

    first, d1, d2, *residual, u1, u2, last = generator.layers
    x = F.instance_norm(conv(first, x, 3)).relu()
    for down in (d1, d2):
        x = F.instance_norm(conv(down, x, stride=2, padding=1)).relu()
    for block in residual:
        y = F.instance_norm(conv(block.first, x, 1)).relu()
        x = x + F.instance_norm(conv(block.second, y, 1))
    for up in (u1, u2):
        x = F.instance_norm(conv(up, x, stride=2, padding=1, output_padding=1)).relu()
    return conv(last, x, 3).tanh()


def test_the_generator_is_the_residual_network() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(TINY).double()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 32, 20).double()  # any multiples of 4
    y = generator(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, resnet(generator, x), rtol=1e-9, atol=1e-9)


def test_two_generators_and_two_discriminators_of_their_own() -> None:
    torch.manual_seed(0)
    gan: Any = GAN(TINY)
    a, b = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 32, 32)
    fake_b, fake_a = gan.generator(a, b)
    assert torch.equal(fake_b, gan.generator.a_to_b(a)) and torch.equal(fake_a, gan.generator.b_to_a(b))
    logits_a, logits_b = gan.discriminator(fake_a, fake_b)
    assert torch.equal(logits_a, gan.discriminator.a(fake_a)) and torch.equal(logits_b, gan.discriminator.b(fake_b))
    assert logits_a.shape == (1, 1, 6, 6) and logits_b.shape == (2, 1, 6, 6)
    assert not torch.equal(gan.generator.a_to_b(a), gan.generator.b_to_a(a)), "they start from different weights"
    cycle = F.l1_loss(gan.generator.b_to_a(fake_b), a) + F.l1_loss(gan.generator.a_to_b(fake_a), b)
    (cycle + logits_a.square().mean() + logits_b.square().mean()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in gan.parameters())


def test_weights_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    for module in ResNetGenerator(TINY.replace(generator_channels=32)).modules():
        if isinstance(module, (gk.Conv2d, gk.ConvTranspose2d)) and module.weight.numel() > 10_000:
            assert abs(float(module.weight.detach().std()) - 0.02) < 1e-3
            assert module.bias is not None and not bool(module.bias.any())


def test_batch_norm_instead() -> None:
    gan = GAN(TINY.replace(norm="batch"))
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in gan.generator.modules())
    assert not any(isinstance(m, gk.InstanceNormAct) for m in gan.modules())
    y = gan.generator(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32))[0]
    assert y.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"resolution": 90}, "resolution must be a multiple of 4, at least 8, got 90"),
        ({"resolution": 0}, "resolution must be a positive integer, got 0"),
        ({"resolution": 16}, "resolution must be at least 24 for patch=70, got 16"),
        ({"blocks": 0}, "blocks must be 1 or more, or None, got 0"),
        ({"norm": "none"}, "norm must be 'batch' or 'instance', got 'none'"),
        ({"generator_channels": 2.5}, "generator_channels must be a positive integer, got 2.5"),
    ],
)
def test_settings_that_it_cannot_do_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="CycleGANConfig: " + words):
        CycleGANConfig().replace(**settings)


def test_bad_input_is_named() -> None:
    gan: Any = GAN(TINY)
    words = r"ResNetGenerator: images must be \[N, 3, H, W\] with H and W multiples of 4, at least 8, got "
    for shape in ((1, 3, 30, 32), (1, 1, 32, 32), (1, 3, 4, 4)):
        with pytest.raises(ValueError, match=words):
            gan.generator.a_to_b(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"PatchDiscriminator: images must be \[N, 3, 32, 32\], got \[1, 3, 16, 16\]"):
        gan.discriminator.a(torch.zeros(1, 3, 16, 16))


# ---- the pool of images -----------------------------------------------------------------------------------------------------
def numbered(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def numbers(images: Tensor) -> list[int]:
    assert images.shape[1:] == (3, 2, 2) and bool((images == images[:, :1, :1, :1]).all())
    return [int(v) for v in images[:, 0, 0, 0]]


def test_the_pool_fills_then_swaps_half_of_the_images() -> None:
    pool = ImagePool(50)
    assert numbers(pool.query(numbered(*range(50)))) == list(range(50)) and len(pool) == 50
    old = 0
    held = set(range(50))
    for i in range(50, 2050):
        (shown,) = numbers(pool.query(numbered(i)))
        if shown == i:
            continue
        old += 1
        assert shown in held, "an image comes back once, and after it was shown"
        held = held - {shown} | {i}
    assert 900 < old < 1100  # probability 1/2: a deviation of 22
    state = pool.state_dict()["images"]
    assert set(numbers(state)) == held


def test_the_pool_gives_images_without_history_in_memory_of_their_own() -> None:
    pool = ImagePool(2)
    x = torch.ones(3, 3, 2, 2, requires_grad=True)
    y = pool.query(2 * x)
    assert not y.requires_grad and y.shape == x.shape
    y.zero_()
    assert bool((pool.state_dict()["images"] == 2).all())
    assert torch.equal(ImagePool(0).query(x), x)
    assert len(ImagePool(0)) == 0


def test_the_pool_leaves_pytorchs_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    pool = ImagePool(1)
    for i in range(9):
        pool.query(numbered(i))
    assert torch.equal(torch.rand(3), expected)


def test_a_restored_pool_goes_on_exactly() -> None:
    pool = ImagePool(4, seed=5)
    pool.query(numbered(0, 1, 2))
    for taken in (3, 20):
        file = io.BytesIO()
        torch.save(pool.state_dict(), file)
        file.seek(0)
        twin = ImagePool(4, seed=9)
        twin.load_state_dict(torch.load(file, weights_only=True))
        assert len(twin) == len(pool)
        for i in range(100 * taken, 100 * taken + 30):
            assert numbers(pool.query(numbered(i))) == numbers(twin.query(numbered(i)))
    empty, twin = ImagePool(4, seed=5), ImagePool(4)
    twin.load_state_dict(empty.state_dict())
    for i in range(20):
        assert numbers(empty.query(numbered(i))) == numbers(twin.query(numbered(i)))
    assert [numbers(ImagePool(1, seed=s).query(numbered(*range(20)))) for s in (0, 1)] == [
        numbers(ImagePool(1, seed=s).query(numbered(*range(20)))) for s in (0, 1)
    ]
    assert numbers(ImagePool(1, seed=0).query(numbered(*range(20)))) != numbers(
        ImagePool(1, seed=1).query(numbered(*range(20)))
    )


def test_bad_input_to_the_pool_is_named_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="ImagePool: size must be a number of images, 0 or more, got -1"):
        ImagePool(-1)
    pool = ImagePool(4)
    pool.query(numbered(1, 2))
    before = pool.state_dict()
    with pytest.raises(ValueError, match=r"images must be \[N, C, H, W\], got \[3, 2, 2\]"):
        pool.query(numbered(1)[0])
    with pytest.raises(ValueError, match=r"images must have the shape of those that are kept \(\[3, 2, 2\]\), got \[3, 4, 4\]"):
        pool.query(torch.zeros(1, 3, 4, 4))
    with pytest.raises(
        ValueError, match=r"images must have the dtype of those that are kept \(torch.float32\), got torch.float64"
    ):
        pool.query(numbered(1).double())
    with pytest.raises(ValueError, match="state must be of a pool of size 4, got 5"):
        pool.load_state_dict(ImagePool(5).state_dict())
    with pytest.raises(ValueError, match="state must have size, images and random, got size"):
        pool.load_state_dict({"size": 4})
    with pytest.raises(ValueError, match=r"images of state must be \[at most 4, C, H, W\], got \[5, 3, 2, 2\]"):
        pool.load_state_dict(before | {"images": numbered(*range(5))})
    after = pool.state_dict()
    assert torch.equal(before["images"], after["images"]) and torch.equal(before["random"], after["random"])
