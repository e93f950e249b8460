"""Named inputs of spectral_norm: contract cases first, then the shapes of real networks.

Checks call a function several times and expect the same. So the contract's cases iterate 0 times (tests/ops has the others),
and the benchmark's weights have one dominant singular value, at which the iteration has arrived.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})


def _sample(
    name: str,
    shape: tuple[int, ...],
    dim: int = 0,
    *,
    iterations: int = 0,
    tags: frozenset[str] = _CONTRACT,
    description: str = "",
) -> Sample:
    """One case, with u and v that are some iterations old."""
    rows, elements = shape[dim], math.prod(shape)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        weight = randn(shape, torch.float64, torch.device("cpu"), generator)
        v = randn((elements // rows,), torch.float64, torch.device("cpu"), generator)
        if iterations:
            u = randn((rows,), torch.float64, torch.device("cpu"), generator)
            # Four times the largest singular value of normal numbers.
            dominant = torch.outer(u / u.norm(), v / v.norm()) * (4 * (rows**0.5 + (elements // rows) ** 0.5))
            weight += dominant.view(rows, *(size for d, size in enumerate(shape) if d != dim)).movedim(0, dim)
        matrix = weight.movedim(dim, 0).flatten(1)
        for _ in range(16 if iterations else 3):
            u = torch.nn.functional.normalize(matrix @ v, dim=0)
            v = torch.nn.functional.normalize(matrix.t() @ u, dim=0)
        made = {name: t.to(dtype).to(device) for name, t in (("weight", weight), ("u", u), ("v", v))}
        return {**made, "dim": dim, "n_power_iterations": iterations}

    return Sample(
        name=name,
        make=make,
        differentiable=("weight",),
        tags=tags,
        macs=(2 * iterations + 1) * elements,
        bytes=lambda itemsize: 3 * elements * itemsize,
        layouts=("nchw", "channels_last") if len(shape) == 4 else ("nchw",),
        description=description,
    )


CONTRACT = [
    _sample("convolution", (8, 5, 3, 3), tags=_CHECK),
    _sample("transposed_convolution", (5, 8, 3, 2), dim=1),
    _sample("linear", (9, 14)),
    _sample("last_dim", (3, 4, 2, 5), dim=-1),
    _sample("volumes", (4, 3, 2, 3, 3)),
    _sample("one_row", (1, 7)),
    _sample("one_column", (7, 1)),
]

BENCH = [
    _sample("conv_512x512x3", (512, 512, 3, 3), iterations=1, tags=_QUICK,
            description="spectral norm of a 3x3 convolution, 512 to 512 channels, one iteration"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
