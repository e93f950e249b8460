"""StyleGAN3's layers: the leaky ReLU between an upsampling and a downsampling filter, and the synthesis layer around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern import _validate, ops
from gankern._dtypes import wide
from gankern.nn.bias_act import Linear
from gankern.nn.filters import lowpass_filter
from gankern.nn.resample import Taps
from gankern.ops.filtered_lrelu.geometry import LayerGeometry
from gankern.ops.filtered_lrelu.reference import filtered_lrelu_reference
from gankern.ops.modulated_conv2d.reference import modulated_conv2d_reference


class FilteredLReLU(nn.Module):
    """Bias, upsampling filter, leaky ReLU, gain, clamp and downsampling filter in one pass: the nonlinearity without aliasing.

    A leaky ReLU makes frequencies that the sampling rate cannot hold. Here it runs at ``up`` times the rate, and a low-pass
    filter removes them before every ``down``-th pixel is kept (Karras et al. 2021). See :func:`lowpass_filter` for taps.

    Args:
        channels: channels of the input.
        up: upsampling factor, an int or [x, y]. Default 2.
        down: downsampling factor, an int or [x, y]. Default 2.
        up_filter: taps with a sum of 1, [taps] acting along both axes or [taps_y, taps_x], or None for one tap. Default None.
        down_filter: likewise, of the way down. Default None.
        padding: pixels of the upsampled image: an int, [x, y] or [x0, x1, y0, y1], may be negative. Default None: input and
            output are concentric, and the size is that of the input * up / down.
        bias: have a bias, 0 at first. Default True.
        gain: factor behind the leaky ReLU. Default sqrt(2).
        slope: factor on negative values. Default 0.2.
        clamp: largest magnitude behind the gain, or None. Default None.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, channels, H, W] to [N, channels, H * up / down, W * up / down] for sizes that divide. Gradients of any order.
    """

    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(
        self,
        channels: int,
        up: int | Sequence[int] = 2,
        down: int | Sequence[int] = 2,
        up_filter: Taps = None,
        down_filter: Taps = None,
        padding: int | Sequence[int] | None = None,
        bias: bool = True,
        gain: float = math.sqrt(2),
        slope: float = 0.2,
        clamp: float | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        ups, downs = _validate.factors(owner, "up", up), _validate.factors(owner, "down", down)
        # Not persistent: the taps are part of the architecture, as the factors are, and checkpoints stay exchangeable.
        self.register_buffer("up_filter", _taps(up_filter), persistent=False)
        self.register_buffer("down_filter", _taps(down_filter), persistent=False)
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        if padding is None:
            padding = _concentric(ups, downs, self.up_filter, self.down_filter)
        self.arguments: dict[str, Any] = {"up": list(ups), "down": list(downs), "padding": padding}
        self.arguments |= {"gain": gain, "slope": slope, "clamp": clamp}
        self.reference = reference

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # module.half() must not round taps or statistics: kernels take them in float32 whatever the images are.
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def forward(self, x: Tensor, padding: Sequence[int] | None = None) -> Tensor:
        """Apply to ``x`` [N, channels, H, W], with another ``padding`` than the module's if one is given."""
        run = filtered_lrelu_reference if self.reference else ops.filtered_lrelu
        arguments = self.arguments if padding is None else {**self.arguments, "padding": padding}
        return run(x, self.up_filter, self.down_filter, self.bias, **arguments)

    def extra_repr(self) -> str:
        """Taps, factors and the rest for print(module)."""
        shapes = {name: "x".join(map(str, f.shape)) for name, f in self._buffers.items() if f is not None and f.dim()}
        parts = [*(f"{k}={v}" for k, v in shapes.items()), *(f"{k}={v}" for k, v in self.arguments.items())]
        return ", ".join(parts) + f", bias={self.bias is not None}" + (", reference=True" if self.reference else "")


def _taps(f: Taps) -> Tensor | None:
    """Taps with a sum of 1; 1-D ones stay so, since the operator takes them for separable."""
    return None if f is None else ops.setup_filter(f, separable=torch.as_tensor(f).dim() < 2)


def _concentric(up: tuple[int, int], down: tuple[int, int], fu: Tensor | None, fd: Tensor | None) -> list[int]:
    """[x0, x1, y0, y1] that keep the size but for the factors, and the centre: see LayerGeometry.padding."""
    found = []
    for axis in (0, 1):  # x, which is the last dimension of the taps, then y
        total = (1 if fu is None else fu.shape[-1 - axis % fu.dim()]) + (1 if fd is None else fd.shape[-1 - axis % fd.dim()])
        total -= 1 + down[axis]
        front = (total + up[axis]) // 2
        found += [front, total - front]
    return found


