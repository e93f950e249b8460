"""The compile gate itself (``-m compile_gate``), and fast tests of how it reads compilers and compares with the budget."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # plain `pytest` puts tests/ there only

from benchmarks import resources  # noqa: E402
from benchmarks.resources import Row  # noqa: E402

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN2gk4blurIfEEvPT_' for 'sm_90'
ptxas info    : Function properties for _ZN2gk4blurIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 62 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compiling entry function '_ZN2gk4blurIdEEvPT_' for 'sm_90'
ptxas info    : Function properties for _ZN2gk4blurIdEEvPT_
    96 bytes stack frame, 84 bytes spill stores, 120 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""
USAGE = """\
Resource usage:
 Common:
  GLOBAL:0
 Function _upfirdn2d_fwd_kernel:
  REG:72 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:584 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
PTX = """\
  ld.param.b32 %r1, [p0];
  ld.global.b32 %r2, [ %rd1 + 0 ];
  @%p1 ld.global.v4.b32 { %r10, %r11, %r12, %r13 }, [ %rd8 + 0 ];
  ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9];
  @%p2 st.global.v2.b32 [ %rd9 + 0 ], { %r14, %r15 };
  st.shared.v4.b32 [%r9], {%r1, %r2, %r3, %r4};
"""
ROW = Row("triton/op/_op_kernel/sample/nchw/float32/sm_90", registers=70, shared=1024, vector=(16, 16), wanted=(16, 16))
BUDGET = {"toolchain": {"triton": "triton 1"}, "kernels": {ROW.name: {"registers": 72, "shared": 1024}}}
VERSIONS = {"triton": "triton 1"}


@pytest.mark.compile_gate
@pytest.mark.timeout(1200)
def test_every_kernel_is_within_its_budget() -> None:
    command = [sys.executable, "-m", "benchmarks.resources", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-4000:]
    assert " kernels, " in run.stdout


def test_ptxas_output_is_read() -> None:
    rows = resources.parse_ptxas(PTXAS)
    assert rows["_ZN2gk4blurIfEEvPT_"] == Row("_ZN2gk4blurIfEEvPT_", 62, 0, 0, 0, 2048)
    assert rows["_ZN2gk4blurIdEEvPT_"] == Row("_ZN2gk4blurIdEEvPT_", 255, 84, 120, 96, 0)


def test_unknown_output_is_an_error() -> None:
    with pytest.raises(ValueError, match="changed"):
        resources.parse_ptxas(PTXAS.replace("spill stores", "spilled"))
    with pytest.raises(ValueError, match="changed"):
        resources.parse_usage("Resource usage:\n Function f:\n  REGISTERS:3\n")


def test_resource_usage_is_read() -> None:
    usage = resources.parse_usage(USAGE)
    assert (usage["REG"], usage["STACK"], usage["LOCAL"]) == (72, 16, 0)


def test_vectors_are_those_of_global_memory() -> None:
    assert resources.widest_vectors(PTX) == (16, 8)
    assert resources.widest_vectors("ld.global.L1::evict_last.v2.b32 {a, b}, [c];\nst.global.b16 [a], b;") == (8, 2)
    assert resources.widest_vectors("ld.global.nc.v8.f32 {a}, [c];") == (32, 0)
    assert resources.widest_vectors("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;") == (16, 0)
    assert resources.widest_vectors("") == (0, 0)


@pytest.mark.parametrize(
    "demangled, name",
    [
        (
            "void gk::(anonymous namespace)::blur<float, (gk::Mode)1, true>(gk::Args<float>)",
            "gk::blur<float, (gk::Mode)1, true>",
        ),
        ("gk::_GLOBAL__N__f8bdbd07_17_op_cuda_cu_fcb0948d::generic(long)", "gk::generic"),
        ("plain", "plain"),
    ],
)
def test_names_do_not_depend_on_the_compiler(demangled: str, name: str) -> None:
    assert resources.plain_name(demangled) == name


