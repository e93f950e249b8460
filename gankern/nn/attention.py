"""Self-attention over the pixels of feature maps, differentiable to any order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern._dispatch import takes_reference
from gankern._dtypes import wide
from gankern.nn.conv import Conv2d


def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(query key^T) value``, without a factor on the scores, composed of PyTorch's functions.

    Shape: query [N, L, D], key [N, M, D] and value [N, M, E] to [N, L, E]. The softmax of half types is float32's.
    """
    return torch.softmax(query @ key.mT, -1, dtype=wide(query.dtype)).to(value.dtype) @ value


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As :func:`attention_reference`; by PyTorch's fused attention where nobody will ask for gradients.

    Its kernels have a first derivative only, and gradient penalties need two: what is to be differentiated is composed.
    """
    wanted = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    # On the CPU there is a fused kernel for values as wide as keys only.
    if wanted or takes_reference() or not (query.is_cuda or query.shape[2] == value.shape[2]):
        return attention_reference(query, key, value)
    # The kernels want heads, of which there is one, and neighbouring channels.
    query, key, value = (t.contiguous().unsqueeze(1) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)


class SelfAttention2d(nn.Module):
    r"""Self-attention over pixels, added to its input with a learned factor that is 0 at first (SAGAN, Zhang et al. 2019).

    With 1x1 convolutions f, g, h and v: ``beta = softmax(f(x)^T g(x))`` over the pixels that are looked at,
    ``y = x + gamma * v(beta h(x))``. The scores have no factor 1 / sqrt(key_channels). BigGAN (Brock et al. 2019) max-pools
    keys and values 2x2, which are then a quarter as many, and has wider values:

        SelfAttention2d(256)  # SAGAN
        SelfAttention2d(256, value_channels=128, pool=2)  # BigGAN

    Args:
        channels: channels of the input.
        key_channels: channels of queries and keys. Default None: channels // 8.
        value_channels: channels of the values. Default None: channels // 8.
        pool: keys and values are max-pooled by this factor. Default 1: not.
        bias: have biases in the convolutions. Default False, as in the paper's equations.
        reference: run plain PyTorch. Default False.

    Shape: [N, channels, H, W] to the same, in the same layout; with ``pool`` H and W must be at least that. Gradients of any
    order. Where no gradients are wanted PyTorch's fused attention runs, on the CPU if ``value_channels`` equals
    ``key_channels``; else there is an attention map [N, H * W, H * W / pool^2].
    """

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        value_channels: int | None = None,
        pool: int = 1,
        bias: bool = False,
        reference: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("pool", pool)):
            if value < 1:
                raise ValueError(f"SelfAttention2d: {name} must be at least 1, got {value}")
        keys = max(channels // 8, 1) if key_channels is None else key_channels
        values = max(channels // 8, 1) if value_channels is None else value_channels
        for name, value in (("key_channels", keys), ("value_channels", values)):
            if value < 1:
                raise ValueError(f"SelfAttention2d: {name} must be at least 1, got {value}")
        settings: dict[str, Any] = {"bias": bias, "equalized": False, "reference": reference}
        self.query = Conv2d(channels, keys, 1, **settings)
        self.key = Conv2d(channels, keys, 1, **settings)
        self.value = Conv2d(channels, values, 1, **settings)
        self.out = Conv2d(values, channels, 1, **settings)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.channels, self.pool = channels, pool
        self.reference = reference

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W]."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"SelfAttention2d: x must have shape [N, {self.channels}, H, W], got {list(x.shape)}")
        if min(x.shape[2:]) < self.pool:
            raise ValueError(f"SelfAttention2d: x must have at least {self.pool} x {self.pool} pixels, got {list(x.shape)}")
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.pool > 1:
            key, value = F.max_pool2d(key, self.pool), F.max_pool2d(value, self.pool)
        query, key, value = (t.flatten(2).mT for t in (query, key, value))  # [N, pixels, channels]
        attended = (attention_reference if self.reference else attention)(query, key, value)
        images = attended.mT.unflatten(2, x.shape[2:])
        images = images.contiguous() if x.is_contiguous() else images.contiguous(memory_format=torch.channels_last)
        result = self.out(images)
        return torch.addcmul(x, self.gamma.to(x.dtype), result.to(x.dtype))

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        pool = f", pool={self.pool}" if self.pool > 1 else ""
        return f"{self.channels}{pool}" + (", reference=True" if self.reference else "")


__all__ = ["SelfAttention2d", "attention", "attention_reference"]
