"""What dtype an op computes in."""

from __future__ import annotations

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute and to accumulate in, and of all that is not an image: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
