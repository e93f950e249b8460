"""The benchmark system: rows, goals, statistics on synthetic timings, and whole runs over an op of the tests' own."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gankern import _dispatch
from gankern._dispatch import OPS, OpSpec, Table
from gankern._samples import Sample, randn
from gankern.bench import (
    case,
    extras,
    goals,
    main,
    memory,
    models,
    plots,
    results,
    rows,
    session,
    table,
    timing,
)
from gankern.bench.goals import GOALS, Goal, judge
from gankern.bench.rows import Row
from gankern.bench.timing import Budget, Contender, Race, Stats

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


# ---- an op small enough to be measured in a test ---------------------------------------------------------------------
def _make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    return {"x": randn((2, 3, 16, 16), dtype, device, generator)}


def _square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def _spec(public: Any = _square) -> OpSpec:
    sample = Sample("tiny", _make, tags=frozenset({"quick", "full"}), bytes=lambda itemsize: 2 * 1536 * itemsize, macs=1536)
    plain = _dispatch.Row("reference", lambda *_: None, _square)
    absent = _dispatch.Row("cuda", lambda x: "x is on cpu", _square)
    return OpSpec("square", public, _square, lambda x: (x,), Table("square", [absent, plain]), [sample])


@pytest.fixture
def square(monkeypatch: pytest.MonkeyPatch) -> OpSpec:
    """OPS holds one cheap op, no torch.compile, and rounds are few."""
    spec = _spec()
    monkeypatch.setattr(_dispatch, "OPS", {"square": spec})
    monkeypatch.setattr(rows, "STEPS", {})
    monkeypatch.setattr(rows, "METRICS", {})
    monkeypatch.setattr(timing, "BUDGETS", {mode: Budget(0.01, 3, 5, 2) for mode in rows.MODES})
    monkeypatch.setattr(case.Case, "_compiled", lambda self: self.spec.reference)
    rows._look.cache_clear()
    case._inputs.cache_clear()
    yield spec
    rows._look.cache_clear()
    case._inputs.cache_clear()


# ---- rows ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", rows.MODES)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_rows_are_unique_and_complete(mode: str, kind: str) -> None:
    selected = list(rows.selections(mode, kind))
    assert max(Counter(row.key for row in selected).values()) == 1
    for spec in OPS.values():
        samples = [sample for sample in spec.samples if {mode, f"{mode}_{kind}"} & sample.tags]
        assert samples, f"{spec.name} has no sample tagged {mode!r}: it would never be measured"
        mine = [row for row in selected if row.op == spec.name]
        assert {row.sample for row in mine} == {sample.name for sample in samples}
        assert sum(row.compile for row in mine) == (1 if mode == "quick" else len(mine))
        order = 2 if spec.derivative_order is None else spec.derivative_order
        if any(sample.differentiable for sample in samples):
            assert {row.direction for row in mine} == set(rows.DIRECTIONS[: order + 1])


def test_plan_adds_other_backends_and_the_dispatched_reference() -> None:
    other = [("cuda", "x is on cpu"), ("cpu", None), ("reference", None)]
    for mode, expected in (("quick", {"best"}), ("full", {"best", "reference"})):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "look", lambda row, device: rows.Facts((1,), (), (), "cpu", tuple(other)))
            planned = rows.plan(mode, CPU)
        assert {row.backend for row in planned} == expected
        assert max(Counter(row.key for row in planned).values()) == 1


def test_plan_needs_no_memory_and_knows_the_shapes() -> None:
    row = next(rows.selections("quick", "cpu"))
    facts = rows.look(row, CPU)
    spec, sample = rows.find(row)
    assert len(facts.shape) == 4 and facts.outputs and facts.taken in {r.name for r in spec.table.rows}
    assert case.minimal_bytes(sample.bytes, facts, 4, "forward") == sample.bytes(4)


def test_minimal_bytes_of_the_directions() -> None:
    facts = rows.Facts((10,), (((20,), (1,), torch.float32),), (10,), "cpu", ())

    def count(direction: str) -> int:
        return case.minimal_bytes(lambda itemsize: 30 * itemsize, facts, 4, direction)

    assert count("forward") == 120
    assert count("backward") == 120 + 4 * (20 + 10)
    assert count("double_backward") == 120 + 4 * (20 + 10) + 4 * 2 * 10 + 4 * (10 + 20)


# ---- goals -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("goal", GOALS, ids=lambda g: f"{g.op}-{g.kind}-{g.metric}-{g.direction}")
def test_every_goal_is_sound_and_matches_a_row(goal: Goal) -> None:
    assert goal.direction in rows.DIRECTIONS and goal.kind in ("cpu", "cuda")
    assert re.fullmatch(r"copy_share|warm_copy_share|(speedup|time_over)_\w+", goal.metric)
    assert goal.stretch <= goal.must if goal.at_most else goal.stretch >= goal.must
    # A goal without a row would be met by never looking.
    assert goal.op in rows.known()
    assert any(goal.matches(row, goal.kind) for mode in rows.MODES for row in rows.selections(mode, goal.kind))


def test_goals_of_the_kernel_plan_are_there() -> None:
    row = Row("upfirdn2d", "up2_4x4_128", "float32", "nchw", "forward")
    found = {goal["metric"]: (goal["must"], goal["stretch"]) for goal in judge(row, "cpu", {})}
    assert found == {"speedup_eager": (10, 20), "copy_share": (0.5, 0.75)}
    half = Row("upfirdn2d", "up2_4x4_128", "bfloat16", "channels_last", "forward")
    assert [(g["metric"], g["must"], g["stretch"]) for g in judge(half, "cuda", {})] == [("copy_share", 0.88, 0.94)]


def test_verdicts() -> None:
    goal = Goal("op", "*", "forward", "*", "*", "cpu", "speedup_eager", 10, 20)
    assert [goal.verdict(value) for value in (None, 9.9, 10, 20)] == ["unmeasured", "missed", "must", "stretch"]
    at_most = Goal("op", "*", "forward", "*", "*", "cpu", "time_over_plain_conv", 1.15, 1.05, at_most=True)
    assert [at_most.verdict(value) for value in (1.2, 1.1, 1.0)] == ["missed", "must", "stretch"]
    row = Row("op", "s", "float32", "nchw", "forward")
    assert goal.matches(row, "cpu") and not goal.matches(row, "cuda")
    assert not goal.matches(Row("op", "s", "float32", "nchw", "forward", "triton"), "cpu")
    judged = judge(row, "cpu", {"speedup_eager": 12.0}, [goal])
    assert goals.describe(judged[0]) == "speedup_eager 12 >= 10 (stretch 20): must"


# ---- statistics and measurement --------------------------------------------------------------------------------------
def test_statistics_of_synthetic_timings() -> None:
    stats = Stats.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (stats.median, stats.q1, stats.q3, stats.iqr, stats.fastest, stats.rounds) == (3, 2, 4, 2, 1, 5)
    even = Stats.of([1.0, 2.0, 3.0, 10.0])
    assert (even.median, even.q1, even.q3) == (2.5, 1.75, 4.75)
    assert Stats.of([7.0]).iqr == 0
    # One round that met a busy machine moves neither the median nor the quartiles far.
    assert Stats.of([1.0] * 9 + [100.0]).median == 1.0 and Stats.of([1.0] * 9 + [100.0]).iqr == 0


def test_due_spreads_runs_evenly() -> None:
    for turns in (1, 5, 7, 60):
        for wanted in range(1, turns + 1):
            chosen = [turn for turn in range(turns) if timing.due(turn, wanted, turns)]
            assert len(chosen) == wanted
            gaps = [b - a for a, b in itertools.pairwise(chosen)]
            assert not gaps or max(gaps) - min(gaps) <= 1


def test_many_rows_share_the_time_of_a_quick_run() -> None:
    full = timing.BUDGETS["quick"].seconds
    assert timing.budget("quick", 0).seconds == timing.budget("quick", 20).seconds == full
    assert timing.budget("quick", 150).seconds == pytest.approx(timing.QUICK_TOTAL / 150)
    assert timing.budget("quick", 10_000).seconds == full / 4
    assert timing.budget("full", 10_000) == timing.BUDGETS["full"]


class _FakeClock:
    """Times that a script gives, and the order in which contenders were timed."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs = costs
        self.order: list[str] = []

    def prepare(self, contender: Contender, warm: float) -> None:
        contender.estimate = self.costs[contender.name]

    def cost(self, contender: Contender) -> float:
        return contender.estimate

    def time(self, contender: Contender) -> float:
        self.order.append(contender.name)
        contender.call()
        return self.costs[contender.name]

    def finish(self) -> None:
        pass


