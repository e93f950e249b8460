"""What ran where: the counts behind ``gankern run --report``."""

from __future__ import annotations

import threading

import pytest
import torch

from gankern import _dispatch, _usage, ops


def counts(usage: _usage.Usage) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in usage.entries():
        found[entry.op] = found.get(entry.op, 0) + entry.calls
    return found


def penalised() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    y = ops.bias_act(x, torch.zeros(3), act="lrelu")
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    g.square().sum().backward()


def test_counts_forward_and_both_derivatives() -> None:
    with _usage.recording() as usage, _dispatch.use_backend("reference"):
        penalised()
    assert counts(usage) == {"bias_act": 1, "bias_act_backward": 2, "bias_act_double_backward": 1}
    assert {(entry.backend, entry.device) for entry in usage.entries()} == {("reference", "cpu")}
    assert all(entry.seconds > 0 for entry in usage.entries())


def test_when_nobody_records_the_tables_are_as_they_were() -> None:
    before = [list(table.rows) for table in _dispatch.TABLES]
    with _usage.recording() as outer:
        with _usage.recording() as inner:
            penalised()
        assert any(a != b.rows for a, b in zip(before, _dispatch.TABLES, strict=True))
        penalised()
    assert [list(table.rows) for table in _dispatch.TABLES] == before
    penalised()
    assert counts(inner)["bias_act"] == 1 and counts(outer)["bias_act"] == 2


def test_all_threads_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "SMALL", 0)  # small images have PyTorch's derivatives, which do not count
    with _usage.recording() as usage:
        threads = [threading.Thread(target=penalised) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts(usage) == {"bias_act": 8, "bias_act_backward": 16, "bias_act_double_backward": 8}


def test_operators_in_place_and_inside_others_count_by_themselves() -> None:
    with _usage.recording() as usage, torch.no_grad():
        ops.bias_act_(torch.randn(2, 3, 4, 4), act="relu")
        ops.modulated_conv2d(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3), padding=1, act="lrelu")
    found = counts(usage)
    assert found["bias_act"] == 1 and found["modulated_conv2d_inference"] == 1
    assert found["conv2d"] == 1 and found["modulate"] >= 1  # which it is made of


def test_time_of_an_operator_is_without_those_inside() -> None:
    usage = _usage.Usage()
    inner = _dispatch.Table("inner", [_dispatch.Row("reference", lambda *_: None, lambda: threading.Event().wait(0.05))])
    outer = _dispatch.Table("outer", [_dispatch.Row("reference", lambda *_: None, lambda: inner())])
    try:
        _usage.start(usage)
        outer()
        _usage.stop(usage)
    finally:
        _dispatch.TABLES.remove(inner)
        _dispatch.TABLES.remove(outer)
    seconds = {entry.op: entry.seconds for entry in usage.entries()}
    assert seconds["inner"] >= 0.05 > seconds["outer"] > 0


def test_a_compiled_function_counts() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x: torch.Tensor) -> torch.Tensor:
        return ops.bias_act(x, act="relu")

    with _usage.recording() as usage:
        for _ in range(2):
            compiled(torch.randn(3, 4, requires_grad=True)).sum().backward()
    assert counts(usage) == {"bias_act": 2, "bias_act_backward": 2}


def test_what_gankern_tries_for_itself_does_not_count() -> None:
    with _usage.recording() as usage:
        with _usage.uncounted():
            penalised()
        assert usage.text("here") == "gankern in here: no operator ran\n"
        penalised()
    assert counts(usage)["bias_act"] == 1


def test_an_error_passes_and_leaves_the_clock_right() -> None:
    def fails() -> None:
        raise RuntimeError("as it was")

    table = _dispatch.Table("fails", [_dispatch.Row("reference", lambda *_: None, fails)])
    with _usage.recording() as usage, pytest.raises(RuntimeError, match="as it was"):
        table()
    assert _usage._inside.spent == [] and counts(usage) == {"fails": 1}
    _dispatch.TABLES.remove(table)


def test_the_table_says_what_launch_time_is() -> None:
    usage = _usage.Usage()
    usage.add("upfirdn2d", "cuda", "cuda", 2_500_000)
    usage.add("upfirdn2d", "cuda", "cuda", 500_000)
    usage.add("bias_act", "cpu", "cpu", 1_000)
    lines = usage.text("rank 0").splitlines()
    assert lines[0] == "gankern in rank 0: 2 operators ran"
    assert lines[2].split() == ["upfirdn2d", "cuda", "cuda", "2", "3", "ms", "1.5", "ms", "100.0%"]
    assert lines[3].split() == ["bias_act", "cpu", "cpu", "1", "1", "us", "1", "us", "0.0%"]
    assert "time to launch" in lines[-1]
    assert "time to launch" not in _usage.Usage().text()
