"""What measures compiled generators: the rows of gankern.bench and the script."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import inference as script
from gankern.bench import inference
from gankern.models import FAMILIES


@pytest.mark.parametrize("family", ["cgan", "stylegan2", "cyclegan"])
def test_rows_compare_equal_images(family: str) -> None:
    spec = inference.INFERENCE["compiled_generator"]
    sample = next(s for s in spec.samples if s.name == family)
    kwargs = sample.make(torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0))
    for ours, eager in zip(spec.public(**kwargs), spec.reference(**kwargs), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-4)
    row: Any = SimpleNamespace(dtype="bfloat16")  # onnxruntime takes part in float32 only
    calls = inference.EXTRAS["compiled_generator"](row, kwargs)
    assert set(calls) == {"module", "plain_conv"}
    for call in calls.values():
        call()


def test_every_family_has_a_row() -> None:
    assert {s.name for s in inference.INFERENCE["compiled_generator"].samples} == set(FAMILIES)


def test_the_convolutions_alone_are_those_of_the_plan() -> None:
    compiled, calls = inference.contenders(FAMILIES["dcgan"].tiny, 2, ("compiled", "plain_conv"))
    assert set(calls) == {"compiled", "plain_conv"}
    assert len(compiled.plan.convolutions) == 2
    assert all(c.shape[0] == 2 for c in compiled.plan.convolutions)
    calls["plain_conv"]()


def test_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "inference.json"
    names = "compiled,module,eager,plain_conv"
    assert (
        script.main(["--families", "dcgan", "--rounds", "1", "--contenders", names, "--batch", "1,2", "--out", str(out)]) == 0
    )
    rows = json.loads(out.read_text())
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(set(row["milliseconds"]) == set(names.split(",")) for row in rows)
    assert all(value > 0 for row in rows for value in row["milliseconds"].values())
    assert "dcgan" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--contenders", "compiled,tensorrt"])
