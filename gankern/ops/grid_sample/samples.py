"""Named inputs of grid_sample: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})

MakeGrid = Callable[[int, int, int, torch.Generator], Tensor]
"""(N, Ho, Wo, generator) -> positions [N, Ho, Wo, 2] in float64."""


def _random(spread: float, offset: float = 0.0) -> MakeGrid:
    """Positions uniform in [offset - spread, offset + spread]; the image is [-1, 1]."""

    def make(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        return offset + spread * (2 * torch.rand((n, height, width, 2), generator=generator, dtype=torch.float64) - 1)

    return make


def _affine(degrees: float, scale: float) -> MakeGrid:
    """A rotation and a scaling, another one for every image of the batch."""

    def make(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        angle = math.radians(degrees) * (1 + torch.arange(n, dtype=torch.float64) / max(n, 1))
        c, s = scale * angle.cos(), scale * angle.sin()
        theta = torch.stack((c, -s, torch.full_like(c, 0.01), s, c, torch.full_like(c, -0.02)), 1).view(n, 2, 3)
        x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
        y = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
        base = torch.stack((*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width, dtype=torch.float64)), -1)
        return torch.einsum("hwk,njk->nhwj", base, theta)

    return make


def _same_pixel(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """All samples between the same four pixels: the whole gradient goes there."""
    return 0.05 + 0.1 * torch.rand((n, height, width, 2), generator=generator, dtype=torch.float64)


def off_pixel_centres(grid: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """``grid`` rounded to ``dtype``, values whose positions come close to a pixel's centre moved away from it.

    There the slope in the position jumps. A float32 kernel whose position comes out on the other side than the float64 truth's
    would be right and look wrong, and a finite difference across the jump has no meaning.
    """
    size = torch.tensor([width, height], dtype=torch.float64)
    result = grid.to(dtype)
    for step in range(1, 200):
        position = ((result.double() + 1) * size - 1) / 2
        part = position - position.floor()
        near = (part < 0.02) | (part > 0.98)
        if not bool(near.any()):
            return result
        # By turns up and down, further each time: a half type may have no other number within the first steps.
        shift = (0.03 if step % 2 else -0.03) * ((step + 1) // 2)
        result = torch.where(near, (grid + shift * 2 / size).to(dtype), result)
    raise ValueError(f"off_pixel_centres: {dtype} has no positions between the pixels of {height}x{width}")


def _sample(
    name: str,
    shape: tuple[int, int, int, int],
    out: tuple[int, int],
    grid: MakeGrid,
    *,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] = ("input", "grid"),
    description: str = "",
) -> Sample:
    """One case: images of ``shape``, sampled at ``out`` positions each."""
    n, channels, height, width = shape
    samples = n * out[0] * out[1]

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        image = randn(shape, dtype, device, generator)
        positions = off_pixel_centres(grid(n, *out, generator), height, width, dtype)
        return {"input": image, "grid": positions.to(device)}

    return Sample(
        name=name,
        make=make,
        differentiable=differentiable,
        tags=tags,
        macs=4 * samples * channels,
        bytes=lambda itemsize: (n * channels * height * width + samples * channels + 2 * samples) * itemsize,
        description=description,
    )


# A float32 position has an error of half a unit in its last place, which grows with it; up to 8 pixels it stays within the
# 1e-6 that kernels are held to.
CONTRACT = [
    _sample("inside", (2, 3, 5, 7), (4, 6), _random(0.7), tags=_CHECK),
    _sample("partly_outside", (2, 3, 6, 5), (5, 7), _random(1.4), tags=_CHECK),
    _sample("wholly_outside", (2, 2, 4, 5), (3, 4), _random(0.3, offset=2.5)),
    _sample("at_the_border", (1, 2, 4, 6), (7, 5), _random(0.15, offset=0.95)),
    _sample("one_channel", (2, 1, 7, 6), (6, 5), _random(1.1)),
    _sample("past_a_vector", (1, 19, 6, 7), (5, 9), _random(1.1)),
    _sample("many_channels", (1, 67, 5, 4), (3, 6), _random(1.1)),
    _sample("wide_image", (2, 3, 2, 8), (9, 2), _random(1.2)),
    _sample("one_pixel", (2, 3, 1, 1), (4, 5), _random(1.5)),
    _sample("one_sample", (3, 4, 5, 6), (1, 1), _random(0.8)),
    _sample("same_pixel", (1, 3, 5, 5), (12, 11), _same_pixel),
    _sample("almost_identity", (2, 3, 8, 8), (8, 8), _affine(0.5, 0.97)),
    _sample("rotation", (2, 3, 7, 8), (8, 9), _affine(33.0, 1.2), tags=_CHECK),
    _sample("empty_batch", (0, 3, 4, 5), (2, 3), _random(1.0)),
    _sample("no_channels", (2, 0, 4, 5), (2, 3), _random(1.0)),
    _sample("no_samples", (2, 3, 4, 5), (0, 3), _random(1.0)),
    _sample("only_grid_trained", (2, 3, 5, 6), (4, 4), _random(1.1), differentiable=("grid",)),
    _sample("only_input_trained", (2, 3, 5, 6), (4, 4), _random(1.1), differentiable=("input",)),
    _sample("several_blocks", (2, 3, 8, 7), (24, 25), _affine(20.0, 1.1)),
]

BENCH = [
    _sample("augment_3x256", (4, 3, 256, 256), (256, 256), _affine(20.0, 0.9), tags=_QUICK,
            description="augmentation: rotate and scale RGB 256^2"),
    _sample("features_64x128", (2, 64, 128, 128), (128, 128), _affine(20.0, 0.9), tags=_FULL,
            description="rotate and scale 64 ch 128^2"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
