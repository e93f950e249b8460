"""The layers of an alias-free synthesis network: rates, cutoffs, sizes, factors, taps and padding. Arithmetic, no tensors.

Karras et al., "Alias-Free Generative Adversarial Networks", 2021: section 3.2 and appendices C and F. Frequencies are in cycles
and rates in pixels per unit of length, where the image without its margin is 1 long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerGeometry:
    """One synthesis layer: what its signals can hold, and the resampling around its nonlinearity that follows from it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        in_size: height and width of the input, margin included.
        out_size: height and width of the output, margin included.
        in_rate: sampling rate of the input.
        out_rate: sampling rate of the output.
        in_cutoff: cutoff frequency of the input.
        out_cutoff: cutoff frequency of the output.
        in_half_width: half of the input filter's transition band.
        out_half_width: half of the output filter's.
        conv_kernel: height and width of the convolution's kernel. Default 3.
        filter_size: taps of a resampling filter for each step of its factor. Default 6.
        lrelu_upsampling: the nonlinearity runs at this multiple of the higher of the two rates. Default 2.
        torgb: the output layer, without resampling around its (linear) activation. Default False.
        radial: the filter of the way down is radially symmetric instead of separable. Default False.

    Shape: the layer takes [N, in_channels, in_size, in_size] to [N, out_channels, out_size, out_size].
    """

    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_rate: float
    out_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    torgb: bool = False
    radial: bool = False

    def __post_init__(self) -> None:
        for name in ("in_rate", "out_rate"):
            if self.rate % getattr(self, name):
                raise ValueError(
                    f"LayerGeometry: {name} must divide the rate of the nonlinearity, {self.rate}, got {getattr(self, name)}"
                )

    @property
    def rate(self) -> float:
        """Sampling rate at which the nonlinearity runs."""
        return max(self.in_rate, self.out_rate) * (1 if self.torgb else self.lrelu_upsampling)

    @property
    def up(self) -> int:
        """Upsampling factor before the nonlinearity."""
        return int(self.rate // self.in_rate)

    @property
    def down(self) -> int:
        """Downsampling factor behind the nonlinearity."""
        return int(self.rate // self.out_rate)

    @property
    def up_taps(self) -> int:
        """Taps of the upsampling filter along an axis; 1 is no filter."""
        return self._taps(self.up)

    @property
    def down_taps(self) -> int:
        """Taps of the downsampling filter along an axis; 1 is no filter."""
        return self._taps(self.down)

    def _taps(self, factor: int) -> int:
        return self.filter_size * factor if factor > 1 and not self.torgb else 1

    @property
    def padding(self) -> list[int]:
        """[x0, x1, y0, y1] for ``filtered_lrelu``, behind a convolution that pads with its whole kernel (kernel - 1).

        The total makes ``out_size`` come out exactly. Its split puts input and output on one centre: upsampling leaves
        ``up - 1`` zeros behind the last pixel, so that the front gets as many more.
        """
        total = (self.out_size - 1) * self.down + 1  # pixels from the first to the last that is kept
        total -= (self.in_size + self.conv_kernel - 1) * self.up
        total += self.up_taps + self.down_taps - 2
        front = (total + self.up) // 2
        return [front, total - front] * 2


def layer_geometries(
    resolution: int,
    num_layers: int = 14,
    num_critical: int = 2,
    first_cutoff: float = 2.0,
    first_stopband: float = 2**2.1,
    last_stopband_rel: float = 2**0.3,
    margin: int = 10,
    channel_base: int = 32768,
    channel_max: int = 512,
    image_channels: int = 3,
    conv_kernel: int = 3,
    filter_size: int = 6,
    lrelu_upsampling: int = 2,
    radial: bool = False,
) -> list[LayerGeometry]:
    """The layers of StyleGAN3's synthesis network: ``num_layers`` and the output layer.

    Cutoffs and stopbands grow geometrically from the first layer to the first critically sampled one, whose cutoff is the
    Nyquist frequency of the image; what lies between cutoff and stopband is room for the filters. The defaults are
    StyleGAN3-T's; StyleGAN3-R has ``conv_kernel=1, radial=True`` and twice ``channel_base`` and ``channel_max``.

    Args:
        resolution: height and width of the image, a power of two.
        num_layers: layers before the output layer. Default 14.
        num_critical: the last layers of these that are critically sampled, at least 1. Default 2.
        first_cutoff: cutoff frequency of the first layer. Default 2.
        first_stopband: stopband of the first layer. Default 2**2.1.
        last_stopband_rel: stopband of the last layer over its cutoff. Default 2**0.3.
        margin: pixels around the unit square on each side, but for the last two sizes. Default 10.
        channel_base: twice the channels times the cutoff, as long as they stay below ``channel_max``. Default 32768.
        channel_max: largest number of channels. Default 512.
        image_channels: channels of the image. Default 3.
        conv_kernel: kernel size of all but the output layer. Default 3.
        filter_size: taps for each step of a resampling factor. Default 6.
        lrelu_upsampling: oversampling at the nonlinearities. Default 2.
        radial: radially symmetric filters on the way down, but for critically sampled layers. Default False.

    Returns:
        ``num_layers + 1`` geometries; the last is the output layer.

    Raises:
        ValueError: a resolution that is no power of two, or layers of which not 1 to ``num_layers - 1`` are critical.

    Shape: layer i takes [N, in_channels, in_size, in_size] to [N, out_channels, out_size, out_size].
    """
    if resolution < 1 or resolution & (resolution - 1):
        raise ValueError(f"layer_geometries: resolution must be a power of two, got {resolution}")
    if not 1 <= num_critical < num_layers:
        raise ValueError(
            f"layer_geometries: num_critical must be 1 to num_layers - 1, got {num_critical} with num_layers {num_layers}"
        )
    last_cutoff = resolution / 2
    last_stopband = last_cutoff * last_stopband_rel
    exponents = [min(i / (num_layers - num_critical), 1.0) for i in range(num_layers + 1)]
    cutoffs = [first_cutoff * (last_cutoff / first_cutoff) ** e for e in exponents]
    stopbands = [first_stopband * (last_stopband / first_stopband) ** e for e in exponents]
    # Rounded up to a power of two, so that factors are whole numbers.
    rates = [2 ** math.ceil(math.log2(min(2 * stopband, resolution))) for stopband in stopbands]
    half_widths = [max(s, rate / 2) - c for s, rate, c in zip(stopbands, rates, cutoffs, strict=True)]
    sizes = [rate + 2 * margin for rate in rates[:-2]] + [resolution] * 2
    channels = [round(min(channel_base / 2 / cutoff, channel_max)) for cutoff in cutoffs[:-1]] + [image_channels]
    found = []
    for out in range(num_layers + 1):
        source = max(out - 1, 0)  # the network's input is a signal of the first layer's kind
        torgb = out == num_layers
        found.append(
            LayerGeometry(
                in_channels=channels[source],
                out_channels=channels[out],
                in_size=sizes[source],
                out_size=sizes[out],
                in_rate=rates[source],
                out_rate=rates[out],
                in_cutoff=cutoffs[source],
                out_cutoff=cutoffs[out],
                in_half_width=half_widths[source],
                out_half_width=half_widths[out],
                conv_kernel=1 if torgb else conv_kernel,
                filter_size=filter_size,
                lrelu_upsampling=lrelu_upsampling,
                torgb=torgb,
                radial=radial and out < num_layers - num_critical,
            )
        )
    return found
