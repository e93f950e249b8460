"""DCGAN: strided and transposed convolutions with batch normalisation (Radford, Metz and Chintala 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, ModelConfig
from gankern.models._prior import PriorGenerator, check_prior
from gankern.models._registry import Family, register


@dataclass(frozen=True)
class DCGANConfig(ModelConfig):
    """Settings of a DCGAN; defaults are those of the paper's figure 1 (LSUN bedrooms).

    Attributes:
        resolution: height and width of the images: a power of two from 8 to 1024. Default 64.
        channels: channels of the images. Default 3.
        z_dim: size of the latents. Default 100.
        width: channels at half the resolution; they double where the size halves, down to 4x4. Default 128.
        max_channels: most channels of a layer. Default 1024.
        kernel_size: of all strided convolutions, from 3 to 6. Default 5.
        prior: 'uniform' or 'normal' latents. Default 'uniform'.
    """

    family: ClassVar[str] = "dcgan"
    resolution: int = 64
    z_dim: int = 100
    width: int = 128
    max_channels: int = 1024
    kernel_size: int = 5
    prior: str = "uniform"

    def __post_init__(self) -> None:
        if not (8 <= self.resolution <= 1024 and self.resolution & (self.resolution - 1) == 0):
            raise self.refuse("resolution", "a power of two from 8 to 1024")
        self.at_least(1, "channels", "z_dim", "width", "max_channels")
        if not 3 <= self.kernel_size <= 6:
            raise self.refuse("kernel_size", "from 3 to 6")
        check_prior(self, self.prior)

    @property
    def widths(self) -> list[int]:
        """Channels at 4x4, 8x8, ... and at half the resolution."""
        levels = self.resolution.bit_length() - 3
        return [min(self.width << i, self.max_channels) for i in reversed(range(levels))]


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights of deviation ``std`` (section 4 of the paper), biases 0; batch norm's weights likewise, about 1."""
    for part in module.modules():
        if isinstance(part, (gk.Conv2d, gk.ConvTranspose2d, gk.Linear)):
            nn.init.normal_(part.weight, 0.0, std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, gk.BatchNormAct2d) and part.norm.affine:
            nn.init.normal_(part.norm.weight, 1.0, std)


class UpConvs(nn.Module):
    """DCGAN's generator: a projection to 4x4, then transposed convolutions of stride 2, ReLU and batch norm; tanh at the end.

    Args:
        in_features: size of the input.
        config: settings.
        batch_norm: have batch norms behind all layers but the last, and no biases; without, biases. Default True.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, in_features] to [N, channels, resolution, resolution]. Gradients of any order without batch norm, else two.
    """

    def __init__(self, in_features: int, config: DCGANConfig, batch_norm: bool = True, reference: bool = False) -> None:
        super().__init__()
        widths, k = config.widths, config.kernel_size
        act = "linear" if batch_norm else "relu"
        self.start = widths[0]
        self.project = gk.Linear(
            in_features, widths[0] * 16, bias=not batch_norm, act=act, gain=1.0, reference=reference, equalized=False
        )
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(widths):
            self.norms.append(gk.BatchNormAct2d(size, reference=reference) if batch_norm else nn.Identity())
            last = i == len(widths) - 1
            conv = gk.ConvTranspose2d(
                size, config.channels if last else widths[i + 1], k, 2, (k - 1) // 2, k % 2, bias=not batch_norm,
                act="tanh" if last else act, gain=1.0, reference=reference, equalized=False,
            )  # fmt: skip
            self.convs.append(conv)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images of ``x`` [N, in_features]."""
        x = self.project(x).unflatten(1, (self.start, 4, 4))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(norm(x))
        return x


def down_convs(config: DCGANConfig, batch_norm: bool = True, reference: bool = False) -> nn.Sequential:
    """DCGAN's discriminator down to features [N, widths[0], 4, 4]: convolutions of stride 2 and leaky ReLU of slope 0.2.

    Args:
        config: settings.
        batch_norm: have batch norms behind all convolutions but the first, and no biases; without, biases. Default True.
        reference: run the pure PyTorch references. Default False.
    """
    layers, size = nn.Sequential(), config.channels
    for i, out in enumerate(reversed(config.widths)):
        normed = batch_norm and i > 0
        act, padding = "linear" if normed else "lrelu", (config.kernel_size - 1) // 2
        conv = gk.Conv2d(
            size, out, config.kernel_size, 2, padding, bias=not batch_norm, act=act, gain=1.0, reference=reference,
            equalized=False,
        )  # fmt: skip
        layers.add_module(f"conv{i}", conv)
        if normed:
            layers.add_module(f"norm{i}", gk.BatchNormAct2d(out, act="lrelu", reference=reference))
        size = out
    initialise(layers)
    return layers


class DCGANGenerator(PriorGenerator):
    """DCGAN's generator.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: z [N, z_dim] to images [N, channels, resolution, resolution]. Gradients of two orders in training mode (PyTorch's
    batch normalisation), of any order in evaluation mode.
    """

    config: DCGANConfig

    def __init__(self, config: DCGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior = config.z_dim, config.prior
        self.layers = UpConvs(config.z_dim, config, reference=self.reference)


class ConvDiscriminator(Discriminator):
    """Convolutions to features, and a linear layer on all of them; subclasses set ``layers`` and ``output``.

    Attributes:
        layers: from images to features [N, C, h, w].
        output: from [N, C * h * w] to logits [N, 1].
    """

    layers: nn.Module
    output: nn.Module

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images``; ``labels`` must be None."""
        self.check_inputs(images, labels)
        return self.output(self.layers(images).flatten(1))


class DCGANDiscriminator(ConvDiscriminator):
    """DCGAN's discriminator; it has no biases but those of the batch norms.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] to logits [N, 1]. Gradients as of the generator.
    """

    config: DCGANConfig
    batch_norm = True

    def __init__(self, config: DCGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.layers = down_convs(config, self.batch_norm, self.reference)
        self.output = gk.Linear(config.widths[0] * 16, 1, bias=False, reference=self.reference, equalized=False)
        initialise(self.output)


register(
    Family(
        name="dcgan",
        title="strided convolutions with batch normalisation",
        paper="Radford et al. 2016",
        config=DCGANConfig,
        generator=DCGANGenerator,
        discriminator=DCGANDiscriminator,
        presets={
            "dcgan-64": DCGANConfig(),
            # The settings of PyTorch's DCGAN tutorial.
            "dcgan-tutorial-64": DCGANConfig(width=64, kernel_size=4, prior="normal"),
        },
        tiny=DCGANConfig(resolution=16, z_dim=6, width=8),
        loss="nonsaturating",
    )
)

__all__ = ["ConvDiscriminator", "DCGANConfig", "DCGANDiscriminator", "DCGANGenerator", "UpConvs", "down_convs", "initialise"]
