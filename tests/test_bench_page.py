"""docs/performance.md, README's results and the measurement of scaling: what is committed is what the results make."""

from __future__ import annotations

import json
import mmap
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gankern.bench import breakdown, figures, main, pages, performance, plots, reasons, scaling
from gankern.bench.common import BenchError
from gankern.bench.machine import ROOT
from gankern.bench.timing import Budget

CPU = torch.device("cpu")
DEVICE = "a-cpu-2-cores"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with committed results of one device, under another name: of the rows those of the quick run alone."""
    (source,) = sorted(p for p in (ROOT / "benchmarks" / "results").glob("*") if p.name != "latest" and p.is_dir())[:1]
    folder = tmp_path / "benchmarks" / "results" / DEVICE
    folder.mkdir(parents=True)
    for file in source.glob("*.json"):
        if file.stem not in ("goals", "full"):
            shutil.copy(file, folder)
    return tmp_path


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# ---- the page ----------------------------------------------------------------------------------------------------------
def test_the_committed_page_and_readme_are_those_of_the_results() -> None:
    assert performance.write(check=True) == [], "run: gankern bench --report"
    section = performance.readme_section(performance.devices())
    old, new = pages.rewritten(ROOT / "README.md", performance.BEGIN, performance.END, section)
    assert old == new, "run: python -m benchmarks.readme"


@pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")
def test_a_page_is_written_and_checked(root: Path) -> None:
    assert set(performance.write(root, check=True)) >= {"performance.md", f"{DEVICE}-speedup.png"}
    written = performance.write(root)
    page, folder = root / "docs" / "performance.md", root / "docs" / "performance"
    assert written[0] == "performance.md" and {p.name for p in folder.iterdir()} == set(written[1:])
    assert performance.write(root, check=True) == []
    assert all((folder / name).stat().st_size < 300_000 for name in written[1:])
    text = page.read_text()
    for name in written[1:]:
        assert f"(performance/{name})" in text
    page.write_text(text + "typed by hand")
    (folder / "stale.png").write_bytes(b"")
    (folder / written[1]).write_bytes(b"\x89PNG of other numbers")
    assert performance.write(root, check=True) == ["performance.md", written[1], "stale.png"]
    performance.write(root)
    assert performance.write(root, check=True) == [] and not (folder / "stale.png").exists()


def test_every_number_of_the_page_comes_from_a_row(root: Path) -> None:
    folder = root / "benchmarks" / "results" / DEVICE
    before = performance.page(performance.devices(root))

    def slower(data: dict[str, Any]) -> None:
        row = next(
            r for r in data["rows"] if r["op"] == "upfirdn2d" and r["dtype"] == "float32" and r["direction"] == "forward"
        )
        row["times"]["ours"]["median"], row["metrics"]["speedup_eager"] = 12.3456, 0.0765
        goal = {"metric": "speedup_eager", "must": 10, "stretch": 20, "at_most": False}
        row["goals"] = [{**goal, "value": 0.0765, "verdict": "missed"}]

    edit(folder / "quick.json", slower)
    after = performance.page(performance.devices(root))
    assert "0.08x (12.3 s)" in after and "0.08x (12.3 s)" not in before
    assert "| >= 10 | 20 | 0.0765 | missed |" in after


def test_a_wrong_row_reaches_no_goal() -> None:
    goal = {"metric": "speedup_eager", "must": 2, "stretch": 3, "at_most": False, "value": 5.0, "verdict": "stretch"}
    row = network_row("forward", 5.0) | {"goals": [goal]}
    assert performance.judged([row], "cpu")[0] == "1 goals: 1 stretch."
    made = performance.judged([row | {"status": "wrong", "note": "ours differs from eager by 0.5"}], "cpu")
    assert made[0] == "1 goals: 1 wrong result." and "| wrong result | ours differs from eager by 0.5 |" in made[-1]


def test_the_latest_of_two_files_counts(root: Path) -> None:
    folder = root / "benchmarks" / "results" / DEVICE
    data = json.loads((folder / "quick.json").read_text())
    first = data["rows"][0]
    first["times"]["ours"]["median"] = 4321.0
    data.update(rows=[first], mode="goals")
    for date, expected in (("2020-01-01T00:00:00+00:00", False), ("2999-01-01T00:00:00+00:00", True)):
        data["machine"]["date"] = date
        (folder / "goals.json").write_text(json.dumps(data))
        found = next(row for row in performance.devices(root)[0].rows if row["key"] == first["key"])
        assert (found["times"]["ours"]["median"] == 4321.0) == expected
    assert "goals.json" in performance.page(performance.devices(root))


def test_a_missed_goal_has_its_measured_reason() -> None:
    row = network_row("forward", 1.25) | {"op": "upfirdn2d", "sample": "up2_4x4_128"}
    goal = {"metric": "speedup_eager", "must": 10}
    assert reasons.why(row, "cpu", goal) == "the ceiling is 2.50x: its convolutions alone"
    row["metrics"] = {"copy_share": 0.9}
    assert reasons.why(row, "cpu", goal).startswith("it moves its bytes at 90% of a copy")
    assert reasons.why(row, "cpu", {**goal, "metric": "copy_share"}) == ""
    row["metrics"] = {"copy_share": 0.5, "ceiling": 12.0}
    assert reasons.why(row, "cpu", goal) == ""
    # What the profiler saw, and how steady the row was.
    row["breakdown"] = {"kernels": 0.6, "products": 0.0, "pytorch": 0.01, "between": 0.39, "largest": [["x", 0.6]]}
    goal["value"] = 6.1
    said = reasons.why(row, "cpu", goal)
    assert said.startswith("of 1.00 s 60% gankern's kernels, 39% between operators") and "PyTorch" not in said
    assert said.endswith("without what is between operators it would be 10.0x")
    assert reasons.why(row, "cpu", {**goal, "metric": "copy_share"}).endswith("its kernels alone are at 83% of a copy's speed")
    row["times"]["eager"]["iqr"] = 0.3 * row["times"]["eager"]["median"]
    assert reasons.why(row, "cpu", goal).endswith("unsteady: the quartiles of eager are 30% of its median apart")
    row["macs"] = 10
    assert "at 80% of the speed of the fastest convolution" in reasons.why(row, "cpu", goal, peak=25.0)


def test_a_breakdown_adds_up() -> None:
    x, weight = torch.randn(2, 64, 32, 32), torch.randn(64, 64, 3, 3)

    def call() -> None:
        time.sleep(0.1)
        torch.nn.functional.conv2d(x, weight).sin_()

    start = time.perf_counter()
    call()
    found = breakdown.breakdown(call, median := time.perf_counter() - start)
    assert sum(found[name] for name in breakdown.GROUPS) >= 0.99 * median and found["between"] > 0.05
    assert found["products"] > 0 < found["pytorch"] and found["kernels"] == 0
    assert "conv" in found["largest"][0][0] and len(found["largest"]) == 3
    groups = {"gankern_native::adain_cpu": "kernels", "gankern::conv2d": "between", "aten::mm": "products"}
    assert {name: breakdown.group(name) for name in groups} == groups


def network_row(phase: str, faster: float) -> dict[str, Any]:
    times = {"ours": 1.0, "eager": faster, "plain_convs": 0.5}
    return {
        "key": f"network_{phase}-stylegan2_128_b4-float32-nchw-forward-best",
        "op": f"network_{phase}", "sample": "stylegan2_128_b4", "dtype": "float32", "layout": "nchw", "direction": "forward",
        "backend": "best", "status": "ok", "note": "",
        "description": "stylegan2 at 128^2 x 4", "goals": [], "cells": {"compile": "RuntimeError: no double backward"},
        "times": {name: {"median": value, "iqr": 0.0} for name, value in times.items()},
        "memory": {"ours": 2**20, "eager": 2**22},
        "metrics": {"speedup_eager": faster, "ceiling": 2 * faster, "speedup_plain_convs": 0.5},
    }  # fmt: skip


def test_networks_and_scaling_have_their_parts(root: Path) -> None:
    folder = root / "benchmarks" / "results" / DEVICE
    edit(folder / "quick.json", lambda data: data["rows"].extend([network_row("forward", 1.75), network_row("r1_step", 1.25)]))
    side = {"median": 1.0, "q1": 1.0, "q3": 1.0, "rounds": 3}
    points = [{"value": v, "ours": {**side, "median": v / 1e3}, "eager": {**side, "median": 3 * v / 1e3}} for v in (1, 2, 8)]
    sweep = {"subject": "adain", "title": "adain", "base": {"batch": 2}, "parameter": "batch", "points": points}
    memory = {
        "family": "wgan-gp",
        "steps": 2,
        "growth_per_step": 12.0,
        "points": [{"step": 0, "resident": 2**30, "allocated": None}],
    }
    facts = json.loads((folder / "quick.json").read_text())["machine"]
    data = {"format": scaling.FORMAT, "mode": "full", "complete": True, "machine": facts, "sweeps": [sweep], "memory": memory,
            "imports": {"torch": 2.0, "gankern": 0.5, "repeats": 3}}  # fmt: skip
    (folder / "scaling.json").write_text(json.dumps(data))
    (device,) = performance.devices(root)
    page = performance.page([device])
    assert "| stylegan2 at 128^2 x 4 | r1 step | 1.25 s | 1.00 s | 1.25x | 2.50x | not possible |" in page
    assert "no double backward" in page and "| adain | batch | 1 to 8 | 8.00x | 8.00x | 3.00x | 3.00x |" in page
    assert "12 bytes a step" in page and "500 ms of CPU time after `import torch`'s 2.00 s: 25%" in page
    assert {f"{DEVICE}-networks.png", f"{DEVICE}-scaling.png"} <= performance.drawings(device).keys()
    if plots.available():
        for data_of, draw in performance.drawings(device).values():
            assert figures.digest_of(draw()) == figures.digest(data_of)


def test_commands_of_the_page(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report", "--check"]) == 0
    assert "agrees" in capsys.readouterr().out
    for arguments, message in (
        (["--check"], "--check goes with --report"),
        (["--report", "--out", "x.md"], "needs the result files"),
        (["--scaling", "--op", "adain"], "without --op"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(BenchError, match="no committed results"):
        performance.devices(root / "docs")
    (root / "benchmarks" / "results" / DEVICE / "other.json").write_text('{"format": "else"}')
    with pytest.raises(BenchError, match=r"other.json: not a result file"):
        performance.devices(root)


def test_marks_must_stand_once_each(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("none", "END BEGIN", "BEGIN END BEGIN"):
        page.write_text(text)
        with pytest.raises(BenchError, match="once each"):
            pages.write_section(page, "BEGIN", "END", "BEGIN x END")
        assert page.read_text() == text
    page.write_text("a BEGIN old END b")
    assert pages.write_section(page, "BEGIN", "END", "BEGIN x END", check=True) == 1 and "old" in page.read_text()
    assert pages.write_section(page, "BEGIN", "END", "BEGIN x END") == 0 and page.read_text() == "a BEGIN x END b"
    with pytest.raises(BenchError, match="cannot be read"):
        pages.write_section(tmp_path / "absent.md", "BEGIN", "END", "")


# ---- scaling -----------------------------------------------------------------------------------------------------------
def test_scaling_of_a_few_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"upfirdn2d": scaling.SUBJECTS["upfirdn2d"]}
    monkeypatch.setattr(scaling, "SUBJECTS", small)
    monkeypatch.setitem(scaling.STEPS, "quick", 4)
    before = torch.get_num_threads()
    assert main(["--scaling", "--smoke", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == before
    data = json.loads((tmp_path / "scaling.json").read_text())
    assert data["complete"] and data["format"] == scaling.FORMAT and data["machine"]["versions"]["torch"] == torch.__version__
    assert [sweep["parameter"] for sweep in data["sweeps"]] == [*scaling.PARAMETERS, "threads"]
    for sweep in data["sweeps"]:
        assert len(sweep["points"]) == 2
        assert all(point[side]["median"] > 0 for point in sweep["points"] for side in ("ours", "eager"))
    assert [p["step"] for p in data["memory"]["points"]] == [0, 1, 2, 3, 4]
    assert data["imports"]["torch"] > 0 and data["imports"]["gankern"] > 0
    assert "import: torch" in capsys.readouterr().out


@pytest.mark.parametrize("name", scaling.SUBJECTS)
def test_both_sides_of_a_subject_compute_the_same(name: str) -> None:
    subject = scaling.SUBJECTS[name]
    for parameter, values in ({"": ()} | dict(subject.sweeps)).items():
        settings = {**subject.base, "resolution": 16, "channels": 8}
        if parameter:
            settings[parameter] = min(values[-1], 24)
        ours, eager = subject.make(settings, CPU, torch.Generator().manual_seed(0))
        mine, theirs = ours(), eager()
        pairs = zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]
        for a, b in pairs:
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4 * float(b.abs().max()))


def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[mmap.mmap] = []

    def leak(*_: Any) -> None:
        kept.append(mmap.mmap(-1, 1 << 20))  # pages that nobody had before, unlike those of an allocator
        kept[-1].write(b"x" * (1 << 20))

    if scaling.resident() is None:
        assert scaling.memory(2, CPU)["growth_per_step"] is None
        return
    monkeypatch.setattr(scaling, "_train", leak)
    assert scaling.memory(20, CPU)["growth_per_step"] == pytest.approx(2**20, rel=0.3)


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "BUDGETS", {"quick": Budget(0.0, 1, 1, 1)})
    monkeypatch.setattr(scaling, "sweeps", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write"):
        scaling.run(tmp_path / "file" / "scaling.json", "quick", CPU)
