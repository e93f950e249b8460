"""What the processes of ``torch.distributed`` tell each other: Python objects, through the group that all of them are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Every rank's ``value``, in the order of ranks; on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def from_first(value: T) -> T:
    """Rank 0's ``value``, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def first_does(action: Callable[[], T]) -> T:
    """Rank 0 calls ``action`` while the others wait; its result, or its error, is everyone's."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            outcome = (action(), None)
        except Exception as error:
            outcome = (None, error)
    result, failure = from_first(outcome)
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]