def _race(costs: dict[str, float], budget: Budget, broken: str = "") -> tuple[Race, _FakeClock]:
    def call(name: str) -> Any:
        def run() -> None:
            if name == broken:
                raise RuntimeError("cannot do this\nand more")

        return run

    clock = _FakeClock(costs)
    race = Race([Contender(name, call(name)) for name in costs], clock, budget, CPU)
    race.warm_up()
    return race, clock


def test_contenders_take_turns_in_a_rotating_order() -> None:
    race, clock = _race({"ours": 0.01, "a": 0.01, "b": 0.01}, Budget(0.12, 2, 100, 2))
    race.run()
    assert race.rounds == 6
    assert Counter(clock.order) == {"ours": 6, "a": 3, "b": 3}
    race, clock = _race({"ours": 1e-3, "a": 1e-3, "b": 1e-3}, Budget(0.004, 4, 4, 4))
    race.run()
    assert "".join(name[0] for name in clock.order) == "aboba" + "oabo" + "bao"


def test_slow_contenders_run_seldom_but_often_enough() -> None:
    race, clock = _race({"ours": 1e-3, "eager": 0.5, "copy": 1e-3, "slow": 2.0}, Budget(0.8, 3, 60, 2))
    race.run()
    assert Counter(clock.order) == {"ours": 60, "eager": 3, "copy": 60, "slow": 2}
    race, clock = _race({"ours": 0.1, "eager": 5.0}, Budget(0.8, 3, 60, 2, steady_rounds=9))
    race.run()
    assert Counter(clock.order) == {"ours": 9, "eager": 2}
    race, clock = _race({"ours": 0.5, "eager": 5.0}, Budget(0.8, 3, 60, 2, steady_rounds=9))
    race.run()
    assert Counter(clock.order) == {"ours": 4, "eager": 2}


