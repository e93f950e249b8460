"""pix2pix: paired image-to-image translation with a U-Net and a PatchGAN (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, Model, ModelConfig
from gankern.models._registry import Family, register

# Width of a logit's receptive field: number of convolutions of stride 2; then come two of stride 1. All kernels are 4x4.
PATCHES = {16: 1, 34: 2, 70: 3, 142: 4, 286: 5}


@dataclass(frozen=True)
class Pix2PixConfig(ModelConfig):
    """Settings of pix2pix (Isola et al. 2017, section 6.1).

    Attributes:
        resolution: height and width of the images; a multiple of 2^levels. Default 256.
        channels: channels of the images to be made. Default 3.
        in_channels: channels of the images to start from. Default 3.
        levels: how often the U-Net halves the images, 2 or more. Default None: down to an odd size, at most 8 times (8 at 256:
            "U-Net-256", 7 at 128: "U-Net-128").
        generator_channels: channels of the U-Net's first level; each further one has twice as many, at most 8 times these.
            Default 64.
        discriminator_channels: likewise of the discriminator. Default 64.
        norm: 'batch' or 'instance'. Default 'batch'.
        dropout: probability, in the first three levels of the decoder. Default 0.5.
        patch: width of the image patch that one logit sees: 1 ("PixelGAN"), 16, 34, 70, 142 or 286 (6.1.2). Default 70.
        conditional: the discriminator sees the image that the generator started from. Default True; False is the paper's
            "GAN" without a condition (table 1).
    """

    family: ClassVar[str] = "pix2pix"
    resolution: int = 256
    channels: int = 3
    in_channels: int = 3
    levels: int | None = None
    generator_channels: int = 64
    discriminator_channels: int = 64
    norm: str = "batch"
    dropout: float = 0.5
    patch: int = 70
    conditional: bool = True

    def __post_init__(self) -> None:
        check_translation(self)
        if self.levels is not None and self.levels < 2:
            raise self.refuse("levels", "2 or more, or None")
        if self.depth < 2 or self.resolution % 2**self.depth:
            raise self.refuse("resolution", f"a multiple of {2 ** max(self.depth, 2)} (2^levels)")
        if not 0 <= self.dropout < 1:
            raise self.refuse("dropout", "a probability below 1")

    @property
    def depth(self) -> int:
        """How often the U-Net halves the images."""
        if self.levels is not None:
            return self.levels
        twos = (self.resolution & -self.resolution).bit_length() - 1
        return min(twos, 8)


class Pix2PixGenerator(Model):
    """The U-Net of pix2pix: images [N, in_channels, H, W] to images [N, channels, H, W] in [-1, 1].

    H and W may be any multiples of 2^levels. The noise is dropout: in training mode two calls give two images. The paper
    generates that way too, with dropout and the statistics of the batch (section 6.1.1): call ``train()`` before; in
    evaluation mode the network is a function of its input.

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Source: Isola et al., "Image-to-image translation with conditional adversarial networks", 2017, 6.1.1: convolutions 4x4 of
    stride 2, leaky ReLU of slope 0.2 on the way down, ReLU on the way up, weights from a normal distribution of deviation
    0.02. As in the authors' erratum there is no norm at the bottleneck, where a batch of one would be normalised to zero.
    """

    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        depth, norm, reference = config.depth, config.norm, self.reference
        widths = [config.generator_channels * min(2**i, 8) for i in range(depth)]
        bias = norm != "batch"
        self.down = nn.ModuleList()
        for i, (before, after) in enumerate(zip([config.in_channels, *widths], widths, strict=False)):
            last = i == depth - 1
            settings: dict[str, Any] = {
                "norm": "none" if last or i == 0 else norm,
                "act": "relu" if last else "lrelu",
                "bias": bias,
            }
            self.down.append(gk.UNetDown(before, after, **settings, reference=reference))
        self.up = nn.ModuleList()
        for i in range(depth - 1):
            before = widths[-1] if i == 0 else 2 * widths[-1 - i]
            self.up.append(gk.UNetUp(before, widths[-2 - i], norm, config.dropout if i < 3 else 0.0, bias, reference))
        self.out = gk.ConvTranspose2d(
            2 * widths[0], config.channels, 4, 2, 1, act="tanh", gain=1.0, reference=reference, equalized=False
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Translate ``images`` [N, in_channels, H, W]."""
        config = self.config
        check_images(self, "images", images, config.in_channels, 2**config.depth)
        x, skips = images, []
        for down in self.down:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return self.out(x)


