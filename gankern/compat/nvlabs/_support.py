"""What networks in official pickles import besides the operators: parts of ``dnnlib`` and ``torch_utils.misc``.

Served only where the real ones cannot be imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import sys
import tempfile
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankern._files import replacing


# ---- dnnlib --------------------------------------------------------------------------------------------------------------
class EasyDict(dict[str, Any]):
    """A dict whose items are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> Any:
        # As persistent objects: under the name in NVIDIA's code while that name can be imported.
        cls = EasyDict
        if "torch_utils.persistence" in sys.modules:
            with contextlib.suppress(ImportError):
                cls = importlib.import_module("dnnlib.util").EasyDict
        return cls, (), None, None, iter(self.items())


_cache_folder: list[str] = []


def set_cache_dir(path: str) -> None:
    """Where ``open_url`` keeps files."""
    _cache_folder[:] = [path]


def make_cache_dir_path(*paths: str) -> str:
    """A path in the folder of cached files: that of ``set_cache_dir``, or $DNNLIB_CACHE_DIR, or ~/.cache/dnnlib."""
    folder = _cache_folder[0] if _cache_folder else os.environ.get("DNNLIB_CACHE_DIR")
    return os.path.join(folder or os.path.join(os.path.expanduser("~"), ".cache", "dnnlib"), *paths)


def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Whether a string is an http(s) address, or a file:// address if those are allowed."""
    if not isinstance(obj, str):
        return False
    parts = urllib.parse.urlparse(obj)
    return (parts.scheme in ("http", "https") and bool(parts.netloc)) or (allow_file_urls and parts.scheme == "file")


def open_url(
    url: str, cache_dir: str | None = None, num_attempts: int = 10, verbose: bool = True, return_filename: bool = False,
    cache: bool = True,
) -> Any:  # fmt: skip
    """Open a file or an address for reading bytes; downloads are kept in the folder of cached files.

    Args:
        url: http(s) address, file:// address or path.
        cache_dir: where to keep downloads. Default None: ``make_cache_dir_path("downloads")``.
        num_attempts: how often to try.
        verbose: print the address that is downloaded.
        return_filename: give the name of the file instead of the open file.
        cache: keep what is downloaded, and use what was.
    """
    if not is_url(url):
        path = urllib.request.url2pathname(urllib.parse.urlparse(url).path) if url.startswith("file://") else url
        return path if return_filename else open(path, "rb")
    folder = cache_dir if cache_dir is not None else make_cache_dir_path("downloads")
    name = (
        hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + "_" + os.path.basename(urllib.parse.urlparse(url).path)
    )
    target = Path(folder) / name
    if not (cache and target.exists()):
        data = _download(url, num_attempts, verbose)
        if not cache and not return_filename:
            return io.BytesIO(data)
        if not cache:
            target = Path(tempfile.mkdtemp()) / name
        with replacing(target) as temporary:
            temporary.write_bytes(data)
    return str(target) if return_filename else open(target, "rb")


def _download(url: str, attempts: int, verbose: bool) -> bytes:
    if verbose:
        print(f"Downloading {url}", flush=True)
    for left in reversed(range(max(attempts, 1))):
        try:
            with urllib.request.urlopen(url) as response:
                return bytes(response.read())
        except OSError:
            if not left:
                raise
    raise AssertionError("unreachable")


def format_time(seconds: float) -> str:
    """'1d 02h 03m', '2h 03m 04s', '3m 04s' or '4s'."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 60 * 60:
        return f"{s // 60}m {s % 60:02}s"
    if s < 24 * 60 * 60:
        return f"{s // 3600}h {s // 60 % 60:02}m {s % 60:02}s"
    return f"{s // 86400}d {s // 3600 % 24:02}h {s // 60 % 60:02}m"


def get_obj_by_name(name: str) -> Any:
    """The object of a dotted name: the longest part of it that is a module is imported."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module_name = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise  # something that the module itself imports
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"no module of {name!r} can be imported")


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function of a dotted name."""
    return get_obj_by_name(func_name)(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Make an instance of the class of a dotted name."""
    return get_obj_by_name(class_name)(*args, **kwargs)


