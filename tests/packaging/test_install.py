"""Wheels, source distributions and every way in which a native build can be absent. Run with ``pytest -m packaging``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]  # the first test compiles everything
# These tests look at the build, not at speed; what one of them has compiled the others copy. (-Ofc: nvcc since 12.9.)
CMAKE_ARGS = ["-DGANKERN_OPTIMIZE=-O0", "'-DCMAKE_CUDA_FLAGS=-Xptxas -O0'"]
QUICK_CUDA = "'-DCMAKE_CUDA_FLAGS=-Xptxas -O0 -Ofc=max'"


@pytest.fixture(scope="module", autouse=True)
def reuse_objects(tmp_path_factory: pytest.TempPathFactory) -> None:
    launcher = [sys.executable, str(Path(__file__).with_name("reuse_objects.py")), str(tmp_path_factory.mktemp("objects"))]
    CMAKE_ARGS.extend(f"'-DCMAKE_{language}_COMPILER_LAUNCHER={';'.join(launcher)}'" for language in ("CXX", "CUDA"))


def run(command: list[str | Path], cwd: Path, ok: bool = True, **env: str) -> str:
    """Run a command; its output, with the exit code checked."""
    env.setdefault("GANKERN_CMAKE_ARGS", " ".join(CMAKE_ARGS))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GANKERN_") and k not in ("PYTHONPATH", "CXX")}
    result = subprocess.run(
        [str(c) for c in command], cwd=cwd, env={**clean, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (result.returncode == 0) == ok, result.stdout[-6000:]
    return result.stdout


def copy_of_the_tree(folder: Path) -> Path:
    """A copy of what is tracked or new, so that builds do not touch this tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_of_the_tree(tmp_path / "checkout")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A fresh virtual environment that sees this one's torch, pip and setuptools, and nothing of this checkout.

    Without pip of its own: the setuptools that comes with it may be too old to make wheels.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "venv" / "bin" / "python"


CHECK = """
import torch, gankern
print("file", gankern.__file__, "cpu", gankern.NATIVE.cpu)
y = gankern.ops.upsample2d(torch.ones(1, 1, 4, 4), gankern.ops.setup_filter([1, 3, 3, 1]))
assert y.shape == (1, 1, 8, 8)
"""


def wheel(checkout: Path, out: Path, *flags: str, **env: str) -> Path:
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", *flags, "-w", out, "."], checkout, **env)
    (path,) = out.glob("gankern-*.whl")
    return path


@pytest.fixture(scope="module")
def built_wheel(tmp_path_factory: pytest.TempPathFactory, reuse_objects: None) -> Path:
    """A wheel of this tree, which nobody changes."""
    folder = tmp_path_factory.mktemp("wheel")
    return wheel(copy_of_the_tree(folder / "checkout"), folder / "dist")


def test_wheel_in_a_fresh_environment(built_wheel: Path, python: Path, tmp_path: Path) -> None:
    run([python, "-m", "pip", "install", "--no-deps", built_wheel], tmp_path)
    out = run([python, "-c", CHECK], tmp_path)
    assert "cpu True" in out and str(tmp_path / "venv") in out
    info = run([python, "-m", "gankern", "info"], tmp_path)
    assert "baseline" in info
    assert "0 failed" in run([python, "-m", "gankern", "check"], tmp_path)


