"""What is interrupted or killed while it records leaves whole files. (gankern train: tests/train/test_resume.py.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")  # what gankern.bench is part of
ROOT = Path(__file__).resolve().parents[2]

# Records rows without a pause, each larger than what one write to the file system takes.
RECORDER = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
from gankern.bench.results import Results
results = Results(pathlib.Path(sys.argv[1]), "quick", {})
while True:
    results.add({"row": len(results.rows), "filler": "x" * 20000})
    del results.rows[50:]
"""


def until(process: subprocess.Popen[Any], condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition on the files of a process that must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end, f"nothing for {seconds} s"
        time.sleep(0.02)


def stop(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def whole(path: Path) -> dict[str, Any]:
    """The file, which must be one that was written completely."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    data = json.loads(text)
    assert data["complete"] is False and data["rows"]
    return data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_recording_is_cut_off_between_files(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "results" / "quick.json"
    process = subprocess.Popen([sys.executable, "-c", RECORDER, str(path)], stderr=subprocess.DEVNULL)
    try:
        until(process, path.exists, 100)
        seen: set[int] = set()
        end = time.monotonic() + 100
        for _ in range(200):  # at any moment, what is there is whole
            seen.add(len(whole(path)["rows"]))
        while len(seen) < 3 and time.monotonic() < end:
            seen.add(len(whole(path)["rows"]))
    finally:
        stop(process, number)
    whole(path)
    left = [p.name for p in path.parent.iterdir() if p != path]
    if number == signal.SIGINT:
        assert left == []
    assert all(name.startswith(".") and ".tmp." in name for name in left), left  # nothing that looks like a result
    assert len(seen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_benchmark_session(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "quick.json"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--quick", "-k", "grad_norm", "--results", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "MPLBACKEND": "Agg"})
    try:
        until(process, path.exists, 300)
    finally:
        stop(process, number)
    whole(path)
    left = [p.name for p in tmp_path.iterdir() if p.suffix == ".png" and not p.name.startswith(".")]
    for name in left:  # a plot of what was measured until then, or none
        assert (tmp_path / name).read_bytes().endswith(b"IEND\xaeB`\x82")
