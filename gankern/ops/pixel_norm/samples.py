"""Named inputs of pixel_norm: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

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
    *,
    tags: frozenset[str] = _CONTRACT,
    size: float = 1.0,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case; ``size`` is the magnitude of x."""
    elements = math.prod(shape)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        return {"x": size * randn(shape, dtype, device, generator), **settings}

    return Sample(
        name=name,
        make=make,
        tags=tags,
        macs=2 * elements,
        bytes=lambda itemsize: 2 * elements * itemsize,
        layouts=("nchw", "channels_last") if len(shape) == 4 else ("nchw",),
        description=description,
    )


# Of one channel the derivatives are differences that only eps keeps from 0: there it must weigh.
CONTRACT = [
    _sample("images", (2, 5, 4, 7), tags=_CHECK),
    _sample("latents", (3, 37)),
    _sample("past_a_vector", (1, 19, 3, 45)),
    _sample("several_pieces", (1, 1030, 9, 15)),
    _sample("last_dim", (2, 3, 4, 21), dim=-1),
    _sample("first_dim", (3, 2, 4, 5), dim=0),
    _sample("one_dimension", (13,), dim=0),
    _sample("sequence", (2, 3, 4, 2, 3), dim=2),
    _sample("small_numbers", (2, 4, 3, 3), size=2.0**-14),
    _sample("large_eps", (2, 4, 3, 3), eps=0.5),
    _sample("one_channel", (2, 1, 3, 5), eps=2.0),
    _sample("single_element", (1, 1, 1, 1), eps=2.0),
    _sample("empty_batch", (0, 3, 4, 5)),
]

BENCH = [
    _sample("latents_32x512", (32, 512), tags=_QUICK, description="pixel norm of latents: StyleGAN mapping input, 32 x 512"),
    _sample("progan_512x32", (4, 512, 32, 32), tags=_QUICK, description="pixel norm: ProGAN generator, 512 ch 32^2"),
    _sample("progan_64x256", (2, 64, 256, 256), tags=_FULL, description="pixel norm: ProGAN generator, 64 ch 256^2"),
]

SAMPLES = CONTRACT + BENCH