def test_source_distribution_builds(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs the package build")
    run(
        [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--skip-dependency-check", "-o", tmp_path / "dist", "."],
        checkout,
    )
    (path,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "csrc").is_dir() and (source / "build_backend" / "gankern_build.py").is_file()
    assert not list(source.rglob("*.so"))
    wheel(source, tmp_path / "wheel")


def test_editable_and_incremental(checkout: Path, python: Path, tmp_path: Path) -> None:
    command = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
    run(command, checkout)
    assert "cpu True" in run([python, "-c", CHECK], tmp_path)
    library = checkout / "gankern" / "libgankern_cpu.so"
    before = library.read_bytes()
    run(command, checkout)
    assert library.read_bytes() == before

    # Built for another Python, or damaged: what mends it is said.
    (module,) = (checkout / "gankern").glob("_C.*.so")
    module.rename(module.with_name("_C.cpython-399-x86_64-linux-gnu.so"))
    out = run([python, "-c", CHECK], tmp_path)
    assert "built for another Python (_C.cpython-399" in out and "to mend: pip install -e ." in out
    library.write_bytes(b"\x7fELF and no more")
    out = run([python, "-c", CHECK], tmp_path)
    assert "does not load in torch" in out and "cpu False" in out

    # A later build without kernels must not leave the old ones behind.
    run(command, checkout, GANKERN_BUILD="0")
    assert not library.exists()
    assert "cpu False" in run([python, "-c", CHECK], tmp_path)
    assert "switched off by GANKERN_BUILD=0" in run([python, "-m", "gankern", "info"], tmp_path)


def test_without_a_compiler(checkout: Path, python: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "uname", "cmake", "ninja"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    command = [python, "-m", "pip", "install", "-v", "--no-deps", "--no-build-isolation", "-e", "."]
    out = run(command, checkout, PATH=str(tools))
    assert "no native kernels: no C++ compiler found" in out
    out = run([python, "-c", CHECK], tmp_path)
    assert "cpu False" in out


def test_broken_compiler_is_an_error_with_the_cause(checkout: Path, python: Path, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'fatal error: the compiler is out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    command = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
    out = run(command, checkout, ok=False, CXX=str(broken))
    assert "gankern: configuring the native kernels failed" in out
    assert "the compiler is out of order" in out and "GANKERN_BUILD=0 pip install -e ." in out


def test_broken_source_is_an_error_with_the_cause(checkout: Path, python: Path) -> None:
    kernel = checkout / "csrc" / "upfirdn2d" / "upfirdn2d_cpu.cpp"
    kernel.write_text(kernel.read_text() + "\nint broken(;\n")
    command = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
    out = run(command, checkout, ok=False)
    assert "gankern: compiling the native kernels failed" in out and "broken(;" in out


def fake_cuda_torch(folder: Path, cuda: str) -> Path:
    """This torch's headers and libraries under the guise of a CUDA build: enough to compile and link against."""
    import torch

    real, fake = Path(torch.__file__).parent, folder / "torch"
    (fake / "lib").mkdir(parents=True)
    (fake / "include").symlink_to(real / "include")
    (fake / "lib" / "libtorch_cpu.so").symlink_to(real / "lib" / "libtorch_cpu.so")
    (fake / "version.py").write_text(f"__version__ = '{torch.__version__.split('+')[0]}+fake'\ncuda: str = '{cuda}'\n")
    stub = folder / "stub.c"
    stub.write_text("int aoti_torch_get_current_cuda_stream(int d, void** s) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", stub, "-o", fake / "lib" / "libtorch_cuda.so"], check=True)
    return folder


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_cuda_library_builds_without_a_gpu(
    checkout: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = run(["nvcc", "--version"], tmp_path).split("release ")[1].split(",")[0]
    if tuple(map(int, release.split("."))) >= (12, 9):
        monkeypatch.setattr(sys.modules[__name__], "CMAKE_ARGS", [*CMAKE_ARGS, QUICK_CUDA])  # the later of two holds
    command = [python, "-m", "pip", "install", "-v", "--no-deps", "--no-build-isolation", "-e", "."]
    torch_dir = str(fake_cuda_torch(tmp_path / "same", release))
    run(command, checkout, GANKERN_TORCH_DIR=torch_dir, GANKERN_CUDA_ARCHS="90")
    assert (checkout / "gankern" / "libgankern_cuda.so").is_file()
    # Here torch is a CPU build: the library is left alone, and info says so.
    assert "is a CPU build" in run([python, "-m", "gankern", "info"], tmp_path)
    other = str(fake_cuda_torch(tmp_path / "other", "11.8"))
    run(command, checkout, GANKERN_TORCH_DIR=other)
    assert not (checkout / "gankern" / "libgankern_cuda.so").exists()
    assert f"nvcc {release} does not fit torch's CUDA 11.8" in run([python, "-m", "gankern", "info"], tmp_path)


def test_loads_on_every_supported_torch(built_wheel: Path, tmp_path: Path) -> None:
    """The binary uses PyTorch's stable ABI only, of 2.11 or older."""
    audit = Path(sys.executable).with_name("torch-abi-audit")
    if not audit.exists():
        pytest.skip("needs torch-abi-audit")
    run([sys.executable, "-m", "zipfile", "-e", built_wheel, tmp_path / "unpacked"], tmp_path)
    out = run([audit, tmp_path / "unpacked" / "gankern" / "libgankern_cpu.so"], tmp_path)
    assert "STABLE" in out and "unstable=0" in out and "min-torch=2.11.0" in out
