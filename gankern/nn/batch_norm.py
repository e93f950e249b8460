"""Batch normalisation and the activation behind it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import ops
from gankern._dispatch import small
from gankern.nn.bias_act import check_act, epilogue


class BatchNormAct2d(nn.Module):
    """Batch normalisation and activation (Ioffe and Szegedy 2015): one pass in evaluation mode, PyTorch's own norm in training.

    In training mode the statistics are the batch's: ``norm``, a torch.nn.BatchNorm2d, does it (SyncBatchNorm's conversion finds
    it), and the activation is the second pass. In evaluation mode running statistics, weight and bias are one factor and one
    bias a channel, and everything is one call of :func:`gankern.ops.modulate`.

    Args:
        channels: channels of the input.
        eps: added to the variance. Default 1e-5.
        momentum: share of a batch in the running statistics, or None for a plain mean of all batches. Default 0.1.
        affine: have a weight, 1 at first, and a bias, 0 at first, for each channel. Default True.
        act: activation of :func:`gankern.ops.bias_act`. Default 'relu'.
        alpha: as for :func:`gankern.ops.bias_act`. Default None.
        gain: factor on the activation. Default 1, as in the networks that have this layer.
        reference: run the pure PyTorch reference instead of the fused operators. Default False.

    Shape: [N, channels, H, W] to the same. Gradients: of any order in evaluation mode; in training mode of those that PyTorch's
    batch normalisation has (two).
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        act: str = "relu",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act("BatchNormAct2d", act)
        self.norm = nn.BatchNorm2d(channels, eps, momentum, affine)
        self.settings: dict[str, Any] = {"act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W]; with the batch's statistics in training mode."""
        norm = self.norm
        if x.dim() != 4 or x.shape[1] != norm.num_features:
            raise ValueError(f"BatchNormAct2d: x must have shape [N, {norm.num_features}, H, W], got {list(x.shape)}")
        mean, variance = norm.running_mean, norm.running_var
        if self.reference or norm.training or mean is None or variance is None:
            return epilogue(norm(x), self.reference, fresh=True, **self.settings)
        if small(x):  # as many steps as there are, and PyTorch's have no Python in between
            y = F.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)
            return epilogue(y, False, fresh=True, **self.settings)
        scale = torch.rsqrt(variance + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
        return ops.modulate(x, scale[None], b=shift, **self.settings)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        text = ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if v is not None)
        return text + (", reference=True" if self.reference else "")


__all__ = ["BatchNormAct2d"]
