"""The shim itself: what is served, what is looked for in other modules, and modules that stay on gankern's operators."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from gankern.compat._shims import Changes, CompatWarning, Options, Served, Shim, stand_in
from gankern.compat.nvlabs import _functional, _modulated, _support, persistence
from gankern.compat.nvlabs._check import check
from gankern.compat.nvlabs._old_modules import served_old_modules
from gankern.compat.nvlabs._ops import REQUIRED, served_ops

DEFAULTS = {"modulated_conv": True, "functional_conv": True}
_loading = threading.local()


def _served(options: Options) -> list[Served]:
    return [
        *served_ops(),
        Served("torch_utils.misc", _support.misc_names, "absent"),
        Served("torch_utils.persistence", persistence.names, "absent"),
        Served("dnnlib", _support.dnnlib_names, "absent", package=True),
        Served("dnnlib.util", _support.util_names, "absent"),
        *served_old_modules(),
    ]


def _visit(module: ModuleType, changes: Changes, options: Options) -> None:
    name = canonical(module.__name__)
    if name in _REQUIRED:
        _warn_of_missing(module, _REQUIRED[name])
    if name in _PATCHED and name != module.__name__:  # in a package: served modules are at the top
        for key, value in _PATCHED[name].names(module).items():
            changes.replace(module, key, value)
    if name == "torch_utils.persistence":
        _watch_pickles(module, changes)
    if options["modulated_conv"]:
        _modulated.patch(module, changes)
    if options["functional_conv"]:
        _functional.patch(module, changes)


_PATCHED = {one.name: one for one in served_ops() if one.mode == "patch"}
_REQUIRED = {f"torch_utils.ops.{name}": names for name, names in REQUIRED.items()}


def canonical(name: str) -> str:
    """'torch_utils.ops.fma' for 'models.stylegan3.torch_utils.ops.fma', where a codebase lies in a package."""
    parts = name.split(".")
    return ".".join(parts[parts.index("torch_utils") :]) if "torch_utils" in parts else name


SHIM = Shim("gankern.compat.nvlabs", _served, _visit)


def needed() -> Any:
    """Scope in which the shim is installed: as it is, or with the defaults if it is not."""
    return SHIM.needed(**DEFAULTS)


# ---- checkouts of other names -------------------------------------------------------------------------------------------
_warned: set[Path] = set()


def _warn_of_missing(module: ModuleType, required: Any) -> None:
    """Once for each checkout."""
    file = getattr(module, "__file__", None)
    tree = None if file is None else _functional.tree_of(Path(file))
    if tree is not None and tree not in _warned and any(name not in vars(module) for name in required):
        _warned.add(tree)
        warnings.warn(str(check(tree)), CompatWarning, stacklevel=2)


# ---- modules that are made of the source in a pickle ------------------------------------------------------------------------
@contextmanager
def loading() -> Iterator[None]:
    """Scope in which modules made of the source in a pickle stay on gankern's operators, whatever happens to the shim."""
    before = getattr(_loading, "active", False)
    _loading.active = True
    try:
        yield
    finally:
        _loading.active = before


def _watch_pickles(module: ModuleType, changes: Changes) -> None:
    """See to what a codebase's own torch_utils.persistence makes of the source in a pickle, which no import shows."""
    own = vars(module).get("_src_to_module")
    if not isinstance(own, FunctionType) or own is persistence._src_to_module:
        return

    def _src_to_module(src: str) -> ModuleType:
        made: ModuleType = own(src)
        if getattr(_loading, "active", False):
            adopt(made)
        else:
            SHIM.executed(made)
        return made

    changes.replace(module, "_src_to_module", _src_to_module)


@cache
def _permanent(name: str) -> ModuleType:
    return stand_in(_PATCHED[name])


def adopt(module: ModuleType) -> None:
    """Give a module gankern's operators and convolutions for good, by the options of the shim, which must be installed."""
    for name, value in list(vars(module).items()):
        if isinstance(value, ModuleType) and canonical(value.__name__) in _PATCHED and hasattr(value, "__file__"):
            vars(module)[name] = _permanent(canonical(value.__name__))
        elif isinstance(value, FunctionType) and canonical(value.__module__ or "") in _PATCHED:
            vars(module)[name] = vars(_permanent(canonical(value.__module__))).get(value.__name__, value)
    _visit(module, Changes(), SHIM.options)
