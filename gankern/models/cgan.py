"""Conditional GANs: classes given to both networks (Mirza and Osindero 2014), and the projection discriminator (Miyato and
Koyama 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator
from gankern.models._prior import PriorGenerator
from gankern.models._registry import Family, register
from gankern.models.dcgan import DCGANConfig, UpConvs, down_convs, initialise
from gankern.models.mlp import Maxout


@dataclass(frozen=True)
class CGANConfig(DCGANConfig):
    """Settings of a conditional GAN.

    Two architectures. 'mlp' is the network of Mirza and Osindero, section 4.1; its sizes (200 units for z, 1000 for the class,
    1200 together; maxout units of 240 x 5, 50 x 5 and 240 x 4) are the paper's. 'conv' has an embedding of the class beside z
    in DCGAN's generator, and a discriminator of spectrally normalised convolutions whose last layer is a projection: with
    features f(x), summed over pixels, the logit is ``v . f(x) + c + e(y) . f(x)`` (Miyato and Koyama, section 3).

    Attributes:
        resolution: height and width of the images: a power of two from 8 to 1024; for 'mlp' at least 1. Default 32.
        channels: channels of the images. Default 3.
        z_dim: size of the latents. Default 128.
        width: 'conv': channels at half the resolution; they double where the size halves, down to 4x4. Default 128.
        max_channels: 'conv': most channels of a layer. Default 1024.
        kernel_size: 'conv': of all strided convolutions, from 3 to 6. Default 4.
        prior: 'uniform' or 'normal' latents. Default 'normal'.
        num_classes: classes, at least 1. Default 10.
        architecture: 'conv' or 'mlp'. Default 'conv'.
        embed_dim: 'conv': size of the generator's embedding of a class. Default 128.
        dropout: 'mlp': share of hidden units that is dropped in training, in both networks. Default 0.5.
    """

    family: ClassVar[str] = "cgan"
    resolution: int = 32
    z_dim: int = 128
    kernel_size: int = 4
    prior: str = "normal"
    num_classes: int = 10
    architecture: str = "conv"
    embed_dim: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.architecture not in ("conv", "mlp"):
            raise self.refuse("architecture", "'conv' or 'mlp'")
        if self.architecture == "conv":
            super().__post_init__()
        elif self.resolution < 1:
            raise self.refuse("resolution", "at least 1")
        else:  # the other settings do not depend on the resolution
            self.replace(architecture="conv", resolution=8)
        self.at_least(1, "num_classes", "embed_dim")
        if not 0 <= self.dropout < 1:
            raise self.refuse("dropout", "from 0 to below 1")


def _one_hot(labels: Tensor, num_classes: int, like: Tensor) -> Tensor:
    # Not F.one_hot, which looks at the values: on a GPU the host would wait.
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(like.dtype)


class _MLPGenerator(nn.Module):
    """Hidden layers for z and for the class, one for both together, and the pixels."""

    def __init__(self, config: CGANConfig, reference: bool) -> None:
        super().__init__()

        def linear(size: int, out: int, act: str = "relu") -> gk.Linear:
            return gk.Linear(size, out, act=act, gain=1.0, reference=reference, equalized=False)

        self.of_z, self.of_y = linear(config.z_dim, 200), linear(config.num_classes, 1000)
        self.joint = linear(1200, 1200)
        self.output = linear(1200, config.channels * config.resolution**2, "tanh")
        self.dropout, self.num_classes = config.dropout, config.num_classes
        for layer in (self.of_z, self.of_y, self.joint, self.output):
            nn.init.uniform_(layer.weight, -0.05, 0.05)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Pixels [N, channels * resolution^2]."""
        y = self.of_y(_one_hot(labels, self.num_classes, z))
        x = F.dropout(torch.cat([self.of_z(z), y], 1), self.dropout, self.training)
        return self.output(F.dropout(self.joint(x), self.dropout, self.training))


