"""Where the time of a call goes, by PyTorch's profiler: what a missed goal is explained with.

On the CPU, where an operator's time on the calling thread is its time. Kernels on a GPU have profilers of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.profiler import ProfilerActivity, profile

from gankern.bench.common import percent, seconds
from gankern.bench.timing import Call

GROUPS = {
    "kernels": "gankern's kernels",
    "products": "convolutions and matrix products",
    "pytorch": "PyTorch's other operators",
    "between": "between operators (Python, autograd, freeing memory)",
}
"""Names of what a call is made of, and the same in words."""

_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "aten::mkldnn_linear"})
_SECONDS, _LEAST, _MOST = 0.5, 3, 9
"""Seconds of all profiled calls together, and the bounds of their number."""


def group(name: str) -> str:
    """Which of :data:`GROUPS` an operator's own time belongs to."""
    space, _, short = name.partition("::")
    if space == "gankern_native":
        return "kernels"
    if space != "aten":
        return "between"
    return "products" if name in _PRODUCTS or "conv" in short else "pytorch"


def breakdown(call: Call, median: float) -> dict[str, Any]:
    """Profile a call some times and take the one in the middle.

    Args:
        call: on the CPU.
        median: seconds that it takes without a profiler. What operators do not account for is 'between' them.

    Returns:
        Seconds by group, and 'largest': the three operators with the most time of their own as (name, seconds).
    """
    found = []
    for _ in range(max(_LEAST, min(int(_SECONDS / max(median, 1e-9)), _MOST))):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            call()
        own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
        found.append({name: time for name, time in own.items() if group(name) != "between"})
    middle = sorted(found, key=lambda own: sum(own.values()))[len(found) // 2]
    parts = dict.fromkeys(GROUPS, 0.0)
    for name, time in middle.items():
        parts[group(name)] += time
    parts["between"] = max(0.0, median - sum(parts.values()))
    largest = sorted(middle.items(), key=lambda item: -item[1])[:3]
    return {**parts, "largest": [[name, time] for name, time in largest]}


def describe(found: Mapping[str, Any], median: float) -> str:
    """A breakdown in words: 'of 225 us 63% gankern's kernels, 35% between operators (...)'."""
    whole = max(median, sum(found[name] for name in GROUPS))
    shares = {name: found[name] / whole for name in GROUPS}
    parts = [f"{percent(share)} {GROUPS[name]}" for name, share in shares.items() if share >= 0.02]
    return f"of {seconds(whole)} {', '.join(parts)}"


__all__ = ["GROUPS", "breakdown", "describe", "group"]
