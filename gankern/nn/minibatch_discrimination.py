"""Minibatch discrimination: each sample's features, and how close the others of its batch are to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankern._dtypes import wide
from gankern._validate import FLOATING, short
from gankern.nn.bias_act import Linear


class MinibatchDiscrimination(nn.Module):
    """Features that tell a discriminator how alike the samples of a batch are, against mode collapse.

    A tensor T makes of the features of sample i a matrix M_i [kernels, kernel_dim]. Output feature b of sample i is the sum
    over the other samples j of the batch of exp(-d), d the L1 distance of M_i[b] and M_j[b]; it is appended to the features.
    Real and generated images are given to the discriminator in batches of their own, and of one size: the sums grow with it.

    A sample's logit now depends on the whole batch: gradient penalties, whose norms are those of single samples, do not fit,
    and :class:`gankern.losses.PenalizedStep` takes plain double backward. Under DistributedDataParallel the batch is the
    rank's own. The differences take N^2 * kernels * kernel_dim numbers.

    Args:
        features: features of the input, the paper's A.
        kernels: features to append, the paper's B. Default 100.
        kernel_dim: size of the vectors that are compared, the paper's C. Default 5.
        itself: count j = i as well, as the paper's sum does; it adds 1 to every output. Default False.
        reference: run the pure PyTorch reference of the linear layer. Default False.

    Shape: [N, features] to [N, features + kernels]; bfloat16 and float16 are compared in float32. Gradients of any order; 0 in
    the distance of equal vectors.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, section 3.2.
    """

    def __init__(
        self, features: int, kernels: int = 100, kernel_dim: int = 5, itself: bool = False, reference: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("kernels", kernels), ("kernel_dim", kernel_dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"MinibatchDiscrimination: {name} must be an int of at least 1, got {value!r}")
        self.project = Linear(features, kernels * kernel_dim, bias=False, equalized=False, reference=reference)
        self.features, self.kernels, self.kernel_dim, self.itself = features, kernels, kernel_dim, itself
        self.reference = reference

    def forward(self, x: Tensor) -> Tensor:
        """Append to ``x`` [N, features] how close the other samples are."""
        if x.dtype not in FLOATING:
            raise TypeError(f"MinibatchDiscrimination: x must be float32, float64, bfloat16 or float16, got {short(x.dtype)}")
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(f"MinibatchDiscrimination: x must be [N, {self.features}], got {list(x.shape)}")
        m = self.project(x)
        m = m.to(wide(m.dtype)).unflatten(1, (self.kernels, self.kernel_dim))
        # Not torch.cdist: its derivative in the distances of order 1 has none of its own.
        near = torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1)
        if not self.itself:
            near = near - 1
        return torch.cat((x, near.to(x.dtype)), 1)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        text = f"{self.features}, kernels={self.kernels}, kernel_dim={self.kernel_dim}"
        return text + (", itself=True" if self.itself else "") + (", reference=True" if self.reference else "")


__all__ = ["MinibatchDiscrimination"]
