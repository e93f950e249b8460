"""ProGAN: the paper's layer table, the networks by hand, growing and fading, the merged gradient of its critic."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gankern import losses, models
from gankern import nn as gk

TINY = models.ProGANConfig(resolution=16, z_dim=8, channel_base=128, channel_max=16)

# Karras et al. 2018, table 2: channels, size and parameters of every layer of the full-grown networks.
GENERATOR = """
512 4 4.2M, 512 4 2.4M, 512 8 2.4M, 512 8 2.4M, 512 16 2.4M, 512 16 2.4M, 512 32 2.4M, 512 32 2.4M, 256 64 1.2M, 256 64 590k,
128 128 295k, 128 128 148k, 64 256 74k, 64 256 37k, 32 512 18k, 32 512 9.2k, 16 1024 4.6k, 16 1024 2.3k, 3 1024 51"""
DISCRIMINATOR = """
16 1024 64, 16 1024 2.3k, 32 1024 4.6k, 32 512 9.2k, 64 512 18k, 64 256 37k, 128 256 74k, 128 128 148k, 256 128 295k,
256 64 590k, 512 64 1.2M, 512 32 2.4M, 512 32 2.4M, 512 16 2.4M, 512 16 2.4M, 512 8 2.4M, 512 8 2.4M, 512 4 2.4M, 512 1 4.2M,
1 1 513"""


def rounded(count: int) -> str:
    """As the paper's table writes numbers."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f}{letter}" if value < 10 else f"{value:.0f}{letter}"
    return str(count)


def rows(network: nn.Module, example: Tensor) -> list[str]:
    """Channels, size and parameters of the layers that run, in their order."""
    found: list[str] = []

    def record(module: nn.Module, _: object, y: Tensor) -> None:
        size = y.shape[2] if y.dim() == 4 else 1
        found.append(f"{y.shape[1]} {size} {rounded(sum(p.numel() for p in module.parameters()))}")

    layers = [m for m in network.modules() if isinstance(m, (gk.Conv2d, gk.Linear)) and m.bias is not None]
    layers += [m for m in network.modules() if type(m).__name__ == "_FirstLayer"]
    hooks = [m.register_forward_hook(record) for m in layers]
    network(example)
    for hook in hooks:
        hook.remove()
    return found


def test_the_papers_table() -> None:
    with torch.device("meta"):
        gan = models.from_config("progan-1024")
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and nothing else
        gan.to_empty(device="cpu")
        assert rows(gan.generator, torch.zeros(1, 512)) == GENERATOR.strip().replace("\n", " ").split(", ")
        assert rows(gan.discriminator, torch.zeros(1, 3, 1024, 1024)) == DISCRIMINATOR.strip().replace("\n", " ").split(", ")
    # What the authors' implementation prints; the table, without images of earlier stages, says 23.1M for both.
    assert sum(p.numel() for p in gan.generator.parameters()) == 23_079_115
    assert sum(p.numel() for p in gan.discriminator.parameters()) == 23_087_249


def weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight with He's constant sqrt(2 / fan in) and the bias that belongs to it."""
    w: Tensor = layer.weight  # type: ignore[assignment]
    return w * math.sqrt(2 / w[0].numel()), layer.bias * math.sqrt(2)  # type: ignore[operator]


def activated(x: Tensor, layer: nn.Module, padding: int = 1) -> Tensor:
    w, b = weights(layer)
    return F.leaky_relu(F.conv2d(x, w, b, padding=padding), 0.2)


def normed(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def image(x: Tensor, layer: nn.Module) -> Tensor:
    return F.conv2d(x, layer.weight / math.sqrt(x.shape[1]), layer.bias)  # type: ignore[arg-type, operator]


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def made(**changes: object) -> models.GAN:
    torch.manual_seed(0)
    gan = models.from_config(TINY.replace(**changes)).double()
    for name, p in gan.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    return gan


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_generator_by_hand(alpha: float) -> None:
    g = made(alpha=alpha).generator
    z = torch.randn(2, 8).double()
    first, _, second, _ = g.blocks[0]
    # The 4x4 convolution of the 1x1 latent, padded by 3, with He's constant of its 16 taps.
    kernel = first.linear.weight.view(16, 4, 4, 8).permute(0, 3, 1, 2).flip(2, 3) * math.sqrt(2 / (8 * 16))
    x = F.conv2d(normed(z)[:, :, None, None], kernel, first.bias.bias * math.sqrt(2), padding=3)
    x = normed(activated(normed(F.leaky_relu(x, 0.2)), second))
    for block in g.blocks[1:]:
        old = x
        x = normed(activated(normed(activated(doubled(x), block[0])), block[2]))
    expected = alpha * image(x, g.to_rgb[2]) + (1 - alpha) * doubled(image(old, g.to_rgb[1]))
    torch.testing.assert_close(g(z), expected)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_discriminator_by_hand(alpha: float) -> None:
    d = made(alpha=alpha).discriminator
    images = torch.randn(4, 3, 16, 16).double()
    x = activated(images, d.from_rgb[2], padding=0)
    x = F.avg_pool2d(activated(activated(x, d.blocks[2][0]), d.blocks[2][1]), 2)
    x = alpha * x + (1 - alpha) * activated(F.avg_pool2d(images, 2), d.from_rgb[1], padding=0)
    x = F.avg_pool2d(activated(activated(x, d.blocks[1][0]), d.blocks[1][1]), 2)
    deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(4, 1, 4, 4)], 1)
    x = activated(activated(x, d.blocks[0][1]), d.blocks[0][2], padding=0).flatten(1)
    expected = F.linear(x, d.blocks[0][4].weight / 4, d.blocks[0][4].bias)  # 16 features
    torch.testing.assert_close(d(images), expected)