class AliasFreeLayer(FilteredLReLU):
    """StyleGAN3's synthesis layer: modulated convolution at unit input magnitude, and the filtered leaky ReLU.

    Sizes, factors, filters and padding follow from the geometry of the layer, see :func:`layer_geometries`. A geometry with
    ``torgb`` makes the output layer: no demodulation, weights scaled by 1 / sqrt(fan in), and no activation but the clamp.

    Args:
        geometry: the layer's channels, sizes, sampling rates and cutoffs.
        style_dim: size of the latent vector w.
        clamp: largest magnitude of the activation, or None. Default 256.
        magnitude_ema_beta: decay of the running mean square of the input, whose root the input is divided by. Default 0.999.
        reference: run the pure PyTorch reference. Default False.

    Shape: x [N, in_channels, in_size, in_size] and w [N, style_dim] to [N, out_channels, out_size, out_size]. Gradients of any
    order; none through the running mean square.
    """

    magnitude_ema: Tensor

    def __init__(
        self,
        geometry: LayerGeometry,
        style_dim: int,
        clamp: float | None = 256.0,
        magnitude_ema_beta: float = 0.999,
        reference: bool = False,
    ) -> None:
        if not 0 <= magnitude_ema_beta <= 1:
            raise ValueError(f"{type(self).__name__}: magnitude_ema_beta must be 0 to 1, got {magnitude_ema_beta}")
        g = geometry
        super().__init__(
            g.out_channels,
            up=g.up,
            down=g.down,
            up_filter=lowpass_filter(g.up_taps, g.in_cutoff, 2 * g.in_half_width, g.rate),
            down_filter=lowpass_filter(g.down_taps, g.out_cutoff, 2 * g.out_half_width, g.rate, g.radial),
            padding=g.padding,
            gain=1.0 if g.torgb else math.sqrt(2),
            slope=1.0 if g.torgb else 0.2,
            clamp=clamp,
            reference=reference,
        )
        self.geometry = geometry
        self.weight = nn.Parameter(torch.randn(g.out_channels, g.in_channels, g.conv_kernel, g.conv_kernel))
        self.affine = Linear(style_dim, g.in_channels, bias_init=1.0, reference=reference)
        self.magnitude_ema_beta = magnitude_ema_beta
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(  # type: ignore[override]
        self, x: Tensor, w: Tensor, update_ema: bool | None = None, padding: Sequence[int] | None = None
    ) -> Tensor:
        """Apply to ``x`` with latent ``w``.

        Args:
            x: [N, in_channels, in_size, in_size]; with ``padding``, of any height and width.
            w: [N, style_dim].
            update_ema: take ``x`` into the running mean square first. Default None: in training mode.
            padding: [x0, x1, y0, y1] in place of the geometry's, behind the convolution that pads with its whole kernel, for an
                input of another size: a window, or a larger canvas. Default None.
        """
        g = self.geometry
        sizes = (g.in_size, g.in_size) if padding is None else tuple(x.shape[2:])
        if x.dim() != 4 or tuple(x.shape[1:]) != (g.in_channels, *sizes):
            expected = f"{g.in_size}, {g.in_size}" if padding is None else "H, W"
            raise ValueError(f"{type(self).__name__}: x must be [N, {g.in_channels}, {expected}], got {list(x.shape)}")
        if self.training if update_ema is None else update_ema:
            self._observe(x)
        styles = self.affine(w)
        settings: dict[str, Any] = {"padding": g.conv_kernel - 1, "demodulate": not g.torgb}
        settings["input_gain"] = self.magnitude_ema.rsqrt()
        run = modulated_conv2d_reference if self.reference else ops.modulated_conv2d
        if g.torgb:
            styles = styles / math.sqrt(g.in_channels * g.conv_kernel**2)
            resampled = g.up != 1 or g.down != 1 or any(g.padding if padding is None else padding)
            if not resampled:  # the convolution's epilogue does the rest
                return run(x, self.weight, styles, bias=self.bias, clamp=self.arguments["clamp"], **settings)
        return super().forward(run(x, self.weight, styles, **settings), padding)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Move the running mean square of the input towards that of ``x``."""
        if x.numel():
            # Norms of planes, not a mean of squares: squares of half types overflow, and this needs no memory.
            norms = torch.linalg.vector_norm(x.detach(), dim=(2, 3), dtype=wide(x.dtype))
            square = norms.square().mean() / (x.shape[2] * x.shape[3])
            self.magnitude_ema.lerp_(square.to(self.magnitude_ema.dtype), 1 - self.magnitude_ema_beta)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        g = self.geometry
        sizes = f"{list(self.weight.shape)}, size={g.in_size}->{g.out_size}, rate={g.in_rate}->{g.out_rate}"
        return f"{sizes}, torgb={g.torgb}, radial={g.radial}, {super().extra_repr()}"
