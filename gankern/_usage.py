"""Which operators ran, on which backend, how often and for how long: ``gankern run --report``.

While somebody records, the rows of all dispatch tables stand in for themselves with a clock (:class:`_Timed`). Otherwise they
are the plain rows: counting costs nothing when it is off. A row is run inside the registered operator, so this sees forward and
derivatives, eager and compiled, in whatever thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from gankern import _dispatch
from gankern._dispatch import Row, is_tensor


@dataclass(frozen=True)
class Entry:
    """One line of a report.

    Attributes:
        op: the operator; derivatives are operators of their own ('bias_act_backward').
        backend: what ran it, one of ``gankern._dispatch.BACKENDS``.
        device: type of device of its first tensor.
        calls: how often.
        seconds: host time in it, without the operators that it called itself.
    """

    op: str
    backend: str
    device: str
    calls: int
    seconds: float


class Usage:
    """What ran while it was recorded, by all threads of the process. See :func:`recording`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ran: dict[tuple[str, str, str], list[int]] = {}

    def add(self, op: str, backend: str, device: str, nanoseconds: int) -> None:
        """Note one call."""
        with self._lock:
            entry = self._ran.setdefault((op, backend, device), [0, 0])
            entry[0] += 1
            entry[1] += nanoseconds

    def entries(self) -> list[Entry]:
        """What ran so far, the longest first."""
        with self._lock:
            found = [Entry(*key, calls, time / 1e9) for key, (calls, time) in self._ran.items()]
        return sorted(found, key=lambda entry: (-entry.seconds, entry.op, entry.backend))

    def text(self, where: str = "this process") -> str:
        """The report as a table; ``where`` is for its heading."""
        entries = self.entries()
        if not entries:
            return f"gankern in {where}: no operator ran\n"
        total = sum(entry.seconds for entry in entries)
        rows = [("operator", "backend", "device", "calls", "host time", "mean", "share")]
        for entry in entries:
            share = f"{entry.seconds / total:.1%}" if total else "-"
            mean = _duration(entry.seconds / entry.calls)
            rows.append((entry.op, entry.backend, entry.device, f"{entry.calls:,}", _duration(entry.seconds), mean, share))
        rows.append(("all", "", "", f"{sum(entry.calls for entry in entries):,}", _duration(total), "", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"gankern in {where}: {len({entry.op for entry in entries})} operators ran"]
        for row in rows:
            words = [word.ljust(w) if i < 3 else word.rjust(w) for i, (word, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  " + "  ".join(words).rstrip())
        lines.append("Host time in an operator, without the operators that it calls; backward passes and all threads included.")
        if any(entry.device == "cuda" for entry in entries):
            lines.append(
                "On cuda it is the time to launch, not to compute, unless launches are synchronous (CUDA_LAUNCH_BLOCKING=1)."
            )
        return "\n".join(lines) + "\n"


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


_lock = threading.Lock()
_recorders: tuple[Usage, ...] = ()


class _Inside(threading.local):
    """Of a thread, per operator that it is in: the time of those that it called; and whether it is not to be counted."""

    def __init__(self) -> None:
        self.spent: list[int] = []
        self.uncounted = False


_inside = _Inside()


@dataclass(frozen=True)
class _Timed(Row):
    """A row with a clock; ``plain`` is the row itself."""

    op: str
    plain: Row

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        spent = _inside.spent
        spent.append(0)
        start = perf_counter_ns()
        try:
            return function(*args)
        finally:
            total = perf_counter_ns() - start
            inner = spent.pop()
            if spent:
                spent[-1] += total
            device = next((a.device.type for a in args if is_tensor(a)), "cpu")
            for usage in () if _inside.uncounted else _recorders:
                usage.add(self.op, self.name, device, total - inner)


def _timed(op: str, row: Row) -> Row:
    timed = _Timed(row.name, row.can_run, lambda *args: timed.call(row.run, *args), op, row)
    return timed


def start(usage: Usage) -> None:
    """Record into ``usage``, too, from now on."""
    global _recorders
    import gankern.ops  # noqa: F401 - every table there is

    with _lock:
        if not _recorders:
            for table in _dispatch.TABLES:
                table.rows = [_timed(table.op, row) for row in table.rows]
        _recorders = (*_recorders, usage)


def stop(usage: Usage) -> None:
    """Record into ``usage`` no longer."""
    global _recorders
    with _lock:
        _recorders = tuple(other for other in _recorders if other is not usage)
        if not _recorders:
            for table in _dispatch.TABLES:
                table.rows = [row.plain if isinstance(row, _Timed) else row for row in table.rows]


@contextmanager
def recording() -> Iterator[Usage]:
    """Scope in which operators are counted.

        with recording() as usage:
            ...
        print(usage.text())

    Operators are counted where they are dispatched. Plain PyTorch that is run without dispatch (modules with
    ``reference=True``, functorch transforms) is not.
    """
    usage = Usage()
    start(usage)
    try:
        yield usage
    finally:
        stop(usage)


@contextmanager
def uncounted() -> Iterator[None]:
    """Scope in which what this thread runs is not counted: what gankern tries for its own purposes."""
    before, _inside.uncounted = _inside.uncounted, True
    try:
        yield
    finally:
        _inside.uncounted = before


__all__ = ["Entry", "Usage", "recording", "start", "stop", "uncounted"]
