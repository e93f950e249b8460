"""``gankern metrics``: what it prints and writes, and one line for whatever is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gankern import models
from gankern.cli import main
from gankern.metrics import compare


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[str, str]:
    g = torch.Generator().manual_seed(0)
    names = []
    for name, n in (("real", 40), ("fake", 30)):
        x = torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
        np.savez(tmp_path / f"{name}.npz", images=x.numpy())
        names.append(str(tmp_path / f"{name}.npz"))
    return names[0], names[1]


def run(*argv: str) -> int:
    return main(["metrics", *argv, "--device", "cpu", "--quiet"])


def test_prints_a_table_and_writes_json(arrays: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out.json"
    assert (
        run(*arrays, "--metrics", "all", "--out", str(out), "--set", "subset_size=20", "--set", "splits=3", "--seed", "4") == 0
    )
    text = capsys.readouterr()
    assert "frechet" in text.out and "lower is better" in text.out and "+-" in text.out and "extractor digits" in text.out
    assert "real has 40 images for 64 features" in text.err
    result = json.loads(out.read_text())
    with pytest.warns(UserWarning):
        expected = compare(*arrays, "all", subset_size=20, splits=3, seed=4)
    # Noise has all sorts of classes: some are not among the real ones, and JSON has no infinity.
    assert expected.pop("modes_kl") == math.inf and "inf" in text.out and result["metrics"].pop("modes_kl") is None
    assert result["metrics"] == expected
    assert result["settings"]["subset_size"] == 20 and result["settings"]["seed"] == 4
    assert result["real"] == {"name": arrays[0], "images": 40} and result["fake"]["images"] == 30
    assert result["extractor"]["key"].startswith("digits-") and result["options"]["device"] == "cpu"
    assert result["versions"]["torch"] == torch.__version__
    assert run(*arrays, "--metrics", "kid", "--json", "--count", "10") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["fake"]["images"] == 10
        and printed["real"]["images"] == 40
        and list(printed["metrics"]) == ["kernel", "kernel_std"]
    )


def test_digits_and_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    path = tmp_path / "gan.pt"
    models.save_checkpoint(path, models.from_config(models.FAMILIES["stylegan2"].tiny))
    argv = ["digits", str(path), "--count", "8", "--truncation", "0.7", "--metrics", "prdc,ppl", "--set", "path_samples=4"]
    assert run(*argv, "--cache", str(tmp_path / "cache"), "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["real"] == {"name": "digits", "images": 1797} and first["fake"] == {"name": str(path), "images": 8}
    assert first["metrics"]["path_length"] > 0 and first["options"]["truncation"] == 0.7
    assert len(list((tmp_path / "cache").glob("*/*.npz"))) == 3  # 1797 images are two chunks, 8 are one
    assert run(*argv, "--cache", str(tmp_path / "cache"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == first["metrics"]
    assert run("-", str(path), "--count", "8", "--metrics", "is", "--json") == 0
    assert json.loads(capsys.readouterr().out)["real"] is None


@pytest.mark.parametrize(
    "argv, message",
    [
        (["nowhere", "{fake}"], "real: no file or folder 'nowhere'"),
        (["{real}", "{fake}", "--metrics", "fidd"], "there is no metric 'fidd'"),
        (["{real}", "{fake}", "--extractor", "resnet"], "extractor must be one of digits"),
        (["{real}", "{fake}", "--set", "k=3"], "--set must be NAME=VALUE with one of"),
        (["{real}", "{fake}", "--set", "splits=many"], "splits must be an int"),
        (["{real}", "{fake}", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["{real}", "{fake}", "--metrics", "ppl"], "path_length needs a generator"),
        (["-", "{fake}"], "real must be given for"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, arrays: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert run(*(a.format(real=arrays[0], fake=arrays[1]) for a in argv), "--out", str(out)) == 2
    text = capsys.readouterr()
    lines = [line for line in text.err.splitlines() if "warning" not in line]
    assert message in text.err and len(lines) == 1 and not text.out and not out.exists()


def test_a_device_that_is_not_there(arrays: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", *arrays, "--device", "gpu"]) == 2
    assert "--device must be cpu, cuda or cuda:N, got 'gpu'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["metrics", *arrays, "--device", "cuda"]) == 2
        assert "this PyTorch sees no CUDA device" in capsys.readouterr().err


def test_help_lists_metrics_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["metrics", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "modes_kl" in text and "density_neighbours=5" in text and "fid = frechet" in text