class CGANGenerator(PriorGenerator):
    """A generator of images of given classes.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: z [N, z_dim] and labels [N] (int64) to images [N, channels, resolution, resolution]. Gradients of two orders in
    training mode (PyTorch's batch normalisation), of any order in evaluation mode.
    """

    config: CGANConfig

    def __init__(self, config: CGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior, self.num_classes = config.z_dim, config.prior, config.num_classes
        if config.architecture == "mlp":
            self.embed = None
            self.layers: nn.Module = _MLPGenerator(config, self.reference)
        else:
            self.embed = nn.Embedding(config.num_classes, config.embed_dim)
            self.layers = UpConvs(config.z_dim + config.embed_dim, config, reference=self.reference)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of ``z`` [N, z_dim] and ``labels`` [N]."""
        self.check_inputs(z, labels)
        assert labels is not None
        if self.embed is None:
            return self.layers(z, labels).unflatten(1, self.image_shape)
        return self.layers(torch.cat([z, self.embed(labels).to(z.dtype)], 1))


class MaxoutDiscriminator(Discriminator):
    """Maxout layers for the image and for the class, one for both together, and a logit (Mirza and Osindero, section 4.1).

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] and labels [N] (int64) to logits [N, 1]. Gradients of any order.
    """

    config: CGANConfig

    def __init__(self, config: CGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.num_classes, self.dropout = config.num_classes, config.dropout
        self.of_x = Maxout(config.channels * config.resolution**2, 240, 5, self.reference)
        self.of_y = Maxout(config.num_classes, 50, 5, self.reference)
        self.joint = Maxout(290, 240, 4, self.reference)
        self.output = gk.Linear(240, 1, reference=self.reference, equalized=False)
        for layer in (self.of_x.linear, self.of_y.linear, self.joint.linear, self.output):
            nn.init.uniform_(layer.weight, -0.005, 0.005)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images`` of ``labels`` [N]."""
        self.check_inputs(images, labels)
        assert labels is not None
        x = images.flatten(1)
        x = torch.cat([self.of_x(x), self.of_y(_one_hot(labels, self.num_classes, x))], 1)
        x = self.joint(F.dropout(x, self.dropout, self.training))
        return self.output(F.dropout(x, self.dropout, self.training))


class ProjectionDiscriminator(Discriminator):
    """Spectrally normalised convolutions whose features are projected on an embedding of the class (Miyato and Koyama 2018).

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] and labels [N] (int64) to logits [N, 1]. Gradients of any order.
    """

    config: CGANConfig

    def __init__(self, config: CGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.num_classes = config.num_classes
        size = config.widths[0]
        self.layers = down_convs(config, False, self.reference)
        self.output = gk.Linear(size, 1, reference=self.reference, equalized=False)
        self.embed = nn.Embedding(config.num_classes, size)
        initialise(self.output)
        for layer in (*self.layers, self.output, self.embed):
            gk.SpectralNorm.on(layer, reference=self.reference)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images`` of ``labels`` [N]."""
        self.check_inputs(images, labels)
        features = self.layers(images).sum((2, 3))
        return self.output(features) + (self.embed(labels) * features).sum(1, keepdim=True)


def cgan_discriminator(config: CGANConfig, ops: str = "fused") -> Discriminator:
    """The discriminator of the config's architecture."""
    return (MaxoutDiscriminator if config.architecture == "mlp" else ProjectionDiscriminator)(config, ops)


register(
    Family(
        name="cgan",
        title="class-conditional: embedding, projection discriminator",
        paper="Mirza and Osindero 2014, Miyato and Koyama 2018",
        config=CGANConfig,
        generator=CGANGenerator,
        discriminator=cgan_discriminator,
        presets={
            "cgan-mnist": CGANConfig(resolution=28, channels=1, z_dim=100, prior="uniform", architecture="mlp"),
            "cgan-cifar10": CGANConfig(),
        },
        tiny=CGANConfig(resolution=16, z_dim=6, width=8, embed_dim=4, num_classes=3),
        loss="hinge",
    )
)

__all__ = ["CGANConfig", "CGANGenerator", "MaxoutDiscriminator", "ProjectionDiscriminator"]
