"""Named inputs of grad_norm_penalty: contract cases first, then gradients of real networks for ``gankern check`` and
benchmarks.
"""

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
    center: float = 0.0,
    weight: float = 1.0,
    *,
    tags: frozenset[str] = _CONTRACT,
    size: float = 1.0,
    description: str = "",
) -> Sample:
    """One case; ``size`` is the magnitude of the gradient's numbers."""
    elements = math.prod(shape)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        return {"grad": size * randn(shape, dtype, device, generator), "center": center, "weight": weight}

    return Sample(
        name=name,
        make=make,
        differentiable=("grad",),
        tags=tags,
        macs=elements,
        bytes=lambda itemsize: elements * itemsize,
        layouts=("nchw", "channels_last") if len(shape) == 4 else ("nchw",),
        description=description,
    )


CONTRACT = [
    _sample("squares", (3, 2, 5, 7), 0.0, 5.0, tags=_CHECK),
    _sample("one_centered", (2, 3, 4, 8), 1.0, 10.0, tags=_CHECK),
    _sample("several_chunks", (2, 3, 71, 83), 2.0),
    _sample("latents", (5, 33), 0.5, size=0.125),
    _sample("zeros", (2, 3, 3, 4), 1.0, 10.0, size=0.0),
    _sample("empty_batch", (0, 3, 4, 5), 1.0),
]

BENCH = [
    _sample("r1_16x64", (16, 3, 64, 64), 0.0, 5.0, tags=_QUICK, description="gradient penalty: R1, 16 images of 64^2"),
    _sample("wgan_gp_4x1024", (4, 3, 1024, 1024), 1.0, 10.0, tags=_FULL,
            description="gradient penalty: WGAN-GP, 4 images of 1024^2"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
