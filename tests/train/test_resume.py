"""A resumed run is the unbroken one; what a killed one leaves can be loaded; what cannot be resumed is refused, and stays."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankern.models import load_checkpoint, save_checkpoint
from gankern.train import Settings, train
from gankern.train.run import Run
from gankern.train.settings import fill

STYLE = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8, "mbstd_group": 2}
# Between them: EMA, lazy R1 and path length with its mean, style mixing, noise, pools, label noise, growth, power iterations.
CASES: dict[str, dict[str, Any]] = {
    "stylegan2": {"model": "stylegan2", "set": STYLE, "r1_every": 2, "path_length_every": 2},
    "cyclegan": {
        "model": "cyclegan",
        "data": "photos",
        "set": {"resolution": 32, "blocks": 1, "generator_channels": 4, "discriminator_channels": 4},
        "pool": 3,
    },
    "progan": {"model": "progan", "set": {"z_dim": 8, "channel_base": 64, "channel_max": 8, "stddev_group": 2}},
    "label noise": {"set": {"width": 8, "z_dim": 8}, "loss_options": {"label_noise": 0.3, "smoothing": 0.1}, "flip": True},
}


def settings(out: Path, **more: Any) -> Settings:
    common = {"steps": 7, "batch": 4, "ema": 1.0, "log_every": 2, "checkpoint_every": 0, "sample_count": 4, "progress": False}
    return Settings(out=str(out), **{**common, **more})


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(a, Tensor):
        return [] if isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and set(a) == set(b):
        return [d for k in a for d in differences(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]


def content(out: Path) -> dict[str, Any]:
    found = torch.load(out / "checkpoint.pt", weights_only=True)
    del found["state"]["seconds"], found["state"]["settings"]
    return found


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "losses.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of curves take longer than these runs; other tests have them."""
    monkeypatch.setattr("gankern.train.run.draw", lambda *args: False)


class Broken(Exception):
    pass


def break_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let runs end by an error behind the checkpoint of a step."""
    whole = Run.save

    def save(self: Run, *paths: Path) -> bool:
        done = whole(self, *paths)
        if self.step == step:
            raise Broken
        return done

    monkeypatch.setattr(Run, "save", save)


@pytest.mark.parametrize("name", CASES)
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    train(settings(tmp_path / "whole", **case))
    with pytest.MonkeyPatch.context() as patch:
        break_after(patch, 3)  # in the middle of a row of losses
        with pytest.raises(Broken):
            train(settings(tmp_path / "broken", **case, checkpoint_every=3))
    train(settings(tmp_path / "broken", **case, resume=True))
    assert differences(content(tmp_path / "whole"), content(tmp_path / "broken")) == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
    assert [r["step"] for r in rows(tmp_path / "whole")] == ["2", "4", "6", "7"]


def test_other_random_numbers_would_be_seen(tmp_path: Path) -> None:
    """The comparison above is able to fail: another seed is another run."""
    for seed in (0, 1):
        train(settings(tmp_path / str(seed), **CASES["label noise"], seed=seed))
    assert any("generator" in d for d in differences(content(tmp_path / "0"), content(tmp_path / "1")))


def test_a_finished_run_goes_on_to_more_steps(tmp_path: Path) -> None:
    case = CASES["label noise"]
    train(settings(tmp_path / "whole", **case))
    train(settings(tmp_path / "longer", **{**case, "steps": 3}))
    result = train(settings(tmp_path / "longer", **case, resume=True))
    assert result.step == 7 and result.stopped is None
    assert differences(content(tmp_path / "whole"), content(tmp_path / "longer")) == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "longer")


def test_metrics_change_nothing_and_the_best_is_remembered(tmp_path: Path) -> None:
    case = {**CASES["label noise"], "metric_images": 20, "extractor": "pixels"}
    train(settings(tmp_path / "plain", **CASES["label noise"]))
    result = train(settings(tmp_path / "measured", **case, metric=("kernel",), metric_every=2))
    plain, measured = content(tmp_path / "plain"), content(tmp_path / "measured")
    best = measured["state"].pop("best")
    plain["state"].pop("best")
    assert differences(plain, measured) == []
    values = {int(row["step"]): row["kernel"] for row in result.metrics}
    assert list(values) == [2, 4, 6, 7] and best == min(values.values())
    assert result.best is not None
    kept = load_checkpoint(result.best)
    assert values[kept.state["step"]] == best
    # A resumed run knows what it has to beat.
    again = train(settings(tmp_path / "measured", **{**case, "steps": 8}, metric=("kernel",), resume=True))
    assert [int(r["step"]) for r in again.metrics] == [2, 4, 6, 7, 8]
    assert content(tmp_path / "measured")["state"]["best"] == min(best, again.metrics[-1]["kernel"])


# ---- what cannot be resumed -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(settings(out, set={"width": 8, "z_dim": 8}, steps=2))
    return out


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(out: Path, message: str, **more: Any) -> None:
    before = snapshot(out)
    with pytest.raises(ValueError, match=message):
        train(settings(out, **more))
    assert snapshot(out) == before


def test_an_earlier_run_is_not_overwritten(finished: Path) -> None:
    refused(finished, "has an earlier run .*--resume", set={"width": 8, "z_dim": 8})


def test_a_checkpoint_of_another_model_is_refused(finished: Path) -> None:
    refused(finished, "of another model", set={"width": 12, "z_dim": 8}, resume=True)
    refused(finished, "of another model: DCGANConfig", model="wgan", set={"width": 8, "z_dim": 8}, resume=True)


def test_a_truncated_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "truncated"
    shutil.copytree(finished, out)
    data = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(data[: len(data) // 2])
    refused(out, "truncated or not a checkpoint", set={"width": 8, "z_dim": 8}, resume=True)


def test_other_data_is_refused(finished: Path) -> None:
    refused(
        finished,
        "state is of data with 1797 images",
        data="photos",
        set={"resolution": 16, "channels": 1, "width": 8, "z_dim": 8},
        resume=True,
    )


# ---- ends that were not planned ---------------------------------------------------------------------------------------------
def test_losses_that_are_no_numbers_keep_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["label noise"]
    whole = Run.next_batch

    def next_batch(self: Run) -> Any:
        batch = whole(self)
        if self.step == 4:
            batch.images.fill_(float("nan"))
        return batch

    monkeypatch.setattr(Run, "next_batch", next_batch)
    result = train(settings(tmp_path, **case, checkpoint_every=2))
    assert result.stopped == "nan" and result.step == 5
    kept = load_checkpoint(result.checkpoint)
    assert kept.state["step"] == 4
    assert all(torch.isfinite(p).all() for p in kept.gan.parameters())
    assert result.samples.stat().st_size > 0


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a step is of the weights before it: a checkpoint has to look at those behind it."""
    case = CASES["label noise"]
    whole = Run.note

    def note(self: Run, stats: dict[str, Tensor]) -> None:
        if self.step == 4:
            next(self.gan.generator.parameters()).data[0] = float("inf")
        whole(self, stats)

    monkeypatch.setattr(Run, "note", note)
    result = train(settings(tmp_path, **case, checkpoint_every=2))
    assert result.stopped == "nan"
    assert load_checkpoint(result.checkpoint).state["step"] == 2


