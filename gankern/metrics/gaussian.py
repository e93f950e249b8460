"""Frechet distance of two Gaussians, and their mean and covariance from a stream of features, which may have many sources."""

from __future__ import annotations

import os
import warnings
import zipfile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gankern._files import replacing
from gankern.metrics._features import check_features

_BLOCK = 1024  # rows a matrix product is made of: with the 8 of a small batch, adding a 2048 x 2048 matrix would cost more
_COLUMNS = 512


class GaussianStatistics:
    """Mean and covariance of features that come in batches, in float64, without keeping them.

    Batches are centred by their own means and joined with the formula of Chan, Golub and LeVeque ("Updating formulae and a
    pairwise algorithm for computing sample variances", 1979), so that a large mean costs no digits. Statistics of parts can
    be joined in any order: :meth:`merge`, and :meth:`all_reduce` for the processes of torch.distributed.

    Args:
        dim: D, features of an image.
        device: where to compute. Default: the CPU.

    Attributes:
        dim: D.
        count: images so far.

    Raises:
        ValueError: ``dim`` below 1.
    """

    def __init__(self, dim: int, device: str | torch.device = "cpu") -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"GaussianStatistics: dim must be an int, at least 1, got {dim!r}")
        self.dim = dim
        self._count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self._waiting: list[Tensor] = []

    @classmethod
    def of(cls, features: Tensor) -> GaussianStatistics:
        """Those of all rows of ``features`` [N, D]."""
        check_features("features", features)
        made = cls(features.shape[1], features.device)
        made.update(features)
        return made

    @property
    def count(self) -> int:
        """Images so far."""
        return self._count + sum(map(len, self._waiting))

    @property
    def mean(self) -> Tensor:
        """[D], float64.

        Raises:
            ValueError: no images yet.
        """
        self._flush()
        if not self._count:
            raise ValueError("GaussianStatistics: there is no mean of no images")
        return self._mean.clone()

    @property
    def covariance(self) -> Tensor:
        """[D, D], float64: the unbiased one, divided by count - 1.

        Raises:
            ValueError: fewer than two images.
        """
        self._flush()
        if self._count < 2:
            raise ValueError(f"GaussianStatistics: a covariance needs at least 2 images, got {self._count}")
        return self._scatter / (self._count - 1)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Add the rows of ``features`` [N, D].

        Raises:
            TypeError, ValueError: not [N, D] of a floating-point dtype, or not finite. Nothing is added then.
        """
        check_features("features", features)
        if features.shape[1] != self.dim:
            raise ValueError(f"GaussianStatistics: features must be [N, {self.dim}], got {list(features.shape)}")
        if not len(features):
            return
        # A copy: callers reuse their buffers, and a view would keep the whole batch alive.
        self._waiting.append(features.detach().to(self._mean.device, torch.float64, copy=True))
        if sum(map(len, self._waiting)) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._waiting)
        self._waiting = []
        for block in rows.split(16 * _BLOCK):
            mean = block.mean(0)
            centred = block - mean
            self._join(len(block), mean, _gram(centred))

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if not count:
            return
        total = self._count + count
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter.addr_(shift, shift, alpha=self._count * count / total)
        self._mean += shift * (count / total)
        self._count = total

    def merge(self, other: GaussianStatistics) -> None:
        """Add what another one has seen, as if its rows had come here."""
        if other.dim != self.dim:
            raise ValueError(f"GaussianStatistics: other must have {self.dim} features, got {other.dim}")
        self._flush()
        other._flush()
        device = self._mean.device
        self._join(other._count, other._mean.to(device), other._scatter.to(device))

    def all_reduce(self, group: Any = None) -> None:
        """Add what all processes of torch.distributed have seen; afterwards every one has the same statistics, bit by bit.

        All processes call it. Ranks are joined in their order. Without an initialised process group nothing is done.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        self._flush()
        device = self._mean.device
        state = torch.cat([self._mean.new_tensor([self._count]), self._mean])
        states = [torch.empty_like(state) for _ in range(dist.get_world_size(group))]
        dist.all_gather(states, state, group=group)
        # One reduction of the scatters about the common mean: gathering them would take world x D^2 memory.
        counts = torch.stack([s[0] for s in states])
        total = counts.sum()
        if total == 0:
            return
        mean = (torch.stack([s[1:] for s in states]) * (counts / total)[:, None]).sum(0)
        shift = self._mean - mean
        scatter = torch.addr(self._scatter, shift, shift, alpha=self._count)
        dist.all_reduce(scatter, group=group)
        self._count, self._mean, self._scatter = round(float(total)), mean, scatter.to(device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write count, mean [D] and covariance sum of squares [D, D] to an .npz file, whole or not at all."""
        self._flush()
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, count=self._count, mean=self._mean.cpu().numpy(), scatter=self._scatter.cpu().numpy())

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> GaussianStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a truncated file, or another one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                count, mean, scatter = int(file["count"]), file["mean"], file["scatter"]
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise ValueError(f"{os.fspath(path)!r} is truncated or holds no statistics: {error}") from error
        made = cls(len(mean), device)
        made._count = count
        made._mean, made._scatter = torch.from_numpy(mean).to(device), torch.from_numpy(scatter).to(device)
        return made


def _gram(x: Tensor) -> Tensor:
    """x^T x, each block of columns with those to its right alone: PyTorch has no symmetric product, which is half the work."""
    dim = x.shape[1]
    if dim <= _COLUMNS:
        return x.t() @ x
    out = x.new_empty(dim, dim)
    for i in range(0, dim, _COLUMNS):
        for j in range(i, dim, _COLUMNS):
            block = x[:, i : i + _COLUMNS].t() @ x[:, j : j + _COLUMNS]
            out[i : i + _COLUMNS, j : j + _COLUMNS] = block
            if i != j:
                out[j : j + _COLUMNS, i : i + _COLUMNS] = block.t()
    return out


def _root(covariance: Tensor) -> Tensor:
    """L [D, R] with L L^T = the covariance; directions that are there by rounding alone are left out."""
    values, vectors = torch.linalg.eigh(covariance)
    # eigh is off by some eps of the largest eigenvalue. Where the truth is 0 (fewer images than features), the root of what
    # it gives instead would be 1e-8 of the largest, in hundreds of directions.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def gaussian_frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of L1^T L2, where C = L L^T by eigenvalues. No product of
    covariances is formed, whose small eigenvalues would be lost before their roots are taken (scipy.linalg.sqrtm of C1 C2 is
    good for about half the digits where a covariance is singular, and this for nearly all).

    Args:
        mean1: [D].
        covariance1: [D, D], symmetric and positive semi-definite.
        mean2: [D].
        covariance2: [D, D].

    Returns:
        The distance, not negative, computed in float64.

    Raises:
        TypeError, ValueError: other shapes, or numbers that are not finite.

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982.
    """
    dim = mean1.numel() if isinstance(mean1, Tensor) else 0
    given = {"mean1": (mean1, (dim,)), "covariance1": (covariance1, (dim, dim)),
             "mean2": (mean2, (dim,)), "covariance2": (covariance2, (dim, dim))}  # fmt: skip
    for name, (value, shape) in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if tuple(value.shape) != shape or not dim:
            raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    m1, c1, m2, c2 = (value.detach().double() for value, _ in given.values())
    cross = torch.linalg.svdvals(_root(c1).t() @ _root(c2)).sum() if dim else 0.0
    distance = (m1 - m2).square().sum() + c1.diagonal().sum() + c2.diagonal().sum() - 2 * cross
    return max(float(distance), 0.0)


def warn_of_few(name: str, count: int, dim: int) -> None:
    """Warn where there are not more images than features."""
    if count <= dim:
        warnings.warn(
            f"frechet: {name} has {count} images for {dim} features: their covariance has a rank of at most {count - 1}, so "
            "the distance is biased upwards and says more of the number of images than of their quality; compare it with "
            "nothing but results of as many images, or take more of them, or 'kernel', which has no bias",
            UserWarning,
            stacklevel=3,
        )


def frechet_distance(real: Tensor | GaussianStatistics, fake: Tensor | GaussianStatistics) -> float:
    """Frechet distance of Gaussians with the mean and covariance of two sets of features (FID, if they are Inception's).

    Args:
        real: features [N, D], or their statistics. At least 2 images.
        fake: features [M, D], or their statistics.

    Returns:
        The distance, 0 for equal statistics. Its bias falls as 1 / N: compare results of equally many images only.

    Warns:
        UserWarning: where there are not more images than features.

    Raises:
        TypeError, ValueError: tensors that are not finite [N, D], fewer than 2 images, different numbers of features.

    Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017, eq. 6.
    """
    statistics = []
    for name, given in (("real", real), ("fake", fake)):
        if isinstance(given, Tensor):
            check_features(name, given, 2)
            given = GaussianStatistics.of(given)
        elif not isinstance(given, GaussianStatistics):
            raise TypeError(f"{name} must be a torch.Tensor [N, D] or GaussianStatistics, got {type(given).__name__}")
        if given.count < 2:
            raise ValueError(f"{name} must have at least 2 images, got {given.count}")
        statistics.append(given)
    a, b = statistics
    if a.dim != b.dim:
        raise ValueError(f"fake must have as many features as real, {a.dim}, got {b.dim}")
    warn_of_few("real", a.count, a.dim)
    warn_of_few("fake", b.count, b.dim)
    device = a.mean.device
    return gaussian_frechet_distance(a.mean, a.covariance, b.mean.to(device), b.covariance.to(device))


__all__ = ["GaussianStatistics", "frechet_distance", "gaussian_frechet_distance"]
