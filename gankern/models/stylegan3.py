"""StyleGAN3: alias-free layers on Fourier features, equivariant to translation (T) and rotation (R) (Karras et al. 2021).

Source: Karras et al., "Alias-free generative adversarial networks", 2021; sections, figures and appendices below are its. The
discriminator is StyleGAN2's. :mod:`gankern.models.equivariance` measures what the generator is made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern._dtypes import wide
from gankern.models import _canvas
from gankern.models._base import ModelConfig
from gankern.models._fourier import FourierInput, check_transform, transform_matrix
from gankern.models._registry import Family, register
from gankern.models._style import StyleConfig, StyleGenerator, as_ws
from gankern.models.stylegan2 import StyleGAN2Config, StyleGAN2Discriminator

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class StyleGAN3Config(StyleConfig):
    """Settings of StyleGAN3; the defaults are those of StyleGAN3-T at 1024 x 1024 (appendix F and section 3.2).

    StyleGAN3-R has ``radial=True``, ``conv_kernel=1`` and twice the generator's channels: 65536 and 1024.

    Attributes:
        resolution: a power of 2 of at least 16. Default 1024.
        channels: channels of the images. Default 3.
        z_dim: size of the latents z. Default 512.
        w_dim: size of the intermediate latents w. Default 512.
        num_classes: classes, 0 for none. Default 0.
        mapping_layers: layers of the mapping network. Default 2.
        mapping_lr_multiplier: factor on the mapping network's learning rate. Default 0.01.
        w_avg_beta: share of the old mean in an update of w's. Default 0.998.
        channel_base: twice the channels times the cutoff frequency, up to ``channel_max``. Default 32768.
        channel_max: most channels of a layer of the generator. Default 512.
        num_layers: layers before the output layer. Default 14.
        num_critical: how many of these, the last, are critically sampled. Default 2.
        first_cutoff: cutoff frequency of the first layer, in cycles per image. Default 2.
        first_stopband: stopband of the first layer. Default 2**2.1.
        last_stopband_rel: stopband of the last layer over its cutoff. Default 2**0.3.
        margin: pixels around the image in all layers but the last ones. Default 10.
        conv_kernel: kernel size of the convolutions. Default 3.
        filter_size: taps of the resampling filters for each step of their factor. Default 6.
        lrelu_upsampling: oversampling at the nonlinearities. Default 2.
        radial: radially symmetric filters on the way down, but for critically sampled layers. Default False.
        output_scale: factor on the images. Default 0.25.
        magnitude_ema_beta: decay of the running mean squares that layers divide their inputs by. Default 0.999.
        conv_clamp: largest magnitude of the layers' outputs, in both networks, or None. Default 256.
        num_fp16_res: how many of the highest resolutions run in float16 on GPUs, in both networks. Default 4.
        discriminator_channel_base: the discriminator's channels times resolution, up to their maximum. Default 32768.
        discriminator_channel_max: most channels of a layer of the discriminator. Default 512.
        mbstd_group: samples of a group of the discriminator's minibatch standard deviation, 0 for none of it. Default 4.
    """

    family: ClassVar[str] = "stylegan3"
    mapping_layers: int = 2
    w_avg_beta: float = 0.998
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin: int = 10
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    radial: bool = False
    output_scale: float = 0.25
    magnitude_ema_beta: float = 0.999
    conv_clamp: float | None = 256.0
    num_fp16_res: int = 4
    discriminator_channel_base: int = 32768
    discriminator_channel_max: int = 512
    mbstd_group: int = 4

    def __post_init__(self) -> None:
        self.check_resolution(16)
        self.at_least(1, "channels", "z_dim", "w_dim", "mapping_layers", "channel_max", "num_critical", "filter_size")
        self.at_least(1, "lrelu_upsampling", "discriminator_channel_max")
        self.at_least(0, "num_classes", "margin", "num_fp16_res", "mbstd_group")
        if self.num_layers <= self.num_critical:
            raise self.refuse("num_layers", f"above num_critical, {self.num_critical}")
        for name in ("channel_base", "discriminator_channel_base"):
            if getattr(self, name) < self.resolution:
                raise self.refuse(name, f"at least the resolution, {self.resolution}")
        if not 0 < self.first_cutoff < self.resolution / 2:
            raise self.refuse("first_cutoff", f"above 0 and below half the resolution, {self.resolution / 2}")
        if self.first_stopband <= self.first_cutoff:
            raise self.refuse("first_stopband", f"above first_cutoff, {self.first_cutoff}")
        if self.last_stopband_rel < 1:
            raise self.refuse("last_stopband_rel", "at least 1")
        if self.conv_kernel < 1 or self.conv_kernel % 2 == 0:
            raise self.refuse("conv_kernel", "odd")
        if not 0 <= self.magnitude_ema_beta <= 1:
            raise self.refuse("magnitude_ema_beta", "0 to 1")
        if self.conv_clamp is not None and self.conv_clamp <= 0:
            raise self.refuse("conv_clamp", "positive or None")

    def geometries(self) -> list[gk.LayerGeometry]:
        """The generator's layers, see :func:`gankern.nn.layer_geometries`; the last one is the output layer."""
        return gk.layer_geometries(
            self.resolution, self.num_layers, self.num_critical, self.first_cutoff, self.first_stopband, self.last_stopband_rel,
            self.margin, self.channel_base, self.channel_max, self.channels, self.conv_kernel, self.filter_size,
            self.lrelu_upsampling, self.radial,
        )  # fmt: skip

    def discriminator_config(self) -> StyleGAN2Config:
        """The settings of the discriminator, which is StyleGAN2's."""
        return StyleGAN2Config(
            self.resolution, self.channels, num_classes=self.num_classes, channel_base=self.discriminator_channel_base,
            channel_max=self.discriminator_channel_max, mbstd_group=self.mbstd_group, conv_clamp=self.conv_clamp,
            num_fp16_res=self.num_fp16_res,
        )  # fmt: skip


