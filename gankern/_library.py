"""The one ``torch.library.Library`` of gankern, and the loading of its native libraries.

``LIBRARY`` defines the public operators (namespace ``gankern``). The compiled kernels register themselves in the namespace
``gankern_native`` when their shared library is loaded here; :data:`NATIVE` tells what is there and, if not, why.
"""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

LIBRARY = torch.library.Library("gankern", "DEF")

MEND = "pip install -e .  (in the checkout; or reinstall the wheel)"
"""The command that mends a missing or unfitting native build."""


@dataclass
class NativeStatus:
    """Which native libraries are loaded; ``missing`` maps 'cpu', 'cuda' and '_C' to the reason of an absence."""

    cpu: bool = False
    cuda: bool = False
    module: ModuleType | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def reason(self, backend: str, kernel: str | None = None) -> str | None:
        """None if ``backend`` ('cpu' or 'cuda') is loaded and has ``kernel``, else one line that says why it is not."""
        if not getattr(self, backend):
            return self.missing.get(backend, "not built")
        if kernel is not None and not _has(backend, kernel):
            return f"the native library is older than this checkout: it has no {kernel}_{backend}; to mend: {MEND}"
        return None


_there: set[tuple[str, str]] = set()


def _has(backend: str, kernel: str) -> bool:
    """Whether the loaded libraries have a kernel. What was found is kept: asking PyTorch costs as much as a short call."""
    if (backend, kernel) in _there:
        return True
    found = hasattr(torch.ops.gankern_native, f"{kernel}_{backend}")
    if found:
        _there.add((backend, kernel))
    return found


def native_can_run(backend: str, kernel: str, x: torch.Tensor) -> str | None:
    """A dispatch row's answer for a native kernel: None if it can take ``x``, else the reason."""
    return NATIVE.reason(backend, kernel) if x.device.type == backend else f"x is on {x.device}"


def _describe(error: BaseException) -> str:
    """First line of an error."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _load() -> NativeStatus:
    status = NativeStatus()
    here = Path(__file__).resolve().parent
    if os.environ.get("GANKERN_NATIVE", "1") == "0":
        for name in ("cpu", "cuda", "_C"):
            status.missing[name] = "switched off by GANKERN_NATIVE=0"
        return status
    cpu, cuda = here / "libgankern_cpu.so", here / "libgankern_cuda.so"
    built = sorted(here.glob("_C.*so"))
    note = here / "_build_skipped.txt"
    if not cpu.exists():
        why = note.read_text().strip() if note.exists() else f"not built; to build: {MEND}"
        for name in ("cpu", "cuda", "_C"):
            status.missing[name] = why
        return status
    try:
        status.module = importlib.import_module("gankern._C")
    except ImportError as error:
        status.missing["_C"] = (
            f"built for another Python ({', '.join(p.name for p in built) or 'no _C file'}; {_describe(error)}); "
            f"to mend: {MEND}"
        )
    try:
        torch.ops.load_library(str(cpu))
        status.cpu = True
    except OSError as error:
        built_for = status.module.build_info()["torch"] if status.module else "another torch"
        status.missing["cpu"] = (
            f"built for torch {built_for}, does not load in torch {torch.__version__} ({_describe(error)}); to mend: {MEND}"
        )
    if not cuda.exists():
        info = status.module.build_info() if status.module else {}
        status.missing["cuda"] = str(info.get("cuda_missing") or "not built")
    elif not torch.version.cuda:
        status.missing["cuda"] = f"built, but torch {torch.__version__} is a CPU build"
    else:
        try:
            torch.ops.load_library(str(cuda))
            status.cuda = True
        except OSError as error:
            built_cuda = status.module.build_info()["cuda"] if status.module else "?"
            status.missing["cuda"] = (
                f"built for CUDA {built_cuda}, does not load in torch {torch.__version__} ({_describe(error)}); to mend: {MEND}"
            )
    for name in ("_C", "cpu", "cuda"):
        if "to mend:" in status.missing.get(name, ""):
            warnings.warn(f"gankern: native library {name}: {status.missing[name]}", RuntimeWarning, stacklevel=3)
    return status


NATIVE = _load()
