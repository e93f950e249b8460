"""The house rules of DESIGN as tests: who may import whom, what a kernel may see, which files an op has, how long a file is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gankern._dispatch import OPS

ROOT = Path(__file__).resolve().parent.parent
CSRC, PACKAGE = ROOT / "csrc", ROOT / "gankern"
OP_FOLDERS = sorted(p for p in (PACKAGE / "ops").iterdir() if p.is_dir() and (p / "op.py").exists())

# A layer may import itself and what stands to its right.
LAYERS = ["train", "latent", "metrics", "data", "models", "nn", "ops"]
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}


def imports(path: Path) -> set[str]:
    """Dotted names of the gankern modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "gankern"}


def test_arrows_run_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        if part in LAYERS:
            above = LAYERS[: LAYERS.index(part)]
            for name in imports(path):
                layer = name.split(".")[1] if "." in name else ""
                assert layer not in above, f"{path.relative_to(ROOT)} imports {name}: {part} must not know {layer}"


def test_shims_stand_beside_the_rest() -> None:
    """gankern.compat serves other people's code: nothing of gankern needs it, and it needs operators and modules only."""
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        layers = {name.split(".")[1] for name in imports(path) if "." in name}
        if part == "compat":
            assert not layers & set(LAYERS[: LAYERS.index("nn")]), path.relative_to(ROOT)
        elif part not in ("__init__.py", "cli.py"):
            assert "compat" not in layers, path.relative_to(ROOT)


def test_an_op_reaches_another_only_through_its_public_function() -> None:
    for folder in OP_FOLDERS:
        for path in folder.glob("*.py"):
            for name in imports(path):
                parts = name.split(".")
                if parts[:2] == ["gankern", "ops"] and len(parts) > 3 and parts[2] != folder.name and parts[2] in OPS:
                    public = sys.modules[".".join(parts[:3])].__all__
                    assert parts[3:] == [parts[3]] and parts[3] in public, (
                        f"{path.relative_to(ROOT)} reaches into the op {parts[2]}: {name}"
                    )


def test_a_reference_uses_no_kernel() -> None:
    for folder in OP_FOLDERS:
        text = (folder / "reference.py").read_text()
        assert "torch.ops.gankern" not in text and "_dispatch" not in text, folder


@pytest.mark.parametrize("folder", OP_FOLDERS, ids=lambda p: p.name)
def test_an_op_has_its_rooms(folder: Path) -> None:
    for name in ("op.py", "reference.py", "samples.py", "README.md", "__init__.py"):
        assert (folder / name).is_file(), f"{folder.name} lacks {name}"
    assert folder.name in OPS
    spec = OPS[folder.name]
    if spec.table is None:  # a composition: its parts have the kernels
        return
    if spec.table.row("triton"):
        assert (folder / "triton_kernels.py").is_file() and (folder / "configs.py").is_file()
    source = CSRC / folder.name
    if spec.table.row("cpu") or spec.table.row("cuda"):
        assert (source / f"{folder.name}_params.h").is_file() and (source / f"{folder.name}_torch.cpp").is_file()
    assert bool(spec.table.row("cpu")) == (source / f"{folder.name}_cpu.cpp").is_file()
    assert bool(spec.table.row("cuda")) == (source / f"{folder.name}_cuda.cu").is_file()
    assert spec.table.rows[-1].name == "reference", "the reference is the last resort"


def test_every_folder_of_csrc_is_an_op() -> None:
    assert {p.name for p in CSRC.iterdir() if p.is_dir()} - {"common"} <= set(OPS)


def test_kernels_see_no_torch() -> None:
    for path in CSRC.rglob("*"):
        if path.suffix in (".cpp", ".cu", ".cuh", ".h") and not path.stem.endswith(("_torch", "torch_binding")):
            for line in path.read_text().splitlines():
                assert not re.search(r'#\s*include\s*[<"](torch|ATen|c10)/', line), f"{path.relative_to(ROOT)}: {line}"
                assert path.name == "module.cpp" or "pybind11" not in line


