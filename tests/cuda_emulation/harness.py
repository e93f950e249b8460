"""Runs the project's CUDA kernels on CPU tensors: builds csrc/*/*_cuda.cu for the emulation, and makes the "cuda" rows run it.
See README.md beside this file."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gankern._dispatch import Row, Table

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
# Optimised, this compiles four times as long and then runs for a few seconds less. Without what the address sanitizer sees
# anyway (a null pointer), and pointer-overflow: a kernel may form an address before it tests whether it may use it.
SANITIZE = ["-g1", "-O0", "-fsanitize=address,undefined", "-fno-sanitize=null,pointer-overflow"]
SANITIZE += ["-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
KERNEL = ["-std=c++17", "-fPIC", "-fno-gnu-unique", "-pthread", "-DGK_CUDA_ON_CPU", "-Wall", "-Wno-unknown-pragmas"]
BINDING = ["-std=c++20", "-fPIC", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
BINDING += ["-DGK_BIND_CUDA", "-DGK_BIND_EMULATED"]


@functools.cache
def cuda_include() -> Path | None:
    """The folder with CUDA's headers: of nvcc on PATH, of CUDA_HOME, or of pip's nvidia packages; None if there is none."""
    candidates = []
    if nvcc := shutil.which("nvcc"):
        # nvcc itself tells: the one on PATH may be a script or a link.
        run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
        candidates += [Path(p) for p in re.findall(r'-I(\S+?)"', "".join(re.findall(r"INCLUDES=.*", run.stderr)))]
        candidates.append(Path(nvcc).resolve().parent.parent / "include")
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        candidates.append(Path(home) / "include")
    candidates.append(Path("/usr/local/cuda/include"))
    for key in ("purelib", "platlib"):
        site = Path(sysconfig.get_paths()[key])
        candidates += [*site.glob("nvidia/cu*/include"), *site.glob("nvidia/cuda_runtime/include")]
    return next((p for p in candidates if (p / "cuda_runtime.h").exists() and (p / "cuda_fp16.h").exists()), None)


def missing() -> str | None:
    """None if the emulation can be built here, else what it lacks."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if shutil.which("g++") is None:
        return "no g++ on PATH"
    if cuda_include() is None:
        return (
            "CUDA's headers (cuda_runtime.h, cuda_fp16.h) were not found: no nvcc on PATH, no CUDA_HOME, no pip package "
            "nvidia-cuda-runtime"
        )
    return None


