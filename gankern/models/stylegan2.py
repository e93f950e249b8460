"""StyleGAN2: modulated convolutions with demodulation, skip connections to RGB, a residual discriminator (Karras et al. 2020).

Sources: Karras et al., "Analyzing and improving the image quality of StyleGAN", 2020; for classes, mixed precision and small
mapping networks Karras et al., "Training generative adversarial networks with limited data" (StyleGAN2-ADA), 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern._dtypes import wide
from gankern.models._registry import Family, register
from gankern.models._style import MappingNetwork, PyramidConfig, StyleDiscriminator, StyleGenerator, as_ws

ARCHITECTURES = ("orig", "skip", "resnet")


@dataclass(frozen=True)
class StyleGAN2Config(PyramidConfig):
    """Settings of StyleGAN2; the defaults are configuration F at 1024 x 1024 (Karras et al. 2020, table 1 and appendix B).

    Attributes:
        resolution: a power of 2 of at least 8. Default 1024.
        channels: channels of the images. Default 3.
        z_dim: size of the latents z. Default 512.
        w_dim: size of the intermediate latents w. Default 512.
        num_classes: classes, 0 for none. Default 0.
        mapping_layers: layers of the mapping network. Default 8; ADA's small data sets have 2.
        mapping_lr_multiplier: factor on the mapping network's learning rate. Default 0.01.
        w_avg_beta: share of the old mean in an update of w's. Default 0.995.
        channel_base: channels times resolution, up to ``channel_max``. Default 32768 (configuration E: 16384).
        channel_max: most channels of a layer. Default 512.
        generator: 'orig', 'skip' or 'resnet': how the generator's resolutions are joined (figure 7). Default 'skip'.
        discriminator: the same of the discriminator. Default 'resnet'.
        use_noise: add noise, of a learned strength that is 0 at first. Default True.
        mbstd_group: samples of a group of minibatch standard deviation, 0 for none of it. Default 4.
        mbstd_channels: its extra channels. Default 1.
        class_layers: layers of the discriminator's network of classes, where there are some. Default 8.
        conv_clamp: largest magnitude of the layers' outputs, or None. Default None; 256 with mixed precision.
        num_fp16_res: how many of the highest resolutions run in float16 on GPUs. Default 0; ADA has 4.
    """

    family: ClassVar[str] = "stylegan2"
    generator: str = "skip"
    discriminator: str = "resnet"
    use_noise: bool = True
    mbstd_group: int = 4
    mbstd_channels: int = 1
    class_layers: int = 8
    conv_clamp: float | None = None
    num_fp16_res: int = 0

    def __post_init__(self) -> None:
        self.check_resolution(8)
        self.at_least(1, "channels", "z_dim", "w_dim", "mapping_layers", "class_layers")
        self.at_least(1, "channel_base", "channel_max", "mbstd_channels")
        self.at_least(0, "num_classes", "mbstd_group", "num_fp16_res")
        for name in ("generator", "discriminator"):
            if getattr(self, name) not in ARCHITECTURES:
                raise self.refuse(name, f"one of {', '.join(ARCHITECTURES)}")
        self.check_channels(self.mbstd_group, self.mbstd_channels)
        if self.conv_clamp is not None and self.conv_clamp <= 0:
            raise self.refuse("conv_clamp", "positive or None")

    def fp16(self, resolution: int) -> bool:
        """Whether a resolution is one of those that run in float16."""
        return self.num_fp16_res > 0 and resolution >= max(self.resolution >> (self.num_fp16_res - 1), 8)


def _takes_half(half: bool | None, x: Tensor) -> bool:
    """What ``half=None`` means for ``x``: float16 on GPUs, unless another precision was chosen."""
    if half is None:
        return x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
    return half


class SynthesisBlock(nn.Module):
    """The layers of one resolution of the generator.

    Args:
        in_channels: channels of the resolution below; 0 for the first block, which starts from a learned constant.
        resolution: height and width.
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: x [N, in_channels, resolution / 2, resolution / 2] to [N, width, resolution, resolution].
    """

    def __init__(self, in_channels: int, resolution: int, config: StyleGAN2Config, reference: bool = False) -> None:
        super().__init__()
        width, last = config.width(resolution), resolution == config.resolution
        self.fp16 = config.fp16(resolution)

        def layer(channels: int, up: int) -> gk.StyleLayer:
            return gk.StyleLayer(
                channels, width, config.w_dim, resolution, up=up, use_noise=config.use_noise, clamp=config.conv_clamp,
                reference=reference,
            )  # fmt: skip

        self.const = None if in_channels else nn.Parameter(torch.randn(1, width, resolution, resolution))
        self.conv0 = layer(in_channels, 2) if in_channels else None
        self.conv1 = layer(width, 1)
        self.skip = None
        if in_channels and config.generator == "resnet":
            self.skip = gk.Conv2d(in_channels, width, 1, bias=False, up=2, gain=math.sqrt(0.5), reference=reference)
        self.to_rgb = None
        if last or config.generator == "skip":
            self.to_rgb = gk.ToRGB(width, config.channels, config.w_dim, clamp=config.conv_clamp, reference=reference)
        self.upsample = gk.Upsample2d(reference=reference) if in_channels and config.generator == "skip" else None

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Sequence[Tensor], noise_mode: str, half: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        """Features and image of this resolution, from those of the one below.

        Args:
            x: features; None for the first block.
            image: the sum of RGB outputs so far, or None.
            ws: w [N, w_dim] of each convolution, and of the RGB layer.
            noise_mode: as for :class:`SynthesisNetwork`.
            half: as for :class:`SynthesisNetwork`.
        """
        if self.const is not None:
            x = self.const.expand(ws[0].shape[0], -1, -1, -1)
        assert x is not None
        if self.fp16 and _takes_half(half, x):
            x = x.to(torch.float16)
        skip = None if self.skip is None else self.skip(x)
        if self.conv0 is not None:
            x = self.conv0(x, ws[0], noise_mode)
        x = self.conv1(x, ws[-2], noise_mode, gain=1.0 if skip is None else math.sqrt(0.5))
        if skip is not None:
            x = x + skip
        if self.to_rgb is not None:
            y = self.to_rgb(x, ws[-1])
            y = y.to(wide(y.dtype))
            if image is not None and self.upsample is not None:
                y = self.upsample(image) + y
            image = y
        return x, image


class SynthesisNetwork(nn.Module):
    """StyleGAN2's images from one w for each layer (Karras et al. 2020, figure 7).

    Args:
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: w [N, num_ws, w_dim] to [N, channels, resolution, resolution]. Gradients of any order.
    """

    def __init__(self, config: StyleGAN2Config, reference: bool = False) -> None:
        super().__init__()
        widths = [0, *(config.width(r) for r in config.resolutions)]
        self.blocks = nn.ModuleList(
            SynthesisBlock(below, r, config, reference) for below, r in zip(widths, config.resolutions, strict=False)
        )
        self.w_dim = config.w_dim
        self.num_ws = 2 * len(self.blocks)

    def forward(self, w: Tensor, noise_mode: str = "random", half: bool | None = None) -> Tensor:
        """Images of ``w``.

        Args:
            w: [N, num_ws, w_dim], or [N, w_dim] for all layers. Each resolution's RGB layer shares its w with the first
                layer of the next resolution.
            noise_mode: 'random' draws noise anew, 'const' takes the layers' own, 'none' leaves it out. Default 'random'.
            half: run the config's ``num_fp16_res`` highest resolutions in float16. Default None: on GPUs, for float32
                weights outside of autocast.

        Returns:
            Images [N, channels, resolution, resolution] in float32 (float64 for float64), about in [-1, 1], not clamped.

        Raises:
            ValueError: latents of another shape, or another noise mode.
        """
        layers = as_ws("StyleGAN2Generator", w, self.num_ws, self.w_dim).unbind(1)
        x = image = None
        taken = 0
        for block in self.blocks:
            count = 1 if block.conv0 is None else 2
            x, image = block(x, image, layers[taken : taken + count + 1], noise_mode, half)
            taken += count
        assert image is not None
        return image


class StyleGAN2Generator(StyleGenerator):
    """StyleGAN2's generator (Karras et al. 2020).

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Attributes:
        mapping: :class:`MappingNetwork`.
        synthesis: :class:`SynthesisNetwork`.

    Shape: z [N, z_dim] (and labels [N]) to [N, channels, resolution, resolution]. Gradients of any order.
    """

    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config, ops: str = "fused") -> None:
        super().__init__(config, ops, SynthesisNetwork)


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution of the discriminator.

    Args:
        resolution: height and width of the input.
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: x [N, width, resolution, resolution] to [N, width of the resolution below, resolution / 2, resolution / 2].
    """

    def __init__(self, resolution: int, config: StyleGAN2Config, reference: bool = False) -> None:
        super().__init__()
        width, below = config.width(resolution), config.width(resolution // 2)
        residual = config.discriminator == "resnet"
        self.fp16 = config.fp16(resolution)
        self.from_rgb = None
        if resolution == config.resolution or config.discriminator == "skip":
            self.from_rgb = _from_rgb(config, width, reference)
        self.downsample = gk.Downsample2d(reference=reference) if config.discriminator == "skip" else None
        share = math.sqrt(0.5) if residual else 1.0
        clamp = config.conv_clamp
        self.conv0 = gk.Conv2d(width, width, 3, act="lrelu", clamp=clamp, reference=reference)
        self.conv1 = gk.Conv2d(
            width, below, 3, act="lrelu", down=2, gain=math.sqrt(2) * share, clamp=None if clamp is None else clamp * share,
            reference=reference,
        )  # fmt: skip
        self.skip = gk.Conv2d(width, below, 1, bias=False, down=2, gain=share, reference=reference) if residual else None

    def forward(self, x: Tensor | None, image: Tensor, cast: bool) -> tuple[Tensor, Tensor]:
        """Features of the resolution below, and the image for it.

        Args:
            x: features; None for the first block.
            image: [N, channels, resolution, resolution].
            cast: run in float16 if this resolution is one of those, else in float32.
        """
        if cast:
            dtype = torch.float16 if self.fp16 else torch.float32
            image = image.to(dtype)
            x = None if x is None else x.to(dtype)
        if self.from_rgb is not None:
            y = self.from_rgb(image)
            x = y if x is None else x + y
        if self.downsample is not None:
            image = self.downsample(image)
        assert x is not None
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        return self.skip(x) + self.conv1(self.conv0(x)), image


def _from_rgb(config: StyleGAN2Config, width: int, reference: bool) -> gk.Conv2d:
    return gk.Conv2d(config.channels, width, 1, act="lrelu", clamp=config.conv_clamp, reference=reference)


class StyleGAN2Discriminator(StyleDiscriminator):
    """StyleGAN2's discriminator (Karras et al. 2020); with classes a projection discriminator (Karras et al. 2020, ADA).

    With ``mbstd_group=0`` and no classes it qualifies for :class:`gankern.losses.PenalizedStep`.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Shape: images [N, channels, resolution, resolution] (and labels [N]) to logits [N, 1]. Gradients of any order.
    """

    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config, ops: str = "fused") -> None:
        super().__init__(config, ops)
        reference = self.reference
        self.num_classes = config.num_classes
        width = config.width(4)
        self.blocks = nn.ModuleList(DiscriminatorBlock(r, config, reference) for r in config.resolutions[:0:-1])
        self.from_rgb = _from_rgb(config, width, reference) if config.discriminator == "skip" else None
        outputs = width if config.num_classes else 1
        self.make_end(width, outputs, config.mbstd_group, config.mbstd_channels, config.conv_clamp)
        self.mapping = None
        if config.num_classes:
            self.mapping = MappingNetwork(
                0, width, num_classes=config.num_classes, num_layers=config.class_layers,
                lr_multiplier=config.mapping_lr_multiplier, w_avg_beta=None, reference=reference,
            )  # fmt: skip

    def forward(self, images: Tensor, labels: Tensor | None = None, half: bool | None = None) -> Tensor:
        """Logits of ``images``.

        Args:
            images: [N, channels, resolution, resolution], about in [-1, 1].
            labels: int64 [N], where there are classes.
            half: run the config's ``num_fp16_res`` highest resolutions in float16. Default None: on GPUs, for float32
                images outside of autocast.

        Returns:
            [N, 1].

        Raises:
            ValueError: images or labels that do not fit.
        """
        self.check_inputs(images, labels)
        cast = self.config.num_fp16_res > 0 and _takes_half(half, images)
        x, image = None, images
        for block in self.blocks:
            x, image = block(x, image, cast)
        assert x is not None
        if cast:
            x, image = x.to(torch.float32), image.to(torch.float32)
        if self.from_rgb is not None:
            x = x + self.from_rgb(image)
        y = self.end(x)
        if self.mapping is not None:
            y = (y * self.mapping(None, labels)).sum(1, keepdim=True) / math.sqrt(y.shape[1])
        return y