def test_a_contender_that_fails_is_reported_and_ours_may_not() -> None:
    race, clock = _race({"ours": 1e-3, "compile": 1e-3, "copy": 1e-3}, Budget(0.01, 3, 3, 3), broken="compile")
    race.run()
    assert race.contenders[1].failed == "RuntimeError: cannot do this"
    assert Counter(clock.order) == {"ours": 3, "copy": 3}
    with pytest.raises(RuntimeError, match="cannot do this"):
        _race({"ours": 1e-3, "copy": 1e-3}, Budget(0.01, 3, 3, 3), broken="ours")


def test_short_calls_are_timed_several_at_once() -> None:
    contender = Contender("short", lambda: None)
    clock = timing.CpuClock()
    clock.prepare(contender, 0.0)
    assert contender.inner > 100
    assert clock.time(contender) < timing.CPU_PIECE


def test_peak_memory() -> None:
    assert memory.high_water([(2, -5), (1, 10), (3, 4)]) == 10
    assert memory.high_water([(1, -5)]) == 0
    x = torch.zeros(1 << 18)
    assert memory.peak(lambda: x + 1, CPU) == pytest.approx(x.nbytes, rel=0.01)
    # The first temporary is alive while the second is made; the third reuses nothing but frees the first.
    assert memory.peak(lambda: ((x + 1) * 2) * 3, CPU) == pytest.approx(2 * x.nbytes, rel=0.01)


def test_metrics() -> None:
    found = session.metrics(
        {"ours": 2.0, "eager": 20.0, "compile": 6.0, "plain": 1.0, "copy": 1.0, "warm_copy": 0.5}, 100, 200, {}
    )
    assert found["speedup_eager"] == 10 and found["speedup_compile"] == 3
    assert found["speedup_plain"] == 0.5 and found["time_over_plain"] == 2
    assert found["copy_bandwidth"] == 200 and found["bandwidth"] == 50 and found["copy_share"] == 0.25
    assert found["warm_copy_share"] == 0.125
    assert session.metrics({"copy": 1.0}, 100, 200, {}) == {"copy_bandwidth": 200}
    assert session.metrics({"ours": 1.0, "copy": 1.0}, 0, 200, {})["copy_share"] is None


def test_distance_tells_wrong_from_right() -> None:
    a = torch.ones(4)
    assert case.distance([a], [a]) == 0
    assert case.distance([a * 1.5], [a]) == pytest.approx(0.5)
    assert case.distance([a * float("nan")], [a]) == float("inf")
    assert case.distance([torch.ones(5)], [a]) == float("inf")
    assert case.distance([None, a], [torch.zeros(3), a]) == 0
    assert case.distance([None], [a]) == float("inf")


