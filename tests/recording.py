"""What a test looks at from outside: which of gankern's operators were run, and what autograd has kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """Counts gankern's operators, and remembers their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "gankern":
            self.arguments.append((func._schema.name.removeprefix("gankern::"), args))
        return func(*args, **(kwargs or {}))

    @property
    def count(self) -> Counter[str]:
        return Counter(name for name, _ in self.arguments)

    def masks(self, name: str) -> list[Any]:
        return [arguments[-1] for called, arguments in self.arguments if called == name]


def saved_by(function: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What a function gives, and the tensors that autograd has kept for its backward."""
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function()
    return y, kept
