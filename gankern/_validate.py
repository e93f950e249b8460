"""Argument checks that every op shares: errors name the argument, what came and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def tensor4(op: str, name: str, value: Any) -> None:
    """Require a 4-D tensor [N, C, H, W] of a supported floating-point dtype with at least one pixel."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor [N, C, H, W], got {type(value).__name__}")
    if value.dim() != 4:
        raise ValueError(f"{op}: {name} must have 4 dimensions [N, C, H, W], got {value.dim()}: {list(value.shape)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {short(value.dtype)}")


def short(dtype: torch.dtype) -> str:
    """'float32' for torch.float32."""
    return str(dtype).removeprefix("torch.")


def integers(op: str, name: str, value: Any, forms: str, lengths: Sequence[int]) -> list[Any]:
    """A list of ints from an int or a sequence of one of ``lengths``; ``forms`` describes what is accepted."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return [value]
    sequence = isinstance(value, (list, tuple)) and len(value) in lengths
    if sequence and all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in value):
        return list(value)
    kind = ValueError if isinstance(value, (list, tuple)) else TypeError
    raise kind(f"{op}: {name} must be {forms}, got {value!r}")


def number(op: str, name: str, value: Any) -> float:
    """A finite real number as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a real number, got {value!r}")
    if not -math.inf < value < math.inf:  # not isfinite, which torch.compile cannot trace
        raise ValueError(f"{op}: {name} must be finite, got {value!r}")
    return float(value)
