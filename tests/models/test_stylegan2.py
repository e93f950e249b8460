"""StyleGAN2: published counts and layer tables, both networks by hand, classes, mixed precision, merged gradient."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_checks import assert_fused_equals_reference, count, moved
from torch import Tensor, nn

from gankern import losses, models
from gankern.models import StyleGAN2Config, StyleGAN2Discriminator, StyleGAN2Generator

TINY = models.FAMILIES["stylegan2"].tiny
assert isinstance(TINY, StyleGAN2Config)
ARCHITECTURES = ["orig", "skip", "resnet"]


# ---- published numbers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [("stylegan2-1024", 30_370_060, 29_012_513), ("stylegan2-ada-256", 23_191_522, 24_001_089)],
)
def test_published_parameter_counts(preset: str, generator: int, discriminator: int) -> None:
    """Configuration F, and ADA's automatic configuration at 256 x 256: the official networks' summaries."""
    with torch.device("meta"):
        gan = models.from_config(preset)
    assert (count(gan.generator), count(gan.discriminator)) == (generator, discriminator)


def test_published_table_of_the_generator() -> None:
    """Parameters (convolution, style, bias, strength of noise) of each layer, as the official summary has them."""
    with torch.device("meta"):
        g = models.from_config("stylegan2-1024").generator
    table = {
        4: (None, 2_622_465, 264_195), 8: (2_622_465, 2_622_465, 264_195), 16: (2_622_465, 2_622_465, 264_195),
        32: (2_622_465, 2_622_465, 264_195), 64: (2_622_465, 2_622_465, 264_195), 128: (1_442_561, 721_409, 132_099),
        256: (426_369, 213_249, 66_051), 512: (139_457, 69_761, 33_027), 1024: (51_297, 25_665, 16_515),
    }  # fmt: skip
    assert g.num_ws == 18 and g.synthesis.blocks[0].const.numel() == 8192
    for block, (resolution, counts) in zip(g.synthesis.blocks, table.items(), strict=True):
        assert block.conv1.resolution == resolution
        layers = (block.conv0, block.conv1, block.to_rgb)
        assert tuple(None if m is None else count(m) for m in layers) == counts


def test_published_table_of_the_discriminator() -> None:
    """Parameters of skip, conv0 and conv1 of each resolution, and of what follows."""
    with torch.device("meta"):
        d = models.from_config("stylegan2-1024").discriminator
    table = [
        (2048, 9248, 18496), (8192, 36928, 73856), (32768, 147584, 295168), (131072, 590080, 1180160),
        *[(262144, 2359808, 2359808)] * 4,
    ]  # fmt: skip
    assert [tuple(count(m) for m in (b.skip, b.conv0, b.conv1)) for b in d.blocks] == table
    assert count(d.blocks[0].from_rgb) == 128
    assert [count(m) for m in (d.conv, d.fc, d.out)] == [2364416, 4194816, 513]


def test_presets() -> None:
    presets = models.FAMILIES["stylegan2"].presets
    for name, config in presets.items():
        assert isinstance(config, StyleGAN2Config)
        ada = "ada" in name
        assert (config.mapping_layers, config.conv_clamp, config.num_fp16_res) == ((2, 256.0, 4) if ada else (8, None, 0))
    cifar = presets["stylegan2-ada-cifar10"]
    assert isinstance(cifar, StyleGAN2Config)
    assert [r for r in cifar.resolutions if cifar.fp16(r)] == [8, 16, 32]
    large = presets["stylegan2-ada-1024"]
    assert isinstance(large, StyleGAN2Config)
    assert [r for r in large.resolutions if large.fp16(r)] == [128, 256, 512, 1024]


# ---- the networks by hand ---------------------------------------------------------------------------------------------------
def filtered(x: Tensor, gain: float = 1) -> Tensor:
    """The filter [1, 3, 3, 1], where it lies wholly inside."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    return F.conv2d(x, gain * torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def upsampled(x: Tensor, margin: int = 0) -> Tensor:
    """Zeros between the pixels, filter with gain 4; ``margin`` pixels more on each side for a convolution."""
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[..., ::2, ::2] = x
    return filtered(F.pad(y, [2 + margin, 1 + margin, 2 + margin, 1 + margin]), 4)


