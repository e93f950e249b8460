"""What the Triton rows share: whether kernels can run on given tensors, and how an op names its cases for the compile gate.

Kernel modules take ``jit``, ``constexpr_function`` and ``tl`` from here, so that they can be imported, and say why they cannot
run, where Triton is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

_SUPPORTED = ("3.6", "3.8")
"""Triton versions from the first (included) to the second (excluded): the tested range."""

_CAPABILITY = (8, 0)
"""Oldest compute capability that is compiled and gated; bfloat16 arithmetic begins there."""


@cache
def missing() -> str | None:
    """None if a supported Triton can be imported, else one line that says why not."""
    try:
        import triton
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in _SUPPORTED)
    if low <= version < high:
        return None
    return f"triton {triton.__version__} is installed, supported is triton >= {_SUPPORTED[0]}, < {_SUPPORTED[1]}"


if missing() is None:
    import triton.language as tl
    from triton import constexpr_function, jit, knobs

    # Read where Triton reads it: when the kernels are decorated.
    INTERPRETING = tl.constexpr(bool(knobs.runtime.interpret))
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
else:
    # Annotations of kernels stay strings, so nothing of the language is evaluated until a kernel is compiled.
    tl = None
    INTERPRETING = None

    def constexpr_function(fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself."""
        return fn

    def jit(fn: Callable[..., Any] | None = None, **_: Any) -> Any:
        """The function itself: there is no Triton to compile it."""
        return constexpr_function if fn is None else fn


@jit
def narrow(v, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``v`` in the storage type, rounded to nearest. (Triton's interpreter truncates float32 to bfloat16.)"""
    if INTERPRETING and DTYPE == tl.bfloat16:  # noqa: SIM300
        bits = v.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        v = tl.where(v == v, bits.to(tl.float32, bitcast=True), v)
    return v.to(DTYPE)


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors. Decided when gankern is imported."""
    return INTERPRETING is not None and INTERPRETING.value


@cache
def capability(index: int) -> tuple[int, int]:
    """Compute capability of CUDA device ``index``."""
    return torch.cuda.get_device_capability(index)


@cache
def multiprocessors(index: int | None) -> int:
    """Multiprocessors of CUDA device ``index``; None (interpreter, compile gate) counts as an H200."""
    return 132 if index is None else torch.cuda.get_device_properties(index).multi_processor_count


def can_run(x: Tensor) -> str | None:
    """None if a Triton kernel can run on the device of ``x`` at all, else the reason."""
    reason = missing()
    if reason is not None:
        return reason
    if x.device.type == "cpu":
        return None if interpreting() else "x is on the CPU and TRITON_INTERPRET=1 is not set"
    if not x.is_cuda or torch.version.hip is not None:
        return f"x is on {x.device}, not on an NVIDIA GPU"
    if interpreting():
        return "TRITON_INTERPRET is set: kernels run on CPU tensors only"
    have = capability(x.device.index)
    if have < _CAPABILITY:
        return f"compute capability {have[0]}.{have[1]} is below {_CAPABILITY[0]}.{_CAPABILITY[1]}"
    return None


def accumulator(dtype: torch.dtype) -> Any:
    """Triton's type to accumulate in: float64 for float64, else float32."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def alignment(limit: int, *numbers: int) -> int:
    """Largest power of two, at most ``limit`` (one itself), that divides all ``numbers``."""
    while any(number % limit for number in numbers):
        limit //= 2
    return limit


def power_of_two(number: int) -> int:
    """Smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


@dataclass(frozen=True)
class CompileCase:
    """One specialisation of a kernel for the compile gate: what the launcher would pass for one sample.

    Attributes:
        sample: the sample, layout and dtype it stands for, for example ``blur_4x4_256/nchw/bfloat16``.
        kernel: the JITFunction.
        args: positional arguments as at launch; a torch dtype stands for a pointer aligned to 16 bytes.
        constants: keyword arguments: the constexpr ones, ``num_warps`` and the like.
        dtype: the storage type of the images.
        vector: bytes that the widest global load and the widest global store must reach; 0 where nothing is asked.
    """

    sample: str
    kernel: Any
    args: tuple[Any, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    vector: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """Name of the kernel function."""
        return self.kernel.__name__


def fake_inputs(
    samples: Sequence[Any], dtypes: Sequence[torch.dtype], prepare: Callable[..., tuple[Any, ...]]
) -> Iterator[tuple[Any, str, torch.dtype, tuple[Any, ...]]]:
    """(sample, layout, dtype, prepared arguments) of all samples, as fake tensors: shapes and strides, no values drawn."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for sample in samples:
            for layout in sample.layouts:
                for dtype in dtypes:
                    yield sample, layout, dtype, prepare(**sample.inputs(dtype, layout))
