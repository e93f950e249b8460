"""StyleGAN: a mapping network, and synthesis from a constant by noise, bias, leaky ReLU and AdaIN (Karras et al. 2019).

Source: Karras, Laine, Aila, "A style-based generator architecture for generative adversarial networks", 2019. Both networks are
the grown ones, of the full resolution; those of lower resolutions are other configs.

Bilinear resampling is the paper's: nearest neighbour upsampling (or 2x2 means) and the binomial filter [1, 2, 1] are together
the filter [1, 3, 3, 1], which :func:`gankern.ops.conv2d_resample` applies beside the convolution. Away from the borders that is
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern._dtypes import wide
from gankern.models._registry import Family, register
from gankern.models._style import PyramidConfig, StyleDiscriminator, StyleGenerator, as_ws

NOISE_MODES = ("random", "const", "none")


@dataclass(frozen=True)
class StyleGANConfig(PyramidConfig):
    """Settings of StyleGAN; the defaults are configuration F at 1024 x 1024 (Karras et al. 2019, table 1, appendix C).

    Attributes:
        resolution: a power of 2 of at least 8. Default 1024.
        channels: channels of the images. Default 3.
        z_dim: size of the latents z. Default 512.
        w_dim: size of the intermediate latents w. Default 512.
        num_classes: classes, 0 for none. Default 0.
        mapping_layers: layers of the mapping network. Default 8.
        mapping_lr_multiplier: factor on the mapping network's learning rate. Default 0.01.
        w_avg_beta: share of the old mean in an update of w's. Default 0.995.
        channel_base: channels times resolution, up to ``channel_max``. Default 16384.
        channel_max: most channels of a layer. Default 512.
        use_noise: add noise, of a learned strength that is 0 at first. Default True.
        noise_per_channel: a strength for each channel, as in the paper, which is a pass over memory of its own; False is one
            for each layer, as in StyleGAN2, in the same pass as bias, activation and AdaIN. Default True.
        mbstd_group: samples of a group of minibatch standard deviation, 0 for none of it. Default 4.
        mbstd_channels: its extra channels. Default 1.
    """

    family: ClassVar[str] = "stylegan"
    channel_base: int = 16384
    use_noise: bool = True
    noise_per_channel: bool = True
    mbstd_group: int = 4
    mbstd_channels: int = 1

    def __post_init__(self) -> None:
        self.check_resolution(8)
        self.at_least(1, "channels", "z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max", "mbstd_channels")
        self.at_least(0, "num_classes", "mbstd_group")
        self.check_channels(self.mbstd_group, self.mbstd_channels)


class StyleGANLayer(nn.Module):
    """StyleGAN's synthesis layer: convolution, noise, bias, leaky ReLU, AdaIN (Karras et al. 2019, figure 1b).

    Args:
        in_channels: channels of the input; 0 for the first layer, which has no convolution.
        resolution: height and width of the output.
        up: upsampling factor.
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: x [N, in_channels, resolution / up, resolution / up] and w [N, w_dim] to [N, width, resolution, resolution].
    Gradients of any order.
    """

    noise_const: Tensor | None

    def __init__(self, in_channels: int, resolution: int, up: int, config: StyleGANConfig, reference: bool = False) -> None:
        super().__init__()
        width = config.width(resolution)
        self.conv = gk.Conv2d(in_channels, width, 3, bias=False, up=up, reference=reference) if in_channels else None
        per_channel = config.use_noise and config.noise_per_channel
        self.noise_strength = nn.Parameter(torch.zeros(width)) if per_channel else None
        self.epilogue = gk.StyleEpilogue(width, config.w_dim, config.use_noise and not per_channel, reference=reference)
        self.register_buffer("noise_const", torch.randn(resolution, resolution) if config.use_noise else None)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        """Apply to ``x`` with latent ``w`` [N, w_dim]; ``noise_mode`` as for :class:`SynthesisNetwork`."""
        if self.conv is not None:
            x = self.conv(x)
        if self.noise_const is None or noise_mode == "none":
            return self.epilogue.normalised(x, w, pre_bias=self.epilogue.bias, pre_act=self.epilogue.pre_act)
        noise = self.noise_const[None, None]
        if noise_mode == "random":
            noise = torch.randn((x.shape[0], 1, *x.shape[2:]), dtype=noise.dtype, device=x.device)
        if self.noise_strength is None:
            return self.epilogue(x, w, noise)
        # The kernel's noise has one strength; one for each channel is added before it.
        x = torch.addcmul(x, noise.to(x.dtype), self.noise_strength.to(x.dtype)[:, None, None])
        return self.epilogue(x, w)


class SynthesisNetwork(nn.Module):
    """StyleGAN's images from one w for each layer (Karras et al. 2019, figure 1b).

    Args:
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: w [N, num_ws, w_dim] to [N, channels, resolution, resolution]. Gradients of any order.
    """

    def __init__(self, config: StyleGANConfig, reference: bool = False) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.ones(1, config.width(4), 4, 4))
        layers, below = [], 0
        for resolution in config.resolutions:
            width = config.width(resolution)
            layers += [
                StyleGANLayer(below, resolution, 1 if resolution == 4 else 2, config, reference),
                StyleGANLayer(width, resolution, 1, config, reference),
            ]
            below = width
        self.layers = nn.ModuleList(layers)
        self.to_rgb = gk.Conv2d(below, config.channels, 1, reference=reference)
        self.num_ws, self.w_dim = len(layers), config.w_dim

    def forward(self, w: Tensor, noise_mode: str = "random") -> Tensor:
        """Images of ``w``.

        Args:
            w: [N, num_ws, w_dim], or [N, w_dim] for all layers.
            noise_mode: 'random' draws noise anew, 'const' takes the layers' own, 'none' leaves it out. Default 'random'.

        Returns:
            Images [N, channels, resolution, resolution] in float32 (float64 for float64), about in [-1, 1], not clamped.

        Raises:
            ValueError: latents of another shape, or another noise mode.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"StyleGANGenerator: noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        ws = as_ws("StyleGANGenerator", w, self.num_ws, self.w_dim).unbind(1)
        x = self.const.expand(w.shape[0], -1, -1, -1)
        for layer, own in zip(self.layers, ws, strict=True):
            x = layer(x, own, noise_mode)
        image: Tensor = self.to_rgb(x)
        return image.to(wide(image.dtype))


