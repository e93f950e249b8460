"""The examples run as their docstrings say, and what they print is true."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_alias_free(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run("alias_free.py", "--out", "made/here.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = re.findall(r"aliased power +([\d.]+) % +equivariance +([\d.]+) dB", done.stdout)
    (plain_alias, plain_db), (alias, db) = [(float(a), float(b)) for a, b in numbers]
    assert plain_alias > 5 and plain_db < 16
    assert alias < 0.01 and db > 44, "with 6 taps for each step of the rate"
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["here.png"], "no temporary file is left"
    picture = (tmp_path / "made" / "here.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_alias_free_names_a_bad_size(tmp_path: Path) -> None:
    done = run("alias_free.py", "--size", "100", folder=tmp_path)
    assert done.returncode == 2 and "--size must be a positive multiple of 64, got 100" in done.stderr
    assert not list(tmp_path.iterdir())


def test_style_transfer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    done = run("style_transfer.py", "--out", "made/here.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = [(float(a), float(b)) for a, b in re.findall(r"([\d.]+) -> ([\d.]+)", done.stdout)]
    assert len(pairs) == 2 and all(after < before / 3 for before, after in pairs), done.stdout
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["here.png"], "no temporary file is left"
    picture = (tmp_path / "made" / "here.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 200_000


def test_style_transfer_names_a_bad_number(tmp_path: Path) -> None:
    done = run("style_transfer.py", "--directions", "1", folder=tmp_path)
    assert done.returncode == 2 and "--directions must be at least 2, got 1" in done.stderr
    assert not list(tmp_path.iterdir())


def test_style_transfers_features_are_inverted_exactly() -> None:
    """So the statistics of a photograph, moved onto itself, give the photograph."""
    module = imported("style_transfer")
    x = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.collapsed(module.pyramid(x, 3)), x)
    for count in (2, 3, 4):
        torch.testing.assert_close(module.directions(x, count).unflatten(1, (3, count)).sum(2), x)
    torch.testing.assert_close(module.transfer(x, x, 3, 4, 1.0), x, rtol=0, atol=1e-3)


def test_mode_collapse(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run(
        "mode_collapse.py", "--quick", "--steps", "12", "--out", "made/here.png", "--numbers", "made/n.json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["here.png", "n.json"], "no temporary file is left"
    picture = (tmp_path / "made" / "here.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    found = json.loads((tmp_path / "made" / "n.json").read_text())
    assert found["settings"]["steps"] == 12 and found["settings"]["seeds"] == 2
    rows = re.findall(r"(ring of 8|grid of 25) +(\w.*?) +modes +[\d.]+ of \d+ \(([\d, ]+)\)", done.stdout)
    assert len(rows) == 10
    for mixture, method, modes in rows:
        assert found["results"][mixture][method]["modes"] == [int(m) for m in modes.split(",")]


def test_mode_collapse_names_a_bad_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        imported("mode_collapse").main(["--seeds", "0", "--out", str(tmp_path / "here.png")])
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", range(5))
def test_mode_collapses_members_train_as_if_alone(number: int) -> None:
    """The first member's gradients are those of a game of its own, whatever the others do."""
    example = imported("mode_collapse")
    method, mixture = example.METHODS[number], example.ring()
    torch.manual_seed(0)
    both, alone = example.Game(method, mixture, 2, 8), example.Game(method, mixture, 1, 8)
    batches: dict[str, list[torch.Tensor]] = {"real": [], "fake": []}
    for name in batches:
        width = 2 if name == "real" else example.Z_DIM
        batches[name] = [torch.randn(2 * example.BATCH, width) for _ in range(2 * method.critic_steps + 2)]
    eps = torch.rand(2 * example.BATCH)
    for game in (both, alone):
        rows = slice(0, game.seeds * example.BATCH)
        real, latents = (iter([x[rows] for x in batches[k]]) for k in ("real", "fake"))
        game.real = lambda real=real: next(real)  # the same data for both
        game.fake = lambda latents=latents, game=game: game.generator(next(latents))
        penalty = example.losses.wgan_gp
        game.gp = lambda *a, rows=rows, penalty=penalty: penalty(*a, eps=eps[rows])
    with torch.no_grad():
        for one, two in zip(alone.parts(), both.parts(), strict=True):
            one.copy_(two[:1])
    for game in (both, alone):
        game.step()
        game.step()
    for one, two in zip(alone.parts(), both.parts(), strict=True):
        torch.testing.assert_close(one, two[:1], rtol=1e-4, atol=1e-6)
    assert not any(torch.equal(w[0], w[1]) for w in both.generator.weights), "the members differ"


def test_one_parameter_gan(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    done = run(
        "one_parameter_gan.py", "--steps", "200", "--places", "5", "--points", "40", "--out", "made/here.png", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = [[float(x) for x in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", line)] for line in done.stdout.splitlines()[1:6]]
    assert [row[0] for row in rows] == [-2, -1, 0, 1, 2]
    for theta, js, seen, w, critic, samples, program, minimax, nonsaturating, wasserstein in rows:
        assert js == pytest.approx(math.log(2) * min(abs(theta), 1), abs=1e-4) and w == abs(theta)
        assert seen < js + 0.01 and abs(seen - js) < 0.1
        assert samples == pytest.approx(program, abs=2e-4) and abs(samples - w) < 0.25, "the linear program is exact"
        assert abs(critic - w) < 0.3
        if abs(theta) == 2:  # the supports have parted
            assert abs(minimax) < 0.05 and abs(nonsaturating) > 0.5 and abs(wasserstein - theta / 2) < 0.25
    trained = [float(x) for x in re.findall(r"-> +(-?[\d.]+)", done.stdout)]
    assert trained[0] > 1.9 and trained[2] < 1.6, "minimax stays where it is, Wasserstein goes"
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["here.png"], "no temporary file is left"


def test_one_parameter_gan_names_a_bad_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        imported("one_parameter_gan").main(["--points", "1000", "--out", str(tmp_path / "here.png")])
    assert "--points must be at least 2 and at most 500, got 1000" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_one_parameter_gans_linear_program_is_exact_in_the_plane_too() -> None:
    pytest.importorskip("scipy")
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    example = imported("one_parameter_gan")
    random = np.random.default_rng(0)
    a, b = random.normal(size=(20, 2)), random.normal(size=(20, 2)) + 1
    cost = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert example.linear_program(a, b) == pytest.approx(cost[linear_sum_assignment(cost)].mean(), abs=1e-9)
    assert example.linear_program(a[:1], b) == pytest.approx(cost[0].mean(), abs=1e-9), "other sizes"