def style_of(layer: Any, w: Tensor) -> Tensor:
    return w @ layer.affine.weight.T / math.sqrt(w.shape[1]) + layer.affine.bias


def style_layer(layer: Any, x: Tensor, w: Tensor) -> Tensor:
    """Modulate, demodulate, convolve sample by sample; noise, bias, leaky ReLU, gain, clamp."""
    rows = []
    for image, s in zip(x[:, None], style_of(layer, w), strict=True):
        own = layer.weight * s[:, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(F.conv2d(upsampled(image, 1), own) if layer.up == 2 else F.conv2d(image, own, padding=1))
    y = torch.cat(rows) + layer.noise_strength * layer.noise_const + layer.bias[:, None, None]
    y = F.leaky_relu(y, 0.2) * math.sqrt(2)
    return y if layer.clamp is None else y.clamp(-layer.clamp, layer.clamp)


def to_rgb(layer: Any, x: Tensor, w: Tensor) -> Tensor:
    style = style_of(layer, w) / math.sqrt(x.shape[1])
    y = torch.einsum("oi,ni,nihw->nohw", layer.weight[:, :, 0, 0], style, x) + layer.bias[:, None, None]
    return y if layer.clamp is None else y.clamp(-layer.clamp, layer.clamp)


def synthesis(g: StyleGAN2Generator, w: Tensor) -> Tensor:
    """Figure 7 of the paper."""
    kind, image, x, i = g.config.generator, None, None, 0
    for block in g.synthesis.blocks:
        if x is None:
            x, skip = block.const.repeat(len(w), 1, 1, 1), None
        else:
            skip = None
            if kind == "resnet":
                weight = block.skip.weight / math.sqrt(x.shape[1])
                skip = F.conv2d(upsampled(x), weight) * math.sqrt(0.5)
            x = style_layer(block.conv0, x, w[:, i])
            i += 1
        x = style_layer(block.conv1, x, w[:, i])
        i += 1
        if skip is not None:
            x = x * math.sqrt(0.5) + skip
        if kind == "skip" or block is g.synthesis.blocks[-1]:
            rgb = to_rgb(block.to_rgb, x, w[:, i])  # shares its w with the next resolution
            image = rgb if image is None else upsampled(image) + rgb
    assert image is not None and i + 1 == w.shape[1]
    return image


def conv(layer: Any, x: Tensor, down: bool = False, act: bool = True) -> Tensor:
    weight = layer.weight / math.sqrt(layer.weight[0].numel())
    pad = weight.shape[2] // 2
    x = filtered(F.pad(x, [pad + 1] * 4)) if down else F.pad(x, [pad] * 4)
    y = F.conv2d(x, weight, stride=2 if down else 1)
    if layer.bias is not None:
        y = y + layer.bias[:, None, None]
    y = F.leaky_relu(y, 0.2) * math.sqrt(2) if act else y
    return y


def critic(d: StyleGAN2Discriminator, image: Tensor) -> Tensor:
    """Figure 7 of the paper, and the minibatch standard deviation of all samples as one group."""
    kind, x = d.config.discriminator, None
    for block in d.blocks:
        if x is None or kind == "skip":
            rgb = conv(block.from_rgb, image)
            x = rgb if x is None else x + rgb
        if kind == "skip":
            image = filtered(F.pad(image, [1] * 4))[..., ::2, ::2]
        y = conv(block.conv1, conv(block.conv0, x), down=True)
        if kind == "resnet":
            y = (y + conv(block.skip, x, down=True, act=False)) * math.sqrt(0.5)
        x = y
    assert x is not None
    if kind == "skip":
        x = x + conv(d.from_rgb, image)
    spread = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = conv(d.conv, torch.cat([x, spread.expand(len(x), 1, 4, 4)], 1)).flatten(1)
    x = F.leaky_relu(x @ d.fc.weight.T / math.sqrt(x.shape[1]) + d.fc.bias, 0.2) * math.sqrt(2)
    return x @ d.out.weight.T / math.sqrt(x.shape[1]) + d.out.bias


@pytest.mark.parametrize("ops", ["fused", "reference"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_are_the_papers(architecture: str, ops: str) -> None:
    config = TINY.replace(generator=architecture, discriminator=architecture)
    gan = moved(models.from_config(config, ops))
    w = torch.randn(2, gan.generator.num_ws, 16).double()
    images = gan.generator.synthesis(w, noise_mode="const")
    torch.testing.assert_close(images, synthesis(gan.generator, w))
    torch.testing.assert_close(gan.discriminator(images), critic(gan.discriminator, images))


def test_clamp() -> None:
    g = moved(StyleGAN2Generator(TINY.replace(conv_clamp=0.5)))
    w = torch.randn(2, g.num_ws, 16).double()
    images = g.synthesis(w, noise_mode="const")
    torch.testing.assert_close(images, synthesis(g, w))
    assert float(images.detach().abs().max()) > 0.5, "a sum of clamped images"
    d = moved(StyleGAN2Discriminator(TINY.replace(conv_clamp=0.5)))
    x = d.blocks[0].from_rgb(100 * images)
    assert float(x.detach().abs().max()) == 0.5
    branch, skip = d.blocks[0].conv1(d.blocks[0].conv0(x)), d.blocks[0].skip(x)
    assert float(branch.detach().abs().max()) <= 0.5 * math.sqrt(0.5)
    torch.testing.assert_close(d.blocks[0](None, 100 * images, False)[0], branch + skip)


# ---- fused and reference ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [{"generator": "resnet", "discriminator": "orig"}, {"generator": "orig", "discriminator": "skip"}, {"num_classes": 3},
     {"use_noise": False, "mbstd_group": 0, "conv_clamp": 1.0}],
)  # fmt: skip
def test_fused_equals_reference(changes: dict[str, Any]) -> None:
    """Outputs, gradients and R1 gradients of the settings that the family's smallest config does not have."""
    assert_fused_equals_reference(TINY.replace(**changes))


def test_path_length_regularisation_of_every_architecture() -> None:
    for architecture in ("orig", "resnet"):
        g = moved(StyleGAN2Generator(TINY.replace(generator=architecture)))
        other = copy.deepcopy(g)
        models.set_ops(other, "reference")
        z, noise = torch.randn(2, 16).double(), torch.randn(2, 3, 16, 16).double() / 16
        found = []
        for m in (g, other):
            w = m.mapping(z)
            penalty = losses.path_length_penalty(m.synthesis(w, noise_mode="const"), w, 0.0, noise=noise)[0]
            found.append([penalty, *(t for t in torch.autograd.grad(penalty, list(m.parameters()), allow_unused=True))])
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_without_minibatch_statistics_the_gradients_merge() -> None:
    for architecture in ARCHITECTURES:
        d = StyleGAN2Discriminator(TINY.replace(mbstd_group=0, discriminator=architecture))
        step = losses.PenalizedStep(d, lambda real, fake: F.softplus(fake - real).mean(), r1=1.0, fallback=False)
        assert step.explain(torch.randn(2, 3, 16, 16)).startswith("merged gradient")
        torch.manual_seed(0)
        real, fake = torch.randn(2, 2, 3, 16, 16)
        merged = step.gradients(real, fake)
        x = real.clone().requires_grad_()
        logits = d(x)
        loss = F.softplus(d(fake) - logits).mean() + losses.r1_penalty(logits, x, 1.0)
        for a, b in zip(merged, torch.autograd.grad(loss, list(d.parameters())), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- classes, precision, compilation ----------------------------------------------------------------------------------------
def test_classes() -> None:
    """A projection discriminator: the logit is the scalar product of features and class, over the root of their number."""
    torch.manual_seed(0)
    gan = models.from_config(TINY, num_classes=3)
    z, labels = torch.randn(2, 16), torch.tensor([0, 2])
    images = gan.generator(z, labels)
    assert not torch.allclose(images, gan.generator(z, labels.flip(0)))
    d = gan.discriminator
    seen: list[Tensor] = []
    d.out.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = d(images, labels)
    expected = torch.einsum("nd,nd->n", seen[0], d.mapping(None, labels)) / 4
    torch.testing.assert_close(logits, expected[:, None])
    with pytest.raises(ValueError, match="labels must be given, the model has 3 classes"):
        d(images)


def test_mixed_precision_of_the_highest_resolutions() -> None:
    torch.manual_seed(0)
    gan = models.from_config(TINY, resolution=32, num_fp16_res=2, conv_clamp=256.0)
    g, d = gan.generator, gan.discriminator
    z = torch.randn(2, 16)
    seen: dict[str, torch.dtype] = {}
    for name, module in gan.named_modules():
        if name.endswith(("conv1", "to_rgb", "skip", ".conv")):
            module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out.dtype))
    full = g(z, noise_mode="const")
    logits = d(full)
    assert set(seen.values()) == {torch.float32}, "nothing changes on a CPU unless asked"
    half = g(z, noise_mode="const", half=True)
    half_logits = d(full, half=True)
    low = {name for name, dtype in seen.items() if dtype == torch.float16}
    assert low == {
        *(f"generator.synthesis.blocks.{i}.{layer}" for i in (2, 3) for layer in ("conv1", "to_rgb")),
        *(f"discriminator.blocks.{i}.{layer}" for i in (0, 1) for layer in ("conv1", "skip")),
    }
    assert half.dtype == half_logits.dtype == torch.float32
    assert float(((half - full).norm() / full.norm()).detach()) < 5e-3
    assert float((half_logits - logits).detach().abs().max()) < 2e-2
    F.softplus(-d(half, half=True)).mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in gan.parameters())


