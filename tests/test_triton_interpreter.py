"""The Triton kernels on the CPU: the contract tests in a process of their own, because Triton reads TRITON_INTERPRET once.

Here the few samples tagged 'check' in two dtypes; the whole contract runs with
``TRITON_INTERPRET=1 pytest tests/test_contract.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import INTERPRETED


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")
def test_contract_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py"]
    command += ["-k", "forward_and_derivatives and (float32 or bfloat16)"]
    env = {**os.environ, "TRITON_INTERPRET": "1", "GANKERN_CONTRACT": "check"}
    run = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "failed" not in run.stdout
