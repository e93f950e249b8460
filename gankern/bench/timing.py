"""Measurement: contenders take turns in one run, so that whatever else the machine does meets all of them alike.

A :class:`Race` warms every contender up, then runs rounds. 'ours' runs in every round; the others run between two
rounds of ours, in an order that rotates, as often as their share of the time budget allows (a contender 50 times slower
runs in every k-th round, but never less than ``min_rounds`` times). The result of a contender is the median of its
rounds, with its quartiles.

CPU: the process' performance counter around the call, several calls at once where one is shorter than 100 us. CUDA:
events around the call, behind reads of a buffer four times the L2 (reads, because written lines would still have to
leave the cache while the call runs) that last longer than the host needs to enqueue the call: device time, with the
host's own time beside it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gankern.bench import memory
from gankern.bench.common import first_line

Call = Callable[[], Any]

# A timed piece on the CPU lasts at least this long: the counter and the loop cost some 0.1 us.
CPU_PIECE = 200e-6

# Calls that take longer than this are not run once more for an estimate alone.
SLOW = 0.15


@dataclass(frozen=True)
class Budget:
    """Time for one row's rounds (seconds, all contenders together) and the bounds of their number.

    ``slow_rounds`` is the least number of a contender that takes more than a second; ``once``: nothing is called but once
    (ours, which is the loop, twice), and no memory metered: a look at whether everything works. ``steady_rounds`` is the least
    number of ours, whose time beside a slow reference is short, while they take no more than ``STEADY`` seconds together.
    """

    seconds: float
    min_rounds: int
    max_rounds: int
    slow_rounds: int
    once: bool = False
    steady_rounds: int = 0


# Slow references run min_rounds times however long they take: that is what the length of --quick comes from.
BUDGETS = {
    "quick": Budget(0.8, 3, 60, 2),
    "smoke": Budget(0.0, 1, 1, 1, once=True),
    "full": Budget(4.0, 8, 200, 5),
    "goals": Budget(1.0, 3, 40, 2, steady_rounds=9),
}

# A whole network's row in any but a smoke run: seconds a call.
NETWORK = Budget(3.0, 3, 20, 2)

# Where calls are dear (whole networks), one that takes longer is not repeated: its first run, in which eager PyTorch does
# nothing that it would not do again, is its only round.
ONCE = 12.0

# A row whose quartiles are further apart than this share of its median is measured once more, after so many seconds. (On a calm
# machine they are 3 to 10 % apart.)
UNSETTLED, PAUSE = 0.25, 0.5

# Seconds that the least number of rounds of ours may take (Budget.steady_rounds).
STEADY = 2.0

# Seconds that the rounds of a whole quick run may take: with many ops every row gets less, so that 5 minutes hold.
QUICK_TOTAL = 60.0


def budget(mode: str, rows: int) -> Budget:
    """The budget of a row in a run of so many rows."""
    found = BUDGETS[mode]
    if mode != "quick" or rows == 0:
        return found
    return replace(found, seconds=min(found.seconds, max(QUICK_TOTAL / rows, found.seconds / 4)))


@dataclass(frozen=True)
class Stats:
    """Median and quartiles in seconds of one call, the fastest, and how many rounds (of ``inner`` calls each)."""

    median: float
    q1: float
    q3: float
    fastest: float
    rounds: int
    inner: int = 1

    @staticmethod
    def of(times: Sequence[float], inner: int = 1) -> Stats:
        """Statistics of at least one time; quartiles by linear interpolation."""
        ordered = sorted(times)
        return Stats(quantile(ordered, 0.5), quantile(ordered, 0.25), quantile(ordered, 0.75), ordered[0], len(ordered), inner)

    @property
    def iqr(self) -> float:
        """The spread: distance of the quartiles."""
        return self.q3 - self.q1


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, linearly interpolated."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass
class Contender:
    """One command of a row and what was measured of it; ``failed`` is why there are no numbers."""

    name: str
    call: Call
    times: list[float] = field(default_factory=list)
    failed: str | None = None
    first: float = 0.0
    """Seconds of the very first call: compilation, tuning, library start-up."""
    estimate: float = 0.0
    host: float | None = None
    """Seconds that the host needs to enqueue a call (CUDA)."""
    memory: int | None = None
    inner: int = 1
    rounds: int = 0

    def stats(self) -> Stats | None:
        """What was measured, or None."""
        return Stats.of(self.times, self.inner) if self.times else None


class CpuClock:
    """Wall time of calls that have finished when they return."""

    def prepare(self, contender: Contender, warm: float) -> None:
        """Estimate a call, and decide how many make one timed piece; ``warm`` is what the last warm-up call took."""
        if warm > SLOW:
            contender.estimate = warm
            return
        contender.estimate = self.time(contender)
        if contender.estimate < CPU_PIECE / 2:
            contender.inner = math.ceil(CPU_PIECE / max(contender.estimate, 1e-7))
            contender.estimate = self.time(contender)

    def time(self, contender: Contender) -> float:
        """Seconds of one call."""
        call = contender.call
        calls = range(contender.inner)
        start = time.perf_counter()
        for _ in calls:
            result = call()
        seconds = time.perf_counter() - start
        del result  # freeing the last result is not part of the call
        return seconds / contender.inner

    def cost(self, contender: Contender) -> float:
        """Seconds that one timed piece takes out of the budget."""
        return contender.estimate * contender.inner

    def finish(self) -> None:
        """Wait for everything that was started."""


class CudaClock:
    """Device time between events, behind an L2 flush that hides the host's enqueueing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or 64 * 2**20
        self.buffer = torch.ones(max(4 * cache, 256 * 2**20) // 4, device=device)
        for _ in range(3):
            self.buffer.sum()
        self.flush_seconds = min(self._events(lambda: self.buffer.sum()) for _ in range(5))

    def _events(self, call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return start.elapsed_time(end) / 1e3

    def _passes(self, contender: Contender) -> int:
        # 1.5 times the host's time, and never so many that a call which blocks the host makes the flush endless.
        return min(1 + math.ceil(1.5 * (contender.host or 0.0) / self.flush_seconds), 200)

    def prepare(self, contender: Contender, warm: float) -> None:
        """Estimate a call on the device, and what the host needs to enqueue it."""
        times = []
        for _ in range(2):
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            result = contender.call()
            times.append(time.perf_counter() - start)
            torch.cuda.synchronize(self.device)
            del result
        contender.host = min(times)
        contender.estimate = self.time(contender)

    def time(self, contender: Contender) -> float:
        """Seconds of one call on the device."""
        for _ in range(self._passes(contender)):
            self.buffer.sum()
        return self._events(contender.call)

    def cost(self, contender: Contender) -> float:
        """Seconds that one timed call takes out of the budget."""
        return contender.estimate + self._passes(contender) * self.flush_seconds

    def finish(self) -> None:
        """Wait for everything that was started."""
        torch.cuda.synchronize(self.device)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, not while something is measured."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Race:
    """Contenders, the first of which is ours, measured in turns.

    Use: :meth:`warm_up`, then :meth:`run`; or, for a harness that owns the loop, ``rounds`` times :meth:`others` and
    :meth:`ours`.

    ``frugal`` saves calls of the others: what is not compiled at its first call has its memory metered in that call, and one
    that takes longer than ``ONCE`` seconds is not called again.
    """

    def __init__(
        self, contenders: Sequence[Contender], clock: Any, budget: Budget, device: torch.device, frugal: bool = False
    ) -> None:
        self.contenders = list(contenders)
        self.frugal = frugal
        self.clock = clock
        self.budget = budget
        self.device = device
        self.round = 0
        self.rounds = 0

    def warm_up(self, metered: Sequence[str] = (), seen: Callable[[str, Any], None] | None = None) -> None:
        """Run every contender, meter the memory of those named, hand first results to ``seen``, and share the budget out.

        A contender that raises takes no part, and its ``failed`` says why; only ours may not fail.
        """
        for contender in self.contenders:
            try:
                self._warm_up(contender, contender.name in metered and not self.budget.once, seen)
            except Exception as error:
                if contender is self.contenders[0]:
                    raise
                contender.failed = first_line(error)
        self._share()

    def _warm_up(self, contender: Contender, metered: bool, seen: Callable[[str, Any], None] | None) -> None:
        ours = contender is self.contenders[0]
        # Ours and compiled code load, tune and compile in their first call.
        at_once = self.frugal and metered and not ours and contender.name != "compile"
        start = time.perf_counter()
        if at_once:
            contender.memory, result = memory.peak_and_result(contender.call, self.device)
        else:
            result = contender.call()
        self.clock.finish()
        contender.first = warm = time.perf_counter() - start
        if seen is not None:
            seen(contender.name, result)
        del result
        if metered and not at_once:
            start = time.perf_counter()
            contender.memory = memory.peak(contender.call, self.device)
            warm = min(warm, time.perf_counter() - start)
        if at_once and warm > ONCE:
            contender.times.append(warm)
            contender.estimate = warm
            return
        if self.budget.once:
            contender.estimate = warm
            if not ours:
                contender.times.append(warm)
            return
        # The first calls of ours load code and tune: its rounds are worth an estimate of their own, unless that takes long.
        self.clock.prepare(contender, 0.0 if ours and warm < 1 else warm)

    def _share(self) -> None:
        """How many rounds each contender gets: its share of the budget (half is ours) over its cost, within the bounds."""
        running = [c for c in self.contenders if c.failed is None]
        for contender in running:
            if contender.times:
                continue
            share = self.budget.seconds / (2 if contender is running[0] else 2 * (len(running) - 1))
            cost = max(self.clock.cost(contender), 1e-9)
            least = self.budget.min_rounds if cost <= 1 else self.budget.slow_rounds
            if contender is running[0]:
                least = max(least, min(int(STEADY / cost), self.budget.steady_rounds))
            contender.rounds = max(least, min(int(share / cost), self.budget.max_rounds))
        # Ours is the loop: nobody runs more often.
        self.rounds = running[0].rounds
        for contender in running[1:]:
            contender.rounds = min(contender.rounds, self.rounds)

    def others(self) -> None:
        """The contenders whose turn it is before the next round of ours."""
        group = self.contenders[1:]
        for place in range(len(group)):
            contender = group[(place + self.round) % len(group)]
            if contender.failed is None and due(self.round, contender.rounds, self.rounds):
                contender.times.append(self.clock.time(contender))

    def ours(self) -> None:
        """One round of ours."""
        mine = self.contenders[0]
        mine.times.append(self.clock.time(mine))
        self.round += 1

    def run(self) -> None:
        """All rounds."""
        for _ in range(self.rounds):
            self.others()
            self.ours()

    def settle(self) -> bool:
        """Run all rounds once more where ours or eager spread by more than :data:`UNSETTLED`; keep the calmer run, of everyone.

        A machine that is shared can stall for a second, and half of a row's rounds with it. Gives whether it was done.
        """
        before = [list(c.times) for c in self.contenders]
        spread = self._spread()
        if self.budget.once or spread <= UNSETTLED:
            return False
        time.sleep(PAUSE)
        for contender in self.contenders:
            if contender.rounds and contender.failed is None:
                contender.times.clear()
        self.round = 0
        self.run()
        if self._spread() >= spread:
            for contender, times in zip(self.contenders, before, strict=True):
                contender.times[:] = times
        return True

    def _spread(self) -> float:
        """Distance of the quartiles over the median: the larger one of ours and of what ours is compared with."""
        found = [stats for contender in self.contenders[:2] if (stats := contender.stats()) is not None]
        return max((stats.iqr / stats.median for stats in found if stats.median), default=0.0)


def due(turn: int, wanted: int, turns: int) -> bool:
    """Whether one of ``wanted`` evenly spread runs, the first at the very start, falls on this of ``turns`` turns."""
    return turn * wanted % turns < wanted
