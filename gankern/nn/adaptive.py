"""Batch normalisation whose gain and bias come from a vector: BigGAN's, from class embedding and latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankern._dtypes import wide
from gankern.nn.bias_act import Linear, check_act
from gankern.nn.norm import check_channels, scaled, settings_text


class AdaptiveBatchNorm2d(nn.Module):
    """Batch normalisation whose gain and bias are linear in a vector, and an activation (BigGAN, Brock et al. 2019).

    ``y = act((1 + gains(w)) * norm(x) + biases(w))`` with two linear maps without bias: the shared class embedding and a chunk
    of the latent, concatenated, are ``w`` there. In training mode PyTorch's own batch normalisation comes first, then gain,
    bias and activation in one pass; in evaluation mode all is one pass (channels_last: the activation in another).

    Args:
        channels: channels of the input.
        style_dim: size of the vector.
        eps: added to the variance. Default 1e-5.
        momentum: share of a batch in the running statistics, or None for a plain mean of all batches. Default 0.1.
        act: activation of :func:`gankern.ops.modulate`. Default 'relu'.
        alpha: as for :func:`gankern.ops.modulate`. Default None.
        gain: factor on the activation. Default 1.
        reference: run the pure PyTorch reference instead of the fused operators. Default False.

    Shape: x [N, channels, H, W] and w [N, style_dim] to [N, channels, H, W]. Gradients of any order that PyTorch's batch
    normalisation has (two; any in evaluation mode).
    """

    def __init__(
        self,
        channels: int,
        style_dim: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        act: str = "relu",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act("AdaptiveBatchNorm2d", act)
        self.norm = nn.BatchNorm2d(channels, eps, momentum, affine=False)
        self.gains = Linear(style_dim, channels, bias=False, equalized=False, reference=reference)
        self.biases = Linear(style_dim, channels, bias=False, equalized=False, reference=reference)
        self.channels, self.style_dim = channels, style_dim
        self.settings: dict[str, Any] = {"act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W] with ``w`` [N, style_dim]; with the batch's statistics in training mode."""
        check_channels(self, x, self.channels)
        if w.shape != (x.shape[0], self.style_dim):
            raise ValueError(f"AdaptiveBatchNorm2d: w must have shape [{x.shape[0]}, {self.style_dim}], got {list(w.shape)}")
        gains, biases = (v.to(wide(x.dtype)) for v in (self.gains(w), self.biases(w)))
        gains = 1 + gains
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        if self.reference or norm.training or mean is None or variance is None:
            x = norm(x)
        else:
            gains = gains * torch.rsqrt(variance + norm.eps)
            biases = biases - mean * gains
        return scaled(x, gains, biases, self.reference, **self.settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return f"{self.channels}, " + settings_text(style_dim=self.style_dim, **self.settings, reference=self.reference)


__all__ = ["AdaptiveBatchNorm2d"]