# The automatic configurations of the ADA release: half the channels below 512 x 512.
_ADA = StyleGAN2Config(mapping_layers=2, conv_clamp=256.0, num_fp16_res=4)

register(
    Family(
        name="stylegan2",
        title="modulated convolutions with demodulation, skips to RGB, residual discriminator",
        paper="Karras et al. 2020",
        config=StyleGAN2Config,
        generator=StyleGAN2Generator,
        discriminator=StyleGAN2Discriminator,
        presets={
            "stylegan2-256": StyleGAN2Config(resolution=256),
            "stylegan2-512": StyleGAN2Config(resolution=512),
            "stylegan2-1024": StyleGAN2Config(resolution=1024),
            "stylegan2-ada-256": _ADA.replace(resolution=256, channel_base=16384),
            "stylegan2-ada-512": _ADA.replace(resolution=512),
            "stylegan2-ada-1024": _ADA.replace(resolution=1024),
            "stylegan2-ada-cifar10": _ADA.replace(resolution=32, num_classes=10, discriminator="orig", mbstd_group=32),
        },
        tiny=StyleGAN2Config(
            resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16, mbstd_group=2
        ),
        loss="nonsaturating",
        penalties={"r1": 10.0, "path_length": 2.0},
    )
)

__all__ = ["StyleGAN2Config", "StyleGAN2Discriminator", "StyleGAN2Generator"]
