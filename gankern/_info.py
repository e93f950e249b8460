"""What ``gankern info`` prints: facts for a bug report, gathered without changing anything."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

from gankern._dispatch import OPS
from gankern._library import MEND, NATIVE
from gankern._version import __version__


def gather() -> dict[str, Any]:
    """Versions, machine, native build and environment, in sections of name -> text."""
    return {
        "versions": {
            "gankern": __version__,
            "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
            "triton": _version("triton"),
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}, {_libc()}",
        },
        "machine": _machine(),
        "native kernels": _native(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("GANKERN_", "TRITON_", "CUDA_"))},
        "ops": {name: _backends(spec.table) for name, spec in OPS.items()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _libc() -> str:
    return " ".join(platform.libc_ver()) or "unknown libc"


def _machine() -> dict[str, str]:
    facts = {"cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads in torch"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(index)
            facts[f"cuda:{index}"] = f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
    else:
        facts["cuda"] = "no GPU that torch can use"
    nvcc = shutil.which("nvcc")
    facts["nvcc"] = _last_line([nvcc, "--version"]) if nvcc else "not on PATH"
    return facts


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _last_line(command: list[str]) -> str:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()
        return lines[-1] if lines else "no output"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"


def _native() -> dict[str, str]:
    facts = {}
    if NATIVE.module is not None:
        build = NATIVE.module.build_info()
        facts["built with"] = f"{build['compiler']}, torch {build['torch']}, pybind11 {build['pybind11']}"
        facts["cpu"] = f"yes: {NATIVE.module.cpu_level()} of {', '.join(build['cpu_variants'])}"
        facts["cuda"] = f"yes: CUDA {build['cuda']} for {build['cuda_archs']}"
    for name, present in (("_C", NATIVE.module is not None), ("cpu", NATIVE.cpu), ("cuda", NATIVE.cuda)):
        if not present:
            facts[name] = f"no: {NATIVE.missing.get(name, 'not built')}"
    if not NATIVE.cpu:
        facts["to build"] = MEND
    return facts


def _backends(table: Any) -> str:
    """The op's backends in order of preference, in brackets if one cannot run at all in this installation."""
    if table is None:
        return "a composition of other ops"
    names = []
    for row in table.rows:
        missing = row.name in ("cpu", "cuda") and NATIVE.reason(row.name) is not None
        names.append(f"({row.name})" if missing else row.name)
    return ", ".join(names)


def as_text() -> str:
    """Sections of aligned 'name: value' lines."""
    lines = []
    for section, facts in gather().items():
        lines.append(f"{section}:")
        width = max((len(name) for name in facts), default=0)
        lines += [f"  {name:{width}s}  {value}" for name, value in facts.items()] or ["  none"]
    return "\n".join(lines)


def as_json() -> str:
    """The same as JSON."""
    return json.dumps(gather(), indent=2)
