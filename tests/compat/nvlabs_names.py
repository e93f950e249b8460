"""Whose modules the stand-in codebase's are."""

from __future__ import annotations

import sys

NVLABS_NAMES = ("torch_utils", "dnnlib", "training", "residual", "bad_fork", "vendored")


def forget_modules(names: tuple[str, ...]) -> None:
    """Take modules of these top-level names out of sys.modules."""
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]
