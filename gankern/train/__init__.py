"""Training: one loop for every reference GAN, sample grids and curves. ``gankern train`` does the same from the shell."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gankern.train.loop import Result, train
    from gankern.train.settings import Settings

# Imported at first use: who wants a mixture of Gaussians does not wait for the loop.
_LAZY_NAMES = {"Result": "loop", "Settings": "settings", "train": "loop"}

__all__ = ["Result", "Settings", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module 'gankern.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gankern.train.{_LAZY_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
