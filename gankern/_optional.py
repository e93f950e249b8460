"""Libraries that only some of gankern needs."""

from __future__ import annotations

import importlib
from typing import Any

TRAIN = 'pip install "gankern[train]", or pip install'
"""How to get what the extra brings; the library's own name follows."""


def optional(name: str, missing: str) -> Any:
    """The module ``name``; where it cannot be imported an ImportError that says ``missing``, its '{error}' being the reason."""
    try:
        importlib.import_module(name.partition(".")[0])  # a part that is there does not stand for a package that is blocked
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(missing.replace("{error}", str(error))) from error
