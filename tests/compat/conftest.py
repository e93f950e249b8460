"""Stand-in codebases in temporary folders, and a clean house around every test."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvlabs_names import NVLABS_NAMES, forget_modules

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture
def no_nvlabs() -> Iterator[None]:
    """No module of such a codebase is imported, before and after; the shim is not left installed."""
    from gankern.compat import nvlabs

    forget_modules(NVLABS_NAMES)
    yield
    left = nvlabs.is_installed()
    while nvlabs.is_installed():
        nvlabs.uninstall()
    forget_modules(NVLABS_NAMES)
    assert not left, "the test left the shim installed"


@pytest.fixture
def nvlabs_tree(no_nvlabs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the stand-in codebase, first on sys.path."""
    tree = tmp_path / "checkout"
    shutil.copytree(STAND_INS / "nvlabs", tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tree))
    importlib.invalidate_caches()
    return tree
