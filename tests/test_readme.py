"""README's code runs, its results are those of the committed files, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_run(number: int) -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), names)
    if "block" in names:
        x = names["block"](torch.randn(2, 64, 128, 128))  # type: ignore[operator]
        assert x.shape == (2, 32, 128, 128)
        y = names["layer"](x[:, :, ::2, ::2], torch.randn(2, 512))  # type: ignore[operator]
        assert y.shape == (2, 16, 128, 128)


def test_results_come_from_the_committed_files() -> None:
    run = subprocess.run([sys.executable, "-m", "benchmarks.readme", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_exist() -> None:
    from gankern.cli import main

    for command in re.findall(r"`gankern (\w+)`", TEXT):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
