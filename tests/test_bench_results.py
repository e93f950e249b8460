"""What is made of measurements: result files, comparison, report, errors; and the scripts beside the benchmarks."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gankern.bench import (
    common,
    compare,
    machine,
    main,
    plots,
    results,
    rows,
    table,
)
from gankern.bench.goals import judge
from gankern.bench.rows import Row
from gankern.bench.timing import Budget, Stats

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


# ---- result files ----------------------------------------------------------------------------------------------------
def _result(key: str, ours: float, iqr: float = 0.01, **more: Any) -> dict[str, Any]:
    op, sample, dtype, layout, direction, backend = key.split("-")
    entry = {"median": ours, "iqr": iqr * ours, "rounds": 9}
    return {
        "key": key,
        "op": op,
        "sample": sample,
        "dtype": dtype,
        "layout": layout,
        "direction": direction,
        "backend": backend,
        "taken": "cpu",
        "status": "ok",
        "note": "",
        "times": {
            "ours": entry,
            "eager": {"median": 1.0, "iqr": 0.01, "rounds": 3},
            "copy": {"median": 0.1, "iqr": 0.001, "rounds": 9},
        },
        "memory": {"ours": 2**20, "eager": 2**22},
        "cells": {},
        "metrics": {
            "speedup_eager": 1 / ours,
            "speedup_compile": 0.5 / ours,
            "copy_share": 0.05 / ours,
            "copy_bandwidth": 1e10,
        },
        "goals": judge(
            Row(op, sample, dtype, layout, direction, backend), "cpu", {"speedup_eager": 1 / ours, "copy_share": 0.4}
        ),
        **more,
    }


KEYS = [f"upfirdn2d-up2_4x4_128-float32-nchw-{direction}-best" for direction in rows.DIRECTIONS]


def _file(path: Path, times: dict[str, float], **more: Any) -> Path:
    made = results.Results(path, "quick", machine.facts(CPU))
    for key, value in times.items():
        made.add(_result(key, value, **more))
    made.finish(True)
    return path


def test_result_files_survive_a_round_trip(tmp_path: Path) -> None:
    path = _file(tmp_path / "deep" / "quick.json", dict.fromkeys(KEYS, 0.05))
    data = results.load(path)
    assert [row["key"] for row in data["rows"]] == KEYS and data["complete"] and data["mode"] == "quick"
    assert data["rows"][0]["times"]["ours"]["median"] == 0.05
    facts = data["machine"]
    assert facts["device"] and facts["cores"] >= 1 and facts["threads"] >= 1 and facts["date"]
    assert {"torch", "triton", "python", "gankern"} <= facts["versions"].keys() and "commit" in facts and "dirty" in facts
    assert [p.name for p in path.parent.iterdir()] == ["quick.json"]


def test_machine_facts_tell_nothing_private() -> None:
    text = json.dumps(machine.facts(CPU))
    assert str(ROOT) not in text and os.uname().nodename not in text.split('"')


def test_writing_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"new": object()})
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_sections_outlive_a_new_run_and_stages_need_no_gankern(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    stages = [sys.executable, "-S", str(ROOT / "benchmarks" / "stages.py"), str(path)]
    subprocess.run([*stages, "build", "failed", "12", "no nvcc"], check=True)
    results.add_section(path, "ceilings", {"items": [{"name": "copy", "value": 4300.0, "unit": "GB/s"}]}, {"device": "d"})
    made = results.Results(path, "quick", machine.facts(CPU))
    made.add(_result(KEYS[0], 0.05))
    subprocess.run([*stages, "bench", "ok", "60"], check=True)
    data = results.load(path)
    assert {name: stage["status"] for name, stage in data["stages"].items()} == {"build": "failed", "bench": "ok"}
    assert data["ceilings"]["items"] and len(data["rows"]) == 1
    assert subprocess.run(stages, capture_output=True).returncode == 2
    spec = importlib.util.spec_from_file_location("stages", ROOT / "benchmarks" / "stages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.FORMAT == results.FORMAT


# ---- compare ---------------------------------------------------------------------------------------------------------
def _noisy(generator: random.Random, scale: float) -> dict[str, Any]:
    """A result whose times are drawn around ``scale`` with 2 % noise."""
    row = _result(KEYS[0], scale)
    stats = Stats.of([scale * generator.gauss(1, 0.02) for _ in range(25)])
    row["times"]["ours"] = {"median": stats.median, "iqr": stats.iqr, "rounds": 25}
    return row


def _data(*found: dict[str, Any], device: str = "d") -> dict[str, Any]:
    return {"rows": list(found), "machine": {"device": device}}


def test_compare_finds_a_planted_slowdown_and_ignores_noise() -> None:
    generator = random.Random(0)
    for _ in range(50):
        old, same = _noisy(generator, 0.1), _noisy(generator, 0.1)
        slow, fast = _noisy(generator, 0.115), _noisy(generator, 0.085)
        verdicts = [compare.compare(_data(old), _data(new))[0].verdict for new in (same, slow, fast)]
        assert verdicts == ["same", "slower", "faster"]
    # The same difference between noisy measurements is no finding.
    old, new = _result(KEYS[0], 0.1, iqr=0.2), _result(KEYS[0], 0.115, iqr=0.2)
    assert compare.compare(_data(old), _data(new))[0].verdict == "same"
    assert compare.compare(_data(_result(KEYS[0], 0.1)), _data(_result(KEYS[0], 0.115)), tolerance=0.2)[0].verdict == "same"


def test_compare_by_speedup_takes_the_machine_out() -> None:
    old, new = _result(KEYS[0], 0.1), _result(KEYS[0], 0.2)
    new["metrics"]["speedup_eager"] = old["metrics"]["speedup_eager"]
    assert compare.compare(_data(old), _data(new), "time")[0].verdict == "slower"
    (change,) = compare.compare(_data(old), _data(new), "speedup")
    assert change.verdict == "same"
    text = compare.text([change], _data(old), _data(new, device="e"), "speedup")
    assert "10.0 ->" in text and "different devices" in text


def test_compare_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _file(tmp_path / "old.json", dict.fromkeys(KEYS, 0.05))
    new = _file(tmp_path / "new.json", {KEYS[0]: 0.1, KEYS[1]: 0.05, KEYS[2]: 0.02})
    assert main(["--compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert "SLOWER" in out and "1 faster, 1 same, 1 slower" in out
    assert main(["--compare", str(old), str(new), "--fail-on-regression"]) == 1
    assert main(["--compare", str(old), str(old), "--fail-on-regression"]) == 0


# ---- report ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["html", "md"])
def test_report_shows_every_row_and_is_self_contained(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path / "runs" / "quick.json", dict.fromkeys(KEYS, 0.2))
    results.add_section(path, "ceilings", {"items": [{"name": "copy 512 MiB", "value": 4300.0, "unit": "GB/s"}]}, {})
    (path.parent / "other.json").write_text("{}")
    out = tmp_path / f"page.{suffix}"
    assert main(["--report", str(path.parent), "--out", str(out)]) == 0
    page = out.read_text()
    for result in results.load(path)["rows"]:
        assert table.row_of(result).title in page
    assert "5.00x" in page and "200 ms" in page and "MISSED" in page and "copy 512 MiB" in page
    assert machine.facts(CPU)["device"] in page
    if suffix == "html":
        assert page.count("data:image/png;base64,") == (2 if plots.available() else 0)
        assert not re.search(r"(src|href)=['\"]?(https?:|/|\.)", page)


def test_table_of_every_status() -> None:
    found = [
        _result(KEYS[0], 0.05, cells={"compile": "RuntimeError: double backward is not supported"}),
        _result(KEYS[1], 0.05, status="wrong", note="ours differs from eager"),
        {**_result(KEYS[2], 0.05), "status": "error", "note": "RuntimeError: no memory", "times": {}, "metrics": {}},
    ]
    shown = table.text(found)
    for piece in ("cannot", "double backward is not supported", "WRONG: ours differs", "ERROR", "no memory", "goals: "):
        assert piece in shown
    assert table.text([]) == "no rows were measured"


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_bad_input_is_one_line_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _file(tmp_path / "good.json", {KEYS[0]: 0.1})
    other = _file(tmp_path / "other.json", {KEYS[1]: 0.1})
    text, foreign, damaged = tmp_path / "text.json", tmp_path / "foreign.json", tmp_path / "damaged.json"
    text.write_text("hello")
    foreign.write_text('{"benchmarks": []}')
    damaged.write_text(json.dumps({"format": results.FORMAT, "mode": "quick", "machine": {}, "rows": [{}]}))
    (tmp_path / "empty").mkdir()
    missing, page = tmp_path / "missing.json", tmp_path / "page.html"
    cases: list[tuple[list[Any], str]] = [
        (["--compare", good, missing], "missing.json: no such file"),
        (["--compare", good, text], "text.json: not a result file"),
        (["--compare", foreign, good], "foreign.json: not a result file"),
        (["--compare", damaged, good], "damaged.json: damaged result file"),
        (["--compare", good, other], "no measured row in common"),
        (["--report", missing, "--out", page], "missing.json: no such file"),
        (["--report", tmp_path / "empty", "--out", page], "no result files in this folder"),
        (["--report", good], "--report needs --out"),
        (["--report", good, "--out", tmp_path / "page.pdf"], ".html or .md"),
        (["--op", "upfirdn3d"], "unknown op 'upfirdn3d'; known: "),
        (["--device", "tpu"], "'tpu'"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--out", good], "is a file"),
    ]
    if not torch.cuda.is_available():
        cases.append((["--device", "cuda"], "sees no GPU"))
    for arguments, message in cases:
        assert main([str(argument) for argument in arguments]) == 2, arguments
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, (arguments, err)
    assert not page.exists()


def test_numbers_are_written_with_three_digits() -> None:
    assert [common.seconds(v) for v in (None, 2.5, 0.0123456, 1.5e-6, 2e-8)] == ["-", "2.50 s", "12.3 ms", "1.50 us", "20.0 ns"]
    assert [common.digits(v) for v in (0.123, 9.994, 9.996, 99.94, 99.96, 1234)] == [
        "0.12",
        "9.99",
        "10.0",
        "99.9",
        "100",
        "1234",
    ]
    assert (
        common.times(12.345) == "12.3x"
        and common.percent(0.615) == "62%"
        and common.slug("NVIDIA H200 (SXM)") == "nvidia-h200-sxm"
    )


# ---- the scripts beside the benchmarks -------------------------------------------------------------------------------
def test_gpu_script_is_well_formed_and_honest_without_a_gpu() -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    hidden = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    plain = subprocess.run([script], env=hidden, capture_output=True, text=True)
    assert plain.returncode == 3 and plain.stderr.count("\n") == 1 and "no GPU" in plain.stderr
    hidden["PYTHON"] = "false"  # a dry run needs no torch
    dry = subprocess.run([script, "--dry-run"], env=hidden, capture_output=True, text=True)
    assert dry.returncode == 0
    for piece in (
        "GANKERN_CUDA_ARCHS=",
        "pytest tests",
        "benchmarks.ceilings",
        "pytest benchmarks/ --quick",
        "memcheck",
        "racecheck",
    ):
        assert piece in dry.stdout
    limits = [int(number) for number in re.findall(r"at most +(\d+) s", dry.stdout)]
    assert sum(limits) <= 600 and limits[0] <= 180
    chosen = subprocess.run([script, "--dry-run", "--stages", "bench", "somewhere"], env=hidden, capture_output=True, text=True)
    assert chosen.stdout.count("\n") == 1 and "--results somewhere" in chosen.stdout
    assert subprocess.run([script, "--stages", "nonsense"], env=hidden, capture_output=True).returncode == 2


def test_ceilings_run_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import ceilings

    monkeypatch.setattr(ceilings, "BUDGET", Budget(0.002, 1, 2, 1))
    out = tmp_path / "quick.json"
    assert ceilings.main(["--device", "cpu", "--out", str(out)]) == 0
    section = results.load(out)["ceilings"]
    names = " ".join(item["name"] for item in section["items"])
    for piece in ("clone", "matmul", "forward", "dgrad", "wgrad", "transposed", "double-backward"):
        assert piece in names
    assert section["complete"] and section["failed"] == [] and all(item["value"] > 0 for item in section["items"])
    assert ceilings.main(["--device", "cpu", "--seconds", "0"]) == 0
    assert "left out" in capsys.readouterr().err
    assert ceilings.main(["--device", "tpu"]) == 2


def test_pytest_benchmarks_end_to_end(tmp_path: Path) -> None:
    """One real row through pytest and pytest-benchmark, in a process of its own."""
    pytest.importorskip("pytest_benchmark")
    shape = "down2_4x4_256-bfloat16-nchw-forward-best"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/", "-k", shape, "--results", str(tmp_path), "--bench-device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = results.load(tmp_path / "quick.json")
    assert [row["key"] for row in data["rows"]] == [f"upfirdn2d-{shape}"]
    assert not data["complete"], "rows were deselected"
    assert data["rows"][0]["times"]["ours"]["rounds"] >= 1  # more where the machine is not busy
    assert "[1/1] upfirdn2d down2_4x4_256 bf16 nchw fwd" in done.stdout
    assert done.stdout.count("vs eager") == 1 and "Name (time in" not in done.stdout
