"""Named inputs of interpolate: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

from __future__ import annotations

import math
from typing import Any

import torch

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})


def _sample(
    name: str,
    shape: tuple[int, ...],
    eps: tuple[int, ...] | None = None,
    *,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] = ("real", "fake", "eps"),
    description: str = "",
) -> Sample:
    """One case; ``eps`` is the shape of eps, [N] unless given."""
    elements = math.prod(shape)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        images = {key: randn(shape, dtype, device, generator) for key in ("real", "fake")}
        weights = torch.rand(eps or shape[:1], generator=generator, dtype=torch.float64)
        return {**images, "eps": weights.to(dtype).to(device)}

    return Sample(
        name=name,
        make=make,
        differentiable=differentiable,
        tags=tags,
        macs=2 * elements,
        bytes=lambda itemsize: 3 * elements * itemsize,
        layouts=("nchw", "channels_last") if len(shape) == 4 else ("nchw",),
        description=description,
    )


CONTRACT = [
    _sample("images", (3, 2, 5, 7), tags=_CHECK),
    _sample("one_weight_for_all", (2, 3, 4, 8), (1, 1, 1, 1), tags=_CHECK),
    _sample("several_chunks", (2, 3, 71, 83), (2, 1, 1, 1)),
    _sample("latents", (5, 33)),
    _sample("numbers", (7,)),
    _sample("empty_batch", (0, 3, 4, 5)),
]

BENCH = [
    _sample("batch_16x64", (16, 3, 64, 64), tags=_QUICK, description="interpolate: WGAN-GP, 16 images of 64^2"),
    _sample("batch_4x1024", (4, 3, 1024, 1024), tags=_FULL, description="interpolate: WGAN-GP, 4 images of 1024^2"),
]

SAMPLES = CONTRACT + BENCH