COMMAND = [sys.executable, "-m", "gankern", "train", "--set", "width=8", "--set", "z_dim=8", "--batch", "4", "--quiet"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"no {path.name}"
        time.sleep(0.01)


def test_a_killed_run_leaves_a_checkpoint_that_can_be_resumed(tmp_path: Path) -> None:
    arguments = [
        "--steps",
        "100000",
        "--checkpoint-every",
        "1",
        "--log-every",
        "1",
        "--sample-every",
        "3",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT)
    wait_for(tmp_path / "checkpoint.pt", process)
    # It writes most of the time: copies at arbitrary moments are what a kill at these moments would have left.
    seen: set[int] = set()
    for i in range(1000):
        shutil.copyfile(tmp_path / "checkpoint.pt", tmp_path / "copy")
        seen.add(load_checkpoint(tmp_path / "copy").state["step"])
        if i >= 10 and len(seen) >= 4:
            break
        time.sleep(0.013)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(seen) >= 4
    step = load_checkpoint(tmp_path / "checkpoint.pt").state["step"]
    assert step >= max(seen)
    result = train(settings(tmp_path, set={"width": 8, "z_dim": 8}, ema=2.0, steps=step + 2, log_every=1, resume=True))
    assert result.step == step + 2 and [int(r["step"]) for r in result.losses] == list(range(1, step + 3))
    assert not list(tmp_path.glob(".*.tmp.*"))


def test_a_run_killed_before_its_checkpoint_is_written_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"set": {"width": 8, "z_dim": 8}, "steps": 4, "log_every": 1, "checkpoint_every": 1}
    saves = []

    def save(path: Path, *args: Any) -> None:
        rows = (path.parent / "losses.csv").read_text().splitlines() if saves else []
        steps = [int(row["step"]) for row in csv.DictReader(rows)]
        saves.append(args[-1]["step"])
        assert steps == list(range(1, saves[-1] + 1))  # no checkpoint of a step whose row could be lost
        save_checkpoint(path, *args)
        if saves[-1] == 3:
            raise KeyboardInterrupt  # as a kill between this file and the next would

    monkeypatch.setattr("gankern.train.run.save_checkpoint", save)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path, **more))
    monkeypatch.undo()
    result = train(settings(tmp_path, **more, resume=True))
    assert saves == [0, 1, 2, 3] and [int(r["step"]) for r in result.losses] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_step(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["label noise"]
    train(settings(tmp_path / "whole", **case))
    whole = Run.next_batch

    def next_batch(self: Run) -> Any:
        if self.step == 3 and not self.settings.resume:
            os.kill(os.getpid(), number)
        return whole(self)

    monkeypatch.setattr(Run, "next_batch", next_batch)
    before = signal.getsignal(number)
    result = train(settings(tmp_path / "cut", **case))
    assert result.stopped == "interrupted" and result.step == 4 == load_checkpoint(result.checkpoint).state["step"]
    assert result.samples.exists() and signal.getsignal(number) is before
    train(settings(tmp_path / "cut", **case, resume=True))
    assert differences(content(tmp_path / "whole"), content(tmp_path / "cut")) == []


def test_filling_twice_changes_nothing(tmp_path: Path) -> None:
    for model, data in (
        ("dcgan", "digits"),
        ("stylegan2", "photos"),
        ("cyclegan", "photos"),
        ("wgan", "digits"),
        ("biggan-128", "x"),
    ):
        once = fill(Settings(out=str(tmp_path), model=model, data=data))
        assert fill(once) == once
