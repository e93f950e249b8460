"""Named inputs of minibatch_stddev: contract cases first, then the shapes of real networks."""

from __future__ import annotations

from typing import Any

import torch

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})


def _sample(
    name: str, shape: tuple[int, int, int, int], *, tags: frozenset[str] = _CONTRACT, description: str = "", **settings: Any
) -> Sample:
    n, c, h, w = shape
    elements, extra = n * c * h * w, n * settings.get("num_channels", 1) * h * w

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        return {"x": randn(shape, dtype, device, generator), **settings}

    return Sample(
        name=name,
        make=make,
        tags=tags,
        macs=2 * elements,
        bytes=lambda itemsize: (2 * elements + extra) * itemsize,
        description=description,
    )


CONTRACT = [
    _sample("groups_of_four", (8, 6, 3, 4), tags=_CHECK),
    _sample("smaller_groups", (6, 4, 3, 5), num_channels=2, tags=_CHECK),
    _sample("prime_batch", (5, 4, 4, 4)),
    _sample("whole_batch", (6, 3, 4, 4), group_size=100, num_channels=3),
    _sample("one_sample", (1, 4, 3, 5)),
    _sample("groups_of_one", (3, 4, 3, 5), group_size=1),
    _sample("one_pixel", (4, 6, 1, 1), num_channels=2),
    _sample("empty_batch", (0, 4, 3, 5)),
]

BENCH = [
    _sample(
        "stylegan2_512x4", (16, 512, 4, 4), tags=_QUICK, description="minibatch stddev: StyleGAN2 discriminator, 512 ch 4^2"
    ),
]

SAMPLES = CONTRACT + BENCH
