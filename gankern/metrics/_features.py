"""What an extractor gives of a set of images, and the checks that every metric makes of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Features:
    """Features of images.

    Attributes:
        values: [N, D], floating-point.
        logits: [N, K], logits of the extractor's classes, or None if it has none.

    Raises:
        TypeError, ValueError: tensors of another kind or shape, or numbers that are not finite.
    """

    values: Tensor
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        check_features("features", self.values)
        if self.logits is not None:
            check_features("logits", self.logits)
            if len(self.logits) != len(self.values):
                raise ValueError(
                    f"logits must be [{len(self.values)}, K], one row for each image, got {list(self.logits.shape)}"
                )

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def join(parts: Sequence[Features]) -> Features:
        """Those of several sets of images as one; at least one part."""
        logits = [p.logits for p in parts if p.logits is not None]
        if logits and len(logits) != len(parts):
            raise ValueError("features: some parts have logits, others have none")
        values = [p.values for p in parts]
        if any(v.shape[1] != values[0].shape[1] for v in values):
            widths = sorted({v.shape[1] for v in values})
            raise ValueError(f"features: all parts must have as many features as the first, got {', '.join(map(str, widths))}")
        return Features(torch.cat(values), torch.cat(logits) if logits else None)


def check_features(name: str, x: Any, least: int = 0) -> None:
    """Require a finite floating-point tensor [N, D] with at least ``least`` rows.

    Raises:
        TypeError, ValueError: naming the argument, and the first row that is not finite.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor [N, D], got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating-point dtype, got {str(x.dtype).removeprefix('torch.')}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must be [N, D] with D at least 1, got {list(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{name} must have at least {least} row{'s' if least != 1 else ''}, got {len(x)}")
    if not x.numel():
        return
    low, high = torch.aminmax(x)  # which a NaN makes NaN; one pass and no matrix of answers
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        finite = torch.isfinite(x).all(1)
        bad = (~finite).nonzero().flatten()
        more = f" and {len(bad) - 1} more rows" if len(bad) > 1 else ""
        raise ValueError(f"{name} must be finite, got NaN or infinity in row {int(bad[0])}{more}")


def check_pair(real: Any, fake: Any, least: int) -> None:
    """Require two sets of features of one width and device with at least ``least`` rows each."""
    check_features("real", real, least)
    check_features("fake", fake, least)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"fake must have as many features as real, {real.shape[1]}, got {fake.shape[1]}")
    if real.device != fake.device:
        raise ValueError(f"fake must be on the device of real, {real.device}, got {fake.device}")
