"""R3GAN: residual networks with grouped convolutions and no normalisation (Huang et al. 2024).

Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024: config E. Trained
with the relativistic pairing loss and R1 + R2 of one weight gamma, which is annealed to a tenth of its first value: 0.05 for
CIFAR-10, 0.5 for ImageNet-32, 1 for ImageNet-64, 2 for FFHQ-64, 150 for FFHQ-256.

Without classes, the discriminator is piecewise linear and has one logit: :class:`gankern.losses.PenalizedStep` takes its merged
way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, LatentGenerator, ModelConfig
from gankern.models._registry import Family, register

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Keeps the second moment through a leaky ReLU (He et al. 2015)."""
BASE = 4
"""Height and width of the first stage."""


@dataclass(frozen=True)
class R3GANConfig(ModelConfig):
    """Settings of R3GAN; the defaults are those of FFHQ at 64^2.

    Attributes:
        resolution: height and width of the images, 4 * 2**(stages - 1). Default 64.
        channels: channels of the images. Default 3.
        z_dim: size of the latents z. Default 64.
        num_classes: classes, 0 for none. The generator's embedding of a class has the size of z and is put behind it; the
            discriminator's logit is the product of its features and its embedding of the class. Default 0.
        widths: channels of each stage, from 4x4 on. Default (768, 768, 768, 768, 384).
        groups: groups of the 3x3 convolutions in each stage. Default (96, 96, 96, 96, 48): 16 channels each.
        blocks: residual blocks of a stage. Default 2.
        expansion: channels inside a residual block over those outside. Default 2.
    """

    family: ClassVar[str] = "r3gan"
    z_dim: int = 64
    num_classes: int = 0
    widths: tuple[int, ...] = (768, 768, 768, 768, 384)
    groups: tuple[int, ...] = (96, 96, 96, 96, 48)
    blocks: int = 2
    expansion: int = 2

    def __post_init__(self) -> None:
        self.at_least(1, "channels", "z_dim", "blocks", "expansion")
        if self.num_classes < 0:
            raise self.refuse("num_classes", "at least 0")
        if not self.widths or min(self.widths) < 1:
            raise self.refuse("widths", "at least one positive number")
        expected = BASE * 2 ** (len(self.widths) - 1)
        if self.resolution != expected:
            raise self.refuse("resolution", f"{expected} with widths for {len(self.widths)} stages from {BASE}x{BASE} on")
        fit = len(self.groups) == len(self.widths) and all(
            g > 0 and w * self.expansion % g == 0 for w, g in zip(self.widths, self.groups, strict=True)
        )
        if not fit:
            raise self.refuse("groups", f"a divisor of widths * expansion for each of the {len(self.widths)} stages")


def _initialised(layer: gk.Conv2d | gk.Linear, gain: float = 1.0) -> gk.Conv2d | gk.Linear:
    """Normal weights of variance gain^2 / fan in (He et al. 2015)."""
    with torch.no_grad():
        layer.weight.normal_(0, gain / math.sqrt(layer.weight[0].numel()))
    return layer


def _conv(in_channels: int, out_channels: int, kernel_size: int, gain: float = 1.0, **settings: object) -> gk.Conv2d:
    layer = gk.Conv2d(in_channels, out_channels, kernel_size, bias=False, equalized=False, **settings)  # type: ignore[arg-type]
    _initialised(layer, gain)
    return layer


