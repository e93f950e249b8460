"""Measures rows and keeps what they gave: shared by ``pytest benchmarks/`` and ``gankern bench``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gankern._dispatch import use_backend
from gankern.bench import goals, machine
from gankern.bench.breakdown import breakdown
from gankern.bench.case import COPY, EAGER, OURS, WARM_COPY, Case
from gankern.bench.common import digits, first_line, percent, seconds, times
from gankern.bench.networks import SPECS as NETWORKS
from gankern.bench.results import Results
from gankern.bench.rows import BEST, Row
from gankern.bench.timing import NETWORK, CpuClock, CudaClock, Race, Stats, budget, no_garbage_collection


class Session:
    """One run: a device, a mode, a result file; ``rows`` is how many it will measure, if that is known."""

    def __init__(self, mode: str, device: torch.device, folder: Path, rows: int = 0) -> None:
        self.mode = mode
        self.device = device
        self.budget = budget(mode, rows)
        self.machine = machine.facts(device)
        self.results = Results(folder / f"{mode}.json", mode, self.machine)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # events and streams are those of the current device
        self.clock: Any = CudaClock(device) if device.type == "cuda" else CpuClock()

    def measure(self, row: Row, drive: Callable[[Race], Any] = Race.run) -> dict[str, Any]:
        """Measure a row, save and return its result.

        Args:
            row: what to measure.
            drive: runs the warmed-up race; pytest-benchmark brings its own loop.

        A row whose backend cannot run has the status 'skipped' and the reason; one that raised, 'error' (after saving, the
        exception goes on); one where ours and eager disagree, 'wrong'.
        """
        started = time.perf_counter()
        result: dict[str, Any] = {
            "key": row.key,
            **{name: getattr(row, name) for name in ("op", "sample", "dtype", "layout", "direction", "backend")},
            "status": "ok",
            "note": "",
            "times": {},
            "memory": {},
            "cells": {},
            "metrics": {},
            "goals": [],
        }
        try:
            self._measure(row, result, drive)
        except Exception as error:
            result.update(status="error", note=first_line(error))
            raise
        finally:
            result["seconds"] = round(time.perf_counter() - started, 3)
            self.results.add(result)
        return result

    def _measure(self, row: Row, result: dict[str, Any], drive: Callable[[Race], Any]) -> None:
        case = Case(row, self.device)
        result.update(
            description=case.sample.description,
            taken=case.taken,
            shape=list(case.shape),
            bytes=case.bytes,
            macs=case.sample.macs,
        )
        reason = self._cannot_run(case)
        if reason is not None:
            result.update(status="skipped", note=reason, goals=goals.judge(row, self.device.type, {}))
            return
        if case.taken == "reference" and row.backend == BEST:
            reasons = [f"{name}: {why}" for name, why in case.facts.reasons if why and not why.startswith("x is on")]
            result["note"] = "no kernel, ours is the reference" + (f" ({'; '.join(reasons)})" if reasons else "")
        network = row.op in NETWORKS
        given = NETWORK if network and self.mode != "smoke" else self.budget
        race = Race(case.contenders, self.clock, given, self.device, frugal=network or self.mode != "full")
        race.warm_up(metered=[c.name for c in case.contenders if c.name not in (COPY, WARM_COPY)], seen=case.seen)
        error, wrong, note = case.disagreement()
        if note:
            result["note"] = note
        if error is not None and error != float("inf"):
            result["distance_from_eager"] = error
        with no_garbage_collection():
            drive(race)
            if not network:  # a minute a call
                race.settle()
        medians = {}
        for contender in case.contenders:
            if contender.failed is not None:
                result["cells"][contender.name] = contender.failed
                continue
            stats = contender.stats()
            if stats is None:
                continue
            medians[contender.name] = stats.median
            result["times"][contender.name] = {**_plain(stats), "first": contender.first, "host": contender.host}
            if contender.memory is not None:
                result["memory"][contender.name] = contender.memory
        result["metrics"] = metrics(medians, case.bytes, 2 * case.copied, result["memory"])
        result["goals"] = goals.judge(row, self.device.type, result["metrics"])
        if self.device.type == "cpu" and any(goal["verdict"] == "missed" for goal in result["goals"]) and self.mode != "smoke":
            result["breakdown"] = breakdown(case.contenders[0].call, medians[OURS])
        if wrong is not None:
            result.update(status="wrong", note=wrong)

    def _cannot_run(self, case: Case) -> str | None:
        """Why a forced backend cannot run this direction (its derivatives may need what it does not have), or None."""
        if case.row.backend == BEST:
            return None
        try:
            with use_backend(case.row.backend):
                case.contenders[0].call()
        except RuntimeError as error:
            if "forced by use_backend" not in str(error):
                raise
            return first_line(error)
        return None


def _plain(stats: Stats) -> dict[str, Any]:
    return {
        "median": stats.median,
        "iqr": stats.iqr,
        "q1": stats.q1,
        "q3": stats.q3,
        "fastest": stats.fastest,
        "rounds": stats.rounds,
        "inner": stats.inner,
    }


def metrics(medians: Mapping[str, float], moved: int, copied: int, memory: Mapping[str, int]) -> dict[str, float | None]:
    """A row's numbers from the median times of its contenders.

    ``speedup_NAME``: time of NAME over ours, for every other contender; ``time_over_NAME``: the inverse, for extras;
    ``copy_share``: (``moved`` bytes / our time) over the copy's bandwidth, where the op's least traffic is known;
    ``warm_copy_share``: the same with a copy into memory that is mapped already; ``copy_bandwidth``, ``bandwidth``: bytes
    a second; ``memory_saved``: eager's peak extra memory over ours; ``ceiling``: eager's time over that of plain convolutions.
    """
    ours = medians.get(OURS)
    found: dict[str, float | None] = {}
    copy = copied / medians[COPY] if COPY in medians else None
    found["copy_bandwidth"] = copy
    if ours is None:
        return found
    for name, median in medians.items():
        if name in (OURS, COPY, WARM_COPY):
            continue
        found[f"speedup_{name}"] = median / ours
        if name not in (EAGER, "compile"):
            found[f"time_over_{name}"] = ours / median
    found["bandwidth"] = moved / ours if moved else None
    found["copy_share"] = moved / ours / copy if moved and copy else None
    if WARM_COPY in medians and moved:
        found["warm_copy_share"] = moved / ours / (copied / medians[WARM_COPY])
    if EAGER in medians and "plain_convs" in medians:
        found["ceiling"] = medians[EAGER] / medians["plain_convs"]
    if memory.get(OURS) and memory.get(EAGER):
        found["memory_saved"] = memory[EAGER] / memory[OURS]
    return found


def progress(result: Mapping[str, Any], number: int, total: int) -> str:
    """The line that a run prints when a row is done."""
    row = Row(*(result[name] for name in ("op", "sample", "dtype", "layout", "direction", "backend")))
    head = f"[{number:{len(str(total))}}/{total}] {row.op} {row.title}"
    if result["status"] in ("error", "skipped"):
        return f"{head}: {result['status']}: {result['note']}"
    numbers = result["metrics"]
    mine = result["times"].get(OURS)
    parts = [f"{seconds(mine and mine['median'])} ({result['taken']})", f"{times(numbers.get('speedup_eager'))} eager"]
    if numbers.get("speedup_compile"):
        parts.append(f"{times(numbers['speedup_compile'])} compile")
    if numbers.get("copy_bandwidth"):
        parts.append(f"{percent(numbers.get('copy_share'))} of copy {digits((numbers['copy_bandwidth'] or 0) / 1e9)} GB/s")
    if numbers.get("ceiling"):
        parts.append(f"ceiling {times(numbers['ceiling'])}")
    verdicts = [goal["verdict"] for goal in result["goals"]]
    if verdicts:
        parts.append("goals " + "/".join(verdicts))
    if result["status"] == "wrong":
        parts.append(f"WRONG: {result['note']}")
    return f"{head}: {', '.join(parts)}"


def missed(result: Mapping[str, Any]) -> list[str]:
    """The goals of a row that were not reached (or could not be measured), in words."""
    return [goals.describe(goal) for goal in result["goals"] if goal["verdict"] in ("missed", "unmeasured")]
