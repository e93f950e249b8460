"""StyleGAN2's layers: modulated convolution with its style, the synthesis layer, ToRGB; and GigaGAN's adaptive kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern import ops
from gankern.nn.bias_act import Linear, check_act
from gankern.ops.modulated_conv2d.reference import modulated_conv2d_reference

NOISE_MODES = ("random", "const", "none")


def _run(reference: bool) -> Any:
    return modulated_conv2d_reference if reference else ops.modulated_conv2d


def _filter(resample_filter: Sequence[float] | None, up: int, down: int) -> Tensor | None:
    resampling = (up > 1 or down > 1) and resample_filter is not None
    return ops.setup_filter(resample_filter) if resampling else None


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels a style scales, with the affine layer that makes the style (Karras et al. 2020).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the (square) kernel.
        style_dim: size of the latent vector w.
        up: upsampling factor, not with ``down``. Default 1.
        down: downsampling factor. Default 1.
        demodulate: normalise the output's variance; without, weights are scaled by 1 / sqrt(fan in). Default True.
        resample_filter: taps of the resampling filter, or None for none. Default [1, 3, 3, 1].
        padding: zeros around the (upsampled) image. Default None: kernel_size // 2, which keeps the size.
        reference: run the pure PyTorch reference. Default False.

    Shape: x [N, in_channels, H, W] and w [N, style_dim] to [N, out_channels, H * up / down, W * up / down]. Gradients of any
    order.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        up: int = 1,
        down: int = 1,
        demodulate: bool = True,
        resample_filter: Sequence[float] | None = (1, 3, 3, 1),
        padding: int | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__()
        if up > 1 and down > 1:
            raise ValueError(f"{type(self).__name__}: up and down must not both be above 1, got up {up} and down {down}")
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.affine = Linear(style_dim, in_channels, bias_init=1.0, reference=reference)
        self.weight_gain = 1.0 if demodulate else 1 / math.sqrt(in_channels * kernel_size**2)
        self.up, self.down, self.demodulate = up, down, demodulate
        self.padding = kernel_size // 2 if padding is None else padding
        self.register_buffer("resample_filter", _filter(resample_filter, up, down))
        self.reference = reference

    def modulated(self, x: Tensor, w: Tensor, **epilogue: Any) -> Tensor:
        """The convolution of ``x`` with style ``w``, and what ``epilogue`` asks for: noise, bias, act, gain, clamp."""
        styles = self.affine(w)
        if self.weight_gain != 1:
            styles = styles * self.weight_gain
        return _run(self.reference)(
            x, self.weight, styles, up=self.up, down=self.down, padding=self.padding, resample_filter=self.resample_filter,
            demodulate=self.demodulate, **epilogue,
        )  # fmt: skip

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W] with latent ``w`` [N, style_dim]."""
        return self.modulated(x, w)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        text = f"{list(self.weight.shape)}, up={self.up}, down={self.down}, demodulate={self.demodulate}"
        return text + (", reference=True" if self.reference else "")


