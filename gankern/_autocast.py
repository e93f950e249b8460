"""What operators do under torch.autocast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_NOTHING = nullcontext()


def _off() -> bool:
    """Whether autocast is on for no device, which eager mode can ask at once."""
    return not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled()


def lowered(values: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The operands of a convolution as autocast makes them: in its dtype where it is on, but for float64.

    The first value is a tensor; its device decides.
    """
    if _off():
        return list(values)
    first = values[0]
    kind = "meta" if first is None else first.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return list(values)
    if any(v is not None and v.dtype == torch.float64 for v in values):
        return list(values)
    dtype = torch.get_autocast_dtype(kind)
    return [None if v is None else v.to(dtype) for v in values]


def suspended(device: torch.device) -> AbstractContextManager[Any]:
    """A region in which autocast leaves small float32 computations alone."""
    if _off():
        return _NOTHING
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
