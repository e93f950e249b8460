"""Two result files row by row: what became faster, what slower, and what is within the noise.

The noise of a number is the root of the squares of the interquartile ranges that went into it, on both sides. A row
counts as changed only if the difference is above that noise and above a tolerance: quartiles of one run know nothing of
what differs between runs (where memory happened to lie, which neighbours a virtual machine had).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gankern.bench.common import BenchError, digits, seconds

METRICS = ("time", "speedup", "copy_share")


@dataclass(frozen=True)
class Change:
    """One row in both files. ``ratio`` above 1 is slower (or a smaller share); ``noise`` is relative to the old value."""

    key: str
    old: float
    new: float
    ratio: float
    noise: float
    verdict: str


def spread(times: Mapping[str, Any], name: str) -> float:
    """Relative interquartile range of a contender."""
    entry = times[name]
    return entry["iqr"] / entry["median"] if entry["median"] else 0.0


def value(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """(number where smaller is better, its relative spread), or None if the row does not have it."""
    times = row["times"]
    if row["status"] != "ok" or not times.get("ours") or not times["ours"]["median"]:
        return None
    if metric == "time":
        return times["ours"]["median"], spread(times, "ours")
    other, name = ("eager", "speedup_eager") if metric == "speedup" else ("copy", "copy_share")
    number = row["metrics"].get(name)
    if not number or other not in times:
        return None
    return 1 / number, math.hypot(spread(times, "ours"), spread(times, other))


def compare(old: Mapping[str, Any], new: Mapping[str, Any], metric: str = "time", tolerance: float = 0.05) -> list[Change]:
    """The rows that both files have, in the order of the new one.

    Raises:
        BenchError: they have no row in common, or ``metric`` is not one of :data:`METRICS`.
    """
    if metric not in METRICS:
        raise BenchError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    before = {row["key"]: row for row in old["rows"]}
    changes = []
    for row in new["rows"]:
        a = value(before[row["key"]], metric) if row["key"] in before else None
        b = value(row, metric)
        if a is None or b is None:
            continue
        ratio = b[0] / a[0]
        # The new value's spread is relative to itself: scale it to the old one's.
        noise = math.hypot(a[1], b[1] * ratio)
        changed = abs(ratio - 1) > max(noise, tolerance)
        verdict = "same" if not changed else "slower" if ratio > 1 else "faster"
        changes.append(Change(row["key"], a[0], b[0], ratio, noise, verdict))
    if not changes:
        raise BenchError("the two files have no measured row in common")
    return changes


def text(changes: list[Change], old: Mapping[str, Any], new: Mapping[str, Any], metric: str) -> str:
    """The comparison for a terminal."""
    width = max(len(change.key) for change in changes)

    def show(number: float) -> str:
        return seconds(number) if metric == "time" else digits(1 / number)

    lines = []
    for change in changes:
        word = change.verdict.upper() if change.verdict == "slower" else change.verdict
        lines.append(
            f"{change.key.ljust(width)}  {show(change.old):>9} -> {show(change.new):>9}  "
            f"{100 * (change.ratio - 1):+6.1f}% (noise {100 * change.noise:.1f}%)  {word}"
        )
    counts = {verdict: sum(c.verdict == verdict for c in changes) for verdict in ("faster", "same", "slower")}
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    keys = [{row["key"] for row in data["rows"]} for data in (old, new)]
    for only, label in ((keys[0] - keys[1], "the old"), (keys[1] - keys[0], "the new")):
        if only:
            lines.append(f"{len(only)} rows only in {label} file")
    if old["machine"].get("device") != new["machine"].get("device"):
        devices = f"{old['machine'].get('device')} and {new['machine'].get('device')}"
        lines.append(f"note: different devices ({devices}); --by speedup or --by copy_share compares across machines")
    elif metric == "time":
        drift = _copy_drift(old, new)
        if drift is not None and abs(drift - 1) > 0.1:
            lines.append(f"note: the copy itself took {drift:.2f} times as long; --by copy_share takes that out")
    return "\n".join(lines)


def _copy_drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> float | None:
    """Median time of the copy in the new file over that in the old one."""
    medians = []
    for data in (old, new):
        times = sorted(row["times"]["copy"]["median"] for row in data["rows"] if "copy" in row["times"])
        if not times:
            return None
        medians.append(times[len(times) // 2])
    return medians[1] / medians[0] if medians[0] else None
