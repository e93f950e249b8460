"""Shims: gankern's functions under the names of another codebase, for as long as they are installed.

A :class:`Shim` serves modules by name (:class:`Served`) and may visit every module that is imported. While it is installed

- a served module that is imported already, or is imported now, has the served names in place of its own ('patch');
- a served module that is not there is made of the served names alone;
- functions that other modules had bound (``from torch_utils.ops.bias_act import bias_act``) are replaced there, too, found by
  identity;
- ``uninstall`` puts back every attribute, module and import hook, and gives modules that bound a served function meanwhile the
  function that they would have bound without.

Nothing of torch is changed. Installations are counted, and guarded by a lock.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

Options = Mapping[str, Any]
MISSING = object()
# Not worth a look for functions of GAN codebases, and none of our business.
_FOREIGN = {"gankern", "numpy", "pytest", "scipy", "torch", "torchgen", "torchvision", "triton", *sys.stdlib_module_names}
_FOREIGN -= {"__main__"}


class CompatWarning(UserWarning):
    """A shim did something that its user may want to know of."""


class Changes:
    """A log of changes to attributes and mappings, which :meth:`undo` takes back, the last one first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._bound: list[tuple[Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """``setattr(owner, name, value)`` for a module or a class."""
        old = owner.__class__ if name == "__class__" else owner.__dict__.get(name, MISSING)
        setattr(owner, name, value)
        self._undo.append(lambda: _reset_attribute(owner, name, old))

    def set_item(self, mapping: Any, key: str, value: Any) -> None:
        """``mapping[key] = value``, for example of ``sys.modules``."""
        old = mapping.get(key, MISSING)
        mapping[key] = value
        self._undo.append(lambda: _reset_item(mapping, key, old))

    def replace(self, owner: Any, name: str, new: Any) -> None:
        """:meth:`set`, for a function or class that other modules may have bound: :meth:`rebind` replaces it there.

        ``new`` must be an object made for this one place, so that its identity tells what it stands for.
        """
        old = owner.__dict__.get(name, MISSING)
        self.set(owner, name, new)
        if isinstance(old, (FunctionType, type)) and isinstance(new, (FunctionType, type)):
            self._bound.append((old, new))

    def rebind(self) -> None:
        """In all imported modules, replace what was bound of the functions given to :meth:`replace`."""
        for space, name, new in _bindings({id(old): new for old, new in self._bound if not _foreign(old)}):
            space[name] = new

    def call(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called in its turn."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Take everything back, and give whoever bound a new function meanwhile the old one."""
        while self._undo:
            self._undo.pop()()
        for space, name, old in _bindings({id(new): old for old, new in self._bound}):
            space[name] = old
        self._bound.clear()


def _reset_attribute(owner: Any, name: str, old: Any) -> None:
    if name == "__class__":
        _close(owner)
    if old is not MISSING:
        setattr(owner, name, old)
    elif name in owner.__dict__:
        delattr(owner, name)


def _reset_item(mapping: Any, key: str, old: Any) -> None:
    if old is not MISSING:
        mapping[key] = old
    else:
        mapping.pop(key, None)


def _foreign(value: Any) -> bool:
    """Whether the codebase did not define it: a ``no_weight_gradients = contextlib.nullcontext`` is other modules' as well."""
    return str(getattr(value, "__module__", None)).partition(".")[0] in _FOREIGN


def _bindings(wanted: Mapping[int, Any]) -> list[tuple[dict[str, Any], str, Any]]:
    """(module namespace, name, replacement) for every global whose identity is among ``wanted``."""
    found = []
    for module in user_modules() if wanted else ():
        for name, value in list(vars(module).items()):
            if id(value) in wanted:
                found.append((vars(module), name, wanted[id(value)]))
    return found


def user_modules() -> list[ModuleType]:
    """The imported modules, without the standard library, torch and the like, and gankern."""
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and vars(module).get("__name__") and name.partition(".")[0] not in _FOREIGN
    ]


@dataclass(frozen=True)
class Served:
    """One module that a shim serves.

    Attributes:
        name: full name, for example 'torch_utils.ops.upfirdn2d'.
        names: given the module object, what it shall define: functions (of its own: never an object of gankern.ops, see
            :meth:`Changes.replace`), values; of a key '__class__' the module becomes an instance (a subclass of ModuleType,
            for properties).
        mode: 'patch': a real module of this name runs, then its names are replaced; if none is found, or if it fails when it
            is imported, the served names alone make it. 'replace': a real one is not run (for those that compile at import),
            but patched if it is imported already. 'absent': a real one is left alone; it is served if there is none, or if
            the real one cannot be imported because of an ImportError of its own.
        package: whether other modules are imported from it.
    """

    name: str
    names: Callable[[ModuleType], Mapping[str, Any]]
    mode: str = "patch"
    package: bool = False


class Shim:
    """What can be installed: served modules, and a visitor for all others.

    Args:
        name: of the codebase, for messages.
        served: given the options of :meth:`install`, what is served.
        visit: called as ``visit(module, changes, options)`` for each module of the user, when the shim is installed or when
            the module has just been imported, before served names replace its own. It changes modules and classes by
            ``changes.set`` and ``changes.replace`` only, and imports nothing. Default None.
    """

    def __init__(
        self,
        name: str,
        served: Callable[[Options], Sequence[Served]],
        visit: Callable[[ModuleType, Changes, Options], None] | None = None,
    ) -> None:
        self.name = name
        self._make_served, self._visit = served, visit
        self._lock = threading.RLock()
        self._count = 0
        self._options: dict[str, Any] = {}
        self._served: dict[str, Served] = {}
        self._changes = Changes()

    @property
    def active(self) -> bool:
        """Whether it is installed."""
        return self._count > 0

    @property
    def options(self) -> Options:
        """Those that it is installed with."""
        return self._options

    def install(self, **options: Any) -> None:
        """Install, or count one more installation.

        Raises:
            ValueError: it is installed with other options.
        """
        with self._lock:
            if self._count and options != self._options:
                raise ValueError(
                    f"{self.name}: is installed with {_text(self._options)}, cannot be installed with {_text(options)} at the "
                    "same time; uninstall() first"
                )
            if not self._count:
                self._options = options
                try:
                    self._apply()
                except BaseException:
                    self._changes.undo()
                    raise
            self._count += 1

    @contextmanager
    def needed(self, **options: Any) -> Iterator[None]:
        """Scope in which it is installed: as it is, or with ``options`` if it is not."""
        with self._lock:
            self.install(**(self._options if self._count else options))
        try:
            yield
        finally:
            self.uninstall()

    def uninstall(self) -> None:
        """Take back one installation; the last one restores everything.

        Raises:
            RuntimeError: it is not installed.
        """
        with self._lock:
            if not self._count:
                raise RuntimeError(f"{self.name}: is not installed")
            self._count -= 1
            if not self._count:
                self._changes.undo()

    @contextmanager
    def installed(self, **options: Any) -> Iterator[None]:
        """Scope in which it is installed."""
        self.install(**options)
        try:
            yield
        finally:
            self.uninstall()

    def _apply(self) -> None:
        self._served = {one.name: one for one in self._make_served(self._options)}
        finder = _Finder(self)
        sys.meta_path.insert(0, finder)
        self._changes.call(lambda: sys.meta_path.remove(finder))
        for module in user_modules():
            self._look_at(module)
        self._changes.rebind()

    def _look_at(self, module: ModuleType) -> None:
        """Patch a module that has run."""
        if self._visit is not None:
            self._visit(module, self._changes, self._options)
        one = self._served.get(module.__name__)
        if one is not None and one.mode != "absent":
            for name, value in one.names(module).items():
                self._changes.replace(module, name, value)

    def executed(self, module: ModuleType) -> None:
        """Patch a module that has just been imported, if the shim is still installed."""
        with self._lock:
            if self._count:
                self._look_at(module)

    def supplied(self, module: ModuleType) -> None:
        """Note a module that is made of served names alone: it goes when the shim goes."""
        with self._lock:
            if self._count:
                self._changes.call(lambda: _forget(module))


def _text(options: Options) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"


def _close(module: Any) -> None:
    """Let a module of a class of ours end what its attributes have begun."""
    getattr(module, "_gankern_close", lambda: None)()


def _forget(module: ModuleType) -> None:
    _close(module)
    name = module.__name__
    if sys.modules.get(name) is module:
        del sys.modules[name]
    parent, _, child = name.rpartition(".")
    if parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
        delattr(sys.modules[parent], child)


def fill(module: ModuleType, one: Served) -> None:
    """Give a fresh module its served names."""
    for name, value in one.names(module).items():
        setattr(module, name, value)


def stand_in(one: Served) -> ModuleType:
    """A module made of served names alone, which is not in ``sys.modules``."""
    module = ModuleType(one.name)
    fill(module, one)
    return module


class _Path:
    """``__path__`` of a supplied package: the folders of that name on ``sys.path``, as it is now."""

    def __init__(self, name: str) -> None:
        self._parts = name.split(".")

    def _folders(self) -> list[str]:
        found = (Path(entry or ".").joinpath(*self._parts) for entry in sys.path)
        return [str(folder) for folder in found if folder.is_dir()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders())

    def __len__(self) -> int:
        return len(self._folders())

    def __getitem__(self, index: int) -> str:
        return self._folders()[index]


class _Finder(importlib.abc.MetaPathFinder):
    """Stands first in ``sys.meta_path``: lets the others find a module, and hooks or supplies it."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim
        self._busy = threading.local()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        one = self._shim._served.get(name)
        if one is None and (self._shim._visit is None or name.partition(".")[0] in _FOREIGN):
            return None
        busy = self._busy.__dict__.setdefault("names", set())
        if name in busy:  # another shim's finder asks in turn
            return None
        real = None
        if one is None or one.mode != "replace":
            busy.add(name)
            try:
                real = self._real(name, path, target)
            finally:
                busy.discard(name)
        if real is None or real.loader is None:  # without loader: a namespace package, a folder of that name at most
            return None if one is None else self._supply(one)
        if hasattr(real.loader, "exec_module"):
            real.loader = _Hooked(self._shim, real.loader, one)
        return real

    def _real(self, name: str, path: Any, target: Any) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if find is None or finder is self else find(name, path, target)
            if spec is not None:
                return spec  # type: ignore[no-any-return]
        return None

    def _supply(self, one: Served) -> ModuleSpec:
        spec = ModuleSpec(one.name, _Supplier(self._shim, one), origin="gankern", is_package=one.package)
        if one.package:
            spec.submodule_search_locations = _Path(one.name)  # type: ignore[assignment]
        return spec


class _Supplier(importlib.abc.Loader):
    """Makes a module of served names."""

    def __init__(self, shim: Shim, one: Served) -> None:
        self._shim, self._one = shim, one

    def exec_module(self, module: ModuleType) -> None:
        self._shim.supplied(module)
        fill(module, self._one)


class _Hooked(importlib.abc.Loader):
    """Runs a real module by its own loader, then has the shim look at it."""

    def __init__(self, shim: Shim, real: Any, one: Served | None) -> None:
        self._shim, self._real, self._one = shim, real, one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        make = getattr(self._real, "create_module", None)
        return None if make is None else make(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module has its own loader: resources, pickling and inspection see no difference.
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        before = dict(vars(module))
        try:
            self._real.exec_module(module)
        except Exception as error:
            if self._one is None or (self._one.mode == "absent" and not isinstance(error, ImportError)):
                raise
            message = (
                f"{self._shim.name}: {module.__name__} fails when it is imported, gankern's own takes its place: {error!r}"
            )
            warnings.warn(message, CompatWarning, stacklevel=2)
            vars(module).clear()
            vars(module).update(before)
            self._shim.supplied(module)
            fill(module, self._one)
            return
        self._shim.executed(module)


__all__ = ["Changes", "CompatWarning", "Options", "Served", "Shim", "fill", "stand_in", "user_modules"]
