"""gankern: fused, twice differentiable kernels for generative adversarial networks on PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

from gankern import losses, nn, ops
from gankern._dispatch import explain, use_backend
from gankern._library import NATIVE
from gankern._version import __version__

if TYPE_CHECKING:
    from gankern import compat, data, export, inference, latent, metrics, models, train
    from gankern.compat.patch import patch, unpatch
    from gankern.inference import compile_generator

# Imported at first use: who wants operators does not wait for models and loops.
_LAZY_MODULES = ("compat", "data", "export", "inference", "latent", "metrics", "models", "train")
_LAZY_NAMES = {
    "compile_generator": "gankern.inference",
    "patch": "gankern.compat.patch",
    "unpatch": "gankern.compat.patch",
}

__all__ = [
    "NATIVE",
    "__version__",
    "compat",
    "compile_generator",
    "data",
    "explain",
    "export",
    "inference",
    "latent",
    "losses",
    "metrics",
    "models",
    "nn",
    "ops",
    "patch",
    "train",
    "unpatch",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"gankern.{name}")
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gankern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
