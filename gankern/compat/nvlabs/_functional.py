"""``torch.nn.functional`` as seen by network modules of a codebase: conv2d and conv_transpose2d are gankern's.

R3GAN's networks call ``nn.functional.conv2d`` instead of ``conv2d_gradfix``. A module is a network of such a codebase if it

- lies in a folder tree with ``torch_utils/ops`` at its root, or imports something of ``torch_utils``;
- defines a subclass of ``torch.nn.Module``;
- has code that reads ``conv2d`` or ``conv_transpose2d`` from what it calls ``nn``, ``functional`` or ``F``.

In such a module those names (globals that are ``torch.nn`` or ``torch.nn.functional``) become views; torch itself stays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from gankern import _validate, ops
from gankern.compat._shims import Changes

FUNCTIONS = ("conv2d", "conv_transpose2d")


class View(ModuleType):
    """A module with some names of its own and all others of another module, as they are now."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        super().__init__(module.__name__, module.__doc__)
        vars(self).update(names, _viewed=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_viewed"], name)

    def __dir__(self) -> list[str]:
        return dir(vars(self)["_viewed"])

    def __reduce__(self) -> Any:
        return functools.partial(__import__, fromlist=["nn"]), (self.__name__,)


def _served(x: Any, w: Any) -> bool:
    """Whether gankern's convolutions know such images; torch has more (unbatched, complex, quantized, sparse)."""
    dense = all(isinstance(t, Tensor) and t.layout == torch.strided for t in (x, w))
    return dense and x.dim() == 4 and x.dtype in _validate.FLOATING and w.dtype == x.dtype


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``, by :func:`gankern.ops.conv2d` where that knows such images."""
    run: Callable[..., Tensor] = ops.conv2d if _served(input, weight) else torch.nn.functional.conv2d
    return run(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``, by :func:`gankern.ops.conv_transpose2d` where that knows such images."""
    run: Callable[..., Tensor] = ops.conv_transpose2d if _served(input, weight) else torch.nn.functional.conv_transpose2d
    return run(input, weight, bias, stride, padding, output_padding, groups, dilation)


FUNCTIONAL = View(torch.nn.functional, conv2d=conv2d, conv_transpose2d=conv_transpose2d)
NN = View(torch.nn, functional=FUNCTIONAL)


def patch(module: ModuleType, changes: Changes) -> None:
    """Give a network module the views."""
    names = vars(module)
    seen = {name: view for name, value in list(names.items()) for real, view in _VIEWS if value is real}
    if seen and _is_network(module) and _in_tree(module) and any(_calls(code, seen) for code in _codes(module)):
        for name, view in seen.items():
            changes.set(module, name, view)


_VIEWS = ((torch.nn, NN), (torch.nn.functional, FUNCTIONAL))


def _own(module: ModuleType) -> Iterator[Any]:
    """The classes and functions that a module defines; a decorated class is a subclass of another module."""
    for value in list(vars(module).values()):
        for one in value.__mro__ if isinstance(value, type) else (value,):
            if isinstance(one, (type, FunctionType)) and one.__module__ == module.__name__:
                yield one


def _is_network(module: ModuleType) -> bool:
    return any(isinstance(value, type) and issubclass(value, torch.nn.Module) for value in _own(module))


def _codes(module: ModuleType) -> Iterator[CodeType]:
    """The code of a module's functions and methods."""
    for value in _own(module):
        for one in vars(value).values() if isinstance(value, type) else (value,):
            function = getattr(one, "__func__", one)
            if isinstance(function, FunctionType):
                yield from _nested(function.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _calls(code: CodeType, seen: dict[str, View]) -> bool:
    """Whether it reads a convolution from one of the names that have a view."""
    return any(name in code.co_names for name in FUNCTIONS) and any(name in code.co_names for name in seen)


def _in_tree(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is not None and tree_of(Path(file)) is not None:
        return True
    bound = list(vars(module).values())
    origins = [one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None) for one in bound]
    return any("torch_utils" in str(name).split(".") for name in origins)


def tree_of(file: Path) -> Path | None:
    """The checkout that a file lies in: the nearest folder above with ``torch_utils/ops``."""
    for folder in file.absolute().parents:
        if (folder / "torch_utils" / "ops").is_dir():
            return folder
    return None
