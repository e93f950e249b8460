"""DCGAN, Radford et al. 2016."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gankern import models


def test_layers_of_figure_1() -> None:
    """100 latents to 1024 x 4 x 4, 512 x 8 x 8, 256 x 16 x 16, 128 x 32 x 32 and 3 x 64 x 64 images, all kernels 5x5."""
    with torch.device("meta"):
        generator = models.from_config("dcgan-64").generator
        seen: list[tuple[int, ...]] = []
        for conv in generator.layers.convs:
            conv.register_forward_hook(lambda m, given, y: seen.extend([tuple(given[0].shape[1:]), tuple(y.shape[1:])]))
            assert conv.weight.shape[2:] == (5, 5) and conv.geometry["stride"] == 2
        generator.eval()(torch.randn(1, 100))
    assert seen[::2] == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32)]
    assert seen[1::2] == [*seen[2::2], (3, 64, 64)]
    assert [conv.settings["act"] for conv in generator.layers.convs] == ["linear", "linear", "linear", "tanh"]


def test_published_parameter_counts_of_pytorchs_tutorial() -> None:
    with torch.device("meta"):
        gan = models.from_config("dcgan-tutorial-64")
    assert models.count_parameters(gan.generator) == 3_576_704
    assert models.count_parameters(gan.discriminator) == 2_765_568


def tutorial(width: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The networks at 16x16 from torch.nn's layers."""
    up = nn.Sequential(
        nn.ConvTranspose2d(6, 2 * width, 4, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    down = nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 4, bias=False), nn.Flatten(),
    )  # fmt: skip
    return up, down


def test_is_the_network_that_torch_nn_makes_of_the_paper() -> None:
    torch.manual_seed(0)
    up, down = tutorial(8)
    gan = models.from_config("dcgan-tutorial-64", resolution=16, z_dim=6, width=8)
    layers = gan.generator.layers
    with torch.no_grad():
        layers.project.weight.copy_(up[0].weight.permute(1, 2, 3, 0).flatten(0, 2))
        layers.convs[0].weight.copy_(up[3].weight)
        layers.convs[1].weight.copy_(up[6].weight)
        gan.discriminator.layers.conv0.weight.copy_(down[0].weight)
        gan.discriminator.layers.conv1.weight.copy_(down[2].weight)
        gan.discriminator.output.weight.copy_(down[5].weight.flatten(1))
    for ours, theirs in ((layers.norms[0], up[1]), (layers.norms[1], up[4]), (gan.discriminator.layers.norm1, down[3])):
        ours.norm.load_state_dict(theirs.state_dict())
    z = torch.randn(4, 6)
    for training in (True, False):
        gan.train(training)
        up.train(training)
        down.train(training)
        expected = up(z[:, :, None, None])
        torch.testing.assert_close(gan.generator(z), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gan.discriminator(expected), down(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [3, 4, 5, 6])
def test_every_kernel_size_and_resolution_fits(kernel_size: int) -> None:
    for resolution in (8, 32):
        gan = models.from_config("dcgan", resolution=resolution, width=4, z_dim=3, kernel_size=kernel_size, channels=1)
        images = gan.generator(torch.randn(2, 3))
        assert images.shape == (2, 1, resolution, resolution) and gan.discriminator(images).shape == (2, 1)


def test_first_weights() -> None:
    torch.manual_seed(0)
    gan = models.from_config("dcgan", resolution=16, width=32).requires_grad_(False)
    for name, parameter in gan.named_parameters():
        if "norm" in name and name.endswith("bias"):
            assert not parameter.any()
        else:
            mean = 1.0 if "norm" in name else 0.0
            assert abs(float(parameter.mean()) - mean) < 0.01 and 0.012 < float(parameter.std()) < 0.028, name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolution": 96}, "resolution must be a power of two from 8 to 1024, got 96"),
        ({"kernel_size": 7}, "kernel_size must be from 3 to 6, got 7"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
    ids=str,
)
def test_settings_that_it_cannot_do(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"DCGANConfig: {message}"):
        models.config_of("dcgan", **changes)
