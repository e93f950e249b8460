"""SN-GAN's residual networks (Miyato et al. 2018): spectral normalisation in the discriminator, batch norm in the generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from gankern.models._base import Discriminator, LatentGenerator, ModelConfig
from gankern.models._registry import Family, register
from gankern.models._resnet import DiscriminatorBlock, GeneratorBlock, Layers, Projection
from gankern.nn import BatchNormAct2d, ConditionalBatchNorm2d


@dataclass(frozen=True)
class SNGANConfig(ModelConfig):
    """Settings of SN-GAN's residual networks; the defaults are those for CIFAR-10 (Miyato et al. 2018, table 4).

    Attributes:
        resolution: height and width of the images: a multiple of 2 to the number of the generator's blocks, and of 2^downs. The
            generator starts at resolution / 2^blocks: 4x4, and 6x6 for 48x48 images. Default 32.
        channels: channels of the images. Default 3.
        z_dim: size of the latent. Default 128.
        num_classes: 0: unconditional. Else conditional batch norm in the generator, projection in the discriminator (Miyato &
            Koyama 2018). Default 0.
        generator_channels: of the first feature map and after each block, each of which doubles the resolution. Default
            (256, 256, 256, 256).
        discriminator_channels: after each block. Default (128, 128, 128, 128).
        downs: how many of these blocks, the first ones, halve the resolution. Default 2.
    """

    family: ClassVar[str] = "sngan"
    resolution: int = 32
    z_dim: int = 128
    num_classes: int = 0
    generator_channels: tuple[int, ...] = (256, 256, 256, 256)
    discriminator_channels: tuple[int, ...] = (128, 128, 128, 128)
    downs: int = 2

    def __post_init__(self) -> None:
        self.at_least(1, "channels", "z_dim")
        if self.num_classes < 0:
            raise self.refuse("num_classes", "at least 0")
        if len(self.generator_channels) < 2 or min(self.generator_channels) < 1:
            raise self.refuse("generator_channels", "at least 2 positive numbers")
        if not self.discriminator_channels or min(self.discriminator_channels) < 1:
            raise self.refuse("discriminator_channels", "at least 1 positive number")
        if not 0 <= self.downs <= len(self.discriminator_channels):
            raise self.refuse("downs", f"from 0 to the number of discriminator_channels, {len(self.discriminator_channels)}")
        multiple = 2 ** max(len(self.generator_channels) - 1, self.downs)
        if self.resolution < multiple or self.resolution % multiple:
            raise self.refuse("resolution", f"a multiple of {multiple}, as the blocks double and halve it")


def _glorot(weight: Tensor, gain: float) -> None:
    nn.init.xavier_uniform_(weight, gain)


class SNGANGenerator(LatentGenerator):
    """SN-GAN's generator: a linear layer, residual blocks that double the resolution, batch norm, ReLU, conv, tanh.

    Weights are Glorot uniform, those of residual branches with gain sqrt(2).

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim] (and labels [N]) to images [N, channels, resolution, resolution] in [-1, 1].
    """

    def __init__(self, config: SNGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.num_classes = config.z_dim, config.num_classes
        layers = Layers(_glorot, None, self.reference)
        widths = config.generator_channels
        norm = partial(BatchNormAct2d, reference=self.reference)
        conditional = partial(ConditionalBatchNorm2d, classes=config.num_classes, act="relu", reference=self.reference)
        self.size = config.resolution >> (len(widths) - 1)
        self.linear = layers.linear(config.z_dim, widths[0] * self.size**2)
        self.blocks = nn.ModuleList(
            GeneratorBlock(inside, outside, layers, conditional if config.num_classes else norm)
            for inside, outside in pairwise(widths)
        )
        self.norm = norm(widths[-1])
        self.to_rgb = layers.conv(widths[-1], config.channels, 3, act="tanh")

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of the latents ``z`` [N, z_dim] and, if there are classes, ``labels`` [N]."""
        self.check_inputs(z, labels)
        condition = () if labels is None else (labels,)
        x = self.linear(z).unflatten(1, (-1, self.size, self.size))
        for block in self.blocks:
            x = block(x, *condition)
        return self.to_rgb(self.norm(x))  # type: ignore[no-any-return]


class SNGANDiscriminator(Discriminator):
    """SN-GAN's discriminator: residual blocks, ReLU, sum over pixels, linear; every weight spectrally normalised.

    Weights are Glorot uniform, those of residual branches with gain sqrt(2). Unconditional, it qualifies for the merged
    gradient of :class:`gankern.losses.PenalizedStep`.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, resolution, resolution] (and labels [N]) to logits [N, 1].
    """

    def __init__(self, config: SNGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.num_classes = config.num_classes
        layers = Layers(_glorot, 1e-12, self.reference)
        widths = (config.channels, *config.discriminator_channels)
        blocks = []
        for i, (inside, outside) in enumerate(pairwise(widths)):
            hidden = outside if i == 0 else inside
            blocks.append(DiscriminatorBlock(inside, outside, hidden, layers, down=i < config.downs, first=i == 0))
        self.blocks = nn.Sequential(*blocks)
        self.output = Projection(widths[-1], config.num_classes, layers)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images`` and, if there are classes, ``labels`` [N]."""
        self.check_inputs(images, labels)
        return self.output(self.blocks(images), labels)  # type: ignore[no-any-return]


_PRESETS = {
    "sngan-32": SNGANConfig(),
    "sngan-48": SNGANConfig(
        resolution=48, generator_channels=(512, 256, 128, 64), discriminator_channels=(64, 128, 256, 512, 1024), downs=4
    ),
    "sngan-64": SNGANConfig(
        resolution=64, generator_channels=(1024, 512, 256, 128, 64), discriminator_channels=(64, 128, 256, 512, 1024), downs=5
    ),
    "sngan-128": SNGANConfig(
        resolution=128,
        num_classes=1000,
        generator_channels=(1024, 1024, 512, 256, 128, 64),
        discriminator_channels=(64, 128, 256, 512, 1024, 1024),
        downs=5,
    ),
}

register(
    Family(
        name="sngan",
        title="SN-GAN: residual networks, spectrally normalised discriminator",
        paper="Miyato et al. 2018",
        config=SNGANConfig,
        generator=SNGANGenerator,
        discriminator=SNGANDiscriminator,
        presets=_PRESETS,
        tiny=SNGANConfig(
            resolution=16, z_dim=8, num_classes=3, generator_channels=(16, 16, 8), discriminator_channels=(8, 16, 16), downs=2
        ),
        loss="hinge",
    )
)

__all__ = ["SNGANConfig", "SNGANDiscriminator", "SNGANGenerator"]
