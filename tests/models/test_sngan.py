"""SN-GAN: the paper's tables, the blocks by hand, what is spectrally normalised, the merged gradient of its critic."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from gankern import losses, models
from gankern.models._resnet import DiscriminatorBlock, GeneratorBlock
from gankern.nn import BatchNormAct2d, ConditionalBatchNorm2d

TINY = models.FAMILIES["sngan"].tiny
PLAIN = TINY.replace(num_classes=0)


def made(config: models.ModelConfig) -> models.GAN:
    torch.manual_seed(0)
    gan = models.from_config(config).double()
    for name, p in gan.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    return gan


@pytest.mark.parametrize(
    "preset, first, ups, downs, keeps",
    [  # Miyato et al. 2018, tables 4 to 6: the generator's first map and blocks, the discriminator's blocks
        ("sngan-32", (256, 4), (256, 256, 256), (128, 128), (128, 128)),
        ("sngan-48", (512, 6), (256, 128, 64), (64, 128, 256, 512), (1024,)),
        ("sngan-128", (1024, 4), (1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024), (1024,)),
    ],
)
def test_the_papers_tables(
    preset: str, first: tuple[int, int], ups: tuple[int, ...], downs: tuple[int, ...], keeps: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        gan = models.from_config(preset, num_classes=0)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and nothing else
        gan.to_empty(device="cpu")
        g, d = gan.generator, gan.discriminator
        found: list[tuple[int, int]] = []
        for block in (*g.blocks, *d.blocks):
            block.register_forward_hook(lambda m, a, y: found.append((y.shape[1], y.shape[2])))
        images = g(torch.zeros(2, 128))
        logits = d(images)
    size, resolution = first[1], gan.config.resolution
    assert g.linear.weight.shape == (first[0] * size**2, 128)
    expected = [(width, size << i) for i, width in enumerate(ups, 1)]
    expected += [(width, resolution >> i) for i, width in enumerate(downs, 1)]
    expected += [(width, resolution >> len(downs)) for width in keeps]
    assert found == expected
    assert images.shape == (2, 3, resolution, resolution) and logits.shape == (2, 1)


def test_parameters_of_cifar10_by_the_table() -> None:
    def conv(inside: int, outside: int, size: int) -> int:
        return outside * (inside * size**2 + 1)

    def up(c: int) -> int:  # two 3x3 convolutions, one 1x1, two norms
        return 2 * conv(c, c, 3) + conv(c, c, 1) + 4 * c

    with torch.device("meta"):
        gan = models.from_config("sngan-32")
    assert sum(p.numel() for p in gan.generator.parameters()) == 129 * 4096 + 3 * up(256) + 512 + conv(256, 3, 3) == 4_276_739
    blocks = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1) + 6 * conv(128, 128, 3) + conv(128, 128, 1)
    assert sum(p.numel() for p in gan.discriminator.parameters()) == blocks + 129 == 1_053_825


def test_generator_block_by_hand() -> None:
    g = made(PLAIN).generator
    block = g.blocks[0]
    assert isinstance(block, GeneratorBlock)
    x = torch.randn(3, 16, 4, 4).double()

    def normed(x: Tensor) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, training=True))

    def conv(x: Tensor, layer: nn.Module, padding: int = 1) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=padding)  # type: ignore[arg-type]

    double = partial(F.interpolate, scale_factor=2, mode="nearest")
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.norm.bias)  # type: ignore[union-attr, arg-type]
    expected = conv(normed(conv(double(normed(x)), block.conv1)), block.conv2) + conv(double(x), block.shortcut, 0)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_discriminator_block_by_hand(first: bool, down: bool) -> None:
    torch.manual_seed(0)
    layers = models.sngan.Layers(models.sngan._glorot, 1e-12, False)
    block = DiscriminatorBlock(4, 6, 5, layers, down=down, first=first).double().eval()
    for name, p in block.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    x = torch.randn(2, 4, 8, 8).double()
    pool = partial(F.avg_pool2d, kernel_size=2) if down else (lambda x: x)

    def conv(x: Tensor, layer: nn.Module, padding: int = 1) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=padding)  # type: ignore[arg-type]

    residual = conv(F.relu(conv(x if first else F.relu(x), block.conv1)), block.conv2)
    torch.testing.assert_close(block(x), pool(residual) + pool(conv(x, block.shortcut, 0)))


def test_shortcut_is_the_input_where_nothing_changes() -> None:
    with torch.device("meta"):
        blocks = models.from_config("sngan-32").discriminator.blocks
    assert [isinstance(b.shortcut, nn.Identity) for b in blocks] == [False, False, True, True]
    assert [isinstance(b.relu, nn.Identity) for b in blocks] == [True, False, False, False]


def test_all_of_the_discriminator_is_spectrally_normalised_and_nothing_of_the_generator() -> None:
    gan = made(TINY)
    assert not any(parametrize.is_parametrized(m) for m in gan.generator.modules())
    d = gan.discriminator
    for _ in range(200):  # power iterations
        d(torch.zeros(1, 3, 16, 16).double(), torch.zeros(1, dtype=torch.int64))
    d.eval()
    normalised = {name: m for name, m in d.named_modules() if parametrize.is_parametrized(m)}
    names = {name.removesuffix(".parametrizations.weight.original") for name, p in d.named_parameters() if p.dim() > 1}
    assert set(normalised) == names and "output.embedding" in names
    for name, module in normalised.items():
        sigma = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
        torch.testing.assert_close(sigma, torch.ones_like(sigma), rtol=1e-3, atol=0, msg=name)


def test_classes() -> None:
    """Conditional batch norm in the blocks, plain at the end; the logit is linear plus projection."""
    gan = made(TINY)
    g, d = gan.generator, gan.discriminator.eval()
    assert all(isinstance(n, ConditionalBatchNorm2d) for block in g.blocks for n in (block.norm1, block.norm2))
    assert isinstance(g.norm, BatchNormAct2d)
    z, labels = torch.randn(3, 8).double(), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"labels must be from 0 to 2, got 3"):
        g(z, torch.tensor([0, 1, 3]))
    images = g(z, labels)
    features = F.relu(d.blocks(images)).sum((2, 3))
    expected = d.output.linear(features)[:, 0] + (d.output.embedding.weight[labels] * features).sum(1)
    torch.testing.assert_close(d(images, labels)[:, 0], expected)
    assert images.abs().max() <= 1


def test_first_weights_are_glorots() -> None:
    torch.manual_seed(0)
    g = models.from_config("sngan-32", generator_channels=(64, 64)).generator
    for conv, gain in ((g.blocks[0].conv1, 2.0), (g.blocks[0].conv2, 2.0), (g.blocks[0].shortcut, 1.0), (g.to_rgb, 1.0)):
        w = conv.weight
        variance = gain * 2 / ((w.shape[0] + w.shape[1]) * w.shape[2] ** 2)
        torch.testing.assert_close(w.var(), torch.tensor(variance), rtol=0.1, atol=0)
        assert not conv.bias.any()


def test_unconditional_critic_qualifies_for_the_merged_gradient() -> None:
    d = made(PLAIN).discriminator.eval()  # no power iterations between the two
    real, fake = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 3, 16, 16).double()
    step = losses.PenalizedStep(d, lambda real, fake: (fake - real).mean(), r1=10, fallback=False)
    found = step.gradients(real, fake)
    leaf = real.clone().requires_grad_()
    (g,) = torch.autograd.grad(d(leaf).sum(), leaf, create_graph=True)
    total = (d(fake) - d(real)).mean() + 5 * g.square().sum() / 2
    for a, b in zip(found, torch.autograd.grad(total, list(d.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b, check_dtype=False)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"resolution": 18}, "SNGANConfig: resolution must be a multiple of 4, as the blocks double and halve it, got 18"),
        ({"generator_channels": (16,)}, "generator_channels must be at least 2 positive numbers"),
        ({"discriminator_channels": ()}, "discriminator_channels must be at least 1 positive number"),
        ({"downs": 4}, "downs must be from 0 to the number of discriminator_channels, 3, got 4"),
        ({"num_classes": -1}, "num_classes must be at least 0"),
        ({"z_dim": 0}, "z_dim must be at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TINY.replace(**changes)
