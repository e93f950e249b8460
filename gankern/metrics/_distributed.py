"""What the processes of torch.distributed have, put together: features by rank, sums; and an error of one is one of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gankern import _workers
from gankern.metrics._features import Features

T = TypeVar("T")


def active(sharded: bool) -> bool:
    """Whether there are others to talk to."""
    return sharded and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def together(action: Callable[[], T], sharded: bool) -> T:
    """``action()``; where it fails on one rank it fails on all, instead of leaving the others waiting for it."""
    if not active(sharded):
        return action()
    result, error = None, None
    try:
        result = action()
    except Exception as caught:
        error = caught
    told = _workers.gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    other = next((i for i, text in enumerate(told) if text is not None), None)
    if other is not None:
        raise RuntimeError(f"metrics: rank {other} failed with {told[other]}")
    return result  # type: ignore[return-value]


def first_does(action: Callable[[], T], sharded: bool) -> T:
    """``action()`` of rank 0, on every rank; its error likewise."""
    return _workers.first_does(action) if active(sharded) else action()


def totals(values: tuple[float, int], sharded: bool) -> tuple[float, int]:
    """Sums over all ranks of (sum, count)."""
    if not active(sharded):
        return values
    all_values = _workers.gather(values)
    return sum(v[0] for v in all_values), sum(v[1] for v in all_values)


def gathered(features: Features, sharded: bool) -> Features:
    """The rows of all ranks, in the order of the ranks; on every rank."""
    if not active(sharded):
        return features
    logits = features.logits
    shapes = _workers.gather((tuple(features.values.shape), None if logits is None else tuple(logits.shape)))
    if len({s[0][1:] for s in shapes}) > 1 or len({s[1] and s[1][1:] for s in shapes}) > 1:
        raise ValueError(f"features: all ranks must have as many features and classes as the first, got {shapes}")
    counts = [s[0][0] for s in shapes]
    values = _rows(features.values, counts)
    return Features(values, None if logits is None else _rows(logits, counts))


def _rows(x: Tensor, counts: list[int]) -> Tensor:
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    padded = x.new_zeros(max(counts), x.shape[1], device=device)
    padded[: len(x)] = x.to(device)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count].to(x.device) for part, count in zip(parts, counts, strict=True)])
