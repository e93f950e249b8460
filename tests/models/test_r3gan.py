"""R3GAN: published counts and tables, the block by hand, Fixup's first values, and the merged gradient of its critic."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_checks import count
from torch import Tensor, nn

from gankern import losses, models
from gankern import nn as gk
from gankern.models import R3GANBlock, R3GANConfig

TINY = models.FAMILIES["r3gan"].tiny
WITH_CLASSES = TINY.replace(num_classes=5)


def moved(config: models.ModelConfig, seed: int = 0) -> models.GAN:
    """Networks whose last weights of each block are no longer 0, in float64."""
    torch.manual_seed(seed)
    gan = models.from_config(config).double()
    with torch.no_grad():
        for p in gan.parameters():
            p += 0.1 * torch.randn_like(p)
    return gan


@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [("r3gan-ffhq-256", 23.058, 23.010)],  # Huang et al. 2024, table 2, config E
)
def test_published_parameter_counts(preset: str, generator: float, discriminator: float) -> None:
    with torch.device("meta"):
        gan = models.from_config(preset)
    assert round(count(gan.generator) / 1e6, 3) == generator
    assert round(count(gan.discriminator) / 1e6, 3) == discriminator


def test_table_of_the_presets() -> None:
    """Widths 768 (1536 for ImageNet) up to 32x32, then halved; 16 (32) channels a group; 64 latents; mirrored networks."""
    table = {
        "cifar10": (32, 10, 768),
        "imagenet-32": (32, 1000, 1536),
        "imagenet-64": (64, 1000, 1536),
        "ffhq-64": (64, 0, 768),
        "ffhq-256": (256, 0, 768),
    }
    for name, (resolution, classes, width) in table.items():
        with torch.device("meta"):
            gan = models.from_config(f"r3gan-{name}")
        config = gan.config
        assert (config.resolution, config.num_classes, config.z_dim) == (resolution, classes, 64)
        narrow = {64: 384, 128: 192, 256: 96} if classes == 0 else {}
        blocks = [m for m in gan.generator.modules() if isinstance(m, R3GANBlock)]
        expected = [w for size in (2**i for i in range(2, 9)) if size <= resolution for w in [narrow.get(size, width)] * 2]
        assert [m.project.weight.shape[0] for m in blocks] == expected
        for m in blocks:
            w = m.project.weight.shape[0]
            assert [tuple(c.weight.shape) for c in (m.expand, m.conv, m.project)] == [
                (2 * w, w, 1, 1),
                (2 * w, 16 if width == 768 else 32, 3, 3),
                (w, 2 * w, 1, 1),
            ]
        mirrored = [m for m in gan.discriminator.modules() if isinstance(m, R3GANBlock)]
        assert [m.project.weight.shape for m in mirrored] == [m.project.weight.shape for m in reversed(blocks)]
        resampling = [m for m in gan.modules() if isinstance(m, (gk.Upsample2d, gk.Downsample2d))]
        assert len(resampling) == 2 * sum(a == b for a, b in zip(config.widths[:-1], config.widths[1:], strict=True))


def test_block_by_hand() -> None:
    torch.manual_seed(1)
    block = R3GANBlock(8, 4, expansion=2).double()
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    y = F.leaky_relu(F.conv2d(x, block.expand.weight) + block.expand.bias[:, None, None], 0.2)
    y = F.leaky_relu(F.conv2d(y, block.conv.weight, padding=1, groups=4) + block.conv.bias[:, None, None], 0.2)
    torch.testing.assert_close(block(x), x + F.conv2d(y, block.project.weight))


def by_hand(gan: models.GAN, z: Tensor) -> tuple[Tensor, Tensor]:
    """Images and logits of the tiny networks, resampling by PyTorch's bilinear interpolation with zeros outside."""
    g, d = gan.generator, gan.discriminator

    def conv(x: Tensor, m: Any) -> Tensor:
        return F.conv2d(x, m.weight)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(F.pad(x, [1] * 4), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]

    def down(x: Tensor) -> Tensor:
        taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
        kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])

    x = (z @ g.linear.weight.t())[:, :, None, None] * g.basis
    x = g.layers[0](x)
    x = g.layers[2](up(x))
    x = g.layers[4](conv(up(x), g.layers[3]))
    images = conv(x, g.to_image)
    x = d.layers[0](conv(images, d.from_image))
    x = d.layers[2](conv(down(x), d.layers[1]))
    x = d.layers[4](down(x))
    x = (x * d.pool.weight[:, 0]).sum((2, 3))
    return images, x @ d.linear.weight.t()