def cache_folder() -> Path:
    """Where built libraries are kept: GANKERN_EMULATION_CACHE or a folder of this user under the system's temporary one."""
    chosen = os.environ.get("GANKERN_EMULATION_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"gankern_emulation_{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def one_at_a_time(target: Path) -> Iterator[bool]:
    """Gives whether ``target`` has to be built, to one process at a time: those that wait find what the first one made."""
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, by a killed process too
        yield not target.exists()


def _compile(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"CUDA emulation: the build failed: {' '.join(command)}\n{run.stderr[-6000:]}")


def compile_kernels(sources: list[Path], target: Path, sanitize: bool = False, extra: tuple[str, ...] = ()) -> None:
    """Compile CUDA sources into one object (or, with -shared in ``extra``, library) for the emulation."""
    if why := missing():
        raise RuntimeError(f"CUDA emulation: {why}")
    flags = [*KERNEL, *(SANITIZE if sanitize else ["-O1"]), "-include", str(HERE / "cuda_on_cpu.h")]
    flags += ["-isystem", str(cuda_include()), "-I", str(CSRC)]
    _compile(["g++", *flags, *extra, "-x", "c++", *map(str, sources), "-o", str(target)])


def build(sanitize: bool = False) -> Path:
    """The shared library with every op's CUDA kernels and bindings, compiled unless the cache holds it for these sources.

    Raises:
        RuntimeError: something is missing, or the compiler failed; the message says what.
    """
    if why := missing():
        raise RuntimeError(f"CUDA emulation: {why}")
    kernels = sorted(CSRC.glob("*/*_cuda.cu"))
    bindings = [b for k in kernels for b in sorted(k.parent.glob("*_torch.cpp"))]
    inputs = [*kernels, *bindings, *CSRC.glob("**/*.h"), *CSRC.glob("**/*.cuh"), *HERE.glob("*.h"), Path(__file__)]
    key = hashlib.sha256(f"{torch.__version__} {sanitize} {cuda_include()}".encode())
    for path in sorted(inputs):
        key.update(path.name.encode() + path.read_bytes())
    target = cache_folder() / f"kernels_{key.hexdigest()[:16]}{'_sanitized' if sanitize else ''}.so"
    with one_at_a_time(target) as wanted:
        if wanted:
            _build(kernels, bindings, target, sanitize)
    return target


def _build(kernels: list[Path], bindings: list[Path], target: Path, sanitize: bool) -> None:
    root = Path(torch.__file__).resolve().parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    torch_flags = [*BINDING, abi, "-O1", "-I", str(CSRC), "-isystem", str(root / "include")]
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [Path(folder) / f"{path.stem}.o" for path in (*kernels, *bindings)]
        jobs = [pool.submit(compile_kernels, [k], o, sanitize, ("-c",)) for k, o in zip(kernels, objects, strict=False)]
        for b, o in zip(bindings, objects[len(kernels) :], strict=True):
            jobs.append(pool.submit(_compile, ["g++", *torch_flags, "-c", str(b), "-o", str(o)]))
        for job in jobs:
            job.result()
        library = Path(folder) / "library.so"
        link = ["g++", "-shared", "-pthread", *(SANITIZE if sanitize else []), *map(str, objects), "-o", str(library)]
        _compile([*link, f"-L{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{root / 'lib'}"])
        library.replace(target)  # at once: nobody loads half a file


_library: ctypes.CDLL | None = None


def load(threads: int = 1, seed: int = 0, sanitize: bool = False) -> None:
    """Build and load the library (once in a process) and choose an order of threads, see :func:`set_order`."""
    global _library
    if _library is None:
        path = build(sanitize)
        torch.ops.load_library(str(path))
        _library = ctypes.CDLL(str(path))
    set_order(seed, threads)


def set_order(seed: int = 0, threads: int = 1) -> None:
    """In which order the kernels' threads and blocks run.

    Args:
        seed: 0 forward, 1 backward, else a random order. One order may hide a race that another shows.
        threads: operating-system threads over which blocks are spread.
    """
    if _library is None:
        raise RuntimeError("CUDA emulation: call load() first")
    _library.gk_emu_config(ctypes.c_int(threads), ctypes.c_ulonglong(seed), ctypes.c_int(0))


def has_kernel(op: str) -> bool:
    """Whether the loaded library holds an op's CUDA kernel."""
    return hasattr(torch.ops.gankern_native, f"{op}_cuda")


def tables() -> list[Table]:
    """The dispatch tables of every op, those of derivatives included."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("gankern.ops."):
            found.update({id(v): v for v in vars(module).values() if isinstance(v, Table)})
    return list(found.values())


@contextlib.contextmanager
def install_rows() -> Iterator[None]:
    """Within it every op's "cuda" row serves CPU tensors, through the emulation, where that op has a CUDA kernel."""
    if _library is None:
        raise RuntimeError("CUDA emulation: call load() first")
    saved: list[tuple[list[Row], int, Row]] = []
    try:
        for table in tables():
            for i, row in enumerate(table.rows):
                if row.name == "cuda" and has_kernel(table.op):
                    saved.append((table.rows, i, row))
                    table.rows[i] = replace(row, can_run=_can_run)
        yield
    finally:
        for rows, i, row in saved:
            rows[i] = row


def _can_run(*args: Any) -> str | None:
    x = next(a for a in args if isinstance(a, torch.Tensor))
    return None if x.device.type == "cpu" else f"x is on {x.device}, the emulation serves CPU tensors"
