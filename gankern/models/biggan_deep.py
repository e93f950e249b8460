"""BigGAN-deep (Brock et al. 2019, appendix B): bottleneck blocks, two a resolution, with shortcuts that lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gankern.models._registry import Family, register
from gankern.models._resnet import BOX, Layers, Projection
from gankern.models.biggan import BigGANBase, BigGANConfig, BigGANDiscriminatorBase
from gankern.nn import Downsample2d, Upsample2d


@dataclass(frozen=True)
class BigGANDeepConfig(BigGANConfig):
    """Settings of BigGAN-deep; the defaults are those of 128x128 (Brock et al. 2019, table 7).

    Attributes:
        resolution: 16, 32, 64, 128, 256 or 512 (the paper's are the last three). Default 128.
        channels: channels of the images. Default 3.
        z_dim: size of the latent, which every block gets whole. Default 128.
        num_classes: number of classes, at least 1. Default 1000.
        shared_dim: size of the class embedding that all blocks of the generator share. Default 128.
        width: channels of the narrowest layers ('ch'); bottlenecks are a quarter: a multiple of 4. Default 128.
        attention_resolution: where feature maps attend to themselves, in both networks; 0 for nowhere. Default 64.
        eps: added to variances and to the lengths in spectral normalisation. Default 1e-4.
    """

    family: ClassVar[str] = "biggan-deep"
    z_dim: int = 128
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4:
            raise self.refuse("width", "a multiple of 4: bottlenecks have a quarter of the channels")

    @property
    def chunks(self) -> int:
        """Into how many pieces the latent is cut: it is not."""
        return 1


class DeepGeneratorBlock(nn.Module):
    """Norm, ReLU, conv four times: 1x1 to a quarter of the channels, 3x3 (upsampled) twice, 1x1; the shortcut drops channels.

    Args:
        inside: channels of the input.
        outside: channels of the output, at most as many.
        up: double the resolution.
        layers: makes the convolutions.
        norm: channels to a normalisation with ReLU, called with (x, condition).

    Shape: x [N, inside, H, W] to [N, outside, H, W], or [N, outside, 2 H, 2 W] with ``up``.
    """

    def __init__(self, inside: int, outside: int, up: bool, layers: Layers, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        hidden = inside // 4
        resampling: dict[str, Any] = {"up": 2, "resample_filter": BOX} if up else {}
        self.norms = nn.ModuleList(norm(channels) for channels in (inside, hidden, hidden, hidden))
        first, second = layers.conv(inside, hidden, 1), layers.conv(hidden, hidden, 3, **resampling)
        third, last = layers.conv(hidden, hidden, 3), layers.conv(hidden, outside, 1)
        self.convs = nn.ModuleList((first, second, third, last))
        self.upsample = Upsample2d(taps=BOX, reference=layers.reference) if up else nn.Identity()
        self.outside = outside

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Apply to ``x``; ``condition`` is what the normalisations take."""
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(norm(y, condition))
        return y + self.upsample(x[:, : self.outside])


class DeepDiscriminatorBlock(nn.Module):
    """ReLU, conv four times: 1x1 to a quarter of the channels, 3x3 twice, (average pooling), 1x1; the shortcut adds channels.

    Args:
        inside: channels of the input.
        outside: channels of the output, at least as many.
        down: pool 2x2.
        layers: makes the convolutions.

    Shape: [N, inside, H, W] to [N, outside, H, W], or [N, outside, H / 2, W / 2] with ``down``.
    """

    def __init__(self, inside: int, outside: int, down: bool, layers: Layers) -> None:
        super().__init__()
        hidden = outside // 4
        self.relu = layers.relu(inside)
        self.conv1 = layers.conv(inside, hidden, 1, act="relu", gain=1.0)
        self.conv2 = layers.conv(hidden, hidden, 3, act="relu", gain=1.0)
        self.conv3 = layers.conv(hidden, hidden, 3, act="relu", gain=1.0)
        self.conv4 = layers.conv(hidden, outside, 1)
        self.pool = Downsample2d(taps=BOX, reference=layers.reference) if down else nn.Identity()
        self.shortcut = layers.conv(inside, outside - inside, 1) if outside > inside else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        y: Tensor = self.conv4(self.pool(self.conv3(self.conv2(self.conv1(self.relu(x))))))
        x = self.pool(x)
        return y + (x if self.shortcut is None else torch.cat([x, self.shortcut(x)], 1))


class BigGANDeepGenerator(BigGANBase):
    """BigGAN-deep's generator: two bottleneck blocks a resolution, each of which knows the class and the whole latent.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim] and labels [N] to images [N, channels, resolution, resolution] in [-1, 1].
    """

    config: BigGANDeepConfig

    def __init__(self, config: BigGANDeepConfig, ops: str = "fused") -> None:
        size = config.shared_dim + config.z_dim
        super().__init__(config, ops, first_dim=size, condition_dim=size)
        for i, (inside, outside) in enumerate(pairwise(self.widths)):
            self.add_stage(
                i,
                DeepGeneratorBlock(inside, inside, False, self.layers, self.make_norm),
                DeepGeneratorBlock(inside, outside, True, self.layers, self.make_norm),
            )

    def from_embedding(self, z: Tensor, embedded: Tensor) -> Tensor:
        """Images of latents and class embeddings [N, shared_dim], which may lie between classes."""
        condition = torch.cat([embedded, z.to(embedded.dtype)], 1)
        x = self.linear(condition).unflatten(1, (-1, 4, 4))
        for i, block in enumerate(self.blocks):
            x = block(x, condition)
            x = self.attentions[i // 2](x) if i % 2 else x
        return self.to_rgb(self.norm(x))  # type: ignore[no-any-return]


class BigGANDeepDiscriminator(BigGANDiscriminatorBase):
    """BigGAN-deep's discriminator: a 3x3 convolution, two bottleneck blocks a resolution, one self-attention, class projection.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, resolution, resolution] and labels [N] to logits [N, 1].
    """

    def __init__(self, config: BigGANDeepConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.blocks.append(self.layers.conv(config.channels, self.widths[0], 3))
        for i, (inside, outside) in enumerate(pairwise(self.widths)):
            first = DeepDiscriminatorBlock(inside, outside, True, self.layers)
            self.add_stage(i, outside, first, DeepDiscriminatorBlock(outside, outside, False, self.layers))
        self.output = Projection(self.widths[-1], config.num_classes, self.layers)


register(
    Family(
        name="biggan-deep",
        title="BigGAN-deep: bottleneck blocks, two a resolution",
        paper="Brock et al. 2019",
        config=BigGANDeepConfig,
        generator=BigGANDeepGenerator,
        discriminator=BigGANDeepDiscriminator,
        presets={f"biggan-deep-{resolution}": BigGANDeepConfig(resolution=resolution) for resolution in (128, 256, 512)},
        tiny=BigGANDeepConfig(resolution=16, z_dim=8, num_classes=3, shared_dim=8, width=4, attention_resolution=8),
        loss="hinge",
    )
)

__all__ = [
    "BigGANDeepConfig",
    "BigGANDeepDiscriminator",
    "BigGANDeepGenerator",
    "DeepDiscriminatorBlock",
    "DeepGeneratorBlock",
]
