"""Registers, spills, shared memory and vector widths of every kernel, compiled without a GPU.

``python -m benchmarks.resources`` prints the table; ``--check`` compares it with ``resource_budget.json`` and exits 1 on a
violation; ``--write`` makes what was measured the budget. Triton kernels: the launch of every sample, layout and dtype for the
first architecture, one per kernel and dtype for the others. CUDA kernels: every ``csrc/*/*_cuda.cu`` for each architecture.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gankern._files import write_text

ROOT = Path(__file__).resolve().parent.parent
BUDGET = Path(__file__).resolve().parent / "resource_budget.json"
ARCHITECTURES = (90, 80, 100)


@dataclass(frozen=True)
class Row:
    """One compiled kernel; bytes but for registers. ``wanted`` is the vector (load, store) that the case must reach."""

    name: str
    registers: int
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0
    shared: int = 0
    vector: tuple[int, int] | None = None
    wanted: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """'triton' or 'cuda'."""
        return self.name.split("/")[0]


# ---- reading what the tools print -----------------------------------------------------------------------------------
def parse_ptxas(text: str) -> dict[str, Row]:
    """Rows by (mangled) name from the output of ``ptxas -v``."""
    rows: dict[str, Row] = {}
    for block in re.split(r"Compiling entry function '", text)[1:]:
        name = block.split("'", 1)[0]
        found = {
            "registers": re.search(r"Used (\d+) registers", block),
            "spill_stores": re.search(r"(\d+) bytes spill stores", block),
            "spill_loads": re.search(r"(\d+) bytes spill loads", block),
            "stack": re.search(r"(\d+) bytes stack frame", block),
            "shared": re.search(r"(\d+) bytes smem", block),
        }
        if not found["registers"] or not found["spill_stores"]:
            raise ValueError(f"ptxas says nothing about the registers and spills of {name}: its output has changed")
        rows[name] = Row(name, **{key: int(match[1]) if match else 0 for key, match in found.items()})
    return rows


def parse_usage(text: str) -> dict[str, int]:
    """{'REG': 40, 'STACK': 0, ...} from ``cuobjdump --dump-resource-usage`` of a cubin with one function."""
    usage = re.search(r"Function \S+:\s*\n\s*(.*)", text)
    values = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage[1])} if usage else {}
    if not {"REG", "STACK", "LOCAL"} <= set(values):
        raise ValueError(f"cuobjdump says nothing about registers and stack: its output has changed: {text[:300]!r}")
    return values


def widest_vectors(ptx: str) -> tuple[int, int]:
    """Bytes of the widest (load, store) of global memory in PTX; asynchronous copies are loads."""

    def widest(operation: str) -> int:
        pattern = rf"\b{operation}\.global(?:\.[A-Za-z_][\w:]*?)*?(?:\.v(\d))?\.[bfsu](\d+)\b"
        return max((int(count or 1) * int(bits) // 8 for count, bits in re.findall(pattern, ptx)), default=0)

    copies = [int(size, 0) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?\],\s*(0x[0-9a-f]+|\d+)", ptx)]
    if "cp.async.bulk" in ptx:
        copies.append(16)
    return max([widest("ld"), *copies]), widest("st")


def plain_name(demangled: str) -> str:
    """A kernel's name without return type, arguments and what only the compiler invents."""
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|^void ", "", demangled.strip())
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and i:
            return name[:i]
    return name


# ---- compiling ------------------------------------------------------------------------------------------------------
class FakeDriver:
    """Stands in for Triton's driver, so that its compiler specialises and compiles as at a launch, without a GPU."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        """The architecture to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """A number per architecture, because compiled kernels are remembered per device."""
        return 1000 + self.arch

    def get_current_stream(self, device: int) -> int:
        """Never used: nothing is launched."""
        return 0

    def is_active(self) -> bool:
        """Whether this is the driver to take."""
        return True