def test_networks_by_hand() -> None:
    gan = moved(TINY)
    z = torch.randn(3, 8, dtype=torch.float64)
    images = gan.generator(z)
    assert images.shape == (3, 3, 16, 16) and gan.discriminator(images).shape == (3, 1)
    expected, logits = by_hand(gan, z)
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(gan.discriminator(images), logits)


def test_first_values() -> None:
    """Residual branches start at 0, so that both networks start linear; no layer changes the variance by much."""
    torch.manual_seed(2)
    gan = models.from_config(R3GANConfig(16, z_dim=32, widths=(64, 64, 64), groups=(4, 4, 4)))
    z = gan.generator.sample_z(64)
    a, b = gan.generator(z[:32]), gan.generator(z[32:])
    torch.testing.assert_close(gan.generator(z[:32] + z[32:]), a + b)
    torch.testing.assert_close(gan.discriminator(a + b), gan.discriminator(a) + gan.discriminator(b), rtol=1e-4, atol=1e-4)
    gain = math.sqrt(2 / 1.04)
    for network in (gan.generator, gan.discriminator):
        for m in network.modules():
            if isinstance(m, R3GANBlock):
                assert not m.project.weight.any() and not m.expand.bias.any() and not m.conv.bias.any()
                for conv in (m.expand, m.conv):
                    expected = gain * 6 ** (-1 / 4) / math.sqrt(conv.weight[0].numel())  # six blocks, three layers each
                    assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    colours = torch.randn(64, 3, 1, 1).expand(-1, -1, 16, 16)  # white noise would not pass the low-pass filters
    d = gan.discriminator
    with torch.no_grad():
        assert 0.3 < float(a.std()) < 1.5 and 0.5 < float(d.pool(d.layers(d.from_image(colours))).std()) < 1.5


def test_merged_gradient_of_the_critic() -> None:
    """The critic qualifies, and the merged step's gradients are those of double backward."""
    critic = moved(TINY).discriminator

    def loss(real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    step = losses.PenalizedStep(critic, loss, r1=2.0, r2=3.0, fallback=False)
    real, fake = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    assert step.explain(real).startswith("merged gradient")
    found = step.gradients(real, fake)
    images = [real.clone().requires_grad_(), fake.clone().requires_grad_()]
    logits = [critic(x) for x in images]
    total = loss(*logits) + losses.r1_penalty(logits[0], images[0], 2.0) + losses.r2_penalty(logits[1], images[1], 3.0)
    expected = torch.autograd.grad(total, list(critic.parameters()))
    for (name, _), a, b in zip(critic.named_parameters(), found, expected, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
        assert b.abs().max() > 0


@pytest.mark.parametrize("config", [TINY, WITH_CLASSES], ids=["plain", "classes"])
def test_equals_its_reference(config: R3GANConfig) -> None:
    """With residual branches that do something: values, gradients, and those of R1."""
    gan = moved(config)
    other = copy.deepcopy(gan)
    models.set_ops(other, "reference")
    z, real = torch.randn(2, 8, dtype=torch.float64), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    labels = torch.tensor([4, 0]) if config.num_classes else None
    results = []
    for pair in (gan, other):
        fake = pair.generator(z, labels)
        x = real.clone().requires_grad_()
        logits = pair.discriminator(x, labels)
        total = losses.r1_penalty(logits, x) + F.softplus(pair.discriminator(fake, labels)).mean() + F.softplus(-logits).mean()
        results.append([fake, logits, *torch.autograd.grad(total, list(pair.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_classes() -> None:
    gan = moved(WITH_CLASSES)
    z = torch.randn(1, 8, dtype=torch.float64).expand(5, -1)
    images = gan.generator(z, torch.arange(5))
    assert len({round(float(x.detach().std()), 9) for x in images}) == 5, "another image for each class"
    logits = gan.discriminator(images[:1].expand(5, -1, -1, -1), torch.arange(5))
    assert logits.shape == (5, 1) and logits.unique().numel() == 5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolution": 32}, "R3GANConfig: resolution must be 16 with widths for 3 stages from 4x4 on, got 32"),
        ({"groups": (4, 4)}, r"groups must be a divisor of widths \* expansion for each of the 3 stages, got \(4, 4\)"),
        ({"groups": (4, 4, 3)}, r"groups must be .*, got \(4, 4, 3\)"),
        ({"groups": (4, 4, 0)}, r"groups must be .*, got \(4, 4, 0\)"),
        ({"widths": ()}, r"widths must be at least one positive number, got \(\)"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"width": 1}, "no setting 'width'"),
    ],
)
def test_settings_that_it_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.replace(**changes)
