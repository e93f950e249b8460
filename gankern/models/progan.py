"""ProGAN (Karras et al. 2018): networks that grow from 4x4 to 1024x1024 and fade each new resolution in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gankern.models._base import Discriminator, LatentGenerator, Model, ModelConfig
from gankern.models._registry import Family, register
from gankern.models._resnet import BOX
from gankern.nn import BiasAct, Conv2d, Downsample2d, FadeIn, Linear, MinibatchStdDev, PixelNorm, Upsample2d


@dataclass(frozen=True)
class ProGANConfig(ModelConfig):
    """Settings of ProGAN; the defaults are those of CelebA-HQ at 1024x1024 (Karras et al. 2018, table 2).

    Attributes:
        resolution: height and width of the full-grown images: a power of two, at least 4. Default 1024.
        channels: channels of the images. Default 3.
        z_dim: size of the latent. Default 512.
        channel_base: a feature map of r x r pixels has min(channel_base / r, channel_max) channels. Default 16384.
        channel_max: channels of a feature map, at most. Default 512.
        stddev_group: samples of a group for the minibatch standard deviation, at most; 0 for none. Default 4.
        stage: how far the networks are grown when they are made: images of 4 * 2^stage pixels. Default None: wholly.
        alpha: share of the newest resolution when they are made, from 0 to 1. Default 1.
    """

    family: ClassVar[str] = "progan"
    resolution: int = 1024
    z_dim: int = 512
    channel_base: int = 16384
    channel_max: int = 512
    stddev_group: int = 4
    stage: int | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.resolution & (self.resolution - 1):
            raise self.refuse("resolution", "a power of two, at least 4")
        self.at_least(1, "channels", "z_dim", "channel_max")
        if self.channel_base < self.resolution:
            raise self.refuse("channel_base", f"at least the resolution {self.resolution}: one channel there")
        if self.stddev_group < 0:
            raise self.refuse("stddev_group", "at least 0")
        if self.stage is not None and not 0 <= self.stage <= self.last_stage:
            raise self.refuse("stage", f"None or from 0 to {self.last_stage}")
        if not 0 <= self.alpha <= 1:
            raise self.refuse("alpha", "from 0 to 1")

    @property
    def last_stage(self) -> int:
        """The stage of the full resolution."""
        return self.resolution.bit_length() - 3

    def width(self, stage: int) -> int:
        """Channels of the feature maps of a stage."""
        return min(self.channel_base // (4 << stage), self.channel_max)


class Growing(Model):
    """A network of which only the layers up to a stage are used: images of 4 * 2^stage pixels.

    All layers exist from the start, so that optimizers, averaged copies and checkpoints stay as they are when it grows; those
    that are not used get no gradients (DistributedDataParallel: find_unused_parameters=True until it is full-grown). Stage and
    alpha are buffers: a state_dict brings them back; an averaged copy that copies tensors only has to :meth:`grow` itself.
    torch.compile compiles anew for each stage, and once when fading ends.

    Attributes:
        stage: how far it is grown.
    """

    config: ProGANConfig
    level: Tensor

    def __init__(self, config: ProGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.stage = config.last_stage if config.stage is None else config.stage
        self.register_buffer("level", torch.tensor(self.stage))
        self.fade = FadeIn(config.alpha, reference=self.reference)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of this stage."""
        return self.config.channels, 4 << self.stage, 4 << self.stage

    @property
    def alpha(self) -> float:
        """Share of the newest resolution in the images (reading it waits for a GPU; setting it does not)."""
        return self.fade.alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self.fade.set_alpha(value)

    @property
    def fading(self) -> bool:
        """Whether the resolution before counts, too."""
        return self.stage > 0 and self.fade.fading

    def grow(self, alpha: float = 0.0) -> None:
        """Go to the next stage: images of twice the size.

        Args:
            alpha: its share at first; set :attr:`alpha` during training, up to 1. Default 0.

        Raises:
            ValueError: the network is full-grown, or ``alpha`` is not from 0 to 1.
        """
        if self.stage == self.config.last_stage:
            raise ValueError(f"{type(self).__name__}: it is full-grown, at {self.config.resolution}x{self.config.resolution}")
        self.fade.set_alpha(alpha)
        self.stage += 1
        self.level.fill_(self.stage)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.level.device.type != "meta":
            self.stage = int(self.level)


class _FirstLayer(nn.Module):
    """The latent, 1x1, through a 4x4 convolution to 4x4: a matrix product; then bias, leaky ReLU, pixel norm."""

    def __init__(self, z_dim: int, channels: int, reference: bool) -> None:
        super().__init__()
        # He's constant of the convolution counts its 16 taps: a quarter of the matrix product's.
        self.linear = Linear(z_dim, channels * 16, bias=False, gain=0.25, reference=reference)
        self.bias = BiasAct(channels, "lrelu", reference=reference)

    def forward(self, z: Tensor) -> Tensor:
        return self.bias(self.linear(z).unflatten(1, (-1, 4, 4)))  # type: ignore[no-any-return]


