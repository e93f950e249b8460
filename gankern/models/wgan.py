"""Wasserstein GANs: with weight clipping (Arjovsky et al. 2017) and with a gradient penalty (Gulrajani et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._prior import PriorGenerator
from gankern.models._registry import Family, register
from gankern.models._resnet import BOX
from gankern.models.dcgan import ConvDiscriminator, DCGANConfig, DCGANDiscriminator, UpConvs, down_convs, initialise


# ---- weight clipping ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class WGANConfig(DCGANConfig):
    """Settings of a WGAN with weight clipping; defaults are those of the paper's LSUN experiments (section 4).

    Attributes:
        resolution: height and width of the images: a power of two from 8 to 1024. Default 64.
        channels: channels of the images. Default 3.
        z_dim: size of the latents. Default 100.
        width: channels at half the resolution; they double where the size halves, down to 4x4. Default 64.
        max_channels: most channels of a layer. Default 1024.
        kernel_size: of all strided convolutions, from 3 to 6. Default 4.
        prior: 'uniform' or 'normal' latents. Default 'normal'.
        generator: 'dcgan', or 'mlp': 4 layers of rectifiers, with tanh at the end (the paper's figure 7). Default 'dcgan'.
        batch_norm: the DCGAN generator has batch norms (figure 6: it has none). Default True.
        hidden: units of the MLP's hidden layers. Default 512.
        clip: all weights of the critic are kept within plus or minus this. Default 0.01.
    """

    family: ClassVar[str] = "wgan"
    width: int = 64
    kernel_size: int = 4
    prior: str = "normal"
    generator: str = "dcgan"
    batch_norm: bool = True
    hidden: int = 512
    clip: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator not in ("dcgan", "mlp"):
            raise self.refuse("generator", "'dcgan' or 'mlp'")
        self.at_least(1, "hidden")
        if self.clip <= 0:
            raise self.refuse("clip", "positive")


class WGANGenerator(PriorGenerator):
    """DCGAN's generator, or a multilayer perceptron.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: z [N, z_dim] to images [N, channels, resolution, resolution]. Gradients of two orders with batch norm in training
    mode, else of any.
    """

    config: WGANConfig

    def __init__(self, config: WGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior = config.z_dim, config.prior
        if config.generator == "dcgan":
            self.layers = UpConvs(config.z_dim, config, config.batch_norm, self.reference)
            return
        pixels = config.channels * config.resolution**2
        units = config.hidden
        shapes = [(config.z_dim, units, "relu"), *[(units, units, "relu")] * 2, (units, pixels, "tanh")]
        self.layers = nn.Sequential(
            *(gk.Linear(a, b, act=act, gain=1.0, reference=self.reference, equalized=False) for a, b, act in shapes),
            nn.Unflatten(1, self.image_shape),
        )


def clip_weights_(module: nn.Module, limit: float) -> None:
    """Clamp every parameter of ``module``, those of batch norms too, to [-limit, limit] (Arjovsky et al. 2017, algorithm 1).

    Args:
        module: the critic.
        limit: positive.

    Raises:
        ValueError: another limit.
    """
    if not limit > 0:
        raise ValueError(f"clip_weights_: limit must be positive, got {limit!r}")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.clamp_(-limit, limit)


class WGANCritic(DCGANDiscriminator):
    """DCGAN's discriminator as a critic whose weights are clipped.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] to [N, 1].
    """

    config: WGANConfig

    def clip_weights_(self, limit: float | None = None) -> None:
        """Clamp every parameter, those of batch norms too, to [-limit, limit]; after each of the optimizer's steps.

        Args:
            limit: positive. Default None: the config's ``clip``.
        """
        clip_weights_(self, self.config.clip if limit is None else limit)


# ---- gradient penalty -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class WGANGPConfig(DCGANConfig):
    """Settings of a WGAN-GP; defaults are those of the DCGAN of its LSUN experiments (figure 2).

    Attributes:
        resolution: height and width of the images: a power of two from 8 (ResNets: 16) to 1024. Default 64.
        channels: channels of the images. Default 3.
        z_dim: size of the latents. Default 128.
        width: 'dcgan' and 'resnet': channels at the highest resolution; 'resnet-cifar': of all layers. Default 64.
        max_channels: most channels of a layer. Default 512.
        kernel_size: of the DCGAN's convolutions, from 3 to 6; ResNets have 3. Default 5.
        prior: 'uniform' or 'normal' latents. Default 'normal'.
        architecture: 'dcgan'; 'resnet-cifar', the residual networks of appendix F; 'resnet', those of the authors'
            implementation for 64x64 (not the paper's 101 layers). Default 'dcgan'. No critic has normalisation.
    """

    family: ClassVar[str] = "wgan-gp"
    z_dim: int = 128
    width: int = 64
    max_channels: int = 512
    prior: str = "normal"
    architecture: str = "dcgan"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("dcgan", "resnet", "resnet-cifar"):
            raise self.refuse("architecture", "'dcgan', 'resnet' or 'resnet-cifar'")
        if self.architecture != "dcgan" and self.resolution < 16:
            raise self.refuse("resolution", "at least 16 for residual networks")

    @property
    def block_widths(self) -> list[int]:
        """Channels of the generator's residual networks at 4x4 and behind each block."""
        if self.architecture == "resnet-cifar":
            return [min(self.width, self.max_channels)] * (len(self.widths) + 1)
        return [self.widths[0], *self.widths]


def _conv(size: int, out: int, kernel_size: int, reference: bool, act: str = "linear", **settings: Any) -> gk.Conv2d:
    """A convolution with He's initialisation (1x1: Glorot's), with nearest upsampling before it or mean pooling behind it."""
    conv = gk.Conv2d(
        size, out, kernel_size, act=act, gain=1.0, reference=reference, resample_filter=BOX, equalized=False, **settings,
    )  # fmt: skip
    if kernel_size == 1:
        nn.init.xavier_uniform_(conv.weight)
    else:
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    return conv


class UpBlock(nn.Module):
    """Residual block that doubles the resolution: batch norm, ReLU, upsampling, 3x3; batch norm, ReLU, 3x3 (appendix F).

    Upsampling (nearest neighbour) and the convolution behind it are one transposed convolution and a filter. It is the first
    convolution, as in the authors' implementation; the appendix says the second.

    Args:
        channels: channels of the input.
        out: channels of the output.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, channels, H, W] to [N, out, 2 H, 2 W].
    """

    def __init__(self, channels: int, out: int, reference: bool = False) -> None:
        super().__init__()
        self.norm1 = gk.BatchNormAct2d(channels, reference=reference)
        self.conv1 = _conv(channels, out, 3, reference, up=2, bias=False)
        self.norm2 = gk.BatchNormAct2d(out, reference=reference)
        self.conv2 = _conv(out, out, 3, reference)
        self.skip = _conv(channels, out, 1, reference, up=2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        return self.conv2(self.norm2(self.conv1(self.norm1(x)))) + self.skip(x)


class DownBlock(nn.Module):
    """Residual block without normalisation: ReLU, 3x3, ReLU, 3x3; with ``down=2`` mean pooling behind it (appendix F).

    The last convolution and the mean pooling are one filter and one strided convolution.

    Args:
        channels: channels of the input.
        hidden: channels between the convolutions.
        out: channels of the output.
        down: 2, or 1 for a block that keeps its resolution. Default 2.
        first: the input is the image: no ReLU before the first convolution. Default False.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, channels, H, W] to [N, out, H / down, W / down]. Gradients of any order.
    """

    def __init__(
        self, channels: int, hidden: int, out: int, down: int = 2, first: bool = False, reference: bool = False
    ) -> None:
        super().__init__()
        self.act = nn.Identity() if first else gk.BiasAct(channels, "relu", gain=1.0, bias=False, reference=reference)
        self.conv1 = _conv(channels, hidden, 3, reference, act="relu")
        self.conv2 = _conv(hidden, out, 3, reference, down=down)
        plain = channels == out and down == 1
        self.skip = nn.Identity() if plain else _conv(channels, out, 1, reference, down=down)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        return self.conv2(self.conv1(self.act(x))) + self.skip(x)


class WGANGPGenerator(PriorGenerator):
    """DCGAN's generator or a residual one.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: z [N, z_dim] to images [N, channels, resolution, resolution]. Gradients of two orders in training mode (PyTorch's
    batch normalisation), of any order in evaluation mode.
    """

    config: WGANGPConfig

    def __init__(self, config: WGANGPConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior = config.z_dim, config.prior
        if config.architecture == "dcgan":
            self.layers = UpConvs(config.z_dim, config, reference=self.reference)
            return
        widths = config.block_widths
        project = gk.Linear(config.z_dim, widths[0] * 16, reference=self.reference, equalized=False)
        nn.init.xavier_uniform_(project.weight)
        output = _conv(widths[-1], config.channels, 3, self.reference, act="tanh")
        self.layers = nn.Sequential(
            project,
            nn.Unflatten(1, (widths[0], 4, 4)),
            *(UpBlock(a, b, self.reference) for a, b in pairwise(widths)),
            gk.BatchNormAct2d(widths[-1], reference=self.reference),
            output,
        )


class WGANGPCritic(ConvDiscriminator):
    """A critic without normalisation, for penalties on the gradients of single images.

    It qualifies for :class:`gankern.losses.PenalizedStep`.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] to [N, 1]. Gradients of any order.
    """

    config: WGANGPConfig

    def __init__(self, config: WGANGPConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        if config.architecture == "dcgan":
            features: nn.Module = down_convs(config, False, self.reference)
            size = config.widths[0] * 16
        elif config.architecture == "resnet-cifar":
            features, size = self._cifar(config)
        else:
            features, size = self._resnet(config)
        self.layers = features
        self.output = gk.Linear(size, 1, reference=self.reference, equalized=False)
        if config.architecture == "dcgan":
            initialise(self.output)
        else:
            nn.init.xavier_uniform_(self.output.weight)

    def _cifar(self, config: WGANGPConfig) -> tuple[nn.Module, int]:
        """Two blocks that halve the resolution and two that keep it, ReLU, mean over all pixels."""
        size, reference = min(config.width, config.max_channels), self.reference
        layers = nn.Sequential(
            DownBlock(config.channels, size, size, first=True, reference=reference),
            DownBlock(size, size, size, reference=reference),
            DownBlock(size, size, size, down=1, reference=reference),
            DownBlock(size, size, size, down=1, reference=reference),
            gk.BiasAct(size, "relu", gain=1.0, bias=False, reference=reference),
            nn.AdaptiveAvgPool2d(1),
        )
        return layers, size

    def _resnet(self, config: WGANGPConfig) -> tuple[nn.Module, int]:
        """A convolution, then blocks that halve the resolution down to 4x4."""
        widths = [*config.widths[::-1], config.widths[0]]
        layers = nn.Sequential(
            _conv(config.channels, widths[0], 3, self.reference),
            *(DownBlock(a, a, b, reference=self.reference) for a, b in pairwise(widths)),
        )
        return layers, widths[-1] * 16


register(
    Family(
        name="wgan",
        title="Wasserstein GAN with weight clipping",
        paper="Arjovsky et al. 2017",
        config=WGANConfig,
        generator=WGANGenerator,
        discriminator=WGANCritic,
        presets={
            "wgan-64": WGANConfig(),
            "wgan-mlp-64": WGANConfig(generator="mlp"),
        },
        tiny=WGANConfig(resolution=16, z_dim=6, width=8),
        loss="wasserstein",
        penalties={"clip": 0.01},
    )
)
register(
    Family(
        name="wgan-gp",
        title="Wasserstein GAN with gradient penalty",
        paper="Gulrajani et al. 2017",
        config=WGANGPConfig,
        generator=WGANGPGenerator,
        discriminator=WGANGPCritic,
        presets={
            "wgan-gp-64": WGANGPConfig(),
            "wgan-gp-resnet-64": WGANGPConfig(architecture="resnet"),
            "wgan-gp-cifar10": WGANGPConfig(resolution=32, width=128, architecture="resnet-cifar"),
        },
        tiny=WGANGPConfig(resolution=16, z_dim=6, width=8, architecture="resnet-cifar"),
        loss="wasserstein",
        penalties={"wgan_gp": 10.0},
    )
)

__all__ = [
    "DownBlock",
    "UpBlock",
    "WGANConfig",
    "WGANCritic",
    "WGANGPConfig",
    "WGANGPCritic",
    "WGANGPGenerator",
    "WGANGenerator",
    "clip_weights_",
]