def _tool(name: str) -> Path:
    """A tool that ships inside Triton."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin" / name


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def specialisation(case: Any) -> tuple[Any, ...]:
    """What Triton compiles a case for: two cases with the same key are the same machine code."""
    key: list[Any] = [case.kernel.__module__, case.name]
    for parameter, value in zip(case.kernel.params, case.args, strict=False):
        if isinstance(value, bool) or not isinstance(value, int):
            key.append("float" if isinstance(value, float) else value)
        else:
            width = -(2**31) <= value < 2**31
            key.append((width,) if parameter.do_not_specialize else (width, value == 1, value % 16 == 0))
    return (*key, *sorted((name, str(value)) for name, value in case.constants.items()))


@cache
def cases_of(op: str) -> tuple[Any, ...]:
    """The launches of an op's Triton kernels; found once, as running all samples on fake tensors takes seconds."""
    try:
        module = importlib.import_module(f"gankern.ops.{op}.triton_kernels")
    except ModuleNotFoundError as error:
        # An op without Triton kernels, or one that shares another's folder.
        if error.name not in (f"gankern.ops.{op}", f"gankern.ops.{op}.triton_kernels"):
            raise
        return ()
    if not hasattr(module, "compile_cases"):
        print(f"{op}: its Triton kernels offer no compile_cases(), nothing is compiled")
        return ()
    # Benchmark samples (those that ask for vectors) first: they are the ones that stand for a kernel and dtype.
    return tuple(sorted(module.compile_cases(), key=lambda case: case.vector == (0, 0)))


def triton_cases(op: str | None, first: bool) -> list[tuple[str, Any]]:
    """(name, case): every specialisation that differs, or (not ``first``) one per kernel and dtype."""
    import gankern.ops  # noqa: F401  (registers the ops)
    from gankern._dispatch import OPS

    cases: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for name in OPS:
        if op not in (None, name):
            continue
        for case in cases_of(name):
            key = specialisation(case) if first else (name, case.name, case.dtype)
            known = cases.get(key)
            # Triton leaves vectors to alignment: of equal specialisations the one that asks for most stands.
            if known is None or (case.vector > known[1].vector and first):
                cases[key] = (f"triton/{name}/{case.name}/{case.sample if known is None else known[1].sample}", case)
    return list(cases.values())


