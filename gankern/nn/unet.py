"""Blocks of image-to-image networks: convolution + normalisation + activation, and the two halves of a U-Net's level."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern.nn.batch_norm import BatchNormAct2d
from gankern.nn.bias_act import epilogue
from gankern.nn.conv import Conv2d, ConvTranspose2d
from gankern.nn.norm import InstanceNormAct

NORMS = ("batch", "instance", "none")
PADDING_MODES = ("zeros", "reflect")


class ConvNormAct2d(nn.Module):
    """Convolution, normalisation and activation: the "Ck" of pix2pix and CycleGAN (Isola et al. 2017; Zhu et al. 2017).

    The activation is fused with what stands before it: with the instance norm, with the scale and shift of a batch norm in
    evaluation mode, or with the convolution's bias where there is no norm.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the (square) kernel.
        stride: of the convolution. Default 1.
        padding: pixels around the image; for a transposed convolution those left out. Default None: kernel_size // 2.
        norm: 'batch' (:class:`BatchNormAct2d`), 'instance' (:class:`InstanceNormAct`, without weight and bias) or 'none'.
            Default 'batch'.
        act: activation of :func:`gankern.ops.bias_act`, with gain 1. Default 'relu'.
        alpha: as for :func:`gankern.ops.bias_act`: slope of 'lrelu'. Default None: 0.2.
        bias: the convolution has a bias. Default None: unless a batch norm follows, which has its own.
        padding_mode: 'zeros' or 'reflect'. Default 'zeros'.
        transposed: a transposed convolution, see :class:`ConvTranspose2d`; padding_mode 'zeros' only. Default False.
        output_padding: rows and columns more at the bottom and right of a transposed convolution. Default 0.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, in_channels, H, W] to [N, out_channels, Ho, Wo] as :class:`Conv2d` or :class:`ConvTranspose2d`. The convolution's
    weight is used as it is (not equalised). Gradients of any order that the norm has.
    """

    norm: nn.Module | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        norm: str = "batch",
        act: str = "relu",
        alpha: float | None = None,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: int = 0,
        reference: bool = False,
    ) -> None:
        super().__init__()
        for name, value, accepted in (("norm", norm, NORMS), ("padding_mode", padding_mode, PADDING_MODES)):
            if value not in accepted:
                raise ValueError(f"{type(self).__name__}: {name} must be one of {', '.join(accepted)}, got {value!r}")
        if transposed and padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode must be 'zeros' if transposed, got {padding_mode!r}")
        if output_padding and not transposed:
            raise ValueError(f"{type(self).__name__}: output_padding must be 0 unless transposed, got {output_padding}")
        padding = kernel_size // 2 if padding is None else padding
        self.reflect = padding if padding_mode == "reflect" else 0
        activation: dict[str, Any] = {"act": act, "alpha": alpha, "gain": 1.0, "reference": reference}
        settings: dict[str, Any] = {"equalized": False, "reference": reference}
        settings |= activation if norm == "none" else {}
        settings |= {"stride": stride, "padding": padding - self.reflect, "bias": norm != "batch" if bias is None else bias}
        if transposed:
            self.conv: nn.Module = ConvTranspose2d(
                in_channels, out_channels, kernel_size, output_padding=output_padding, **settings
            )
        else:
            self.conv = Conv2d(in_channels, out_channels, kernel_size, **settings)
        if norm == "none":
            self.norm = None
        else:
            self.norm = (BatchNormAct2d if norm == "batch" else InstanceNormAct)(out_channels, **activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W]."""
        if self.reflect:
            x = F.pad(x, [self.reflect] * 4, mode="reflect")
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return f"reflect={self.reflect}" if self.reflect else ""


class UNetDown(ConvNormAct2d):
    """A level of a U-Net's encoder: 4x4 convolution of stride 2, normalisation and leaky ReLU (Isola et al. 2017, 6.1.1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: 'batch', 'instance' or 'none' (the first and the last level). Default 'batch'.
        act: activation, with gain 1. Default 'lrelu'; 'relu' for the last level, which feeds the decoder only.
        alpha: slope of 'lrelu'. Default 0.2.
        bias: as for :class:`ConvNormAct2d`. Default None.
        reference: run the pure PyTorch references. Default False.

    Shape: [N, in_channels, H, W] to [N, out_channels, H // 2, W // 2]. Gradients of any order that the norm has.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str = "batch",
        act: str = "lrelu",
        alpha: float | None = 0.2,
        bias: bool | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, norm, act, alpha, bias, reference=reference)


class UNetUp(nn.Module):
    """A level of a U-Net's decoder: 4x4 transposed convolution of stride 2, normalisation, dropout, ReLU; then the skip.

    The skip is the encoder's output at the same size. What is returned is what the next level takes: ``[relu(skip), y]`` along
    the channels (Isola et al. 2017, 6.1.1: "convolution, norm, dropout, ReLU"; dropout and ReLU commute, so norm and ReLU are
    one pass). A ReLU makes no difference between a skip before and after its leaky ReLU.

    Args:
        in_channels: channels of the input: those of the level below, twice as many if it had a skip.
        out_channels: channels of the output, without the skip's.
        norm: 'batch', 'instance' or 'none'. Default 'batch'.
        dropout: probability that a number is set to 0 in training mode. Default 0.
        bias: as for :class:`ConvNormAct2d`. Default None.
        reference: run the pure PyTorch references. Default False.

    Shape: x [N, in_channels, H, W] and skip [N, C, 2 H, 2 W] to [N, C + out_channels, 2 H, 2 W]; without a skip
    [N, out_channels, 2 H, 2 W]. Gradients of any order that the norm has.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str = "batch",
        dropout: float = 0.0,
        bias: bool | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"UNetUp: dropout must be a probability below 1, got {dropout!r}")
        self.up = ConvNormAct2d(
            in_channels, out_channels, 4, 2, 1, norm, "relu", bias=bias, transposed=True, reference=reference
        )
        self.dropout = dropout
        self.reference = reference

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Apply to ``x`` [N, in_channels, H, W], and put ``skip`` [N, C, 2 H, 2 W] before its result."""
        size = (x.shape[0], 2 * x.shape[2], 2 * x.shape[3])
        if skip is not None and (skip.dim() != 4 or (skip.shape[0], *skip.shape[2:]) != size):
            raise ValueError(f"UNetUp: skip must be [{size[0]}, C, {size[1]}, {size[2]}], got {list(skip.shape)}")
        y = self.up(x)
        if self.dropout and self.training:
            # Drawn in NCHW order whatever the layout: one seed gives one mask.
            kept = torch.empty(y.shape, dtype=y.dtype, device=y.device).bernoulli_(1 - self.dropout)
            y = y * kept.div_(1 - self.dropout)
        if skip is None:
            return y
        return torch.cat([epilogue(skip, self.reference, fresh=False, act="relu", gain=1.0), y], 1)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return f"dropout={self.dropout}" + (", reference=True" if self.reference else "")


__all__ = ["ConvNormAct2d", "UNetDown", "UNetUp"]