# ---- torch_utils.misc ------------------------------------------------------------------------------------------------------
def constant(
    value: Any, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None, device: Any = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:  # fmt: skip
    """A tensor of fixed values, made once for each combination of arguments. Not to be written to."""
    array = np.asarray(value)
    key = (array.shape, array.dtype.str, array.tobytes())
    size = None if shape is None else tuple(shape)
    wanted = torch.get_default_dtype() if dtype is None else dtype
    return _constant(key, size, wanted, torch.device("cpu" if device is None else device), memory_format)


@cache
def _constant(key: Any, shape: Any, dtype: torch.dtype, device: torch.device, memory_format: Any) -> Tensor:
    size, kind, data = key
    with torch.inference_mode(False):
        tensor = torch.as_tensor(np.frombuffer(data, kind).reshape(size).copy(), dtype=dtype, device=device)
        tensor = tensor if shape is None else tensor.expand(shape)
        return tensor.contiguous(memory_format=torch.contiguous_format if memory_format is None else memory_format)


@contextlib.contextmanager
def suppress_tracer_warnings() -> Iterator[None]:
    """Scope without torch.jit's TracerWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def assert_shape(tensor: Tensor, ref_shape: Sequence[Any]) -> None:
    """Raise AssertionError unless a tensor has a shape; None is any size."""
    wanted = list(ref_shape)
    if tensor.dim() != len(wanted):
        raise AssertionError(f"expected {len(wanted)} dimensions {wanted}, got {list(tensor.shape)}")
    with suppress_tracer_warnings():
        if any(want is not None and int(size) != int(want) for size, want in zip(tensor.shape, wanted, strict=True)):
            raise AssertionError(f"expected the shape {wanted}, got {list(tensor.shape)}")


def profiled_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the function shows in torch's profiler under its name."""

    @wraps(fn)
    def profiled(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return profiled


def params_and_buffers(module: torch.nn.Module) -> list[Tensor]:
    """All parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]


def named_params_and_buffers(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters and buffers of a module, with their names."""
    return [*module.named_parameters(), *module.named_buffers()]


def copy_params_and_buffers(src_module: torch.nn.Module, dst_module: torch.nn.Module, require_all: bool = False) -> None:
    """Copy the values of equally named parameters and buffers; ``require_all``: ``src_module`` must have them all."""
    source = dict(named_params_and_buffers(src_module))
    target = named_params_and_buffers(dst_module)
    missing = [name for name, _ in target if name not in source]
    if require_all and missing:
        raise AssertionError(f"the source module has no {', '.join(missing)}")
    with torch.no_grad():
        for name, tensor in target:
            if name in source:
                tensor.copy_(source[name])


# ---- as modules ------------------------------------------------------------------------------------------------------------
_UTIL = (EasyDict, set_cache_dir, make_cache_dir_path, is_url, open_url, format_time, get_obj_by_name, call_func_by_name,
         construct_class_by_name)  # fmt: skip
_MISC = (constant, suppress_tracer_warnings, assert_shape, profiled_function, params_and_buffers, named_params_and_buffers,
         copy_params_and_buffers)  # fmt: skip


def _names(module: ModuleType, objects: Sequence[Any]) -> dict[str, Any]:
    names: dict[str, Any] = {one.__name__: one for one in objects}
    names["__getattr__"] = _refuse(module.__name__)
    return names


def _refuse(module: str) -> Callable[[str], Any]:
    def refuse(name: str) -> Any:
        raise AttributeError(
            f"module {module!r} has no attribute {name!r}: gankern supplies only what networks in pickles need; put the "
            "codebase's checkout on sys.path for the rest"
        )

    return refuse


def util_names(module: ModuleType) -> dict[str, Any]:
    """dnnlib.util. Its EasyDict is a class of that module, for pickle to find it there."""
    own = type("EasyDict", (EasyDict,), {"__module__": module.__name__, "__doc__": EasyDict.__doc__})
    return _names(module, _UTIL) | {"EasyDict": own}


def dnnlib_names(module: ModuleType) -> dict[str, Any]:
    """Package dnnlib, with its submodule util."""
    util = importlib.import_module("dnnlib.util")
    names = {name: getattr(util, name) for name in ("EasyDict", "make_cache_dir_path")}
    return {**names, "util": util}


def misc_names(module: ModuleType) -> dict[str, Any]:
    """torch_utils.misc."""
    return _names(module, _MISC) | {"nan_to_num": torch.nan_to_num, "symbolic_assert": torch._assert}
