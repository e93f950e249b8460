"""CycleGAN: unpaired image-to-image translation with two residual networks and two PatchGANs (Zhu et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, Model, ModelConfig
from gankern.models._registry import Family, register
from gankern.models.pix2pix import check_images, check_translation, initialise, patch_layers


@dataclass(frozen=True)
class CycleGANConfig(ModelConfig):
    """Settings of CycleGAN (Zhu et al. 2017, section 4 and appendix 7).

    Attributes:
        resolution: height and width of the images, a multiple of 4, at least 8. Default 256.
        channels: channels of the images of both domains. Default 3.
        blocks: residual blocks of each generator. Default None: 9 from 256 on, 6 below.
        generator_channels: channels at full resolution. Default 64.
        discriminator_channels: channels of the discriminators' first layer. Default 64.
        norm: 'instance' or 'batch'. Default 'instance'.
        patch: width of the image patch that one logit sees: 1, 16, 34, 70, 142 or 286. Default 70.
    """

    family: ClassVar[str] = "cyclegan"
    resolution: int = 256
    channels: int = 3
    blocks: int | None = None
    generator_channels: int = 64
    discriminator_channels: int = 64
    norm: str = "instance"
    patch: int = 70

    def __post_init__(self) -> None:
        check_translation(self)
        if self.resolution % 4 or self.resolution < 8:
            raise self.refuse("resolution", "a multiple of 4, at least 8")
        if self.blocks is not None and self.blocks < 1:
            raise self.refuse("blocks", "1 or more, or None")

    @property
    def residual_blocks(self) -> int:
        """Residual blocks of each generator."""
        if self.blocks is not None:
            return self.blocks
        return 9 if self.resolution >= 256 else 6


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, ReLU between, reflection padding, and their input added (Johnson et al. 2016).

    Args:
        channels: channels of input and output.
        norm: 'instance' or 'batch'. Default 'instance'.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, channels, H, W] to the same. Gradients of any order that the norm has.
    """

    def __init__(self, channels: int, norm: str = "instance", reference: bool = False) -> None:
        super().__init__()
        settings: dict[str, Any] = {"norm": norm, "padding_mode": "reflect", "bias": norm != "batch", "reference": reference}
        self.first = gk.ConvNormAct2d(channels, channels, 3, act="relu", **settings)
        self.second = gk.ConvNormAct2d(channels, channels, 3, act="linear", **settings)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W]."""
        return x + self.second(self.first(x))


class ResNetGenerator(Model):
    """A generator of CycleGAN: images [N, channels, H, W] to images of the other domain, in [-1, 1].

    H and W may be any multiples of 4, at least 8.

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Source: Zhu et al. 2017, appendix 7.2: c7s1-64, d128, d256, R256 (6 or 9 times), u128, u64, c7s1-3.
    """

    def __init__(self, config: CycleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        norm, reference, width = config.norm, self.reference, config.generator_channels

        def layer(before: int, after: int, kernel: int, stride: int = 1, up: bool = False, reflect: bool = False) -> nn.Module:
            return gk.ConvNormAct2d(
                before,
                after,
                kernel,
                stride,
                norm=norm,
                padding_mode="reflect" if reflect else "zeros",
                transposed=up,
                output_padding=int(up),
                reference=reference,
            )

        self.layers = nn.Sequential(
            layer(config.channels, width, 7, reflect=True),
            layer(width, 2 * width, 3, 2),
            layer(2 * width, 4 * width, 3, 2),
            *(ResidualBlock(4 * width, norm, reference) for _ in range(config.residual_blocks)),
            layer(4 * width, 2 * width, 3, 2, up=True),
            layer(2 * width, width, 3, 2, up=True),
            gk.ConvNormAct2d(width, config.channels, 7, norm="none", act="tanh", padding_mode="reflect", reference=reference),
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Translate ``images`` [N, channels, H, W]."""
        check_images(self, "images", images, self.config.channels, 4, 8)
        return self.layers(images)


class PatchDiscriminator(Discriminator):
    """A discriminator of CycleGAN: a logit for each patch of the images, [N, 1, h, w].

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Source: Zhu et al. 2017, appendix 7.2: C64-C128-C256-C512 and a convolution to one channel, leaky ReLU of slope 0.2.
    """

    def __init__(self, config: CycleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        width = config.discriminator_channels
        self.layers = patch_layers(config.channels, width, config.patch, config.norm, self.reference)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Judge ``images`` [N, channels, H, W] of one domain."""
        self.check_inputs(images)
        return self.layers(images)


class CycleGANGenerator(Model):
    """Both generators of CycleGAN.

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Attributes:
        a_to_b: :class:`ResNetGenerator` from domain A to domain B (the paper's G).
        b_to_a: :class:`ResNetGenerator` from domain B to domain A (the paper's F).
    """

    def __init__(self, config: CycleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.a_to_b = ResNetGenerator(config, ops)
        self.b_to_a = ResNetGenerator(config, ops)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Images of A [N, C, H, W] translated to B, and images of B [M, C, H, W] translated to A."""
        return self.a_to_b(a), self.b_to_a(b)


class CycleGANDiscriminator(Model):
    """Both discriminators of CycleGAN.

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Attributes:
        a: :class:`PatchDiscriminator` of domain A.
        b: :class:`PatchDiscriminator` of domain B.
    """

    def __init__(self, config: CycleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.a = PatchDiscriminator(config, ops)
        self.b = PatchDiscriminator(config, ops)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The logits [N, 1, h, w] of images of A, and [M, 1, h, w] of images of B."""
        return self.a(a), self.b(b)


register(
    Family(
        name="cyclegan",
        title="unpaired image-to-image translation: residual networks and PatchGANs",
        paper="Zhu, Park, Isola, Efros 2017",
        config=CycleGANConfig,
        generator=CycleGANGenerator,
        discriminator=CycleGANDiscriminator,
        presets={"cyclegan-256": CycleGANConfig(), "cyclegan-128": CycleGANConfig(resolution=128)},
        tiny=CycleGANConfig(resolution=32, blocks=1, generator_channels=8, discriminator_channels=8, patch=34),
        task="unpaired",
        loss="lsgan",
        penalties={"cycle": 10.0, "identity": 5.0},
    )
)

__all__ = [
    "CycleGANConfig",
    "CycleGANDiscriminator",
    "CycleGANGenerator",
    "PatchDiscriminator",
    "ResNetGenerator",
    "ResidualBlock",
]