def test_bindings_use_the_stable_abi_only() -> None:
    for path in CSRC.rglob("*torch*"):
        for line in path.read_text().splitlines():
            include = re.search(r'#\s*include\s*[<"]((?:torch|ATen|c10)/[^>"]*)', line)
            if include:
                assert include[1].startswith(("torch/csrc/stable/", "torch/headeronly/")), f"{path.relative_to(ROOT)}: {line}"


@pytest.mark.skipif(not shutil.which("g++") or not shutil.which("nm"), reason="needs g++ and nm")
@pytest.mark.parametrize("isa", ISA_FLAGS)
def test_cpu_variants_share_no_symbol(isa: str, tmp_path: Path) -> None:
    """An inline function outside the variant's namespace would be merged by the linker: AVX-512 code on any machine."""
    if sys.platform != "linux" or "x86_64" not in subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout:
        pytest.skip("instruction set variants exist on x86-64 only")
    newest = max(p.stat().st_mtime for p in CSRC.rglob("*") if p.is_file())
    for source in CSRC.glob("*/*_cpu.cpp"):
        # What pip has built, if it is of these sources; it takes a minute to compile them again.
        built = ROOT.glob(f"build/cmake-*/CMakeFiles/gk_kernels_{isa}.dir/csrc/{source.parent.name}/{source.name}.o")
        target = next((o for o in built if o.stat().st_mtime > newest), tmp_path / (source.stem + ".o"))
        if not target.exists():
            command = ["g++", "-std=c++20", "-O1", "-fPIC", "-I", str(CSRC), f"-DGK_ISA={isa}", "-DGK_HAVE_X86_VARIANTS"]
            subprocess.run([*command, *ISA_FLAGS[isa], "-c", str(source), "-o", str(target)], check=True)
        symbols = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout.splitlines()
        shared = [s for s in symbols if re.search(r" [WVu] ", s)]
        assert not shared, f"{source.name} ({isa}) emits symbols that the linker would merge:\n" + "\n".join(shared)
        defined = [s for s in symbols if re.search(r" [TDB] ", s)]
        assert defined and all(f"gk::{isa}::" in s for s in defined), defined


@pytest.mark.parametrize("suffix, limit", [(".py", 600), (".cu", 800), (".cpp", 800), (".h", 800), (".cuh", 800)])
def test_files_can_be_held_in_mind(suffix: str, limit: int) -> None:
    for folder in ("gankern", "csrc", "tests", "benchmarks", "examples", "build_backend"):
        for path in (ROOT / folder).rglob(f"*{suffix}"):
            lines = len(path.read_text().splitlines())
            assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines, at most {limit}: is there a seam to split at?"


def test_kernel_names_follow_the_convention() -> None:
    for name in OPS:
        source = CSRC / name
        if (source / f"{name}_cuda.cu").exists():
            assert re.search(rf"\blaunch_{name}\w*\(", (source / f"{name}_cuda.cu").read_text())
        if (source / f"{name}_cpu.cpp").exists():
            assert re.search(rf"\b{name}\w*_cpu\w*\(", (source / f"{name}_cpu.cpp").read_text())
        triton_file = PACKAGE / "ops" / name / "triton_kernels.py"
        if triton_file.exists():
            functions = [n for n in ast.walk(ast.parse(triton_file.read_text())) if isinstance(n, ast.FunctionDef)]
            jitted = [f.name for f in functions if any("jit" in ast.unparse(d) for d in f.decorator_list)]
            assert any(re.fullmatch(rf"_{name}\w*_kernel", n) for n in jitted), jitted
            assert any(n.name.startswith(name) and n.name.endswith("_triton") for n in functions)


def test_public_functions_are_documented() -> None:
    """Shapes, errors and the order of differentiation stand in every public docstring."""
    from gankern import nn, ops

    for name in (n for n in ops.__all__ if callable(getattr(ops, n))):
        text = getattr(ops, name).__doc__ or ""
        assert "Args:" in text and "Raises:" in text, f"ops.{name}"
        assert "Returns:" in text or isinstance(getattr(ops, name), type), f"ops.{name}"
        assert name == "setup_filter" or "radient" in text, f"ops.{name} does not say its order of differentiation"
    for name in nn.__all__:
        assert "Shape:" in (getattr(nn, name).__doc__ or ""), f"nn.{name}"
