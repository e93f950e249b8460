"""Conditional GANs: Mirza and Osindero 2014, Miyato and Koyama 2018."""

from __future__ import annotations

import pytest
import torch

from gankern import models


def test_sizes_of_the_mnist_networks() -> None:
    """Section 4.1: 200 + 1000 units into 1200; maxout of 240 x 5 and 50 x 5 into 240 x 4."""
    with torch.device("meta"):
        gan = models.from_config("cgan-mnist")
    assert isinstance(gan.discriminator, models.MaxoutDiscriminator)
    weights = [tuple(p.shape) for p in gan.generator.parameters() if p.dim() == 2]
    assert weights == [(200, 100), (1000, 10), (1200, 1200), (784, 1200)]
    weights = [tuple(p.shape) for p in gan.discriminator.parameters() if p.dim() == 2]
    assert weights == [(1200, 784), (250, 10), (960, 290), (1, 240)]
    assert models.count_parameters(gan.generator) == 101 * 200 + 11 * 1000 + 1201 * 1200 + 1201 * 784
    assert models.count_parameters(gan.discriminator) == 785 * 1200 + 11 * 250 + 291 * 960 + 241


def mnist(ops: str = "fused") -> models.GAN:
    torch.manual_seed(0)
    return models.from_config("cgan-mnist", ops, resolution=8, num_classes=3).double()


def test_mlp_equals_its_reference_to_second_order() -> None:
    labels = torch.tensor([0, 2, 1])
    found = []
    for gan in (mnist(), mnist("reference")):
        torch.manual_seed(1)
        images = gan.generator(torch.randn(3, 100, dtype=torch.float64), labels)
        assert images.shape == (3, 1, 8, 8)
        logits = gan.discriminator(images, labels)
        (g,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        second = torch.autograd.grad(g.square().sum(), list(gan.parameters()), allow_unused=True)
        assert any(s is not None and s.any() for s in second)
        found.append([images, logits, g, *(s for s in second if s is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def conv() -> models.GAN:
    torch.manual_seed(0)
    return models.from_config("cgan", resolution=16, z_dim=6, width=8, embed_dim=4, num_classes=3).double()


@pytest.mark.parametrize("make", [mnist, conv])
def test_classes_reach_images_and_logits(make: object) -> None:
    gan = make().eval()  # type: ignore[operator]
    z = gan.generator.sample_z(1, torch.Generator().manual_seed(0)).double().expand(3, -1)
    labels = torch.arange(3)
    images = gan.generator(z, labels)
    logits = gan.discriminator(images[:1].expand(3, -1, -1, -1), labels)
    for made in (images, logits):
        assert not torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])


def test_logits_are_the_projection_on_the_class() -> None:
    critic = conv().discriminator.eval()
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 2, 1, 2])
    features = critic.layers(images).sum((2, 3))
    expected = features @ critic.output.weight[0] + critic.output.bias + (features * critic.embed.weight[labels]).sum(1)
    torch.testing.assert_close(critic(images, labels)[:, 0], expected)


def test_all_weights_of_the_projection_discriminator_have_spectral_norm_1() -> None:
    critic = conv().discriminator
    images, labels = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 2])
    with torch.no_grad():
        for _ in range(30):
            critic(images, labels)
    critic.eval()
    for module in (*critic.layers, critic.output, critic.embed):
        assert abs(float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)) - 1) < 1e-2, module


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"architecture": "resnet"}, "architecture must be 'conv' or 'mlp', got 'resnet'"),
        ({"resolution": 28}, "resolution must be a power of two from 8 to 1024, got 28"),
        ({"architecture": "mlp", "resolution": 0}, "resolution must be at least 1, got 0"),
        ({"architecture": "mlp", "resolution": 28, "z_dim": 0}, "z_dim must be at least 1, got 0"),
        ({"dropout": -0.1}, "dropout must be from 0 to below 1, got -0.1"),
    ],
    ids=str,
)
def test_settings_that_it_cannot_do(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"CGANConfig: {message}"):
        models.config_of("cgan", **changes)
