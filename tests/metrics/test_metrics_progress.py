from __future__ import annotations

import sys

import pytest

from gankern.metrics import _progress
from gankern.metrics._progress import Progress


def test_lines_without_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with Progress("features", 100, True) as bar:
        bar.add(10)
        assert not capsys.readouterr().err, "a line every few seconds, not one for each batch"
        monkeypatch.setattr(_progress, "_EVERY", -1.0)
        bar.add(20)
        assert capsys.readouterr().err == "features: 30 of 100\n"
    assert capsys.readouterr().err == "features: 30 of 100\n"


def test_a_bar_with_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with Progress("features", 4, True) as bar:
        bar.add(4)
    text = capsys.readouterr().err
    assert "features" in text and "4/4" in text


def test_silent_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("features", None, False) as bar:
        bar.add(4)
    assert bar.done == 4 and not capsys.readouterr().err
