"""Every row of every op: ``pytest benchmarks/``."""

from __future__ import annotations

from typing import Any

import pytest

from gankern.bench.rows import Row
from gankern.bench.session import Session, missed
from gankern.bench.timing import Race


@pytest.mark.usefixtures("report_row")
def test_row(row: Row, bench: Session, benchmark: Any, pytestconfig: pytest.Config) -> None:
    def drive(race: Race) -> None:
        # pytest-benchmark owns the loop: before each of its rounds of ours, the others take their turns.
        benchmark.group = row.op
        benchmark.pedantic(race.ours, setup=race.others, rounds=race.rounds)

    result = bench.measure(row, drive)
    benchmark.extra_info.update(
        {name: result.get(name) for name in ("status", "note", "taken", "shape", "times", "memory", "metrics", "goals")}
    )
    if result["status"] == "skipped":
        pytest.skip(result["note"])
    failures = [result["note"]] if result["status"] == "wrong" else []
    if pytestconfig.getoption("--goals"):
        failures += missed(result)
    if failures:
        pytest.fail("; ".join(failures), pytrace=False)