def test_growing_goes_on_where_it_was() -> None:
    """At alpha 0 the grown networks are the old ones, with images upsampled and averaged; at 1 the old layers do not count."""
    gan = made(stage=0)
    g, d = gan.generator, gan.discriminator
    z = torch.randn(4, 8).double()
    for size in (8, 16):
        before = g(z)
        images = torch.randn(4, 3, size, size).double()
        logits = d(F.avg_pool2d(images, 2))
        g.grow()
        d.grow()
        assert g.image_shape == d.image_shape == (3, size, size)
        torch.testing.assert_close(g(z), doubled(before))
        torch.testing.assert_close(d(images), logits)
        g.alpha = d.alpha = 0.5
        half = g(z)
        g.alpha = d.alpha = 1.0
        torch.testing.assert_close(half, (g(z) + doubled(before)) / 2)
        assert not g.fading
    with pytest.raises(ValueError, match="ProGANGenerator: it is full-grown, at 16x16"):
        g.grow()
    torch.testing.assert_close(g(z), made().generator(z), msg="all layers are there from the start")


def test_layers_of_other_stages_are_not_trained() -> None:
    gan = made(stage=1)
    gan.discriminator(gan.generator(torch.randn(2, 8).double())).sum().backward()
    trained = {name for name, p in gan.named_parameters() if p.grad is not None}
    for name, _ in gan.named_parameters():
        _, part, stage, *_ = name.split(".")
        unused = int(stage) != 1 if part in ("to_rgb", "from_rgb") else int(stage) > 1
        assert (name in trained) != unused, name


def test_state_copies_and_checkpoints_bring_stage_and_alpha(tmp_path: Path) -> None:
    gan = made(stage=0)
    gan.generator.grow(alpha=0.125)
    other, pair = models.from_config(TINY).double(), models.from_config(TINY).double()
    other.generator.load_state_dict(gan.generator.state_dict())
    pair.load_state_dict(gan.state_dict())
    assert pair.discriminator.stage == 0
    models.save_checkpoint(tmp_path / "grown.pt", gan)
    loaded = models.load_checkpoint(tmp_path / "grown.pt").gan
    assert (loaded.generator.stage, loaded.generator.alpha, loaded.discriminator.stage) == (1, 0.125, 0)
    z = torch.randn(2, 8).double()
    for twin in (other.generator, pair.generator, copy.deepcopy(gan.generator)):
        assert (twin.stage, twin.alpha, twin.fading) == (1, 0.125, True)
        torch.testing.assert_close(twin(z), gan.generator(z))
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 4, 4\], got \[2, 3, 8, 8\]"):
        gan.discriminator(gan.generator(z))


def test_compiles_once_a_stage() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    g = made(stage=1, alpha=0.25).generator
    z = torch.randn(2, 8).double()
    compiled, before = torch.compile(g, fullgraph=True, backend=counter), 0
    for alpha in (0.25, 0.5, 0.75):
        g.alpha = alpha
        torch.testing.assert_close(compiled(z), g(z))
        before = counter.frame_count if alpha == 0.25 else before
        assert counter.frame_count == before
    g.grow()
    torch.testing.assert_close(compiled(z), g(z))
    assert counter.frame_count > before


def test_critic_without_batch_statistics_qualifies_for_the_merged_gradient() -> None:
    d = made(stddev_group=0).discriminator
    real, fake = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 3, 16, 16).double()
    step = losses.PenalizedStep(d, lambda real, fake: (fake - real).mean(), r1=10, fallback=False)
    found = step.gradients(real, fake)
    leaf = real.clone().requires_grad_()
    (g,) = torch.autograd.grad(d(leaf).sum(), leaf, create_graph=True)
    total = (d(fake) - d(real)).mean() + 5 * g.square().sum() / 2
    expected = torch.autograd.grad(total, list(d.parameters()), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"resolution": 48}, "ProGANConfig: resolution must be a power of two, at least 4, got 48"),
        ({"resolution": 2}, "resolution must be a power of two"),
        ({"stage": 3}, "stage must be None or from 0 to 2, got 3"),
        ({"alpha": 1.5}, r"alpha must be from 0 to 1, got 1\.5"),
        ({"z_dim": 0}, "z_dim must be at least 1, got 0"),
        ({"channel_base": 8}, "channel_base must be at least the resolution 16"),
        ({"stddev_group": -1}, "stddev_group must be at least 0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TINY.replace(**changes)


def test_bad_alpha_changes_nothing() -> None:
    g = made(stage=0).generator
    with pytest.raises(ValueError, match="alpha must be from 0 to 1, got 2"):
        g.grow(alpha=2)
    assert g.stage == 0 and int(g.level) == 0