class StyleGANGenerator(StyleGenerator):
    """StyleGAN's generator (Karras et al. 2019).

    The paper's images have ``truncation=0.7`` with ``truncation_cutoff=8``.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Attributes:
        mapping: :class:`MappingNetwork`.
        synthesis: :class:`SynthesisNetwork`.

    Shape: z [N, z_dim] (and labels [N]) to [N, channels, resolution, resolution]. Gradients of any order.
    """

    config: StyleGANConfig

    def __init__(self, config: StyleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops, SynthesisNetwork)


class StyleGANDiscriminator(StyleDiscriminator):
    """StyleGAN's discriminator: ProGAN's, with bilinear downsampling (Karras et al. 2018, 2019).

    With classes it has a logit for each and gives that of the label. With ``mbstd_group=0`` and no classes it qualifies for
    :class:`gankern.losses.PenalizedStep`.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Shape: images [N, channels, resolution, resolution] (and labels [N]) to logits [N, 1]. Gradients of any order.
    """

    config: StyleGANConfig

    def __init__(self, config: StyleGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        reference = self.reference
        self.num_classes = config.num_classes
        self.from_rgb = gk.Conv2d(config.channels, config.width(config.resolution), 1, act="lrelu", reference=reference)
        layers = []
        for resolution in config.resolutions[:0:-1]:
            width, below = config.width(resolution), config.width(resolution // 2)
            layers += [
                gk.Conv2d(width, width, 3, act="lrelu", reference=reference),
                gk.Conv2d(width, below, 3, act="lrelu", down=2, reference=reference),
            ]
        self.layers = nn.Sequential(*layers)
        self.make_end(config.width(4), max(config.num_classes, 1), config.mbstd_group, config.mbstd_channels)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images`` [N, channels, resolution, resolution], of ``labels`` int64 [N] where there are classes.

        Raises:
            ValueError: images or labels that do not fit.
        """
        self.check_inputs(images, labels)
        y = self.end(self.layers(self.from_rgb(images)))
        return y if labels is None else y.gather(1, labels[:, None])


register(
    Family(
        name="stylegan",
        title="mapping network, constant input, noise and AdaIN, style mixing, truncation",
        paper="Karras et al. 2019",
        config=StyleGANConfig,
        generator=StyleGANGenerator,
        discriminator=StyleGANDiscriminator,
        presets={f"stylegan-{r}": StyleGANConfig(resolution=r) for r in (256, 512, 1024)},
        tiny=StyleGANConfig(
            resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16, mbstd_group=2
        ),
        loss="nonsaturating",
        penalties={"r1": 10.0},
    )
)

__all__ = ["StyleGANConfig", "StyleGANDiscriminator", "StyleGANGenerator"]
