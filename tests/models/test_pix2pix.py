from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_checks import count
from torch import Tensor

from gankern import nn as gk
from gankern.models import GAN, Pix2PixConfig, from_config
from gankern.models.pix2pix import PATCHES, Pix2PixDiscriminator, Pix2PixGenerator

TINY = Pix2PixConfig(resolution=32, generator_channels=4, discriminator_channels=4, patch=34)


@pytest.mark.parametrize(
    "settings, generator, discriminator",
    [
        # Printed by the authors' program, in millions: 54.414 and 2.769; U-Net-128: 41.829.
        ({}, 54_413_955, 2_768_705),
        ({"resolution": 128}, 41_828_995, 2_768_705),
        # Grey images, as users have posted them: 54.408 and 2.765; six levels and a PatchGAN of two: 29.238 and 0.662.
        ({"channels": 1, "in_channels": 1}, 54_407_809, 2_764_609),
        ({"channels": 1, "in_channels": 1, "resolution": 64, "patch": 34}, 29_237_889, 662_337),
    ],
)
def test_published_numbers_of_parameters(settings: dict[str, Any], generator: int, discriminator: int) -> None:
    with torch.device("meta"):
        gan = from_config("pix2pix", **settings)
    assert (count(gan.generator), count(gan.discriminator)) == (generator, discriminator)


def test_the_layers_of_the_paper() -> None:
    """Isola et al. 2017, 6.1.1: C64-C128-C256-C512-C512-C512-C512-C512, and CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128.

    The decoder's numbers count the skip that comes with the input of a level.
    """
    with torch.device("meta"):
        generator = Pix2PixGenerator(Pix2PixConfig(), "reference")
        shapes: list[tuple[str, list[int]]] = []

        def note(module: Any, given: Any, y: Tensor) -> None:
            shapes.append((type(module).__name__, list(y.shape[1:])))

        for part in (*generator.down, *generator.up, generator.out):
            part.register_forward_hook(note)
        generator(torch.empty(1, 3, 256, 256))
    encoder = [[64, 128, 128], [128, 64, 64], [256, 32, 32], [512, 16, 16], [512, 8, 8], [512, 4, 4], [512, 2, 2], [512, 1, 1]]
    decoder = [[1024, 2, 2], [1024, 4, 4], [1024, 8, 8], [1024, 16, 16], [512, 32, 32], [256, 64, 64], [128, 128, 128]]
    assert shapes == [
        *(("UNetDown", s) for s in encoder),
        *(("UNetUp", s) for s in decoder),
        ("ConvTranspose2d", [3, 256, 256]),
    ]
    inputs = [up.up.conv.weight.shape[0] for up in generator.up]  # type: ignore[union-attr]
    assert [*inputs, generator.out.weight.shape[0]] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    assert [up.dropout for up in generator.up] == [0.5] * 3 + [0.0] * 4
    assert [down.norm is None for down in generator.down] == [True] + 6 * [False] + [True]


def test_weights_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    gan = from_config("pix2pix", generator_channels=32, discriminator_channels=32)
    for module in gan.modules():
        if isinstance(module, (gk.Conv2d, gk.ConvTranspose2d)) and module.weight.numel() > 10_000:
            assert abs(float(module.weight.detach().std()) - 0.02) < 1e-3 and abs(float(module.weight.detach().mean())) < 1e-3
            assert module.bias is None or not bool(module.bias.any())
        if isinstance(module, torch.nn.BatchNorm2d):
            weight = module.weight.detach()
            assert float(weight.min()) > 0.9 and float(weight.max()) < 1.1 and not bool(module.bias.any())


def unet(generator: Pix2PixGenerator, x: Tensor) -> Tensor:
    """The U-Net written from the paper: convolution, norm, dropout (none here), activation, level by level."""

    def normed(block: Any, y: Tensor) -> Tensor:
        if block.norm is None:
            return y
        norm = block.norm
        if isinstance(norm, gk.InstanceNormAct):
            return F.instance_norm(y)
        n = norm.norm
        return F.batch_norm(y, n.running_mean.clone(), n.running_var.clone(), n.weight, n.bias, n.training)

    levels = []
    for i, down in enumerate(generator.down):
        given = x if i == 0 else F.leaky_relu(x, 0.2)
        conv: Any = down.conv
        x = normed(down, F.conv2d(given, conv.weight, conv.bias, stride=2, padding=1))
        levels.append(x)
    levels.pop()
    for up in generator.up:
        conv = up.up.conv  # type: ignore[union-attr]
        y = normed(up.up, F.conv_transpose2d(F.relu(x), conv.weight, conv.bias, stride=2, padding=1))
        x = torch.cat([levels.pop(), y], 1)
    out: Any = generator.out
    return F.conv_transpose2d(F.relu(x), out.weight, out.bias, stride=2, padding=1).tanh()


@pytest.mark.parametrize("norm, training", [("batch", True), ("batch", False), ("instance", True)])
def test_the_generator_is_the_u_net(norm: str, training: bool) -> None:
    torch.manual_seed(0)
    config = TINY.replace(norm=norm, dropout=0.0, in_channels=2)
    generator = Pix2PixGenerator(config).double().train(training)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 2, 32, 64).double()  # any multiple of 2^levels
    expected = unet(generator, x)
    y = generator(x)
    assert y.shape == (2, 3, 32, 64)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_noise_is_dropout() -> None:
    torch.manual_seed(0)
    generator = Pix2PixGenerator(TINY)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(generator(x), generator(x))
        torch.manual_seed(1)
        first = generator(x)
        torch.manual_seed(1)
        assert torch.equal(generator(x), first)
        generator.eval()
        assert torch.equal(generator(x), generator(x))