def compile_triton(name: str, case: Any, arch: int) -> list[Row]:
    """Compile one case and read its cubin and PTX."""
    from triton.runtime import driver

    driver.set_active(FakeDriver(arch))
    try:
        compiled = case.kernel.warmup(*case.args, **case.constants, grid=(1,))
    except Exception as error:
        raise RuntimeError(f"{name}: does not compile for sm_{arch}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "k.cubin"), Path(folder, "k.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        usage = parse_usage(_run([_tool("cuobjdump"), "--dump-resource-usage", cubin]))
        spills = Row(name, 0)
        if usage["STACK"] or usage["LOCAL"]:  # without a stack there are no spills, and asking takes a second assembly
            ptx.write_text(compiled.asm["ptx"])
            target = f"sm_{arch}{'a' if arch >= 90 else ''}"
            ptxas = _tool("ptxas-blackwell" if arch >= 100 and _tool("ptxas-blackwell").exists() else "ptxas")
            (spills,) = parse_ptxas(_run([ptxas, "-v", f"--gpu-name={target}", ptx, "-o", cubin])).values()
    return [
        Row(
            f"{name}/sm_{arch}",
            registers=usage["REG"],
            spill_stores=spills.spill_stores,
            spill_loads=spills.spill_loads,
            stack=usage["STACK"],
            shared=compiled.metadata.shared,
            vector=widest_vectors(compiled.asm["ptx"]),
            wanted=case.vector,
        )
    ]


def compile_cuda(source: Path, arch: int) -> list[Row]:
    """Compile one .cu for one architecture and read what ptxas says."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", "-I", ROOT / "csrc", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin"]
        rows = parse_ptxas(_run([*command, "-o", Path(folder, "k.cubin"), source]))
    if not rows:
        return []
    demangle = shutil.which("cu++filt") or shutil.which("c++filt")
    if demangle is None:
        raise RuntimeError("neither cu++filt nor c++filt is on PATH: kernels cannot be named")
    names = subprocess.run([demangle], input="\n".join(rows), capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        Row(
            f"cuda/{source.parent.name}/{plain_name(name)}/sm_{arch}",
            row.registers, row.spill_stores, row.spill_loads, row.stack, row.shared,
        )
        for name, row in zip(names, rows.values(), strict=True)
    ]  # fmt: skip


# ---- budget ---------------------------------------------------------------------------------------------------------
@cache
def toolchain(kind: str) -> str:
    """Version of the compiler behind 'triton' or 'cuda'."""
    if kind == "triton":
        import triton

        return f"triton {triton.__version__}"
    version = re.search(r"release ([\d.]+)", _run(["nvcc", "--version"]))
    return f"nvcc {version[1] if version else '?'}"


def violations(rows: Iterable[Row], budget: Mapping[str, Any], versions: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(violations, remarks). Registers differ between compilers: under another version than the budget's they are remarks."""
    wrong, remarks = [], []
    for row in rows:
        allowed = budget["kernels"].get(row.name)
        if row.vector is not None:
            for have, wanted, what in zip(row.vector, row.wanted, ("load", "store"), strict=True):
                if have < wanted:
                    wrong.append(f"{row.name}: widest global {what} has {have} bytes, {wanted} are wanted")
        if allowed is None:
            wrong.append(f"{row.name}: not in the budget")
            continue
        if row.registers > allowed["registers"]:
            same = versions[row.kind] == budget["toolchain"].get(row.kind)
            (wrong if same else remarks).append(f"{row.name}: {row.registers} registers, budget {allowed['registers']}")
        spills = row.spill_stores + row.spill_loads
        if spills > allowed.get("spills", 0):
            wrong.append(f"{row.name}: spills {spills} bytes, budget {allowed.get('spills', 0)}")
        elif spills and not allowed.get("reason"):
            wrong.append(f"{row.name}: {spills} bytes of spills are budgeted without a reason")
        if row.shared > allowed["shared"]:
            wrong.append(f"{row.name}: {row.shared} bytes of shared memory, budget {allowed['shared']}")
    return wrong, remarks


def new_budget(rows: Iterable[Row], old: Mapping[str, Any], versions: Mapping[str, str], covered: Any) -> dict[str, Any]:
    """What was measured as the budget; entries that this run did not cover, and reasons, stay."""
    kernels = {name: entry for name, entry in old["kernels"].items() if not covered(name)}
    for row in rows:
        # Registers are allotted in eights.
        entry: dict[str, Any] = {"registers": -(-row.registers // 8) * 8, "shared": row.shared}
        if row.spill_stores + row.spill_loads:
            entry["spills"] = row.spill_stores + row.spill_loads
            entry["reason"] = old["kernels"].get(row.name, {}).get("reason", "")
        kernels[row.name] = entry
    return {"toolchain": {**old["toolchain"], **versions}, "kernels": dict(sorted(kernels.items()))}


def read_budget(path: Path = BUDGET) -> dict[str, Any]:
    """The budget file, or an empty budget."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"toolchain": {}, "kernels": {}}


def write_budget(budget: Mapping[str, Any], path: Path = BUDGET) -> None:
    """Write the file in one step, a kernel a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in budget["kernels"].items()]
    text = f'{{\n "toolchain": {json.dumps(budget["toolchain"])},\n "kernels": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    write_text(path, text)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    width = max((len(row.name) for row in rows), default=0)
    lines = [f"{'kernel':{width}s}  regs  spill st/ld  stack  shared  vector ld/st"]
    for row in rows:
        vector = f"{row.vector[0]:3d} / {row.vector[1]:d}" if row.vector else ""
        spills = f"{row.spill_stores} / {row.spill_loads}"
        lines.append(
            f"{row.name:{width}s}  {row.registers:4d}  {spills:>11s}  {row.stack:5d}  {row.shared:6d}  {vector}".rstrip()
        )
    return "\n".join(lines)


# ---- the command ----------------------------------------------------------------------------------------------------
_TASKS: list[tuple[Any, ...]] = []


def _do(index: int) -> list[Row] | str:
    """Compile task ``index``, in a forked worker; an error as text, so that all of them are seen."""
    function, *arguments = _TASKS[index]
    try:
        return function(*arguments)
    except RuntimeError as error:
        return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a kernel is over its budget or has none")
    parser.add_argument("--write", action="store_true", help="make what is measured the budget")
    parser.add_argument(
        "--arch", default=",".join(map(str, ARCHITECTURES)),
        help="architectures, the first with all samples; default %(default)s",
    )  # fmt: skip
    parser.add_argument("--only", choices=("triton", "cuda"), help="compile only these kernels")
    parser.add_argument("--op", help="compile the kernels of one op only")
    parser.add_argument("--jobs", type=int, default=2, help="processes; default %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 for violations and kernels that do not compile, or 2 where a compiler is missing."""
    options = _parser().parse_args(argv)
    started = time.perf_counter()
    architectures = [int(part) for part in options.arch.split(",")]
    kinds = [kind for kind in ("cuda", "triton") if options.only in (None, kind)]
    if "cuda" in kinds and shutil.which("nvcc") is None:
        print("CUDA kernels are left out: nvcc is not on PATH")
        if options.check or options.only == "cuda":
            print("the check needs them; --only triton leaves them out on purpose")
            return 2
        kinds.remove("cuda")
    if "triton" in kinds:
        from gankern import _triton

        reason = "TRITON_INTERPRET is set" if _triton.interpreting() else _triton.missing()
        if reason is not None:
            print(f"Triton kernels cannot be compiled: {reason}")
            return 2

    # The longest first: two workers then end together.
    _TASKS.clear()
    if "cuda" in kinds:
        sources = [path for path in sorted(ROOT.glob("csrc/*/*_cuda.cu")) if options.op in (None, path.parent.name)]
        _TASKS.extend((compile_cuda, source, arch) for arch in architectures for source in sources)
    if "triton" in kinds:
        for arch in architectures:
            cases = triton_cases(options.op, first=arch == architectures[0])
            _TASKS.extend((compile_triton, name, case, arch) for name, case in cases)
    # Forked, so that the cases need not be sent.
    with multiprocessing.get_context("fork").Pool(max(1, options.jobs)) as pool:
        results = pool.map(_do, range(len(_TASKS)), chunksize=1)
    errors = [result for result in results if isinstance(result, str)]
    rows = sorted((row for result in results if not isinstance(result, str) for row in result), key=lambda row: row.name)
    print(table(rows))
    print("\n".join(errors), end="\n" if errors else "")

    def covered(name: str) -> bool:
        kind, op, *_, arch = name.split("/")
        return kind in kinds and options.op in (None, op) and int(arch.removeprefix("sm_")) in architectures

    versions = {kind: toolchain(kind) for kind in kinds}
    budget = read_budget()
    failed = bool(errors)
    if options.write and not errors:
        write_budget(new_budget(rows, budget, versions, covered))
        print(f"wrote {BUDGET.relative_to(ROOT)}")
    if options.check:
        wrong, remarks = violations(rows, read_budget(), versions)
        gone = sorted(set(filter(covered, budget["kernels"])) - {row.name for row in rows})
        for line in [*remarks, *(f"{name}: in the budget, no longer compiled" for name in gone)]:
            print(f"remark: {line}")
        for line in wrong:
            print(f"VIOLATION: {line}")
        failed = failed or bool(wrong)
    spilling = sum(1 for row in rows if row.spill_stores + row.spill_loads)
    seconds = time.perf_counter() - started
    print(f"{len(rows)} kernels, {spilling} with spills, {seconds:.0f} s with {', '.join(versions.values())}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
