"""The same format of pickles, by other means: classes are marked instead of subclassed."""

import inspect
import sys
import types

_modules = {}


def persistent_class(cls):
    cls._source = _modules.get(cls.__module__) or inspect.getsource(sys.modules[cls.__module__])
    cls.__reduce__ = _reduce
    return cls


def _reduce(self):
    meta = {
        "type": "class",
        "version": 6,
        "module_src": self._source,
        "class_name": type(self).__name__,
        "state": self.__dict__,
    }
    return _reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta):
    cls = getattr(_src_to_module(meta["module_src"]), meta["class_name"])
    obj = cls.__new__(cls)
    obj.__setstate__(meta["state"])
    return obj


def _src_to_module(src):
    name = f"_stand_in_{abs(hash(src))}"
    if name not in sys.modules:
        module = sys.modules[name] = types.ModuleType(name)
        _modules[name] = src
        exec(src, module.__dict__)
    return sys.modules[name]
