"""Mixtures of Gaussians in the plane, on which mode collapse can be counted: the ring of 8 and the grid of 25."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern._validate import number


@dataclass(frozen=True)
class Coverage:
    """What :meth:`Mixture.coverage` found.

    Attributes:
        modes: how many modes have at least the asked number of high-quality samples.
        high_quality: share of the samples that are within the asked number of standard deviations of a mode, 0 to 1.
        divergence: Kullback-Leibler divergence, in nats, of the high-quality samples' distribution over modes from the uniform
            one: 0 where all modes have as many, log(number of modes) where one has all; NaN without high-quality samples.
        counts: high-quality samples of each mode.
    """

    modes: int
    high_quality: float
    divergence: float
    counts: tuple[int, ...]


class Mixture:
    """Gaussians of one standard deviation around given points, all with the same weight.

    Args:
        centers: [K, D], finite, at least one; kept in float32.
        std: standard deviation along each axis, positive.
        name: for messages and plots. Default 'mixture'.

    Raises:
        TypeError, ValueError: centers or a deviation that are none.
    """

    def __init__(self, centers: Tensor, std: float, name: str = "mixture") -> None:
        if not isinstance(centers, Tensor) or not centers.is_floating_point():
            got = str(centers.dtype) if isinstance(centers, Tensor) else type(centers).__name__
            raise TypeError(f"Mixture: centers must be a floating-point torch.Tensor [K, D], got {got}")
        if centers.dim() != 2 or centers.numel() == 0 or not bool(centers.isfinite().all()):
            raise ValueError(f"Mixture: centers must be finite [K, D] with at least one point, got {list(centers.shape)}")
        self.centers, self.name = centers.detach().float().cpu().clone(), name
        self.std = number("Mixture", "std", std)
        if self.std <= 0:
            raise ValueError(f"Mixture: std must be positive, got {std!r}")

    def __repr__(self) -> str:
        return f"Mixture({self.name!r}, {len(self)} modes, std={self.std:g})"

    def __len__(self) -> int:
        return self.centers.shape[0]

    def sample(self, count: int, generator: torch.Generator | None = None, device: Any = None) -> Tensor:
        """Samples [count, D] in float32.

        Args:
            count: how many, 0 or more.
            generator: random numbers, of the device ``cpu``: the same on every device. Default None: torch's own.
            device: where the samples are wanted. Default None: the CPU.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"Mixture.sample: count must be an int of 0 or more, got {count!r}")
        which = torch.randint(len(self), (count,), generator=generator)
        noise = torch.randn(count, self.centers.shape[1], generator=generator)
        return (self.centers[which] + self.std * noise).to(device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Logarithm of the density at points ``x`` [N, D]: [N], in the dtype of ``x``. Gradients of any order."""
        self._check("log_prob", x)
        centers = self.centers.to(x)
        squared = (x[:, None] - centers).square().sum(2) / self.std**2
        scale = x.shape[1] / 2 * math.log(2 * math.pi * self.std**2) + math.log(len(self))
        return torch.logsumexp(-squared / 2, 1) - scale

    def coverage(self, x: Tensor, within: float = 3.0, least: int = 1) -> Coverage:
        """How many modes the samples ``x`` [N, D] reach, and how many of them are good.

        Of the mixture's own samples in the plane, 1 - exp(-within^2 / 2) are of high quality: 98.9 % within 3. Samples that are
        not finite are of no quality.

        Args:
            x: generated points, at least one.
            within: standard deviations from the nearest mode that make a sample of high quality, positive. Default 3.
            least: high-quality samples that a mode needs to count as reached, at least 1. Default 1, as in the paper; a path of
                samples between two modes can pass for one with so few.

        Returns:
            A :class:`Coverage`.

        Raises:
            TypeError, ValueError: points of another dimension, none at all, or settings that are not accepted.

        Source: Srivastava et al., "VEEGAN: reducing mode collapse in GANs using implicit variational learning", 2017, section
        5.1; the divergence is that of Lin et al., "PacGAN", 2018, section 4.1.
        """
        self._check("coverage", x)
        within = number("Mixture.coverage", "within", within)
        if within <= 0:
            raise ValueError(f"Mixture.coverage: within must be positive, got {within!r}")
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ValueError(f"Mixture.coverage: least must be an int of at least 1, got {least!r}")
        if x.shape[0] == 0:
            raise ValueError("Mixture.coverage: x must have at least one sample, got none")
        count = x.shape[0]
        x = x.detach().cpu().double()
        x = x[x.isfinite().all(1)]
        # Not cdist's fast way, by a matrix product: it loses the digits that tell points of close modes apart.
        distance = torch.cdist(x, self.centers.double(), compute_mode="donot_use_mm_for_euclid_dist")
        nearest, mode = distance.min(1)
        good = mode[nearest <= within * self.std]
        counts = torch.bincount(good, minlength=len(self))
        share = counts[counts > 0].double() / max(len(good), 1)
        divergence = float((share * (share * len(self)).log()).sum()) if len(good) else math.nan
        return Coverage(int((counts >= least).sum()), len(good) / count, divergence, tuple(counts.tolist()))

    def _check(self, what: str, x: Any) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"Mixture.{what}: x must be a floating-point torch.Tensor [N, D], got {got}")
        if x.dim() != 2 or x.shape[1] != self.centers.shape[1]:
            raise ValueError(f"Mixture.{what}: x must be [N, {self.centers.shape[1]}], got {list(x.shape)}")


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.02) -> Mixture:
    """Gaussians on a circle around 0, the first on the x axis.

    Args:
        modes: how many, at least 1. Default 8.
        radius: of the circle, not negative. Default 2.
        std: of each Gaussian. Default 0.02 (Metz et al. 2017, appendix A).

    Raises:
        TypeError, ValueError: numbers that are not accepted.
    """
    _at_least("ring", "modes", modes)
    radius = number("ring", "radius", radius)
    if radius < 0:
        raise ValueError(f"ring: radius must not be negative, got {radius!r}")
    angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return Mixture(radius * torch.stack((angles.cos(), angles.sin()), 1), std, f"ring of {modes}")


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """Gaussians on a square grid around 0.

    Args:
        side: modes along an axis, at least 1. Default 5: 25 modes.
        spacing: between neighbours, positive. Default 2.
        std: of each Gaussian. Default 0.05 (Srivastava et al. 2017, section 5.1).

    Raises:
        TypeError, ValueError: numbers that are not accepted.
    """
    _at_least("grid", "side", side)
    spacing = number("grid", "spacing", spacing)
    if spacing <= 0:
        raise ValueError(f"grid: spacing must be positive, got {spacing!r}")
    along = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    return Mixture(torch.cartesian_prod(along, along), std, f"grid of {side * side}")


def _at_least(op: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{op}: {name} must be an int of at least 1, got {value!r}")


__all__ = ["Coverage", "Mixture", "grid", "ring"]
