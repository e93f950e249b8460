"""In-tree build backend: setuptools, plus 'compile against the torch that is here, or bring one in'."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import Any

import gankern_torch
from setuptools import build_meta as _setuptools
from setuptools.build_meta import *  # noqa: F403  the hooks that need no change


def _requires() -> list[str]:
    """What an isolated build environment needs beyond pyproject.toml's own list."""
    if os.environ.get("GANKERN_BUILD", "1") == "0" or not sys.platform.startswith("linux"):
        return []
    needed = []
    cmake = shutil.which("cmake")
    match = cmake and re.search(r"(\d+)\.(\d+)", subprocess.run([cmake, "--version"], capture_output=True, text=True).stdout)
    if not match or (int(match[1]), int(match[2])) < (3, 24):
        needed.append("cmake>=3.24")
    if not shutil.which("ninja"):
        needed.append("ninja")
    torch = gankern_torch.find_torch()
    if torch is None or not torch.supported:
        needed.append(gankern_torch.REQUIREMENT)
    return needed


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """PEP 517."""
    return _setuptools.get_requires_for_build_wheel(config_settings) + _requires()


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """PEP 660."""
    return _setuptools.get_requires_for_build_editable(config_settings) + _requires()
