"""``gankern info`` and ``gankern check``: what they print, and that a wrong kernel is found."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import gankern
from gankern import _dispatch
from gankern.cli import COMMANDS, OWN, main


def test_info_says_what_is_built_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"gankern   {gankern.__version__}" in text and torch.__version__ in text
    assert "native kernels:" in text
    if not gankern.NATIVE.cuda:
        assert str(gankern.NATIVE.reason("cuda")) in text


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["ops"]) == set(_dispatch.OPS)


def test_check_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--op", "upfirdn2d"]) == 0
    text = capsys.readouterr().out
    assert "0 failed" in text and "reference" in text and "FAILED" not in text


def test_check_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = _dispatch.OPS["upfirdn2d"].table
    right = table.row("reference").run

    def wrong(*args: object) -> torch.Tensor:
        y = right(*args)
        y[:1, :1, :1, :1] += 1e-3
        return y

    monkeypatch.setattr(table, "rows", [_dispatch.Row("reference", lambda *_: None, wrong)])
    assert main(["check", "--op", "upfirdn2d"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_check_refuses_an_unknown_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--op", "upfirdn3d"]) == 2
    assert f"unknown op upfirdn3d; known: {', '.join(sorted(_dispatch.OPS))}" in capsys.readouterr().err


def test_check_serves_compositions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--op", "conv2d_resample"]) == 0
    assert "composition" in capsys.readouterr().out


def test_module_runs_and_a_wrong_command_is_refused() -> None:
    run = subprocess.run([sys.executable, "-m", "gankern", "inform"], capture_output=True, text=True)
    assert run.returncode == 2 and "invalid choice: 'inform'" in run.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    for name, (_, text) in (OWN | COMMANDS).items():
        start = next((i for i, line in enumerate(lines) if line.split()[:1] == [name]), None)
        assert start is not None, f"{name} is not listed"
        assert " ".join(" ".join(lines[start:]).split()).startswith(f"{name} {text}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and f"usage: gankern {name} " in capsys.readouterr().out


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_an_older_library_is_named() -> None:
    if not gankern.NATIVE.cpu:
        pytest.skip("no native CPU kernels")
    reason = gankern.NATIVE.reason("cpu", "an_op_of_tomorrow")
    assert reason is not None and "older than this checkout" in reason and "pip install -e ." in reason