class StyleGAN3Synthesis(nn.Module):
    """StyleGAN3's images from one w for each layer (figure 4 and appendix F), on the trained canvas or any other.

    Args:
        config: settings.
        reference: run the pure PyTorch references. Default False.

    Shape: w [N, num_ws, w_dim] to [N, channels, H, W]. Gradients of any order.
    """

    def __init__(self, config: StyleGAN3Config, reference: bool = False) -> None:
        super().__init__()
        self.config = config
        geometries = config.geometries()
        first = geometries[0]
        self.num_ws = len(geometries) + 1
        self.input = FourierInput(
            first.in_channels, first.in_size, config.w_dim, first.in_rate, first.in_cutoff, reference=reference
        )
        beta = config.magnitude_ema_beta
        self.layers = nn.ModuleList(gk.AliasFreeLayer(g, config.w_dim, config.conv_clamp, beta, reference) for g in geometries)
        top = config.resolution / 2**config.num_fp16_res
        self.takes_half = [config.num_fp16_res > 0 and max(g.in_rate, g.out_rate) > top for g in geometries]

    @property
    def canvas_step(self) -> int:
        """Height and width of a canvas are multiples of this: of a pixel of the coarsest layer."""
        return _canvas.step_of([layer.geometry for layer in self._alias_free()], self.config.resolution)

    def forward(
        self,
        w: Tensor,
        transform: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        window: Window | None = None,
        update_emas: bool | None = None,
        half: bool | None = None,
    ) -> Tensor:
        """Images of ``w``.

        Args:
            w: [N, num_ws, w_dim], or [N, w_dim] for all layers.
            transform: affine map that moves what the image shows: [2, 3] or [3, 3], or with one for each sample [N, 2, 3] or
                [N, 3, 3], of (x, y, 1). The image is 1 long, with 0 in its centre, x to the right and y down. See
                :func:`transform_matrix`. Default None.
            canvas: (height, width) in pixels, multiples of :attr:`canvas_step`, to synthesise in place of the trained one; both
                have one centre and one scale. Default None: (resolution, resolution).
            window: (top, left, height, width) in pixels of the canvas: make this part alone. It is equal to that part of the
                whole but for rounding, and each layer runs on what it needs alone. Default None: all.
            update_emas: move the layers' running mean squares (appendix F). Default None: in training mode, for the trained
                canvas. With ``canvas`` or ``window`` they stay.
            half: run the config's ``num_fp16_res`` highest resolutions in float16. Default None: on GPUs, for float32
                weights outside of autocast.

        Returns:
            Images [N, channels, H, W] in float32 (float64 for float64), about in [-1, 1], not clamped.

        Raises:
            ValueError: latents, a transform, a canvas or a window that do not fit.
        """
        ws = as_ws("StyleGAN3Generator", w, self.num_ws, self.config.w_dim).unbind(1)
        check_transform(transform, w.shape[0])
        layers = self._alias_free()
        if canvas is None and window is None:
            x = self.input(ws[0], transform)
            paddings: list[list[int] | None] = [None] * len(layers)
        else:
            rows, columns = self._strips(canvas, window)
            size = self._input_canvas(canvas)
            x = self.input(ws[0], transform, size, tuple((s[0].start, s[0].stop) for s in (rows, columns)))
            paddings = [[*c.padding, *r.padding] for r, c in zip(rows, columns, strict=True)]
            update_emas = False
        if half is None:
            half = x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
        for layer, one, padding, low in zip(layers, ws[1:], paddings, self.takes_half, strict=True):
            if half:
                x = x.to(torch.float16 if low else torch.float32)
            x = layer(x, one, update_emas, padding)
        return x.to(wide(x.dtype)) * self.config.output_scale

    @torch.no_grad()
    def tiled(self, w: Tensor, canvas: tuple[int, int], tile: int = 256, transform: Tensor | None = None) -> Tensor:
        """A canvas made tile by tile, without gradients: equal to ``forward(w, transform, canvas)`` but for rounding.

        It takes memory for the result and for one tile of at most ``tile`` x ``tile`` pixels.

        Args:
            w: [N, num_ws, w_dim], or [N, w_dim] for all layers.
            canvas: (height, width) in pixels, multiples of :attr:`canvas_step`.
            tile: largest height and width of a tile. Default 256.
            transform: as for :meth:`forward`. Default None.

        Returns:
            Images [N, channels, height, width].

        Raises:
            ValueError: as :meth:`forward`; a tile below 1.
        """
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise ValueError(f"StyleGAN3Generator: tile must be an int of at least 1, got {tile!r}")
        self._strips(canvas, None)
        result: Tensor | None = None
        for top, left, height, width in _canvas.tiles(canvas, tile):
            part = self.forward(w, transform, canvas, (top, left, height, width))
            if result is None:
                result = part.new_empty((*part.shape[:2], *canvas))
            result[:, :, top : top + height, left : left + width] = part
        assert result is not None
        return result

    def _alias_free(self) -> list[gk.AliasFreeLayer]:
        return [layer for layer in self.layers if isinstance(layer, gk.AliasFreeLayer)]

    def _input_canvas(self, canvas: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width of the Fourier features of a canvas."""
        resolution = self.config.resolution
        geometries = [layer.geometry for layer in self._alias_free()]
        height, width = canvas or (resolution, resolution)
        sizes = [_canvas.sizes_along(geometries, resolution, size)[0] for size in (height, width)]
        return sizes[0], sizes[1]

    def _strips(self, canvas: tuple[int, int] | None, window: Window | None) -> tuple[list[_canvas.Strip], list[_canvas.Strip]]:
        """Rows and columns of each layer's input that a window of a canvas needs; a ValueError if they do not fit."""
        resolution, step = self.config.resolution, self.canvas_step
        canvas = (resolution, resolution) if canvas is None else canvas
        if not _ints(canvas, 2) or any(size < 1 or size % step for size in canvas):
            accepted = f"(height, width) of positive multiples of {step}"
            raise ValueError(f"StyleGAN3Generator: canvas must be {accepted}, got {canvas!r}")
        window = (0, 0, *canvas) if window is None else window
        inside = _ints(window, 4) and all(
            start >= 0 and size >= 1 and start + size <= whole
            for start, size, whole in zip(window[:2], window[2:], canvas, strict=True)
        )
        if not inside:
            accepted = f"(top, left, height, width) inside of the canvas {tuple(canvas)}"
            raise ValueError(f"StyleGAN3Generator: window must be {accepted}, got {window!r}")
        geometries = [layer.geometry for layer in self._alias_free()]
        rows, columns = (
            _canvas.strips(geometries, resolution, whole, start, start + size)
            for start, size, whole in zip(window[:2], window[2:], canvas, strict=True)
        )
        return rows, columns


def _ints(values: object, count: int) -> bool:
    given = isinstance(values, (tuple, list)) and len(values) == count
    return given and all(isinstance(v, int) and not isinstance(v, bool) for v in values)  # type: ignore[attr-defined]


class StyleGAN3Generator(StyleGenerator):
    """StyleGAN3's generator, configs T and R (Karras et al. 2021).

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Attributes:
        mapping: :class:`MappingNetwork`.
        synthesis: :class:`StyleGAN3Synthesis`; its options ``transform``, ``canvas`` and ``window`` are also those of a call.

    Shape: z [N, z_dim] (and labels [N]) to [N, channels, resolution, resolution]. Gradients of any order.
    """

    config: StyleGAN3Config

    def __init__(self, config: StyleGAN3Config, ops: str = "fused") -> None:
        super().__init__(config, ops, StyleGAN3Synthesis)


class StyleGAN3Discriminator(StyleGAN2Discriminator):
    """The discriminator of StyleGAN3: StyleGAN2's, with the settings that are about it.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.

    Shape: images [N, channels, resolution, resolution] (and labels [N]) to logits [N, 1]. Gradients of any order.
    """

    def __init__(self, config: StyleGAN3Config, ops: str = "fused") -> None:
        super().__init__(config.discriminator_config(), ops)


def _presets() -> dict[str, ModelConfig]:
    found: dict[str, ModelConfig] = {}
    for resolution in (256, 512, 1024):
        # The paper's ablations and its networks at 256 have half the channels.
        share = 2 if resolution == 256 else 1
        t = StyleGAN3Config(resolution, channel_base=32768 // share, discriminator_channel_base=32768 // share)
        found[f"stylegan3-t-{resolution}"] = t
        found[f"stylegan3-r-{resolution}"] = t.replace(
            channel_base=2 * t.channel_base, channel_max=2 * t.channel_max, conv_kernel=1, radial=True
        )
    return found


register(
    Family(
        name="stylegan3",
        title="alias-free layers on Fourier features: equivariant to translation (T) and rotation (R)",
        paper="Karras et al. 2021",
        config=StyleGAN3Config,
        generator=StyleGAN3Generator,
        discriminator=StyleGAN3Discriminator,
        presets=_presets(),
        tiny=StyleGAN3Config(
            16,
            z_dim=16,
            w_dim=16,
            channel_base=128,
            channel_max=12,
            num_layers=4,
            num_critical=1,
            margin=4,
            num_fp16_res=0,
            first_cutoff=1.5,
            first_stopband=3.0,
            discriminator_channel_base=128,
            discriminator_channel_max=12,
            mbstd_group=2,
        ),
        loss="nonsaturating",
        penalties={"r1": 10.0},
    )
)

__all__ = [
    "FourierInput",
    "StyleGAN3Config",
    "StyleGAN3Discriminator",
    "StyleGAN3Generator",
    "StyleGAN3Synthesis",
    "transform_matrix",
]