@pytest.mark.parametrize("patch", [1, *PATCHES])
def test_a_logit_sees_the_patch_that_it_is_named_after(patch: int) -> None:
    """Isola et al. 2017, 6.1.2: receptive fields of 1, 16, 70 and 286 pixels."""
    torch.manual_seed(0)
    size = 32 * (-(-patch // 32) + 2)
    config = Pix2PixConfig(size, 1, 1, generator_channels=1, discriminator_channels=2, patch=patch, conditional=False)
    discriminator = Pix2PixDiscriminator(config).double().eval()
    for parameter in discriminator.parameters():  # all positive: nothing cancels
        torch.nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, 1, size, size).double().requires_grad_()
    logits = discriminator(x)
    side = logits.shape[2]
    (g,) = torch.autograd.grad(logits[0, 0, side // 2, side // 2], x)
    for dim in (0, 1):
        seen = torch.nonzero(g[0, 0].sum(dim))
        assert len(seen) == int(seen.max() - seen.min()) + 1 == patch


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_discriminator_is_the_patchgan(norm: str) -> None:
    """C64-C128-C256-C512 and one to a logit, of torch.nn's parts; the condition is beside the image."""
    torch.manual_seed(0)
    config = TINY.replace(patch=70, norm=norm)
    discriminator = Pix2PixDiscriminator(config)
    y, x = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    h = torch.cat([x, y], 1)
    strides = [2, 2, 2, 1]
    *blocks, last = discriminator.layers
    assert [b.conv.weight.shape[0] for b in blocks] == [4, 8, 16, 32]
    for i, (block, stride) in enumerate(zip(blocks, strides, strict=True)):
        h = F.conv2d(h, block.conv.weight, block.conv.bias, stride=stride, padding=1)
        if i:
            n: Any = block.norm
            h = F.instance_norm(h) if norm == "instance" else F.batch_norm(h, None, None, n.norm.weight, n.norm.bias, True)
        h = F.leaky_relu(h, 0.2)
    logits = discriminator(y, x)
    assert logits.shape == (2, 1, 2, 2)
    torch.testing.assert_close(logits, F.conv2d(h, last.weight, last.bias, padding=1))


def test_a_few_steps_bring_the_output_to_the_target() -> None:
    """Adversarial and L1 gradients together reach the weights: the L1 distance on one pair falls by half."""
    torch.manual_seed(0)
    gan = GAN(TINY.replace(norm="instance", dropout=0.0))
    x = F.interpolate(torch.rand(2, 3, 4, 4) * 2 - 1, size=(32, 32), mode="bilinear")
    target = -0.5 * x
    options = [torch.optim.Adam(m.parameters(), 5e-3, (0.5, 0.999)) for m in (gan.generator, gan.discriminator)]
    distances = []
    for _ in range(40):
        fake = gan.generator(x)
        loss_d = F.softplus(gan.discriminator(fake.detach(), x)).mean() + F.softplus(-gan.discriminator(target, x)).mean()
        options[1].zero_grad()
        loss_d.backward()
        options[1].step()
        distance = F.l1_loss(fake, target)
        options[0].zero_grad()
        (F.softplus(-gan.discriminator(fake, x)).mean() + 100 * distance).backward()
        options[0].step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.5 * distances[0], distances


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"resolution": 96, "levels": 6}, r"resolution must be a multiple of 64 \(2\^levels\), got 96"),
        ({"resolution": 90}, r"resolution must be a multiple of 4 \(2\^levels\), got 90"),
        ({"levels": 1}, "levels must be 2 or more, or None, got 1"),
        ({"norm": "layer"}, "norm must be 'batch' or 'instance', got 'layer'"),
        ({"patch": 64}, "patch must be one of 1, 16, 34, 70, 142, 286, got 64"),
        ({"resolution": 64, "patch": 286}, "resolution must be at least 96 for patch=286, got 64"),
        ({"dropout": 1.0}, "dropout must be a probability below 1, got 1.0"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"colour": 3}, "no setting 'colour'; it has resolution, "),
    ],
)
def test_settings_that_it_cannot_do_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="Pix2PixConfig: " + words):
        Pix2PixConfig().replace(**settings)


def test_bad_input_is_named() -> None:
    gan = GAN(TINY)
    x = torch.zeros(2, 3, 32, 32)
    message = r"Pix2PixGenerator: images must be \[N, 3, H, W\] with H and W multiples of 32, got "
    for bad in (torch.zeros(2, 3, 48, 32), torch.zeros(2, 4, 32, 32), torch.zeros(3, 32, 32)):
        with pytest.raises(ValueError, match=message):
            gan.generator(bad)
    with pytest.raises(ValueError, match=r"Pix2PixDiscriminator: images must be \[N, 3, 32, 32\], got \[2, 3, 64, 64\]"):
        gan.discriminator(torch.zeros(2, 3, 64, 64), x)
    with pytest.raises(ValueError, match=r"source must be \[2, 3, 32, 32\], what the generator started from, got None"):
        gan.discriminator(x)
    with pytest.raises(ValueError, match=r"source must be \[2, 3, 32, 32\], .*, got \[1, 3, 32, 32\]"):
        gan.discriminator(x, x[:1])
    alone = Pix2PixDiscriminator(TINY.replace(conditional=False))
    assert alone(x).shape == (2, 1, 6, 6)
    with pytest.raises(ValueError, match="source must be None without conditional"):
        alone(x, x)
