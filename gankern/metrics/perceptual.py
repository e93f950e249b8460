"""Distances that see as people do: LPIPS through its own package, between images that belong together, or between fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gankern._optional import optional

Distance = Callable[[Tensor, Tensor], Tensor]

NETS = ("alex", "vgg", "squeeze")


def lpips_distance(net: str = "alex", device: str | torch.device = "cpu", **options: Any) -> Distance:
    """The LPIPS distance of two batches of images, by the package ``lpips`` of its authors.

    Args:
        net: 'alex' (the authors' choice for evaluation), 'vgg' (of perceptual path lengths) or 'squeeze'.
        device: where to run it.
        **options: of ``lpips.LPIPS``, which fetches torchvision's weights of ``net`` into PyTorch's folder of checkpoints if
            they are not there.

    Returns:
        A function of images [N, C, H, W], [N, C, H, W] in [-1, 1], of 1 or 3 channels, that gives distances [N].

    Raises:
        ImportError: the package, or torchvision, which it needs, is missing.
        ValueError: an unknown ``net``.

    Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018.
    """
    if net not in NETS:
        raise ValueError(f"net must be one of {', '.join(NETS)}, got {net!r}")
    lpips = optional("lpips", "LPIPS needs its package, which cannot be imported ({error}): pip install lpips")
    network = lpips.LPIPS(net=net, verbose=False, **options).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = (x.to(device).float().expand(-1, 3, -1, -1) for x in (a, b))
        found: Tensor = network(a, b)
        return found.flatten(1).mean(1)

    return distance


@torch.no_grad()
def paired_distance(real: Iterable[Tensor], fake: Iterable[Tensor], distance: Distance) -> tuple[float, int]:
    """(sum, count) of the distances of images that belong together: the first of ``real`` and the first of ``fake``, and so on.

    Args:
        real: batches of images [N, C, H, W] in [-1, 1].
        fake: batches of as many, likewise.
        distance: of two batches, to [N].

    Raises:
        ValueError: batches that do not fit together.
    """
    total, count = 0.0, 0
    for a, b in zip(real, fake, strict=True):
        if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
            raise ValueError(
                f"lpips: real and fake must be images of one number and size, got {list(a.shape)} and {list(b.shape)}"
            )
        total += float(distance(a, b).double().sum())
        count += len(a)
    return total, count


@torch.no_grad()
def diversity(images: Tensor, distance: Distance, pairs: int = 1000, seed: int = 0, batch: int = 64) -> tuple[float, int]:
    """(sum, count) of the distances of random pairs of different images.

    Args:
        images: [N, C, H, W], uint8 or in [-1, 1], at least two.
        distance: of two batches in [-1, 1], to [N].
        pairs: how many, drawn with repetition.
        seed: of the pairs.
        batch: pairs in a call of ``distance``.

    Raises:
        ValueError: fewer than two images.

    Source: Zhu et al., "Toward multimodal image-to-image translation", 2017, section 5 (diversity).
    """
    from gankern.metrics.sources import prepared

    n = len(images)
    if n < 2:
        raise ValueError(f"lpips_diversity: there must be at least 2 images, got {n}")
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(n, (pairs,), generator=generator)
    j = torch.randint(n - 1, (pairs,), generator=generator)
    j += j >= i  # any but the first
    total = 0.0
    for a, b in zip(i.split(batch), j.split(batch), strict=True):
        total += float(distance(prepared("images", images[a]), prepared("images", images[b])).double().sum())
    return total, pairs


__all__ = ["Distance", "diversity", "lpips_distance", "paired_distance"]