# ---- a whole run -----------------------------------------------------------------------------------------------------
def test_run_writes_a_complete_result(square: OpSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    data = results.load(tmp_path / "quick.json")
    planned = list(rows.selections("quick", "cpu"))
    assert [row["key"] for row in data["rows"]] == [row.key for row in planned] and data["complete"]
    for row, result in zip(planned, data["rows"], strict=True):
        assert result["status"] == "ok" and result["taken"] == "reference" and "no kernel" in result["note"]
        assert {"ours", "eager", "copy"} <= result["times"].keys()
        assert {"median", "iqr", "rounds"} <= result["times"]["ours"].keys()
        assert result["metrics"]["speedup_eager"] > 0 and result["metrics"]["copy_share"] > 0
        assert result["memory"]["ours"] >= 1536 * getattr(torch, row.dtype).itemsize
        assert result["distance_from_eager"] < 1e-6
        assert row.title in out
    assert f"[{len(planned)}/{len(planned)}]" in out and "vs eager" in out
    if plots.available():
        assert (tmp_path / "quick_speedup.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "quick_copy_share.png").exists()


def test_run_without_matplotlib_says_so(
    square: OpSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(plots.MISSING) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def test_only_goals_makes_a_missed_goal_fail(
    square: OpSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goal = Goal("square", "tiny", "forward", "float32", "nchw", "cpu", "speedup_eager", 1e6, 1e7)
    monkeypatch.setattr(goals.judge, "__defaults__", ((goal,),))
    monkeypatch.setattr(plots, "available", lambda: False)
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert main(["--device", "cpu", "--out", str(tmp_path), "--goals"]) == 1
    assert re.search(r"FAILED square-tiny\S+: speedup_eager [\d.]+ >= 1e\+06 .*missed", capsys.readouterr().err)


def test_a_wrong_result_fails_and_an_error_does_not_stop_the_run(
    square: OpSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def public(x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError("no bfloat16 today")
        return x * x * 1.1

    monkeypatch.setattr(_dispatch, "OPS", {"square": _spec(public)})
    monkeypatch.setattr(rows, "STEPS", {})
    monkeypatch.setattr(rows, "METRICS", {})
    monkeypatch.setattr(plots, "available", lambda: False)
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    statuses = {row["key"]: row["status"] for row in results.load(tmp_path / "quick.json")["rows"]}
    assert statuses["square-tiny-float32-nchw-forward-best"] == "wrong"
    assert statuses["square-tiny-bfloat16-nchw-forward-best"] == "error"
    assert "no bfloat16 today" in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_rows(square: OpSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = session.Session._measure

    def interrupted(self: session.Session, row: Row, *rest: Any) -> None:
        if row.direction == "double_backward":
            raise KeyboardInterrupt
        measure(self, row, *rest)

    monkeypatch.setattr(session.Session, "_measure", interrupted)
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 130
    data = results.load(tmp_path / "quick.json")
    assert not data["complete"]
    assert [row["status"] for row in data["rows"]][:2] == ["ok", "ok"]


def test_extra_contenders_become_numbers(square: OpSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "square", lambda row, kwargs: {"plain": lambda: kwargs["x"] + 1})
    bench = session.Session("quick", CPU, tmp_path)
    result = bench.measure(Row("square", "tiny", "float32", "nchw", "forward"))
    assert result["metrics"]["time_over_plain"] == pytest.approx(1 / result["metrics"]["speedup_plain"])
    assert any("time_over_plain" in line for line in table.notes([result]))


def test_a_backend_that_cannot_run_is_skipped_with_the_reason(square: OpSpec, tmp_path: Path) -> None:
    table_ = square.table

    def through_table(x: torch.Tensor) -> torch.Tensor:
        return table_(x)

    _dispatch.OPS["square"] = OpSpec("square", through_table, _square, square.prepare, table_, square.samples)
    bench = session.Session("quick", CPU, tmp_path)
    result = bench.measure(Row("square", "tiny", "float32", "nchw", "forward", "cuda"))
    assert result["status"] == "skipped" and "x is on cpu" in result["note"]
    assert "skipped" in table.text([result]) and "skipped" in session.progress(result, 1, 1)


def test_where_eager_is_wrong_float64_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row does not fail because the reference's half precision is broken, and does if ours is."""

    def broken(x: torch.Tensor) -> torch.Tensor:
        return x * x if x.dtype == torch.float64 else x * x * 1.5

    for public, reference, wrong in ((_square, broken, False), (broken, _square, True)):
        spec = OpSpec("square", public, reference, lambda **_: (), None, _spec(_square).samples)
        monkeypatch.setattr(_dispatch, "OPS", {"square": spec})
        monkeypatch.setattr(rows, "STEPS", {})
        monkeypatch.setattr(rows, "METRICS", {})
        rows._look.cache_clear()
        row = next(row for row in rows.selections("quick", "cpu") if row.dtype == "bfloat16")
        made = case.Case(row, CPU)
        for contender in made.contenders[:2]:
            made.seen(contender.name, contender.call())
        _, complaint, note = made.disagreement()
        assert (complaint is not None) == wrong
        assert ("eager is wrong" in note) != wrong


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [
        (1e-7, 2e-4, "rounding"),  # ours is right, eager off by what kinks do
        (3e-4, 2e-4, "rounding"),
        (5e-4, 2e-4, "wrong"),  # more than rounding ratio
        (1e-2, 1e-2, "wrong"),  # nobody is near: no yardstick
        (1e-7, 1e-2, "eager is wrong"),
        (2e-3, 1e-7, "wrong"),
        (2e-4, 1e-7, "wrong"),
    ],
)
def test_in_float32_rounding_at_kinks_is_held_to_eagers_own(
    own: float, others: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
        # In opposite directions, so that the two are never nearer to each other than to the truth.
        return lambda x: x * x if x.dtype == torch.float64 else x * x * (1 + by)

    spec = OpSpec("square", off(own), off(-others), lambda **_: (), None, _spec(_square).samples)
    monkeypatch.setattr(_dispatch, "OPS", {"square": spec})
    monkeypatch.setattr(rows, "STEPS", {})
    monkeypatch.setattr(rows, "METRICS", {})
    rows._look.cache_clear()
    made = case.Case(next(row for row in rows.selections("quick", "cpu") if row.dtype == "float32"), CPU)
    for contender in made.contenders[:2]:
        made.seen(contender.name, contender.call())
    error, complaint, note = made.disagreement()
    assert error is not None and error > 1e-4
    assert (complaint is not None) == (verdict == "wrong"), (complaint, note)
    assert note.startswith(verdict) or verdict == "wrong"


@pytest.mark.parametrize("family", ["stylegan", "stylegan3"])  # noise; running means, which every step moves
def test_a_network_is_held_to_float64_by_all_its_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case.Case(Row("model_step", family, "float32", "nchw", "forward"), CPU)
    for contender in made.contenders[:2]:
        for _ in range(2):
            made.seen(contender.name, contender.call())
    sizes, errors, distance = [], [], case.distance

    def watched(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
        sizes.append([x.numel() for x in mine])
        errors.append(distance(mine, theirs))
        return errors[-1]

    monkeypatch.setattr(case, "distance", watched)
    monkeypatch.setitem(case.AGREEMENT, ("float32", "cpu"), -1.0)
    before = dict(models._kept)
    made.disagreement()
    assert max(sizes[0]) == 1 and min(max(s) for s in sizes[1:]) > 1000
    assert models._kept == before
    assert max(errors) < 1e-4


@pytest.mark.parametrize("second, kept", [([1.0, 1.0, 1.1], True), ([1.0, 5.0, 50.0], False)])
def test_a_row_that_a_stall_hit_is_measured_again(second: list[float], kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    contenders = [Contender("ours", lambda: None), Contender("eager", lambda: None), Contender("once", lambda: None)]
    race = Race(contenders, timing.CpuClock(), Budget(0.1, 3, 3, 2), CPU)
    for contender, times in zip(contenders, ([1.0, 2.0, 9.0], [2.0, 2.0, 8.0], [7.0]), strict=True):
        contender.times, contender.rounds = list(times), 3 if len(times) == 3 else 0
    race.rounds = 3
    given = {"ours": iter(second), "eager": iter([3.0, 3.0, 3.0])}
    monkeypatch.setattr(race.clock, "time", lambda contender: next(given[contender.name]))
    contenders[2].failed = "not again"
    assert race.settle()
    assert contenders[0].times == (second if kept else [1.0, 2.0, 9.0])
    assert contenders[1].times == ([3.0, 3.0, 3.0] if kept else [2.0, 2.0, 8.0]) and contenders[2].times == [7.0]
    contenders[0].times, contenders[1].times = [1.0, 1.1, 1.2], [3.0, 3.0, 3.1]
    assert not race.settle()
    # What ours is compared with must be calm as well.
    contenders[1].times = [2.0, 3.0, 8.0]
    given.update(ours=iter([1.3, 1.3, 1.3]), eager=iter([2.9, 3.0, 3.1]))
    assert race.settle() and contenders[0].times == [1.3, 1.3, 1.3] and contenders[1].times == [2.9, 3.0, 3.1]