class ProGANGenerator(Growing, LatentGenerator):
    """ProGAN's generator: nearest upsampling and two 3x3 convolutions a stage, leaky ReLU and pixel norm behind each.

    Equalised learning rate throughout; the factor sqrt(2) of He's initialisation is behind the leaky ReLU. Upsampling and the
    convolution behind it are one operation. The latent is normalised first; there is no activation on the images.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim] to images [N, channels, 4 * 2^stage, 4 * 2^stage].
    """

    def __init__(self, config: ProGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim = config.z_dim
        reference = self.reference
        widths = [config.width(stage) for stage in range(config.last_stage + 1)]
        self.latent_norm = PixelNorm(reference=reference)
        self.blocks = nn.ModuleList()
        for stage, width in enumerate(widths):
            if stage == 0:
                first: nn.Module = _FirstLayer(config.z_dim, width, reference)
            else:
                first = Conv2d(widths[stage - 1], width, 3, act="lrelu", up=2, resample_filter=BOX, reference=reference)
            second = Conv2d(width, width, 3, act="lrelu", reference=reference)
            self.blocks.append(nn.Sequential(first, PixelNorm(reference=reference), second, PixelNorm(reference=reference)))
        self.to_rgb = nn.ModuleList(Conv2d(width, config.channels, 1, reference=reference) for width in widths)
        self.upsample = Upsample2d(taps=BOX, reference=reference)

    def forward(self, z: Tensor, labels: None = None) -> Tensor:
        """Images of the latents ``z`` [N, z_dim], at the resolution of the stage."""
        self.check_inputs(z, labels)
        x = old = self.latent_norm(z)
        for stage in range(self.stage + 1):
            old, x = x, self.blocks[stage](x)
        images = self.to_rgb[self.stage](x)
        if not self.fading:
            return images  # type: ignore[no-any-return]
        return self.fade(self.upsample(self.to_rgb[self.stage - 1](old)), images)  # type: ignore[no-any-return]


class ProGANDiscriminator(Growing, Discriminator):
    """ProGAN's discriminator: two 3x3 convolutions and 2x2 average pooling a stage; minibatch standard deviation at 4x4.

    Equalised learning rate throughout; leaky ReLU; no normalisation. Beside the gradient penalty the paper's loss has a drift
    term, 0.001 times the mean of the squared logits of real images. Without ``stddev_group`` and without fading it qualifies
    for the merged gradient of :class:`gankern.losses.PenalizedStep`.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, 4 * 2^stage, 4 * 2^stage] to logits [N, 1].
    """

    def __init__(self, config: ProGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        reference = self.reference
        widths = [config.width(stage) for stage in range(config.last_stage + 1)]
        self.from_rgb = nn.ModuleList(Conv2d(config.channels, width, 1, act="lrelu", reference=reference) for width in widths)
        last: list[nn.Module] = []
        if config.stddev_group:
            last.append(MinibatchStdDev(config.stddev_group, reference=reference))
        last += [
            Conv2d(widths[0] + len(last), widths[0], 3, act="lrelu", reference=reference),
            Conv2d(widths[0], widths[0], 4, padding=0, act="lrelu", reference=reference),
            nn.Flatten(),
            Linear(widths[0], 1, reference=reference),
        ]
        self.blocks = nn.ModuleList([nn.Sequential(*last)])
        for stage in range(1, len(widths)):
            first = Conv2d(widths[stage], widths[stage], 3, act="lrelu", reference=reference)
            second = Conv2d(widths[stage], widths[stage - 1], 3, act="lrelu", reference=reference)
            self.blocks.append(nn.Sequential(first, second, Downsample2d(taps=BOX, reference=reference)))
        self.downsample = Downsample2d(taps=BOX, reference=reference)

    def forward(self, images: Tensor, labels: None = None) -> Tensor:
        """Logits [N, 1] of ``images`` of the resolution of the stage."""
        self.check_inputs(images, labels)
        x = self.blocks[self.stage](self.from_rgb[self.stage](images))
        if self.fading:
            x = self.fade(self.from_rgb[self.stage - 1](self.downsample(images)), x)
        for stage in reversed(range(self.stage)):
            x = self.blocks[stage](x)
        return x  # type: ignore[no-any-return]


register(
    Family(
        name="progan",
        title="ProGAN: progressive growing and fade-in",
        paper="Karras et al. 2018",
        config=ProGANConfig,
        generator=ProGANGenerator,
        discriminator=ProGANDiscriminator,
        presets={f"progan-{resolution}": ProGANConfig(resolution=resolution) for resolution in (128, 256, 512, 1024)},
        tiny=ProGANConfig(resolution=16, z_dim=8, channel_base=128, channel_max=16, alpha=0.5),
        loss="wasserstein",
        penalties={"wgan_gp": 10.0},
    )
)

__all__ = ["Growing", "ProGANConfig", "ProGANDiscriminator", "ProGANGenerator"]
