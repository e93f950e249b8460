"""Argument checks that every op shares: errors name the argument, what came and what is accepted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LARGEST = sys.float_info.max
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
    if type(value) is float and -_LARGEST <= value <= _LARGEST:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a real number, got {value!r}")
    if (
        not -_LARGEST <= value <= _LARGEST
    ):  # not isfinite, which torch.compile cannot trace; an int may be larger than any float
        raise ValueError(f"{op}: {name} must be finite, got {value!r}")
    return float(value)


def factors(op: str, name: str, value: Any) -> tuple[int, int]:
    """(x, y) from an int or [x, y]; both at least 1."""
    values = integers(op, name, value, "an int or [x, y]", (1, 2))
    if any(v < 1 for v in values):
        raise ValueError(f"{op}: {name} must be at least 1, got {value!r}")
    return values[0], values[-1]


def paddings(op: str, value: Any) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) from an int, [x, y] (both sides alike) or [x0, x1, y0, y1]; negative values crop."""
    values = integers(op, "padding", value, "an int, [x, y] or [x0, x1, y0, y1]", (1, 2, 4))
    if len(values) == 4:
        return values[0], values[1], values[2], values[3]
    return values[0], values[0], values[-1], values[-1]


def check_filter(op: str, f: Any, name: str = "f") -> None:
    """Require None or a non-empty floating-point tensor of 1 (separable) or 2 dimensions."""
    if f is None:
        return
    if not isinstance(f, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor [taps] or [taps_y, taps_x], or None, got {type(f).__name__}")
    if not f.is_floating_point():
        raise TypeError(f"{op}: {name} must have a floating-point dtype, got {short(f.dtype)}")
    if f.dim() not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} must be [taps] or [taps_y, taps_x] with at least one tap, got {list(f.shape)}")


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height) in taps; a 1-D filter acts along both axes; None is a single tap."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def companion(op: str, x: Tensor, name: str, value: Any, form: str = "or None") -> None:
    """Require a floating-point tensor on the device of ``x``; ``form`` describes what is accepted."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"dtype {short(value.dtype)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{op}: {name} must be a floating-point torch.Tensor {form}, got {got}")
    if value.device != x.device:
        raise ValueError(f"{op}: {name} must be on the device of x ({x.device}), got {value.device}")


def pixel_noise(op: str, x: Tensor, noise: Any, size: Sequence[int], form: str = "[N, 1, H, W]") -> Tensor:
    """``noise`` as [N or 1, 1, H, W] with ``size`` (H, W), if it broadcasts to that (``form`` names it)."""
    companion(op, x, "noise", noise)
    want = [x.shape[0], 1, *size]
    if noise.dim() > 4 or any(a != s and a != 1 for a, s in zip(reversed(noise.shape), reversed(want), strict=False)):
        raise ValueError(f"{op}: noise must broadcast to {form} = {want}, got {list(noise.shape)}")
    whole: Tensor = noise.reshape((1,) * (4 - noise.dim()) + tuple(noise.shape))
    return whole.expand(whole.shape[0], 1, *size)
