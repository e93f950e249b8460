"""``torch_utils.persistence`` for those who have no checkout: objects that are pickled together with the source of their class.

The format: such an object is pickled as a call of ``torch_utils.persistence._reconstruct_persistent_obj`` with a dict of

- ``type``: 'class';
- ``version``: 6;
- ``module_src``: the source of the module that defines the class;
- ``class_name``: its name there;
- ``state``: what ``__setstate__`` gets; ``_init_args`` and ``_init_kwargs`` in it are the arguments of the constructor.

Objects can be copied and pickled again, whether or not the shim is installed then: while a ``torch_utils.persistence`` is
imported, the pickle names that one (NVIDIA's code reads it), otherwise this module.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import linecache
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gankern.compat.nvlabs._support import EasyDict

VERSION = 6
_lock = threading.RLock()
_hooks: list[Callable[[Any], Any]] = []
_sources: dict[str, str] = {}  # name of a module -> its source
_modules: dict[str, ModuleType] = {}  # source -> the module made of it
_PREFIX = "_gankern_pickled_"


def persistent_class(orig_class: type) -> type:
    """Class decorator: instances are pickled with the source of the module that defines the class.

    Args:
        orig_class: the class; the source of its module must be known.

    Returns:
        A subclass of the same name, whose instances also have ``init_args`` and ``init_kwargs``.

    Raises:
        TypeError: not a class.
    """
    if not isinstance(orig_class, type):
        raise TypeError(f"persistent_class: orig_class must be a class, got {orig_class!r}")
    if is_persistent(orig_class):
        return orig_class
    source = _source_of(orig_class.__module__)

    class Persistent(orig_class):  # type: ignore[misc]
        _orig_module_src = source
        _orig_class_name = orig_class.__name__
        _gankern_persistent = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._init_args, self._init_kwargs = copy.deepcopy((args, kwargs))

        @property
        def init_args(self) -> Any:
            return copy.deepcopy(self._init_args)

        @property
        def init_kwargs(self) -> Any:
            return EasyDict(copy.deepcopy(self._init_kwargs))

        def __reduce__(self) -> Any:
            own_state = getattr(self, "__getstate__", None)  # Python 3.10 has none by default
            state = self.__dict__ if own_state is None else own_state()
            meta = {"type": "class", "version": VERSION, "module_src": self._orig_module_src,
                    "class_name": self._orig_class_name, "state": {} if state is None else state}  # fmt: skip
            return _reconstruct(), (meta,)

    Persistent.__name__, Persistent.__qualname__ = orig_class.__name__, orig_class.__qualname__
    Persistent.__module__, Persistent.__doc__ = orig_class.__module__, orig_class.__doc__
    return Persistent


def is_persistent(obj: Any) -> bool:
    """Whether a class or an object is pickled with its source."""
    cls = obj if isinstance(obj, type) else type(obj)
    return "_gankern_persistent" in vars(cls)


def import_hook(hook: Callable[[Any], Any]) -> None:
    """Have ``hook(meta)`` see, and give back, the dict of every persistent object before it is made."""
    if not callable(hook):
        raise TypeError(f"import_hook: hook must be callable, got {hook!r}")
    _hooks.append(hook)


def _reconstruct() -> Callable[[Any], Any]:
    """What a pickle shall call: that of the imported ``torch_utils.persistence``, which pickle can find under its name."""
    known = sys.modules.get("torch_utils.persistence")
    found: Callable[[Any], Any] = getattr(known, "_reconstruct_persistent_obj", _reconstruct_persistent_obj)
    return found


def _reconstruct_persistent_obj(meta: Any) -> Any:
    """The object of a dict in the format above. Runs the source in it, unless that has been done before.

    Raises:
        ValueError: another version or type of the format, or no such class in the source.
    """
    meta = EasyDict(meta)
    for hook in _hooks:
        meta = hook(meta)
    if meta.get("version") != VERSION or meta.get("type") != "class":
        raise ValueError(f"a persistent object must be of type 'class' and version {VERSION}, got {meta.get('type')!r} and "
                         f"{meta.get('version')!r}")  # fmt: skip
    module = _src_to_module(meta.module_src)
    if not isinstance(vars(module).get(meta.class_name), type):
        raise ValueError(f"the source of a persistent object defines no class {meta.class_name!r}")
    cls = persistent_class(vars(module)[meta.class_name])
    obj: Any = cls.__new__(cls)  # type: ignore[call-overload]
    set_state = getattr(obj, "__setstate__", None)
    if set_state is None:
        vars(obj).update(meta.state)
    else:
        set_state(meta.state)
    return obj


def _source_of(name: str) -> str:
    if name not in _sources:
        _sources[name] = inspect.getsource(sys.modules[name])
    return _sources[name]


def _src_to_module(src: str) -> ModuleType:
    """The module of a source: run once, with the shim installed while it runs, and on gankern's operators ever after."""
    from gankern.compat.nvlabs import _shim  # it serves this module

    with _lock:
        if src not in _modules:
            name = _PREFIX + hashlib.sha256(src.encode()).hexdigest()[:32]
            module = ModuleType(name)
            file = f"<source in a pickle: {name}>"
            # inspect, and tracebacks, find the source there.
            linecache.cache[file] = (len(src), None, src.splitlines(keepends=True), file)
            sys.modules[name], _sources[name] = module, src
            try:
                with _shim.needed():
                    exec(compile(src, file, "exec"), vars(module))
                    _shim.adopt(module)
            except BaseException:
                del sys.modules[name], _sources[name]
                raise
            _modules[src] = module
        return _modules[src]


def names(module: ModuleType) -> dict[str, Any]:
    """torch_utils.persistence. What pickles call is a function of that module, for pickle to find it there."""

    def _reconstruct_persistent_obj_(meta: Any) -> Any:
        return _reconstruct_persistent_obj(meta)

    served = _reconstruct_persistent_obj_
    served.__name__ = served.__qualname__ = "_reconstruct_persistent_obj"
    served.__module__ = module.__name__
    return {"persistent_class": persistent_class, "is_persistent": is_persistent, "import_hook": import_hook,
            "_reconstruct_persistent_obj": served, "_src_to_module": _src_to_module}  # fmt: skip
