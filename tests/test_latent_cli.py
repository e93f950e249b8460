"""``gankern latent``: what each command writes, checkpoints, bad input."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gankern import latent, models
from gankern.latent import cli

SMALL = [
    "--set",
    "resolution=16",
    "--set",
    "z_dim=16",
    "--set",
    "w_dim=16",
    "--set",
    "channel_base=256",
    "--set",
    "channel_max=16",
]
TINY = ["--model", "stylegan2", *SMALL, "--set", "mapping_layers=2"]


def size_of(path: Path) -> tuple[int, int, int]:
    """Width, height, frames."""
    from PIL import Image

    with Image.open(path) as file:
        return (*file.size, getattr(file, "n_frames", 1))


def grid(columns: int, rows: int) -> tuple[int, int, int]:
    return (columns * 18 - 2, rows * 18 - 2, 1)


@pytest.mark.parametrize(
    "arguments, name, size",
    [
        (["interpolate", "--seeds", "0-2", "--frames", "4"], "x.png", grid(5, 2)),
        (["interpolate", "--seeds", "0,1", "--frames", "2", "--loop", "--scale", "2"], "x.png", (3 * 34 - 2, 2 * 34 - 2, 1)),
        (["interpolate", "--seeds", "0,5", "--frames", "3", "--space", "z", "--loop"], "x.gif", (16, 16, 6)),
        (["mix", "--rows", "0,1", "--columns", "2-4", "--layers", "3-5"], "x.png", grid(4, 3)),
        (["mix", "--rows", "0,1", "--columns", "2"], "x.gif", (2 * 18 - 2, 3 * 18 - 2, 6)),
        (["truncate", "--seeds", "0,1", "--truncations", "1", "0", "-1"], "x.png", grid(3, 2)),
        (["arithmetic", "--plus", "0-2", "--minus", "3", "--plus", "4,5"], "x.png", grid(4, 1)),
        (["arithmetic", "--positive", "0-2", "--negative", "3", "--seeds", "6", "--strengths", "-2", "2"], "x.png", grid(2, 1)),
        (["sefa", "--directions", "0,2", "--seeds", "0", "--strengths", "-1.5", "1.5", "--layers", "1-4"], "x.png", grid(2, 2)),
        (["sefa", "--frames", "3", "--directions", "0", "--seeds", "0,1"], "x.gif", (2 * 18 - 2, 16, 4)),
    ],
)  # fmt: skip
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], name: str, size: Any) -> None:
    pytest.importorskip("PIL")
    path = tmp_path / name
    assert cli.main([*arguments, *TINY, "--out", str(path)]) == 0
    output = capsys.readouterr()
    assert str(path) in output.out and "random weights" in output.err
    assert size_of(path) == size
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_command_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    picture, out, save = tmp_path / "photo.png", tmp_path / "x.gif", tmp_path / "w.pt"
    image_module.new("RGB", (40, 30), (200, 100, 50)).save(picture)
    arguments = ["project", str(picture), *TINY, "--out", str(out), "--steps", "10", "--every", "4", "--save", str(save)]
    assert cli.main(arguments) == 0
    assert size_of(out)[:2] == grid(2, 1)[:2] and "mean squared difference" in capsys.readouterr().out
    saved = torch.load(save, weights_only=True)
    assert saved["w"].shape == (1, 6, 16) and len(saved["noise"]) == 5
    (tmp_path / "bad.png").write_bytes(b"x")
    assert cli.main(["project", str(tmp_path / "bad.png"), *TINY, "--out", str(out)]) == 2
    assert "cannot be read: not an image" in capsys.readouterr().err


def test_the_command_project_takes_a_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image_module.new("L", (16, 16), 100).save(tmp_path / "grey.png")
    text = """
import torch

shapes = []

class Blue(torch.nn.Module):
    def forward(self, a, b):
        shapes.append(tuple(a.shape))
        return (a - b)[:, 2].square().mean()
"""
    (tmp_path / "some_distance.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["project", str(tmp_path / "grey.png"), *TINY, "--set", "channels=1", "--out", str(tmp_path / "x.png")]
    assert cli.main([*arguments, "--steps", "3", "--perceptual", "some_distance:Blue"]) == 0
    import some_distance  # type: ignore[import-not-found]

    assert some_distance.shapes == [(1, 3, 16, 16)] * 3 and size_of(tmp_path / "x.png") == grid(2, 1)
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert cli.main([*arguments, "--perceptual", "lpips"]) == 2
    assert "pip install lpips" in capsys.readouterr().err
    for name, message in (("some_distance", "must be 'lpips' or MODULE:NAME"), ("some_distance:Red", "no 'Red' in the module")):
        assert cli.main([*arguments, "--perceptual", name]) == 2
        assert message in capsys.readouterr().err


def test_a_checkpoint_and_its_averaged_weights(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    torch.manual_seed(1)
    gan = models.from_config(models.FAMILIES["dcgan"].tiny)
    average = {k: v + 0.1 if v.is_floating_point() else v for k, v in gan.generator.state_dict().items()}
    models.save_checkpoint(tmp_path / "c.pt", gan, average)
    for raw in (False, True):
        out = tmp_path / "x.png"
        arguments = [
            "interpolate",
            "--seeds",
            "0,1",
            "--frames",
            "1",
            "--checkpoint",
            str(tmp_path / "c.pt"),
            "--out",
            str(out),
        ]
        assert cli.main([*arguments, *(["--raw"] if raw else [])]) == 0
        generator: Any = copy.deepcopy(gan.generator)
        if not raw:
            generator.load_state_dict(average)
        from gankern.data import make_grid
        from gankern.data.folders import decode

        expected = make_grid(latent.render(generator, latent.draw_latents(generator, [0, 1])), 2)
        assert (decode(out).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["interpolate", *TINY, "--out", "x.bmp"], "--out must end with .png, .gif or .mp4, got 'x.bmp'"),
        (["interpolate", "--checkpoint", "none.pt", "--out", "x.png"], "no checkpoint 'none.pt'"),
        (["interpolate", "--checkpoint", "none.pt", "--set", "a=1", "--out", "x.png"], "--set changes --model"),
        (["interpolate", "--model", "stylegan9", "--out", "x.png"], "no model 'stylegan9'"),
        (["interpolate", *TINY, "--set", "size=3", "--out", "x.png"], "no setting 'size'"),
        (["interpolate", *TINY, "--class", "3", "--out", "x.png"], "has no classes"),
        (["interpolate", *TINY, "--device", "abacus", "--out", "x.png"], "--device must be a device of PyTorch"),
        (["mix", "--model", "dcgan", "--out", "x.png"], "mix needs w, which StyleGAN, 2 and 3 have; this is dcgan"),
        (["sefa", "--model", "pix2pix", "--out", "x.png"], "pix2pix makes images from images"),
        (["truncate", *TINY, "--cutoff", "99", "--out", "x.png"], "truncation_cutoff must be 0 to 6"),
        (["arithmetic", *TINY, "--out", "x.png"], "arithmetic needs --plus"),
        (["arithmetic", *TINY, "--positive", "1", "--out", "x.png"], "--positive and --negative must be given both"),
        (["sefa", *TINY, "--directions", "16", "--out", "x.png"], "count must be from 1 to 16, got 17"),
        (["project", "none.png", *TINY, "--out", "x.png"], "no image 'none.png'"),
    ],
)  # fmt: skip
def test_bad_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["interpolate", "--out", "x.png"], ["interpolate", *TINY, "--out", "x.png", "--seeds", "a"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
    assert "numbers and ranges, as 0-3,7, are accepted, got 'a'" in capsys.readouterr().err
