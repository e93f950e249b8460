"""The examples run as their docstrings say, and what they print is true."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


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
    spec = importlib.util.spec_from_file_location("style_transfer", EXAMPLES / "style_transfer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.collapsed(module.pyramid(x, 3)), x)
    for count in (2, 3, 4):
        torch.testing.assert_close(module.directions(x, count).unflatten(1, (3, count)).sum(2), x)
    torch.testing.assert_close(module.transfer(x, x, 3, 4, 1.0), x, rtol=0, atol=1e-3)
