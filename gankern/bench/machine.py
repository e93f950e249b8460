"""Facts of the machine and the software that a result depends on. Nothing that identifies a person, host or path."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gankern._library import NATIVE
from gankern._version import __version__
from gankern.bench.common import BenchError, slug

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where there is one."""


def device(name: str | None = None) -> torch.device:
    """The device to measure on: the one named, else CUDA where there is a GPU, else the CPU.

    Raises:
        BenchError: it is not 'cpu' or 'cuda[:index]', or there is no such GPU.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise BenchError(f"device must be 'cpu' or 'cuda', got {name!r}") from None
    if chosen.type not in ("cpu", "cuda"):
        raise BenchError(f"device must be 'cpu' or 'cuda', got {name!r}")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise BenchError(f"device {name!r}: torch {torch.__version__} sees no GPU")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else torch.cuda.current_device())
        if chosen.index >= torch.cuda.device_count():
            raise BenchError(f"device {name!r}: there are {torch.cuda.device_count()} GPUs")
    return chosen


def facts(chosen: torch.device) -> dict[str, Any]:
    """Device, versions, commit, date and everything else that goes into a result file."""
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else cpu_name()
    level = NATIVE.module.cpu_level() if NATIVE.module is not None else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {
        "device": name,
        "kind": chosen.type,
        "slug": slug(name) if chosen.type == "cuda" else slug(f"{name} {cores} cores"),
        "cpu": cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory": _memory(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_level": level,
        "native": {backend: NATIVE.reason(backend) or "loaded" for backend in ("cpu", "cuda")},
        "versions": {
            "gankern": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "cuda": torch.version.cuda,
        },
        **_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if chosen.type == "cuda":
        properties = torch.cuda.get_device_properties(chosen)
        found["gpu"] = {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "l2": getattr(properties, "L2_cache_size", None),
            "driver": _driver(),
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32_convolutions": _tf32(),
        }
    return found


def cpu_name() -> str:
    """Model name of the processor, without trademarks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1] for line in lines if line.lower().startswith("model name")), "")
    name = " ".join(model.replace("(R)", "").replace("(TM)", "").replace("(tm)", "").split())
    return name or platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Commit of the checkout and whether it has uncommitted changes; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    # An installed copy inside some other repository is not a checkout of gankern.
    if top is None or Path(top).resolve() != ROOT:
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _tf32() -> bool | None:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # set through the newer fp32_precision switches, which refuse this question
        return None


def _driver() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None
