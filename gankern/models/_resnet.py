"""Residual blocks of SN-GAN and BigGAN, and how both make their layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gankern.nn import BiasAct, Conv2d, Downsample2d, Linear, SpectralNorm, Upsample2d

BOX = (1, 1)
"""Taps of nearest-neighbour upsampling by 2 and of 2x2 average pooling."""


@dataclass(frozen=True)
class Layers:
    """Makes layers with plain weights, initialised and spectrally normalised as a family wants them.

    Attributes:
        init: (weight, gain) fills the weight.
        eps: smallest length in the power iteration; None for no spectral normalisation.
        reference: run plain PyTorch.
    """

    init: Callable[[Tensor, float], Any]
    eps: float | None
    reference: bool

    def finished(self, module: nn.Module, init_gain: float = 1.0) -> nn.Module:
        """The module with its weight initialised, its bias 0, and spectral normalisation on it."""
        self.init(module.weight, init_gain)  # type: ignore[arg-type]
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.eps is None:
            return module
        return SpectralNorm.on(module, eps=self.eps, reference=self.reference)

    def conv(self, inside: int, outside: int, kernel_size: int, init_gain: float = 1.0, **settings: Any) -> nn.Module:
        """A convolution; ``init_gain`` is for ``init``."""
        module = Conv2d(inside, outside, kernel_size, equalized=False, reference=self.reference, **settings)
        return self.finished(module, init_gain)

    def linear(self, inside: int, outside: int, **settings: Any) -> nn.Module:
        """A fully connected layer."""
        return self.finished(Linear(inside, outside, equalized=False, reference=self.reference, **settings))

    def embedding(self, classes: int, size: int) -> nn.Module:
        """A vector for each class."""
        return self.finished(nn.Embedding(classes, size))

    def relu(self, channels: int) -> nn.Module:
        """A rectifier without bias."""
        return BiasAct(channels, "relu", bias=False, gain=1.0, reference=self.reference)


class GeneratorBlock(nn.Module):
    """Norm, ReLU, 2x nearest upsampling, conv, norm, ReLU, conv; beside it upsampling and a 1x1 convolution.

    Upsampling and the first convolution are one operation; the 1x1 convolution comes before its upsampling, which changes
    nothing but the cost.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        layers: makes the convolutions.
        norm: channels to a normalisation with ReLU, called with (x, *condition).

    Shape: [N, inside, H, W] to [N, outside, 2 H, 2 W].
    """

    def __init__(self, inside: int, outside: int, layers: Layers, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = norm(inside)
        self.conv1 = layers.conv(inside, outside, 3, math.sqrt(2), up=2, resample_filter=BOX)
        self.norm2 = norm(outside)
        self.conv2 = layers.conv(outside, outside, 3, math.sqrt(2))
        self.shortcut = layers.conv(inside, outside, 1)
        self.upsample = Upsample2d(taps=BOX, reference=layers.reference)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Apply to ``x``; ``condition`` is what the normalisations take."""
        y = self.conv2(self.norm2(self.conv1(self.norm1(x, *condition)), *condition))
        return y + self.upsample(self.shortcut(x))


class DiscriminatorBlock(nn.Module):
    """ReLU, conv, ReLU, conv, 2x2 average pooling; beside it a 1x1 convolution and pooling.

    The last convolution and the pooling are one operation; beside it pooling comes first, which changes nothing but the cost.

    Args:
        inside: channels of the input.
        outside: channels of the output.
        hidden: channels between the convolutions.
        layers: makes the convolutions.
        down: pool. Without, and with as many channels outside as inside, the shortcut is the input itself.
        first: the input is images: no ReLU before the first convolution.

    Shape: [N, inside, H, W] to [N, outside, H / 2, W / 2], or [N, outside, H, W] without ``down``.
    """

    def __init__(self, inside: int, outside: int, hidden: int, layers: Layers, down: bool, first: bool = False) -> None:
        super().__init__()
        self.relu = nn.Identity() if first else layers.relu(inside)
        self.conv1 = layers.conv(inside, hidden, 3, math.sqrt(2), act="relu", gain=1.0)
        resampling: dict[str, Any] = {"down": 2, "resample_filter": BOX} if down else {}
        self.conv2 = layers.conv(hidden, outside, 3, math.sqrt(2), **resampling)
        self.pool = Downsample2d(taps=BOX, reference=layers.reference) if down else nn.Identity()
        self.shortcut = layers.conv(inside, outside, 1) if down or inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        return self.conv2(self.conv1(self.relu(x))) + self.shortcut(self.pool(x))  # type: ignore[no-any-return]


class Projection(nn.Module):
    """The end of a projection discriminator: ReLU, sum over pixels, and a logit of features and class (Miyato & Koyama 2018).

    ``logit = linear(h) + <embedding(label), h>``.

    Args:
        channels: channels of the input.
        num_classes: number of classes; 0 for the linear part alone.
        layers: makes the layers.

    Shape: x [N, channels, H, W] and labels [N] to [N, 1].
    """

    def __init__(self, channels: int, num_classes: int, layers: Layers) -> None:
        super().__init__()
        self.relu = layers.relu(channels)
        self.linear = layers.linear(channels, 1)
        self.embedding = layers.embedding(num_classes, channels) if num_classes else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of ``x``."""
        features = self.relu(x).sum((2, 3))
        logits: Tensor = self.linear(features)
        if self.embedding is None:
            return logits
        return logits + (self.embedding(labels) * features).sum(1, keepdim=True)


__all__ = ["BOX", "DiscriminatorBlock", "GeneratorBlock", "Layers", "Projection"]
