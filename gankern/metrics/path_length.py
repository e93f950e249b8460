"""Perceptual path length: how much images change, per step, on the way from one latent to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern.metrics._progress import Progress
from gankern.metrics.extractors import Extractor
from gankern.metrics.perceptual import Distance
from gankern.metrics.sources import draw, seeded

RESOLUTION = 256  # of the images that are compared: larger ones are made smaller first (Karras et al. 2019)


@dataclass(frozen=True)
class PathLength:
    """A perceptual path length.

    Attributes:
        mean: of the samples that are left when the outliers are gone.
        samples: drawn.
        kept: of these, between the percentiles.
    """

    mean: float
    samples: int
    kept: int


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of the directions of a and b [N, D], at t [N]: unit vectors [N, D].

    Where they point the same way, or opposite ways, it is the straight line, normalised.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    cosine = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    # The part of b that is orthogonal to a; acos of the cosine would lose small angles.
    across = b - cosine * a
    length = across.norm(dim=1, keepdim=True)
    angle = torch.atan2(length, cosine) * t[:, None]
    turned = a * angle.cos() + across / length.clamp_min(torch.finfo(a.dtype).tiny) * angle.sin()
    straight = F.normalize(torch.lerp(a, b, t[:, None]), dim=1)
    return torch.where(length > 1e-12, turned, straight)


def feature_distance(extractor: Extractor) -> Distance:
    """Squared Euclidean distance of an extractor's features, [N]."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (extractor(a).values.double() - extractor(b).values.double()).square().sum(1)

    return distance


@torch.no_grad()
def perceptual_path_length(
    generator: nn.Module,
    distance: Distance | Extractor,
    samples: int = 10_000,
    *,
    space: str | None = None,
    sampling: str = "end",
    epsilon: float = 1e-4,
    truncation: float | None = None,
    batch: int = 32,
    seed: int = 0,
    percentiles: tuple[float, float] = (1.0, 99.0),
    progress: bool = False,
) -> PathLength:
    """Mean of ``distance(image at t, image at t + epsilon) / epsilon^2`` over random pairs of latents.

    Noise is the same for both images. Images larger than 256 x 256 are averaged down to that first.

    Args:
        generator: a ``gankern.models.LatentGenerator``; its mode is left as it is.
        distance: of two batches of images [N, C, H, W] in about [-1, 1], to [N]; it should be of second order in small
            differences, as LPIPS is (``lpips_distance('vgg')`` is what published numbers have). An extractor: the squared
            distance of its features.
        samples: pairs of latents. Default 10000.
        space: 'z', along a great circle of directions, with the norm going from one's to the other's, or 'w', along a straight
            line, for style-based generators. Default None: 'w' if there is a w.
        sampling: 'end', with t = 0, or 'full', with t uniform in [0, 1). Default 'end', as in StyleGAN2.
        epsilon: step in t. Default 1e-4.
        truncation: of a style-based generator. Default None: none.
        batch: pairs in a call. Default 32.
        seed: of latents, classes, t and noise. Default 0.
        percentiles: samples below the first and above the second are left out. Default (1, 99), as is customary.
        progress: show a progress bar.

    Returns:
        The mean, and how many samples are in it.

    Raises:
        TypeError, ValueError: an argument out of its range; space 'w', or truncation, of a generator without w.

    Numerics: latents and distances are made in float64 as far as the networks let them; in float32 images that differ by
    ``epsilon`` are near the rounding of their pixels, which adds about (2^-24 / epsilon)^2 times their size.

    Source: Karras et al., "A style-based generator architecture", 2019, section 4.1; "Analyzing and improving the image quality
    of StyleGAN", 2020, section 3.
    """
    from gankern.models import StyleGenerator

    styled = isinstance(generator, StyleGenerator)
    space = space or ("w" if styled else "z")
    name = type(generator).__name__
    if not hasattr(generator, "sample_z"):
        raise TypeError(f"generator must have sample_z, as gankern.models.LatentGenerator, got {name}")
    if space not in ("w", "z"):
        raise ValueError(f"space must be 'w', 'z' or None, got {space!r}")
    if not styled and (space == "w" or truncation is not None):
        what = "space must be 'z'" if space == "w" else "truncation must be None"
        raise ValueError(f"{what} for {name}, which has no mapping to w")
    if sampling not in ("end", "full"):
        raise ValueError(f"sampling must be 'end' or 'full', got {sampling!r}")
    for key, value in (("samples", samples), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be an int, at least 1, got {value!r}")
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon!r}")
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be two numbers from 0 to 100, the second larger, got {percentiles!r}")
    measure = feature_distance(distance) if isinstance(distance, Extractor) else distance
    random = torch.Generator().manual_seed(seed)
    found = []
    with Progress("path length", samples, progress) as bar:
        for start in range(0, samples, batch):
            count = min(batch, samples - start)
            found.append(_lengths(generator, measure, count, space, sampling, epsilon, truncation, random))
            bar.add(count)
    lengths = torch.cat(found)
    ends = torch.quantile(lengths, lengths.new_tensor([low / 100, high / 100]))
    kept = lengths[(lengths >= ends[0]) & (lengths <= ends[1])]
    return PathLength(float(kept.mean()), samples, len(kept))


def _lengths(
    generator: Any, distance: Distance, count: int, space: str, sampling: str, epsilon: float, truncation: float | None,
    random: torch.Generator,
) -> Tensor:  # fmt: skip
    z1, labels = draw(generator, count, random)
    z2 = generator.sample_z(count, random)
    t = (
        torch.rand(count, generator=random, dtype=torch.float64)
        if sampling == "full"
        else torch.zeros(count, dtype=torch.float64)
    )
    t = t.to(z1.device)
    options = {} if truncation is None else {"truncation": truncation}
    noise = int(torch.randint(2**62, (), generator=random))
    images = []
    for at in (t, t + epsilon):
        if space == "z":
            a, b = z1.double(), z2.double()
            norm = torch.lerp(a.norm(dim=1), b.norm(dim=1), at)[:, None]
            z = (slerp(a, b, at) * norm).to(z1.dtype)
            image = seeded(generator, noise, lambda z=z: generator(z, labels, **options))  # type: ignore[misc]
        else:
            image = seeded(generator, noise, lambda at=at: _between(generator, z1, z2, labels, at, options))  # type: ignore[misc]
        images.append(_reduced(image))
    return distance(*images).double().cpu() / epsilon**2


def _between(generator: Any, z1: Tensor, z2: Tensor, labels: Tensor | None, t: Tensor, options: dict[str, float]) -> Tensor:
    w1, w2 = (generator.mapping(z, labels, **options) for z in (z1, z2))
    w = torch.lerp(w1.double(), w2.double(), t[:, None, None]).to(w1.dtype)
    images: Tensor = generator.synthesis(w)
    return images


def _reduced(images: Tensor) -> Tensor:
    images = images.float() if images.dtype != torch.float64 else images
    factor = min(images.shape[2:]) // RESOLUTION
    return F.avg_pool2d(images, factor) if factor > 1 else images


__all__ = ["PathLength", "feature_distance", "perceptual_path_length", "slerp"]
