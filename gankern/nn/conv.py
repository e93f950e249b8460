"""Convolution layers: equalised weights, resampling, and a fused epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gankern import ops
from gankern.nn.bias_act import Equalized, epilogue
from gankern.ops.conv2d.reference import conv2d_reference, conv_transpose2d_reference
from gankern.ops.conv2d_resample.reference import conv2d_resample_reference


class Conv2d(Equalized):
    """2-D convolution with equalised learning rate or without, FIR resampling, and bias + activation in one fused call.

    The layer of ProGAN's, StyleGAN's and StyleGAN2's networks but for modulation. Its gradients of any order cost what they
    should, see :func:`gankern.ops.conv2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the (square) kernel.
        stride: as for torch.nn.Conv2d; 1 with ``up`` or ``down``. Default 1.
        padding: zeros around the (upsampled) image. Default None: kernel_size // 2, which keeps the size at stride 1.
        bias: have a bias. Default True.
        act: activation of :func:`gankern.ops.bias_act`. Default 'linear'.
        lr_multiplier: factor on the learning rate of weight and bias. Default 1.
        bias_init: first value of the bias. Default 0.
        alpha: as for :func:`gankern.ops.bias_act`. Default None.
        gain: as for :func:`gankern.ops.bias_act`. Default None.
        clamp: as for :func:`gankern.ops.bias_act`. Default None.
        reference: run the pure PyTorch references. Default False.
        up: upsampling factor before the convolution, see :func:`gankern.ops.conv2d_resample`. Default 1.
        down: downsampling factor after it. Default 1.
        resample_filter: taps of the resampling filter, or None for none. Default [1, 3, 3, 1].
        equalized: scale the weight by 1 / sqrt(fan in) at run time. False: use it as it is, with torch.nn.Conv2d's first values
            (the bias starts as ``bias_init`` all the same). Default True.
        groups: number of independent groups of channels. Default 1.

    Shape: [N, in_channels, H, W] to [N, out_channels, H * up / down, W * up / down] at stride 1. Gradients of any order.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        reference: bool = False,
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = (1, 3, 3, 1),
        equalized: bool = True,
        groups: int = 1,
    ) -> None:
        if stride != 1 and (up != 1 or down != 1):
            raise ValueError(f"Conv2d: stride must be 1 with up or down, got stride {stride}, up {up}, down {down}")
        settings: dict[str, Any] = {"dim": 1, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
        _check_groups("Conv2d", in_channels, out_channels, groups)
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        super().__init__(shape, bias, bias_init, lr_multiplier, settings, reference, equalized)
        self.stride, self.groups = stride, groups
        self.padding = kernel_size // 2 if padding is None else padding
        self.up, self.down = up, down
        resampling = (up > 1 or down > 1) and resample_filter is not None
        taps = ops.setup_filter(resample_filter).to(self.weight.device) if resampling else None
        self.register_buffer("resample_filter", taps)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W]."""
        weight, bias = self.scaled(x.dtype)
        if self.up == self.down == 1:
            conv = conv2d_reference if self.reference else ops.conv2d
            inner = None
            if bias is not None:
                inner, bias = self.split(x, weight, bias)
            y = conv(x, weight, inner, self.stride, self.padding, 1, self.groups)
        else:
            resample = conv2d_resample_reference if self.reference else ops.conv2d_resample
            y = resample(x, weight, self.resample_filter, self.up, self.down, self.padding, self.groups)
        return epilogue(y, self.reference, fresh=True, b=bias, **self.settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        factors = {"stride": self.stride, "up": self.up, "down": self.down, "groups": self.groups}
        return super().extra_repr() + "".join(f", {name}={value}" for name, value in factors.items() if value != 1)


class ConvTranspose2d(Equalized):
    """Transposed 2-D convolution with equalised learning rate or without, and bias + activation in one fused call.

    The layer of DCGAN's and pix2pix's generators (Radford et al. 2016; Isola et al. 2017). Its gradients of any order cost what
    they should, see :func:`gankern.ops.conv_transpose2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the (square) kernel.
        stride: as for torch.nn.ConvTranspose2d. Default 1.
        padding: as for torch.nn.ConvTranspose2d: rows and columns of the full result to leave out on each side. Default 0.
        output_padding: as for torch.nn.ConvTranspose2d: rows and columns more at the bottom and right. Default 0.
        bias: have a bias. Default True.
        act: activation of :func:`gankern.ops.bias_act`. Default 'linear'.
        lr_multiplier: factor on the learning rate of weight and bias. Default 1.
        bias_init: first value of the bias. Default 0.
        alpha: as for :func:`gankern.ops.bias_act`. Default None.
        gain: as for :func:`gankern.ops.bias_act`. Default None.
        clamp: as for :func:`gankern.ops.bias_act`. Default None.
        reference: run the pure PyTorch references. Default False.
        equalized: scale the weight by 1 / sqrt(fan in) at run time; an output is the sum of, on average, in_channels / groups *
            (kernel_size / stride)^2 products. False: use it as it is, with torch.nn.ConvTranspose2d's first values (the bias
            starts as ``bias_init`` all the same). Default True.
        groups: number of independent groups of channels. Default 1.

    Shape: [N, in_channels, H, W] to [N, out_channels, Ho, Wo], Ho = (H - 1) stride - 2 padding + kernel_size + output_padding.
    The weight is [in_channels, out_channels / groups, kernel_size, kernel_size]. Gradients of any order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = True,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        reference: bool = False,
        equalized: bool = True,
        groups: int = 1,
    ) -> None:
        _check_groups("ConvTranspose2d", in_channels, out_channels, groups)
        settings: dict[str, Any] = {"dim": 1, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
        shape = (in_channels, out_channels // groups, kernel_size, kernel_size)
        fan_in = in_channels / groups * (kernel_size / stride) ** 2
        super().__init__(shape, bias, bias_init, lr_multiplier, settings, reference, equalized, out_channels, fan_in)
        self.geometry: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W]."""
        weight, bias = self.scaled(x.dtype)
        conv = conv_transpose2d_reference if self.reference else ops.conv_transpose2d
        inner = None
        if bias is not None:
            inner, bias = self.split(x, weight, bias)
        return epilogue(conv(x, weight, inner, *self.geometry.values()), self.reference, fresh=True, b=bias, **self.settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return super().extra_repr() + "".join(f", {name}={value}" for name, value in self.geometry.items())


def _check_groups(owner: str, in_channels: int, out_channels: int, groups: int) -> None:
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"{owner}: groups must divide in_channels {in_channels} and out_channels {out_channels}, got {groups}")


__all__ = ["Conv2d", "ConvTranspose2d"]