def test_within_the_budget() -> None:
    assert resources.violations([ROW], BUDGET, VERSIONS) == ([], [])


@pytest.mark.parametrize(
    "row, words",
    [
        (replace(ROW, name=ROW.name + "0"), "not in the budget"),
        (replace(ROW, registers=73), "73 registers"),
        (replace(ROW, spill_loads=4), "spills 4 bytes"),
        (replace(ROW, shared=1025), "shared memory"),
        (replace(ROW, vector=(8, 16)), "load has 8 bytes"),
        (replace(ROW, vector=(16, 4)), "store has 4 bytes"),
    ],
)
def test_violations_are_found(row: Row, words: str) -> None:
    wrong, remarks = resources.violations([ROW, row], BUDGET, VERSIONS)
    assert len(wrong) == 1 and words in wrong[0] and not remarks


def test_another_compiler_may_use_more_registers_but_not_spill() -> None:
    rows = [replace(ROW, registers=90), replace(ROW, spill_stores=8)]
    wrong, remarks = resources.violations(rows, BUDGET, {"triton": "triton 2"})
    assert len(wrong) == 1 and "spills" in wrong[0]
    assert len(remarks) == 1 and "90 registers" in remarks[0]


def test_budgeted_spills_need_a_reason() -> None:
    row = replace(ROW, spill_stores=8)
    entry = {"registers": 72, "shared": 1024, "spills": 8}
    budget = {"toolchain": VERSIONS, "kernels": {ROW.name: entry}}
    assert "without a reason" in resources.violations([row], budget, VERSIONS)[0][0]
    budget["kernels"][ROW.name] = {**entry, "reason": "cold path"}
    assert resources.violations([row], budget, VERSIONS) == ([], [])


def test_a_written_budget_is_kept_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    other = "cuda/op/kernel/sm_90"
    gone = "triton/op/_old_kernel/sample/nchw/float32/sm_90"
    entry = {"registers": 8, "shared": 0}
    old = {"toolchain": {"cuda": "nvcc 1"}, "kernels": {other: entry, gone: entry}}
    budget = resources.new_budget([ROW], old, VERSIONS, covered=lambda name: name.startswith("triton/"))
    resources.write_budget(budget, path)
    assert resources.read_budget(path) == json.loads(path.read_text()) == budget
    assert set(budget["kernels"]) == {ROW.name, other} and budget["toolchain"] == {"cuda": "nvcc 1", **VERSIONS}
    assert resources.violations([ROW], budget, VERSIONS) == ([], [])
    assert [p.name for p in tmp_path.iterdir()] == ["budget.json"]


def test_equal_specialisations_are_compiled_once() -> None:
    def case(args: tuple[object, ...], **constants: int) -> SimpleNamespace:
        parameters = [SimpleNamespace(do_not_specialize=i == 1) for i in range(3)]
        kernel = SimpleNamespace(__module__="m", params=parameters)
        return SimpleNamespace(kernel=kernel, name="k", args=args, constants=constants)

    key = resources.specialisation(case(("*fp32", 7, 32), BLOCK=8))
    assert key == resources.specialisation(case(("*fp32", 1, 64), BLOCK=8))
    for args in (("*fp16", 7, 32), ("*fp32", 2**31, 32), ("*fp32", 7, 8), ("*fp32", 7, 1)):
        assert key != resources.specialisation(case(args, BLOCK=8)), args
    assert key != resources.specialisation(case(("*fp32", 7, 32), BLOCK=16))


def test_the_budget_names_what_is_there() -> None:
    budget = resources.read_budget()
    assert {name.split("/")[0] for name in budget["kernels"]} <= set(budget["toolchain"])
    for name, entry in budget["kernels"].items():
        assert name.rsplit("/sm_", 1)[1].isdigit() and 0 < entry["registers"] <= 256, name
        assert not entry.get("spills") or entry.get("reason"), f"{name}: budgeted spills need a reason"
