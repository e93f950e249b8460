"""Kernel distance: the squared maximum mean discrepancy of two sets of features, without bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gankern.metrics._features import check_pair

_BLOCK = 4096


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance.

    Attributes:
        mean: of the subsets; below 0 by chance where the sets are alike.
        std: standard deviation over the subsets (divided by their number); NaN where all pairs were taken at once.
        subsets: how many; 0 for all pairs at once.
        subset_size: images of each set in a subset.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int


@torch.no_grad()
def kernel_distance(real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KernelDistance:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID, if the features are Inception's), in float64.

    With more images it gets more certain, not smaller; results of different numbers of images can be compared.

    Args:
        real: features [N, D].
        fake: features [M, D], on the same device.
        subsets: random subsets, each drawn without repetition. 0: all pairs of all images, once, block by block. Default 100.
        subset_size: images of each set in a subset, at most min(N, M). Default 1000.
        seed: of the subsets. Default 0.

    Returns:
        Mean and standard deviation of the subsets' estimates.

    Raises:
        TypeError, ValueError: tensors that are not finite [N, D], of different widths, or with fewer than 2 rows.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 4; Gretton et al., "A kernel two-sample test", 2012, eq. 3.
    """
    check_pair(real, fake, 2)
    for name, value, least in (("subsets", subsets, 0), ("subset_size", subset_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int, at least {least}, got {value!r}")
    if not subsets:
        return KernelDistance(_mmd(real, fake), float("nan"), 0, min(len(real), len(fake)))
    size = min(subset_size, len(real), len(fake))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        chosen = [torch.from_numpy(rng.choice(len(s), size, replace=False)).to(s.device) for s in (real, fake)]
        found.append(_mmd(real[chosen[0]], fake[chosen[1]]))
    return KernelDistance(float(np.mean(found)), float(np.std(found)), subsets, size)


def _mmd(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    within = _sum(x, x, True) / (n * (n - 1)) + _sum(y, y, True) / (m * (m - 1))
    return within - 2 * _sum(x, y, False) / (n * m)


def _sum(x: Tensor, y: Tensor, same: bool) -> float:
    """Sum of the kernel over all pairs; ``same``: but those of a row with itself."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for i, a in enumerate(x.split(_BLOCK)):
        for j, b in enumerate(y.split(_BLOCK)):
            if same and j < i:  # symmetric: the block on the other side counts twice
                continue
            k = (a.double() @ b.double().t()).div_(x.shape[1]).add_(1)
            # Twice a product: pow(3) is a call of pow for every number.
            k = k * k * k
            if same and i == j:
                total += k.sum() - k.diagonal().sum()
            else:
                total += k.sum() * (2 if same else 1)
    return float(total)


__all__ = ["KernelDistance", "kernel_distance"]
