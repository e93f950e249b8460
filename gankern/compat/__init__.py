"""Existing GAN codebases on gankern's operators, without edits: one shim for each family of codebases.

Modules:
    nvlabs: stylegan2-ada-pytorch, stylegan3, StyleGAN-XL, StyleGAN-T, EG3D, R3GAN and others with ``torch_utils.ops``.
    rosinality: stylegan2-pytorch and others with its ``op`` package.
    mmcv: users of ``mmcv.ops``.

Each has ``install()``, ``uninstall()`` and ``with installed():``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gankern.compat.mmcv as mmcv
    import gankern.compat.nvlabs as nvlabs
    import gankern.compat.rosinality as rosinality

__all__ = ["mmcv", "nvlabs", "rosinality"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"gankern.compat.{name}")
    raise AttributeError(f"module 'gankern.compat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
