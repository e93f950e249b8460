"""The dispatch table of an operator that has kernels of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gankern._dispatch import Row, Table
from gankern._library import native_can_run


def kernel(op: str, backend: str, name: str) -> Callable[..., Any]:
    """The backend's function ``name`` of an op: 'cuda' and 'cpu' are native operators, 'triton' is in the op's folder."""
    if backend == "triton":
        found: Callable[..., Any] = getattr(import_module(f"gankern.ops.{op}.triton_kernels"), f"{name}_triton")
        return found
    return _native(f"{name}_{backend}")


@cache
def _native(name: str) -> Callable[..., Any]:
    """The only overload of a native operator, kept: to look for both at every call takes as long as a short call."""
    return getattr(torch.ops.gankern_native, name).default  # type: ignore[no-any-return]


def kernel_table(
    name: str,
    op: str,
    make: Callable[[str], Callable[..., Any]],
    reference: Callable[..., Any],
    image: int | None = None,
    composed: Callable[..., Any] | None = None,
    passes: Callable[..., int] = lambda *_: 2,
) -> Table:
    """CUDA, CPU and Triton kernels of ``op``, in this order, and the reference.

    Args:
        name: of the operator.
        op: whose folder and native kernels they are.
        make: gives what runs a backend: 'cuda', 'cpu' or 'triton'.
        reference: what runs plain PyTorch.
        image: which argument decides whether a kernel can run. Default None: the first tensor.
        composed: the definition for small images, see :class:`gankern._dispatch.Table`. Default None.
        passes: of ``composed`` over the images. Default 2.
    """

    def decisive(args: tuple[Any, ...]) -> Tensor:
        if image is not None:
            return args[image]  # type: ignore[no-any-return]
        first = args[0]
        return first if isinstance(first, Tensor) else next(a for a in args if isinstance(a, Tensor))

    def triton_can_run(*args: Any) -> str | None:
        reason: str | None = import_module(f"gankern.ops.{op}.triton_kernels").can_run(decisive(args))
        return reason

    return Table(
        name,
        [
            Row("cuda", lambda *args: native_can_run("cuda", op, decisive(args)), make("cuda")),
            Row("cpu", lambda *args: native_can_run("cpu", op, decisive(args)), make("cpu")),
            Row("triton", triton_can_run, make("triton")),
            Row("reference", lambda *_: None, reference),
        ],
        composed,
        passes,
    )
