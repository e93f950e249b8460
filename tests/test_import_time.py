"""gankern is imported in little more time than torch, without what only some of its users need."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

LATE = ("torch._dynamo", "torch._inductor", "triton", "sympy", "matplotlib", "sklearn", "scipy", "PIL", "tqdm")
"""Modules that nobody has to wait for: imported when they are used."""
LAZY = ("gankern.compat", "gankern.latent", "gankern.metrics", "gankern.models", "gankern.train")


def ratio() -> float:
    """CPU time of ``import torch, gankern`` over that of ``import torch``, in one process: others do not count."""
    code = "import time, torch; t = time.process_time(); import gankern; print(t, time.process_time())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    torch, both = map(float, run.stdout.split())
    return both / torch


@pytest.mark.timeout(600)
def test_import_costs_less_than_half_of_torch() -> None:
    ratio()  # files into the cache
    ratios = [ratio() for _ in range(5)]
    assert statistics.median(ratios) < 1.5, f"import gankern takes {ratios} times the CPU time of import torch"


def test_what_is_imported_late() -> None:
    code = "import json, sys, torch; a = set(sys.modules); import gankern; print(json.dumps(sorted(set(sys.modules) - a)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    loaded = json.loads(run.stdout)
    assert "gankern.ops" in loaded
    assert [name for name in loaded if name in (*LATE, *LAZY)] == []