def test_autocast_layouts_and_noise() -> None:
    torch.manual_seed(0)
    g = StyleGAN2Generator(TINY)
    z = torch.randn(2, 16)
    for block in g.synthesis.blocks:
        for layer in (block.conv0, block.conv1):
            if layer is not None:
                nn.init.constant_(layer.noise_strength, 0.3)
    expected = g(z, noise_mode="const").detach()
    assert not torch.allclose(g(z), g(z)) and not torch.allclose(g(z, noise_mode="none"), expected)
    last = copy.deepcopy(g).to(memory_format=torch.channels_last)(z, noise_mode="const")
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = g(z, noise_mode="const").detach()
    assert low.dtype == torch.float32
    assert float((low - expected).norm() / expected.norm()) < 0.03


def test_compiles_in_one_graph() -> None:
    torch.manual_seed(0)
    g = StyleGAN2Generator(TINY.replace(num_classes=3, generator="resnet", num_fp16_res=2))
    z, labels = torch.randn(2, 16), torch.tensor([0, 2])
    options = {"truncation": 0.7, "truncation_cutoff": 3, "noise_mode": "const"}
    compiled = torch.compile(g, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, labels, **options), g(z, labels, **options), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"resolution": 48}, "resolution must be a power of 2 of at least 8, got 48"),
        ({"resolution": 4}, "resolution must be a power of 2 of at least 8, got 4"),
        ({"w_dim": 0}, "w_dim must be at least 1, got 0"),
        ({"num_fp16_res": -1}, "num_fp16_res must be 0 or more, got -1"),
        ({"generator": "unet"}, "generator must be one of orig, skip, resnet, got 'unet'"),
        ({"discriminator": "patch"}, "discriminator must be one of orig, skip, resnet, got 'patch'"),
        ({"channel_base": 8}, "channel_base must be at least the resolution, 16, got 8"),
        ({"mbstd_channels": 3}, "mbstd_channels must be a divisor of the 16 channels at 4 x 4, got 3"),
        ({"conv_clamp": 0.0}, "conv_clamp must be positive or None, got 0.0"),
    ],
)
def test_settings_that_it_cannot_do(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"StyleGAN2Config: {text}"):
        TINY.replace(**changes)