class StyleLayer(ModulatedConv2d):
    """StyleGAN2's synthesis layer: modulated convolution, noise, bias, activation, gain and clamp, in one fused call.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        style_dim: size of the latent vector w.
        resolution: height and width of the output, for the constant noise.
        kernel_size: height and width of the kernel. Default 3.
        up: upsampling factor. Default 1.
        use_noise: add noise of a learned strength, 0 at first. Default True.
        act: activation of :func:`gankern.ops.bias_act`. Default 'lrelu'.
        clamp: largest magnitude of the output at gain 1, or None. Default None.
        resample_filter: taps of the resampling filter. Default [1, 3, 3, 1].
        reference: run the pure PyTorch reference. Default False.

    Shape: x [N, in_channels, resolution / up, resolution / up] and w [N, style_dim] to [N, out_channels, resolution,
    resolution]. Gradients of any order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        act: str = "lrelu",
        clamp: float | None = None,
        resample_filter: Sequence[float] | None = (1, 3, 3, 1),
        reference: bool = False,
    ) -> None:
        check_act("StyleLayer", act)
        super().__init__(
            in_channels, out_channels, kernel_size, style_dim, up, resample_filter=resample_filter, reference=reference
        )
        self.resolution, self.act, self.clamp = resolution, act, clamp
        self.noise_const: Any
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(())) if use_noise else None
        self.register_buffer("noise_const", torch.randn(resolution, resolution) if use_noise else None)

    def forward(  # type: ignore[override]
        self, x: Tensor, w: Tensor, noise_mode: str = "random", gain: float = 1.0
    ) -> Tensor:
        """Apply to ``x`` with latent ``w``.

        Args:
            x: [N, in_channels, H, W].
            w: [N, style_dim].
            noise_mode: 'random' draws anew, 'const' takes the layer's own, 'none' leaves noise out. Default 'random'.
            gain: factor on the output, and on its clamp. Default 1.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"StyleLayer: noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        noise = None
        if self.noise_strength is not None and noise_mode != "none":
            size = (x.shape[0], 1, x.shape[2] * self.up, x.shape[3] * self.up)
            drawn: Tensor = torch.randn(size, device=x.device) if noise_mode == "random" else self.noise_const
            noise = drawn * self.noise_strength
        factor = ops.activation_funcs[self.act].def_gain * gain
        clamp = None if self.clamp is None else self.clamp * gain
        return self.modulated(x, w, noise=noise, bias=self.bias, act=self.act, gain=factor, clamp=clamp)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return super().extra_repr() + f", act={self.act!r}, clamp={self.clamp}, noise={self.noise_strength is not None}"


class ToRGB(ModulatedConv2d):
    """StyleGAN2's output layer: a modulated 1x1 convolution without demodulation, bias and clamp, in one fused call.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the image.
        style_dim: size of the latent vector w.
        kernel_size: height and width of the kernel. Default 1.
        clamp: largest magnitude of the output, or None. Default None.
        reference: run the pure PyTorch reference. Default False.

    Shape: x [N, in_channels, H, W] and w [N, style_dim] to [N, out_channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        kernel_size: int = 1,
        clamp: float | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, style_dim, demodulate=False, reference=reference)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W] with latent ``w`` [N, style_dim]."""
        return self.modulated(x, w, bias=self.bias, clamp=self.clamp)


class AdaptiveConv2d(nn.Module):
    """Modulated convolution with a kernel that each sample mixes out of several (GigaGAN, Kang et al. 2023).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the (square) kernel.
        num_conv_kernels: kernels to mix. Default 1.
        demodulate: normalise the output's variance. Default True.
        reference: run the pure PyTorch reference. Default False.

    Shape: x [N, in_channels, H, W], mod [N, in_channels] (the style minus 1) and kernel_mod [N, num_conv_kernels] (logits) to
    [N, out_channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_conv_kernels: int = 1,
        demodulate: bool = True,
        reference: bool = False,
    ) -> None:
        super().__init__()
        # Kernels one after the other along the outputs: a parameter of 5 dimensions would make
        # ``module.to(memory_format=torch.channels_last)`` fail.
        self.weight = nn.Parameter(torch.empty(num_conv_kernels * out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, a=0, mode="fan_in", nonlinearity="leaky_relu")
        self.num_conv_kernels = num_conv_kernels
        self.padding = kernel_size // 2
        self.demodulate = demodulate
        self.reference = reference

    def forward(self, x: Tensor, mod: Tensor, kernel_mod: Tensor | None = None) -> Tensor:
        """Apply to ``x``; ``kernel_mod`` may be left out with one kernel."""
        kernels = self.num_conv_kernels
        if kernels > 1 and kernel_mod is None:
            raise ValueError(f"AdaptiveConv2d: kernel_mod [N, {kernels}] must be given: the layer has {kernels} kernels")
        settings: dict[str, Any] = {"padding": self.padding, "demodulate": self.demodulate}
        if kernels == 1:
            return _run(self.reference)(x, self.weight, mod + 1, **settings)
        assert kernel_mod is not None
        weight = self.weight.unflatten(0, (kernels, -1))
        return _run(self.reference)(x, weight, mod + 1, kernel_mix=kernel_mod.softmax(-1), **settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        text = f"{self.num_conv_kernels} x {list(self.weight.unflatten(0, (self.num_conv_kernels, -1)).shape[1:])}"
        return f"{text}, demodulate={self.demodulate}" + (", reference=True" if self.reference else "")
