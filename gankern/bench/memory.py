"""Peak extra memory of a call: the most bytes that were allocated at one time above what was allocated at its start.

Outputs, saved tensors and temporaries count; inputs do not. On CUDA the caching allocator's own counter. On the CPU the
allocation events of PyTorch's profiler, summed in order of time: what PyTorch's allocator hands out, from Python or
from inside an operator. Scratch memory that a library (oneDNN) takes from the system by itself is not seen; it belongs
to the reference, never to gankern.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch


def peak(call: Callable[[], Any], device: torch.device) -> int | None:
    """Peak extra bytes of ``call()``; None if this torch does not tell."""
    return _peak_cuda(call, device) if device.type == "cuda" else _peak_cpu(call)


def peak_and_result(call: Callable[[], Any], device: torch.device) -> tuple[int | None, Any]:
    """:func:`peak`, and what the call returned."""
    kept: list[Any] = []

    def keep() -> None:
        kept.append(call())

    return peak(keep, device), kept.pop()


def high_water(changes: Iterable[tuple[int, int]]) -> int:
    """Largest running sum of (time, bytes) events, at least 0."""
    level = top = 0
    for _, change in sorted(changes, key=lambda event: event[0]):
        level += change
        top = max(top, level)
    return top


def _peak_cuda(call: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before


def _peak_cpu(call: Callable[[], Any]) -> int | None:
    # The profiler reads it once, at its first use: without it some versions print a line at every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = call()
    del result
    try:
        events = profile.kineto_results.events()
        return high_water((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    except AttributeError:
        return None
