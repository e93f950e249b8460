"""Scopes that leave what they use as they found it: a network's modes, PyTorch's random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each part has its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def own_random(seed: int, *devices: torch.device) -> Iterator[None]:
    """Random numbers from ``seed`` inside; those of the CPU and of ``devices`` go on afterwards as if nothing had been."""
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        torch.manual_seed(seed)
        yield


class _Recording:
    """How many recordings are under way. Process-wide: what reads it only leaves out a look at values."""

    depth = 0


@contextmanager
def recording() -> Iterator[None]:
    """A network is being recorded for :func:`gankern.compile_generator`: values are examples, and are not looked at."""
    _Recording.depth += 1
    try:
        yield
    finally:
        _Recording.depth -= 1


def is_recording() -> bool:
    """Whether :func:`recording` is in force."""
    return _Recording.depth > 0