class R3GANBlock(nn.Module):
    """Residual block: 1x1 convolution, grouped 3x3 convolution, 1x1 convolution; bias and leaky ReLU behind the first two.

    Without normalisation the sum of many blocks would grow: the last weights start at 0, the others with a variance that falls
    with the number of blocks, as Fixup has it (Zhang, Dauphin, Ma 2019): std = gain / sqrt(fan in) * blocks**(-1 / (2 m - 2))
    with m = 3 layers a block.

    Args:
        width: channels.
        groups: groups of the 3x3 convolution.
        expansion: channels inside over ``width``. Default 2.
        blocks: residual blocks of the network, for the first values of the weights. Default 1.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, width, H, W] to the same. Gradients of any order.
    """

    def __init__(self, width: int, groups: int, expansion: int = 2, blocks: int = 1, reference: bool = False) -> None:
        super().__init__()
        inner, gain = width * expansion, GAIN * blocks ** (-1 / 4)
        act = {"act": "lrelu", "alpha": SLOPE, "gain": 1.0, "equalized": False, "reference": reference}
        self.expand = gk.Conv2d(width, inner, 1, **act)  # type: ignore[arg-type]
        self.conv = gk.Conv2d(inner, inner, 3, groups=groups, **act)  # type: ignore[arg-type]
        self.project = _conv(inner, width, 1, 0.0, reference=reference)
        _initialised(self.expand, gain)
        _initialised(self.conv, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, width, H, W]."""
        return x + self.project(self.conv(self.expand(x)))


def _blocks(config: R3GANConfig, stage: int, reference: bool) -> list[nn.Module]:
    width, groups, total = config.widths[stage], config.groups[stage], config.blocks * len(config.widths)
    return [R3GANBlock(width, groups, config.expansion, total, reference) for _ in range(config.blocks)]


def _resampled(in_channels: int, out_channels: int, reference: bool, up: int = 1, down: int = 1) -> nn.Module:
    """Bilinear resampling by 2, and a 1x1 convolution where the width changes (at the lower of the two rates: they commute)."""
    if in_channels != out_channels:
        return _conv(in_channels, out_channels, 1, up=up, down=down, reference=reference)
    return gk.Upsample2d(up, reference=reference) if up > 1 else gk.Downsample2d(down, reference=reference)


class R3GANGenerator(LatentGenerator):
    """R3GAN's generator: a learned 4x4 basis, weighted by z, then stages of residual blocks and bilinear upsampling.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim] and, with classes, int64 labels [N] to images [N, channels, resolution, resolution]. Gradients of any
    order.

    Source: Huang et al. 2024, section 4 (config E); 23.06M parameters for FFHQ at 256^2.
    """

    config: R3GANConfig

    def __init__(self, config: R3GANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.num_classes = config.z_dim, config.num_classes
        first, last = config.widths[0], config.widths[-1]
        # Unit variance, as z has.
        self.embedding = nn.Embedding(config.num_classes, config.z_dim) if config.num_classes else None
        inputs = config.z_dim * (2 if config.num_classes else 1)
        self.linear = gk.Linear(inputs, first, bias=False, equalized=False, reference=self.reference)
        _initialised(self.linear)
        self.basis = nn.Parameter(torch.randn(1, first, BASE, BASE))
        layers: list[nn.Module] = []
        for stage, width in enumerate(config.widths):
            if stage:
                layers.append(_resampled(config.widths[stage - 1], width, self.reference, up=2))
            layers += _blocks(config, stage, self.reference)
        self.layers = nn.Sequential(*layers)
        self.to_image = _conv(last, config.channels, 1, reference=self.reference)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images from latents.

        Args:
            z: [N, z_dim].
            labels: int64 [N], where there are classes. Default None.
        """
        self.check_inputs(z, labels)
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels).to(z.dtype)], 1)
        x = self.basis * self.linear(z)[:, :, None, None]
        images: Tensor = self.to_image(self.layers(x))
        return images


class R3GANDiscriminator(Discriminator):
    """R3GAN's discriminator: the generator's mirror image, with a global depthwise 4x4 convolution and a linear layer behind.

    Without classes it qualifies for the merged gradient of :class:`gankern.losses.PenalizedStep`.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, resolution, resolution] and, with classes, int64 labels [N] to logits [N, 1]. Gradients of any
    order.

    Source: Huang et al. 2024, section 4 (config E); 23.01M parameters for FFHQ at 256^2. Classes: projection (Miyato, Koyama
    2018).
    """

    config: R3GANConfig

    def __init__(self, config: R3GANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.num_classes = config.num_classes
        first, last = config.widths[0], config.widths[-1]
        self.from_image = _conv(config.channels, last, 1, reference=self.reference)
        layers: list[nn.Module] = []
        for stage in reversed(range(len(config.widths))):
            layers += _blocks(config, stage, self.reference)
            if stage:
                layers.append(_resampled(config.widths[stage], config.widths[stage - 1], self.reference, down=2))
        self.layers = nn.Sequential(*layers)
        self.pool = _conv(first, first, BASE, padding=0, groups=first, reference=self.reference)
        features = first if config.num_classes else 1
        self.linear = gk.Linear(first, features, bias=False, equalized=False, reference=self.reference)
        _initialised(self.linear)
        self.embedding = nn.Embedding(config.num_classes, features) if config.num_classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(features))  # a logit of the features' variance

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of images.

        Args:
            images: [N, channels, resolution, resolution].
            labels: int64 [N], where there are classes. Default None.
        """
        self.check_inputs(images, labels)
        x = self.linear(self.pool(self.layers(self.from_image(images))).flatten(1))
        if self.embedding is not None:
            x = (x * self.embedding(labels).to(x.dtype)).sum(1, keepdim=True)
        logits: Tensor = x
        return logits


_PRESETS = {
    "r3gan-cifar10": R3GANConfig(32, num_classes=10, widths=(768,) * 4, groups=(96,) * 4),
    "r3gan-imagenet-32": R3GANConfig(32, num_classes=1000, widths=(1536,) * 4, groups=(96,) * 4),
    "r3gan-imagenet-64": R3GANConfig(64, num_classes=1000, widths=(1536,) * 5, groups=(96,) * 5),
    "r3gan-ffhq-64": R3GANConfig(64),
    "r3gan-ffhq-256": R3GANConfig(
        256, widths=(768, 768, 768, 768, 384, 192, 96), groups=(96, 96, 96, 96, 48, 24, 12)
    ),
}  # fmt: skip

register(
    Family(
        name="r3gan",
        title="R3GAN: grouped residual blocks without normalisation, relativistic loss, R1 + R2",
        paper="Huang, Gokaslan, Kuleshov, Tompkin 2024",
        config=R3GANConfig,
        generator=R3GANGenerator,
        discriminator=R3GANDiscriminator,
        presets=_PRESETS,
        tiny=R3GANConfig(16, z_dim=8, widths=(16, 16, 8), groups=(4, 4, 2), blocks=1),
        loss="relativistic",
        penalties={"r1": 2.0, "r2": 2.0},
    )
)

__all__ = ["R3GANBlock", "R3GANConfig", "R3GANDiscriminator", "R3GANGenerator"]
