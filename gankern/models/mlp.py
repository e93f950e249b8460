"""The first GAN: fully connected networks, maxout in the discriminator (Goodfellow et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, ModelConfig
from gankern.models._prior import PriorGenerator, check_prior
from gankern.models._registry import Family, register


@dataclass(frozen=True)
class MLPConfig(ModelConfig):
    """Settings of the fully connected GAN; defaults are those of the paper's MNIST experiment, as its authors published them.

    The paper's section 5 has the kinds of layers (rectifiers and sigmoid in the generator, maxout and dropout in the
    discriminator), the authors' settings beside it have the sizes.

    Attributes:
        resolution: height and width of the images, at least 1. Default 28.
        channels: channels of the images. Default 1.
        z_dim: size of the latents. Default 100.
        hidden: units of each of the generator's two hidden layers. Default 1200.
        second_act: activation of the second one: 'relu', or 'sigmoid' as in the CIFAR-10 network. Default 'relu'.
        output_act: 'tanh' or 'linear'. Default 'tanh': the paper's sigmoid for images in [-1, 1] instead of [0, 1].
        output_range: the generator's last weights start uniformly within plus or minus this; the others' range is 0.05.
            Default 0.05.
        maxout_units: units of each of the discriminator's two hidden layers. Default 240.
        maxout_pieces: linear pieces of each unit. Default 5.
        dropout: share of hidden units that is dropped in the discriminator's training. Default 0.5.
        input_dropout: the same for the images' values. Default 0.2.
        prior: 'uniform' or 'normal' latents. Default 'uniform'.
    """

    family: ClassVar[str] = "gan"
    resolution: int = 28
    channels: int = 1
    z_dim: int = 100
    hidden: int = 1200
    second_act: str = "relu"
    output_act: str = "tanh"
    output_range: float = 0.05
    maxout_units: int = 240
    maxout_pieces: int = 5
    dropout: float = 0.5
    input_dropout: float = 0.2
    prior: str = "uniform"

    def __post_init__(self) -> None:
        self.at_least(1, "resolution", "channels", "z_dim", "hidden", "maxout_units", "maxout_pieces")
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise self.refuse(name, "from 0 to below 1")
        if self.second_act not in ("relu", "sigmoid"):
            raise self.refuse("second_act", "'relu' or 'sigmoid'")
        if self.output_act not in ("tanh", "linear"):
            raise self.refuse("output_act", "'tanh' or 'linear'")
        if self.output_range <= 0:
            raise self.refuse("output_range", "positive")
        check_prior(self, self.prior)


class Maxout(nn.Module):
    """Units that are each the largest of several linear functions of the input (Goodfellow et al. 2013, "Maxout networks").

    Args:
        in_features: size of the input's last dimension.
        units: size of the output's.
        pieces: linear functions of each unit.
        reference: run the pure PyTorch reference of the linear layer's epilogue. Default False.

    Shape: [..., in_features] to [..., units]. Gradients of any order.
    """

    def __init__(self, in_features: int, units: int, pieces: int, reference: bool = False) -> None:
        super().__init__()
        self.linear = gk.Linear(in_features, units * pieces, equalized=False, reference=reference)
        self.shape = (units, pieces)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [..., in_features]."""
        return self.linear(x).unflatten(-1, self.shape).amax(-1)


class MLPGenerator(PriorGenerator):
    """Two hidden layers of rectifiers, and an output layer.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: z [N, z_dim] to images [N, channels, resolution, resolution]. Gradients of any order.
    """

    config: MLPConfig

    def __init__(self, config: MLPConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior = config.z_dim, config.prior
        pixels = config.channels * config.resolution**2
        self.layers = nn.Sequential()
        for name, size, out, act in (
            ("hidden1", config.z_dim, config.hidden, "relu"),
            ("hidden2", config.hidden, config.hidden, config.second_act),
            ("output", config.hidden, pixels, config.output_act),
        ):
            layer = gk.Linear(size, out, act=act, gain=1.0, reference=self.reference, equalized=False)
            bound = config.output_range if name == "output" else 0.05
            nn.init.uniform_(layer.weight, -bound, bound)
            self.layers.add_module(name, layer)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of ``z`` [N, z_dim]; ``labels`` must be None."""
        return super().forward(z, labels).unflatten(1, self.image_shape)


class MLPDiscriminator(Discriminator):
    """Two hidden layers of maxout units with dropout before each layer, which is active in training mode only.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch.

    Shape: images [N, channels, resolution, resolution] to logits [N, 1]. Gradients of any order.
    """

    config: MLPConfig

    def __init__(self, config: MLPConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        units, pieces = config.maxout_units, config.maxout_pieces
        self.hidden1 = Maxout(config.channels * config.resolution**2, units, pieces, self.reference)
        self.hidden2 = Maxout(units, units, pieces, self.reference)
        self.output = gk.Linear(units, 1, reference=self.reference, equalized=False)
        for layer in (self.hidden1.linear, self.hidden2.linear, self.output):
            nn.init.uniform_(layer.weight, -0.005, 0.005)
        self.dropout, self.input_dropout = config.dropout, config.input_dropout

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images``; ``labels`` must be None."""
        self.check_inputs(images, labels)
        x = self.hidden1(F.dropout(images.flatten(1), self.input_dropout, self.training))
        x = self.hidden2(F.dropout(x, self.dropout, self.training))
        return self.output(F.dropout(x, self.dropout, self.training))


register(
    Family(
        name="gan",
        title="fully connected networks, maxout discriminator",
        paper="Goodfellow et al. 2014",
        config=MLPConfig,
        generator=MLPGenerator,
        discriminator=MLPDiscriminator,
        presets={
            "gan-mnist": MLPConfig(),
            "gan-cifar10": MLPConfig(
                resolution=32,
                channels=3,
                hidden=8000,
                second_act="sigmoid",
                output_act="linear",
                output_range=0.5,
                maxout_units=1600,
            ),
        },
        tiny=MLPConfig(resolution=8, z_dim=6, hidden=24, maxout_units=8, maxout_pieces=3),
        # Algorithm 1 has the minimax loss; section 3 prefers this one for its gradients early in training.
        loss="nonsaturating",
    )
)

__all__ = ["MLPConfig", "MLPDiscriminator", "MLPGenerator", "Maxout"]
