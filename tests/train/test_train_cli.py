"""``gankern train`` from the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankern.cli import main
from gankern.models import load_checkpoint
from gankern.train import Settings
from gankern.train.cli import parse

SMALL = ["--set", "width=8", "--set", "z_dim=8", "--batch", "4", "--device", "cpu"]


def test_what_is_not_said_is_the_default() -> None:
    assert parse(["--out", "x"]) == Settings(out="x")


def test_flags_reach_the_settings() -> None:
    arguments = (
        "--model stylegan2 --data photos --out x --steps 7 --batch 8 --ops reference --device cpu --seed 3 --set resolution=32 "
        "--set generator=resnet --flip --loss hinge --loss-option smoothing=0.1 --r1 2 --path-length 0 --penalty r2=0.5 "
        "--r1-every 4 --lr 1e-3 --betas 0,0.99 --n-critic 2 --ema 5 --style-mixing 0.5 --autocast bf16 --channels-last "
        "--sample-every 2 --checkpoint-every 3 --metric fid --metric-every 4 --metric-images 50 --extractor pixels --quiet"
    )
    assert parse(arguments.split()) == Settings(
        model="stylegan2", data="photos", out="x", steps=7, batch=8, ops="reference", device="cpu", seed=3,
        set={"resolution": 32, "generator": "resnet"}, flip=True, loss="hinge", loss_options={"smoothing": 0.1},
        penalties={"r1": 2.0, "path_length": 0.0, "r2": 0.5}, r1_every=4, lr=1e-3, betas=(0.0, 0.99), n_critic=2, ema=5.0,
        style_mixing=0.5, autocast="bf16", channels_last=True, sample_every=2, checkpoint_every=3, metric=("frechet",),
        metric_every=4, metric_images=50, extractor="pixels", progress=False,
    )  # fmt: skip


def test_train_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", *SMALL, "--steps", "1", "--out", str(out)]) == 0
    assert "step 1/1" in capsys.readouterr().err
    assert load_checkpoint(out / "checkpoint.pt").state["step"] == 1
    assert (out / "samples.png").exists() and (out / "samples" / "0000001.png").exists()
    # The same again is refused; with --resume it goes on, with the run's own settings.
    assert main(["train", *SMALL, "--steps", "1", "--out", str(out)]) == 2
    assert "has an earlier run" in capsys.readouterr().err
    assert main(["train", "--resume", "--steps", "3", "--lr", "1e-4", "--out", str(out)]) == 0
    assert "goes on from step 1" in capsys.readouterr().err
    state = load_checkpoint(out / "checkpoint.pt").state
    assert state["step"] == 3 and state["settings"]["set"]["width"] == 8 and state["settings"]["batch"] == 4
    assert state["settings"]["lr"] == state["settings"]["lr_d"] == 1e-4
    assert main(["train", "--resume", "--model", "wgan", "--out", str(out)]) == 2
    assert "of another model" in capsys.readouterr().err


def test_resume_without_a_run_begins_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--resume", "--steps", "1", "--quiet", "--out", str(tmp_path / "new")]) == 0
    assert "a new one begins" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nothing"], "no model 'nothing'; there are"),
        (["--data", "no/such/folder"], "no data 'no/such/folder'"),
        (["--steps", "0"], "steps must be an int, at least 1, got 0"),
        (["--set", "width=0"], "width must be at least 1, got 0"),
        (["--set", "resolution=12"], "resolution must be a power of two"),
        (["--metric", "beauty"], "there is no metric 'beauty'"),
        (["--loss-option", "noise=1"], "nonsaturating has no option 'noise'; it has smoothing"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gankern train: ") and message in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--set", "width"], ["--betas", "1"], ["--autocast", "int8"], []])
def test_wrong_usage_is_exit_code_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments, *(["--out", str(tmp_path)] if arguments else [])])
    assert end.value.code == 2 and "gankern train" in capsys.readouterr().err
