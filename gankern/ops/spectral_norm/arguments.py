"""Arguments of spectral_norm, their checks, and the weight as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _validate

OP = "spectral_norm"


def _vector(weight: Tensor, name: str, value: Any, size: int, form: str) -> None:
    _validate.companion(OP, weight, name, value, "")
    if value.dim() != 1 or value.shape[0] != size:
        raise ValueError(f"{OP}: {name} must have shape [{size}], {form}, got {list(value.shape)}")


def prepare(
    weight: Tensor, u: Tensor, v: Tensor, dim: int = 0, n_power_iterations: int = 1, eps: float = 1e-12
) -> tuple[Tensor, Tensor, Tensor, int, int, float]:
    """Check the public arguments; ``dim`` is not negative."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"{OP}: weight must be a torch.Tensor, got {type(weight).__name__}")
    if weight.dtype not in _validate.FLOATING:
        raise TypeError(f"{OP}: weight must be float32, float64, bfloat16 or float16, got {_validate.short(weight.dtype)}")
    if weight.dim() < 2:
        raise ValueError(f"{OP}: weight must have at least 2 dimensions, got {weight.dim()}: {list(weight.shape)}")
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{OP}: dim must be an int, got {dim!r}")
    if not -weight.dim() <= dim < weight.dim():
        raise ValueError(
            f"{OP}: dim must be in [{-weight.dim()}, {weight.dim() - 1}] for a weight of {weight.dim()} dimensions, got {dim}"
        )
    dim = dim % weight.dim()
    if not isinstance(n_power_iterations, int) or isinstance(n_power_iterations, bool):
        raise TypeError(f"{OP}: n_power_iterations must be an int, got {n_power_iterations!r}")
    if n_power_iterations < 0:
        raise ValueError(f"{OP}: n_power_iterations must not be negative, got {n_power_iterations}")
    number = _validate.number(OP, "eps", eps)
    if number <= 0:
        raise ValueError(f"{OP}: eps must be positive, got {eps!r}")
    rows = weight.shape[dim]
    _vector(weight, "u", u, rows, f"the size of weight along dim {dim}")
    _vector(weight, "v", v, math.prod(weight.shape[:dim]) * math.prod(weight.shape[dim + 1 :]), "the product of the others")
    return weight, u, v, dim, n_power_iterations, number


def order(weight: Tensor, dim: int) -> list[int]:
    """``dim``, then the other dimensions as they follow in memory: so the matrix of a channels_last weight is a view."""
    rest = [d for d in range(weight.dim()) if d != dim]
    if weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        rest.sort(key=lambda d: (0, 3, 1, 2)[d])
    return [dim, *rest]


def matrix(weight: Tensor, axes: Sequence[int]) -> Tensor:
    """[rows, columns] in the order ``axes``: a view where memory has that order."""
    return weight.permute(*axes).flatten(1)


def permuted(v: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """The column vector ``v``, which is in the weight's own order, in the order ``axes``."""
    rest = list(axes[1:])
    if rest == sorted(rest):
        return v
    own = sorted(rest)
    return v.view([shape[d] for d in own]).permute([own.index(d) for d in rest]).reshape(-1)


def restored(columns: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """The inverse of :func:`permuted`."""
    rest = list(axes[1:])
    if rest == sorted(rest):
        return columns
    own = sorted(rest)
    return columns.view([shape[d] for d in rest]).permute([rest.index(d) for d in own]).reshape(-1)
