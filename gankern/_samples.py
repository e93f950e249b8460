"""Named inputs of an op: one list serves the contract tests, opcheck, ``gankern check`` and the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAYOUTS = ("nchw", "channels_last")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sample:
    """One named input.

    Attributes:
        name: unique within the op.
        make: ``make(dtype, device, generator)`` gives the keyword arguments of the public function; tensors in NCHW.
        differentiable: names of the tensor arguments with a derivative.
        tags: 'contract' (small, exact tests), 'check' (``gankern check``), 'quick' and 'full' (benchmark rows; 'quick_cuda'
            and 'full_cuda' only on a GPU).
        macs: multiply-adds of one forward (a documented count of the useful work, not of any implementation).
        bytes: ``bytes(itemsize)``: least memory traffic of one forward, inputs read once and output written once.
        layouts: memory layouts it makes sense in.
        dtypes: dtypes of benchmark rows it makes sense in.
        description: one line for tables and plots.
    """

    name: str
    make: Callable[[torch.dtype, torch.device, torch.Generator], dict[str, Any]]
    differentiable: tuple[str, ...] = ("x",)
    tags: frozenset[str] = frozenset({"contract"})
    macs: int = 0
    bytes: Callable[[int], int] = lambda itemsize: 0
    layouts: tuple[str, ...] = LAYOUTS
    dtypes: tuple[torch.dtype, ...] = DTYPES
    description: str = ""

    def inputs(
        self, dtype: torch.dtype = torch.float32, layout: str = "nchw", device: str | torch.device = "cpu", seed: int = 0
    ) -> dict[str, Any]:
        """The arguments as leaf tensors: every name in ``differentiable`` requires a gradient. Same values for a seed."""
        generator = torch.Generator().manual_seed(seed)
        kwargs = self.make(dtype, torch.device(device), generator)
        for name, value in kwargs.items():
            if isinstance(value, Tensor):
                if layout == "channels_last" and value.dim() == 4:
                    value = value.contiguous(memory_format=torch.channels_last)
                kwargs[name] = value.detach().requires_grad_(name in self.differentiable)
        return kwargs


def randn(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Normal values drawn on the CPU in float64 (so that every device and dtype sees the same numbers, rounded)."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
