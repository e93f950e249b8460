"""use_backend, explain, and the tables themselves."""

from __future__ import annotations

import threading

import pytest
import torch

import gankern
from gankern import _dispatch, ops


def test_use_backend_forces_and_restores() -> None:
    assert _dispatch.forced_backend() is None
    with gankern.use_backend("reference"):
        assert _dispatch.forced_backend() == "reference"
        with gankern.use_backend("cuda"):
            assert _dispatch.forced_backend() == "cuda"
        assert _dispatch.forced_backend() == "reference"
    assert _dispatch.forced_backend() is None


def test_use_backend_is_seen_in_other_threads() -> None:
    """Backward on CUDA runs in autograd's own threads."""
    seen = []
    with gankern.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(_dispatch.forced_backend()))
        thread.start()
        thread.join()
    assert seen == ["reference"]


def test_use_backend_restores_after_an_error() -> None:
    with pytest.raises(KeyError), gankern.use_backend("reference"):
        raise KeyError
    assert _dispatch.forced_backend() is None


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*'cpu'.* got 'metal'"), gankern.use_backend("metal"):
        pass


def test_forced_backend_that_cannot_run_raises_with_the_reason() -> None:
    x = torch.zeros(1, 1, 4, 4)
    with gankern.use_backend("cuda"), pytest.raises(RuntimeError, match=r"'cuda' is forced .* cannot run: x is on cpu"):
        ops.upfirdn2d(x, None)


def test_no_silent_fallback_on_a_failing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> torch.Tensor:
        raise RuntimeError("kernel failed")

    table = _dispatch.OPS["upfirdn2d"].table
    monkeypatch.setattr(table, "rows", [_dispatch.Row("cpu", lambda *a: None, fail), table.row("reference")])
    with pytest.raises(RuntimeError, match="kernel failed"):
        ops.upfirdn2d(torch.zeros(1, 1, 4, 4), None)


def test_explain_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    result = dict(gankern.explain(ops.upfirdn2d, torch.zeros(1, 2, 4, 4), torch.ones(3), padding=1))
    assert result["cuda"] == "x is on cpu"
    assert result["reference"] is None
    text = capsys.readouterr().out
    assert "[1, 2, 4, 4] float32 on cpu" in text
    assert text.count("taken") == 1


def test_explain_refuses_what_is_no_op() -> None:
    with pytest.raises(ValueError, match=r"public operator of gankern\.ops"):
        gankern.explain(torch.add, 1, 2)


def test_explain_checks_arguments() -> None:
    with pytest.raises(ValueError, match="up must be at least 1"):
        gankern.explain(ops.upfirdn2d, torch.zeros(1, 1, 4, 4), None, up=0)


def test_a_table_without_a_row_that_can_run_gives_all_reasons() -> None:
    table = _dispatch.Table(
        "op", [_dispatch.Row("cpu", lambda x: "reason one", abs), _dispatch.Row("cuda", lambda x: "two", abs)]
    )
    with pytest.raises(RuntimeError, match="cpu: reason one; cuda: two"):
        table(1)


def test_registered_names_equal_the_tables() -> None:
    """Every op but compositions has an operator of its name in torch.ops.gankern, and nothing but their parts is there."""
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("gankern::")}
    names = {name.split(".")[0] for name in registered}
    suffixes = ("_double_backward", "_backward", "_weight_gradient", "_inference", "_into", "_masked", "_")
    for suffix in suffixes:
        names = {name.removesuffix(suffix) for name in names}
    assert names <= set(_dispatch.OPS) | {"relayout"}, "a change of layout is no op: its arithmetic is none"
    assert {name for name, spec in _dispatch.OPS.items() if spec.table is not None} <= names
