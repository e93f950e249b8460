"""WGAN (Arjovsky et al. 2017) and WGAN-GP (Gulrajani et al. 2017)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gankern import losses, models
from gankern.models.wgan import DownBlock, UpBlock

ARCHITECTURES = ("dcgan", "resnet", "resnet-cifar")


def small(architecture: str, **changes: Any) -> models.GAN:
    torch.manual_seed(0)
    config = models.WGANGPConfig(resolution=16, z_dim=6, width=8, architecture=architecture)
    return models.from_config(config, **changes).double()


# ---- weight clipping --------------------------------------------------------------------------------------------------------
def test_clipping_keeps_every_parameter_of_the_critic() -> None:
    torch.manual_seed(0)
    gan = models.from_config("wgan", resolution=16, width=8)
    before = [p.clone() for p in gan.discriminator.parameters()]
    gan.discriminator.clip_weights_()
    for old, new in zip(before, gan.discriminator.parameters(), strict=True):
        assert torch.equal(new, old.clamp(-0.01, 0.01)) and new.requires_grad
    assert max(float(p.detach().abs().max()) for p in before) > 0.5, "batch norm's weights are clipped too"
    gan.discriminator.clip_weights_(0.001)
    assert max(float(p.detach().abs().max()) for p in gan.discriminator.parameters()) <= 0.001 * (1 + 1e-6)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clip_weights_: limit must be positive, got"):
            gan.discriminator.clip_weights_(limit)


def test_the_mlp_generator_has_four_layers_of_512() -> None:
    with torch.device("meta"):
        generator = models.from_config("wgan-mlp-64").generator
    weights = [tuple(p.shape) for p in generator.parameters() if p.dim() == 2]
    assert weights == [(512, 100), (512, 512), (512, 512), (3 * 64 * 64, 512)]
    small = models.from_config("wgan-mlp-64", resolution=8, hidden=7).generator
    assert small(torch.randn(2, 100)).shape == (2, 3, 8, 8)


def test_the_generator_without_batch_norm_has_biases() -> None:
    gan = models.from_config("wgan", resolution=16, width=8, batch_norm=False)
    names = [name for name, _ in gan.generator.named_parameters()]
    assert not any("norm" in n for n in names) and sum(n.endswith("bias") for n in names) == 3
    assert gan.generator(torch.randn(1, 100)).shape == (1, 3, 16, 16)


# ---- gradient penalty -------------------------------------------------------------------------------------------------------
def test_layers_of_the_cifar10_networks() -> None:
    """The tables of appendix F: 128 x 4 x 4 and three blocks up; two blocks down, two that keep the size, mean, linear."""
    gan = models.from_config("wgan-gp-cifar10").eval()
    seen: list[tuple[int, ...]] = []
    for part in gan.modules():
        if isinstance(part, (UpBlock, DownBlock)):
            part.register_forward_hook(lambda m, given, y: seen.append(tuple(y.shape[1:])))
    with torch.no_grad():
        gan.discriminator(gan.generator(torch.randn(1, 128)))
    assert seen == [(128, 8, 8), (128, 16, 16), (128, 32, 32), (128, 16, 16), (128, 8, 8), (128, 8, 8), (128, 8, 8)]
    conv, one, norm = 128 * 128 * 9, 128 * 128 + 128, 2 * 128
    up = norm + conv + norm + conv + 128 + one
    assert models.count_parameters(gan.generator) == 129 * 2048 + 3 * up + norm + 128 * 27 + 3
    first = 27 * 128 + 128 + conv + 128 + 3 * 128 + 128
    assert models.count_parameters(gan.discriminator) == first + (2 * (conv + 128) + one) + 4 * (conv + 128) + 129


def test_blocks_are_resampling_and_convolutions() -> None:
    """The fused resampling convolutions are nearest upsampling before, and mean pooling behind, a plain convolution."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    up = UpBlock(3, 5).double().eval()
    big = F.interpolate(up.norm1(x), scale_factor=2)
    y = up.norm2(F.conv2d(big, up.conv1.weight, padding=1))
    skip = F.conv2d(F.interpolate(x, scale_factor=2), up.skip.weight, up.skip.bias)
    torch.testing.assert_close(up(x), F.conv2d(y, up.conv2.weight, up.conv2.bias, padding=1) + skip)
    down = DownBlock(3, 4, 5).double()
    y = F.relu(F.conv2d(F.relu(x), down.conv1.weight, down.conv1.bias, padding=1))
    y = F.avg_pool2d(F.conv2d(y, down.conv2.weight, down.conv2.bias, padding=1), 2)
    torch.testing.assert_close(down(x), y + F.avg_pool2d(F.conv2d(x, down.skip.weight, down.skip.bias), 2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_equals_reference_in_the_gradient_penalty(architecture: str) -> None:
    fused, reference = small(architecture), small(architecture, ops="reference")
    real, eps = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.rand(3)
    found = []
    for gan in (fused, reference):
        fake = gan.generator(torch.linspace(-1, 1, 18, dtype=torch.float64).view(3, 6))
        penalty = losses.wgan_gp(gan.discriminator, real, fake, eps=eps)
        found.append([fake, penalty, *torch.autograd.grad(penalty, list(gan.discriminator.parameters()), allow_unused=True)])
    for a, b in zip(*found, strict=True):
        if a is None or b is None:
            assert (a is None or not a.any()) and (b is None or not b.any())
        else:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_critics_qualify_for_the_merged_gradient(architecture: str) -> None:
    critic = small(architecture).discriminator
    step = losses.PenalizedStep(critic, lambda real, fake: (fake - real).mean(), r1=1.0, r2=2.0, fallback=False)
    real, fake = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    merged = step.gradients(real, fake)
    assert step.explain().startswith("merged gradient")
    real, fake = real.requires_grad_(), fake.requires_grad_()
    r, f = critic(real), critic(fake)
    total = (f - r).mean() + losses.r1_penalty(r, real, 1.0) + losses.r2_penalty(f, fake, 2.0)
    for a, b in zip(merged, torch.autograd.grad(total, list(critic.parameters()), allow_unused=True), strict=True):
        assert a is not None
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_critics_know_no_batch(architecture: str) -> None:
    critic = small(architecture).discriminator
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(critic(images), torch.cat([critic(x[None]) for x in images]))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("wgan", {"generator": "resnet"}, "WGANConfig: generator must be 'dcgan' or 'mlp', got 'resnet'"),
        ("wgan", {"clip": 0.0}, "WGANConfig: clip must be positive, got 0.0"),
        (
            "wgan-gp",
            {"architecture": "mlp"},
            "WGANGPConfig: architecture must be 'dcgan', 'resnet' or 'resnet-cifar', got 'mlp'",
        ),
        ("wgan-gp", {"architecture": "resnet", "resolution": 8}, "resolution must be at least 16 for residual networks, got 8"),
    ],
)
def test_settings_that_they_cannot_do(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.config_of(name, **changes)
