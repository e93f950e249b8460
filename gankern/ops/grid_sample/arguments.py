"""Arguments of grid_sample: their checks, and the type that positions are computed in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _validate

OP = "grid_sample"
_MOST_PIXELS = 2**31
"""Kernels count the pixels of an axis in 32 bits; a float32 position would not tell one from the next long before."""


def compute_type(dtype: torch.dtype) -> torch.dtype:
    """What positions, weights and sums are computed in for images of ``dtype``: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def prepare(input: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Check the public arguments and give the registered operator's: images, and the grid contiguous in the compute type."""
    _validate.tensor4(OP, "input", input)
    if input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(f"{OP}: input must have at least one pixel, got {list(input.shape)}")
    if input.shape[2] >= _MOST_PIXELS or input.shape[3] >= _MOST_PIXELS:
        raise ValueError(f"{OP}: input must have fewer than 2**31 pixels along an axis, got {list(input.shape)}")
    _check_grid(input, grid)
    return input, grid.to(compute_type(input.dtype)).contiguous()


def _check_grid(input: Tensor, grid: Any) -> None:
    if not isinstance(grid, Tensor):
        raise TypeError(f"{OP}: grid must be a torch.Tensor [N, H_out, W_out, 2], got {type(grid).__name__}")
    if grid.dtype != input.dtype and grid.dtype != torch.float32:
        accepted = " or ".join(dict.fromkeys([_validate.short(input.dtype), "float32"]))
        raise TypeError(
            f"{OP}: grid must be {accepted} for an input of {_validate.short(input.dtype)}, got {_validate.short(grid.dtype)}"
        )
    if grid.dim() != 4 or grid.shape[3] != 2:
        raise ValueError(f"{OP}: grid must have shape [N, H_out, W_out, 2], got {list(grid.shape)}")
    if grid.shape[0] != input.shape[0]:
        raise ValueError(f"{OP}: grid must have the batch size of input ({input.shape[0]}), got {grid.shape[0]}")
    if grid.device != input.device:
        raise ValueError(f"{OP}: grid must be on the device of input ({input.device}), got {grid.device}")