class Pix2PixDiscriminator(Discriminator):
    """The PatchGAN of pix2pix: a logit for each patch of the images, [N, 1, h, w].

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Source: Isola et al. 2017, 6.1.2 (the sigmoid behind is the loss's business).
    """

    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        channels = config.channels + (config.in_channels if config.conditional else 0)
        self.layers = patch_layers(channels, config.discriminator_channels, config.patch, config.norm, self.reference)
        initialise(self)

    def forward(self, images: Tensor, source: Tensor | None = None) -> Tensor:
        """Judge ``images`` [N, channels, H, W], real or generated, of ``source`` [N, in_channels, H, W].

        Raises:
            ValueError: images of another shape; no source for a conditional discriminator, or one for another.
        """
        config = self.config
        self.check_inputs(images)
        if not config.conditional:
            if source is not None:
                raise ValueError(f"{type(self).__name__}: source must be None without conditional, got {list(source.shape)}")
            return self.layers(images)
        size = [images.shape[0], config.in_channels, *images.shape[2:]]
        if source is None or list(source.shape) != size:
            got = "None" if source is None else list(source.shape)
            raise ValueError(f"{type(self).__name__}: source must be {size}, what the generator started from, got {got}")
        return self.layers(torch.cat([source, images], 1))


# ---- shared with CycleGAN ---------------------------------------------------------------------------------------------------
def check_translation(config: ModelConfig) -> None:
    """Refuse what no image-to-image network here can do."""
    for name in ("resolution", "channels", "in_channels", "generator_channels", "discriminator_channels"):
        value = getattr(config, name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise config.refuse(name, "a positive integer")
    if config.norm not in ("batch", "instance"):  # type: ignore[attr-defined]
        raise config.refuse("norm", "'batch' or 'instance'")
    patch: int = config.patch  # type: ignore[attr-defined]
    if patch != 1 and patch not in PATCHES:
        raise config.refuse("patch", f"one of 1, {', '.join(map(str, PATCHES))}")
    if patch != 1 and config.resolution // 2 ** PATCHES[patch] < 3:
        raise config.refuse("resolution", f"at least {3 * 2 ** PATCHES[patch]} for patch={patch}")


def check_images(model: Model, name: str, images: Tensor, channels: int, multiple: int, least: int = 1) -> None:
    """Require images [N, channels, H, W] with sides that are multiples of a number."""
    accepted = images.dim() == 4 and images.shape[1] == channels
    for side in images.shape[2:]:
        accepted = accepted and side >= least and side % multiple == 0
    if not accepted:
        sides = f"multiples of {multiple}" + (f", at least {least}" if least > multiple else "")
        raise ValueError(
            f"{type(model).__name__}: {name} must be [N, {channels}, H, W] with H and W {sides}, got {list(images.shape)}"
        )


def patch_layers(in_channels: int, width: int, patch: int, norm: str, reference: bool) -> nn.Sequential:
    """The convolutions of a PatchGAN: ``width``, 2 ``width``, ... channels, at most 8 ``width``, and one to a logit."""
    strides: Sequence[int] = (1,) if patch == 1 else (2,) * PATCHES[patch]
    kernel, padding = (1, 0) if patch == 1 else (4, 1)
    layers: list[nn.Module] = []
    for i, stride in enumerate((*strides, 1)):
        out, kind = width * min(2**i, 8), "none" if i == 0 else norm
        layers.append(
            gk.ConvNormAct2d(in_channels, out, kernel, stride, padding, kind, "lrelu", alpha=0.2, reference=reference)
        )
        in_channels = out
    layers.append(gk.Conv2d(in_channels, 1, kernel, padding=padding, reference=reference, equalized=False))
    return nn.Sequential(*layers)


def initialise(model: nn.Module) -> None:
    """Weights of deviation 0.02 (around 1 for a batch norm's), biases 0 (Isola et al. 2017, section 6.2)."""
    for module in model.modules():
        if isinstance(module, (gk.Conv2d, gk.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


register(
    Family(
        name="pix2pix",
        title="paired image-to-image translation: U-Net and PatchGAN",
        paper="Isola, Zhu, Zhou, Efros 2017",
        config=Pix2PixConfig,
        generator=Pix2PixGenerator,
        discriminator=Pix2PixDiscriminator,
        presets={"pix2pix-256": Pix2PixConfig(), "pix2pix-128": Pix2PixConfig(resolution=128)},
        tiny=Pix2PixConfig(resolution=32, generator_channels=8, discriminator_channels=8, patch=34),
        task="paired",
        loss="nonsaturating",
        penalties={"l1": 100.0},
    )
)

__all__ = ["Pix2PixConfig", "Pix2PixDiscriminator", "Pix2PixGenerator"]
