"""Which implementation of an operator runs: rows of data, evaluated inside the registered operator.

Each operator has a :class:`Table` of :class:`Row` in order of preference. A row says for given arguments why it cannot run, or
None; the first row that can is taken. Because the table is consulted inside the operator's implementation, ``torch.compile``
sees one opaque operator whatever runs. There is no silent fallback: a row that was taken and fails raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import forward_ad

BACKENDS = ("cuda", "cpu", "triton", "aten", "reference")
"""Our kernels in CUDA, C++ and Triton; PyTorch's own arithmetic (oneDNN, cuDNN) under our derivatives; plain PyTorch."""


@dataclass(frozen=True)
class Row:
    """One implementation: ``can_run(*args)`` gives None or the reason why not; ``run(*args)`` computes."""

    name: str
    can_run: Callable[..., str | None]
    run: Callable[..., Any]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, in place of ``run``: for outputs that are there already. What counts calls overrides it."""
        return function(*args)


class _Forced:
    """The backend that ``use_backend`` forces.

    Process-wide, not thread-local: backward on CUDA runs in autograd's own threads, where a thread-local would be invisible.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stack: list[str] = []
        self.name: str | None = None


_forced = _Forced()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force one backend for every gankern operator: ``with gankern.use_backend("reference"): ...``

    Args:
        name: 'reference', 'cpu', 'triton', 'cuda' or 'aten'.

    An operator that cannot run on it raises RuntimeError with the reason. The setting is process-wide (it also holds in
    autograd's threads), meant for tests and comparisons. Operators without kernels of our own are not affected by 'cpu',
    'triton' and 'cuda': convolutions, whose arithmetic is PyTorch's ('aten'), and compositions, whose parts are.

    Raises:
        ValueError: ``name`` is not a backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"use_backend: name must be one of {', '.join(map(repr, sorted(BACKENDS)))}, got {name!r}")
    with _forced.lock:
        _forced.stack.append(name)
        _forced.name = name
    try:
        yield
    finally:
        with _forced.lock:
            # Contexts of several threads may end in any order: remove the youngest entry of this name.
            index = len(_forced.stack) - 1 - _forced.stack[::-1].index(name)
            del _forced.stack[index]
            _forced.name = _forced.stack[-1] if _forced.stack else None


def forced_backend() -> str | None:
    """The backend that ``use_backend`` forces now, or None."""
    return _forced.name


def undisturbed() -> bool:
    """Whether a call is just a call: no tracer, dispatch mode, transform, forward-mode level, autocast or forced backend.

    Not to be asked while torch.compile traces.
    """
    return not (
        _dispatch_modes()
        or _forced.name is not None
        or _standard.on
        or _autocast()
        or _transforms()
        or forward_ad._current_level >= 0
        or _tracing() is not None
    )


# Looked up once: what follows is asked several times in every layer.
_dispatch_modes, _autocast = torch._C._len_torch_dispatch_stack, torch._C._is_any_autocast_enabled
_transforms, _tracing = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state


SMALL = 131072
"""Elements of an image up to which an operator's definition is faster than its kernels, see :func:`small`.

From short calls on a CPU with AVX-512, one thread and two: what PyTorch computes in one step is faster than a kernel and the
Python around it up to there; several steps up to a fourth of it, beyond which each of them starts PyTorch's threads.
"""


def small(x: torch.Tensor, passes: int = 1) -> bool:
    """Whether ``x`` has so few elements that a call costs more than it computes, and nothing speaks against the definition.

    ``passes`` is how many times the definition goes over the images, of which a kernel saves all but one.

    Public functions then run their definition as it stands, which autograd differentiates in C++. Not so where a backend is
    forced, under a tracer, a dispatch mode or autocast, for half types (which a definition would round after each step), for
    subclasses and layouts other than contiguous ones, and on GPUs, where nothing was measured.
    """
    if torch.compiler.is_compiling():
        return False
    kind = type(x)
    return (
        (kind is torch.Tensor or kind is torch.nn.Parameter)
        and 0 < x.numel() <= (SMALL if passes <= 1 else SMALL // 4)
        and x.is_cpu
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and x.is_contiguous()
        and undisturbed()
    )


TABLES: list[Table] = []
"""Every table there is."""


class Table:
    """The implementations of one operator, in order of preference. Calling it runs the chosen one.

    Attributes:
        op: name of the operator.
        rows: the implementations, the last one the reference.
        composed: the definition on the operator's arguments, differentiable as it stands, for small images; or None.
        passes: gives how many times ``composed`` goes over the images for these arguments.
    """

    def __init__(
        self,
        op: str,
        rows: Sequence[Row],
        composed: Callable[..., Any] | None = None,
        passes: Callable[..., int] = lambda *_: 2,
    ) -> None:
        self.op = op
        self.rows = list(rows)
        self.composed, self.passes = composed, passes
        TABLES.append(self)

    def composes(self, *args: Any) -> bool:
        """Whether these arguments, the first of them the images, are better served by ``composed``."""
        return self.composed is not None and small(args[0], self.passes(*args))

    def compose(self, *args: Any) -> Any:
        """``composed(*args)``, which counts as a call of the reference; a new tensor even where there is nothing to do."""
        assert self.composed is not None
        result = self.rows[-1].call(self.composed, *args)
        return result.clone() if result is args[0] else result

    def row(self, name: str) -> Row | None:
        """The row of that name, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def choose(self, *args: Any) -> Row:
        """The row that serves these arguments.

        Raises:
            RuntimeError: a forced backend cannot run, or none can.
        """
        forced = _forced.name
        if forced is not None:
            row = self.row(forced)
            if row is None and self.row("aten") is not None:
                return self.rows[0]
            reason = "there is no such implementation" if row is None else row.can_run(*args)
            if row is None or reason is not None:
                raise RuntimeError(f"gankern.{self.op}: backend {forced!r} is forced by use_backend but cannot run: {reason}")
            return row
        reasons = []
        for row in self.rows:
            reason = row.can_run(*args)
            if reason is None:
                return row
            reasons.append(f"{row.name}: {reason}")
        raise RuntimeError(f"gankern.{self.op}: no backend can run; " + "; ".join(reasons))

    def __call__(self, *args: Any) -> Any:
        return self.choose(*args).run(*args)


@dataclass
class OpSpec:
    """Everything that generic code (tests, opcheck, benchmarks, ``explain``, ``gankern check``) needs to know of an op.

    Attributes:
        name: the public name, also the operator's name in torch.ops.gankern.
        public: the function that users call.
        reference: the law: pure PyTorch, same signature as ``public``.
        prepare: validates public arguments and gives the registered operator's positional arguments; of a composition,
            its steps in words.
        table: its dispatch rows, or None where ``public`` only composes other operators (and is no operator itself).
        samples: named inputs (``gankern._samples.Sample``).
        derivative_order: highest order of differentiation that the kernels serve (None: any).
        image: name of the public argument that holds the images: outputs take their layout and dtype from it.
        stages: operators in a row that make up the op, each of which rounds what it hands on to the dtype of the images.
        autocast: 'keep' computes in the dtype of the inputs under autocast; 'lower' casts all tensors to autocast's dtype, as a
            convolution does; 'image' only the images.
        no_float64: backends that refuse float64, as kernels made of matrix products may.
        wide_output: the output is float32, or float64 for float64 images, whatever their dtype.
    """

    name: str
    public: Callable[..., Any]
    reference: Callable[..., Any]
    prepare: Callable[..., tuple[Any, ...]]
    table: Table | None
    samples: Sequence[Any] = field(default_factory=list)
    derivative_order: int | None = None
    image: str = "x"
    stages: int = 1
    autocast: str = "keep"
    no_float64: tuple[str, ...] = ()
    wide_output: bool = False


OPS: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> None:
    """Make an op known to ``explain``, the contract tests, ``gankern check`` and the benchmarks."""
    if spec.name in OPS:
        raise ValueError(f"register: the op {spec.name!r} is registered already")
    OPS[spec.name] = spec


def runs_on(spec: OpSpec, backend: str, dtype: torch.dtype | None = None) -> bool:
    """Whether ``use_backend(backend)`` is of use to an op: it has such a row, or is a composition, whose parts may have.

    With ``dtype``: whether it is for such images.
    """
    if dtype == torch.float64 and backend in spec.no_float64:
        return False
    return backend != "aten" if spec.table is None else spec.table.row(backend) is not None


def explain(op: Callable[..., Any], *args: Any, **kwargs: Any) -> list[tuple[str, str | None]]:
    """Print why each backend was or was not taken for ``op(*args, **kwargs)``, without running it.

    Args:
        op: a public function of ``gankern.ops``, for example ``gankern.ops.upfirdn2d``.
        *args: what the function would be called with.
        **kwargs: likewise.

    Returns:
        (backend, reason) in order of preference; the reason is None for every backend that can run. The first of those is
        taken unless ``use_backend`` forces another. Of a composition: its steps, each an operator that can be explained.

    Raises:
        ValueError: ``op`` is not an operator of gankern, or its arguments are invalid.
    """
    spec = next((spec for spec in OPS.values() if spec.public is op), None)
    if spec is None:
        known = ", ".join(sorted(OPS))
        raise ValueError(f"explain: op must be a public operator of gankern.ops ({known}), got {op!r}")
    prepared = spec.prepare(*args, **kwargs)
    if spec.table is None:
        print(f"gankern.{spec.name}: a composition of\n" + "\n".join(f"  {step}" for step in prepared))
        return [(str(step), None) for step in prepared]
    result = [(row.name, row.can_run(*prepared)) for row in spec.table.rows]
    if spec.table.composes(*prepared):
        result.insert(0, result.pop())
    forced = _forced.name
    if forced is not None and spec.table.row(forced) is None and spec.table.row("aten") is not None:
        forced = None
    taken = forced or next((name for name, reason in result if reason is None), None)
    shape = ", ".join(f"{list(a.shape)} {str(a.dtype).removeprefix('torch.')} on {a.device}" for a in prepared if is_tensor(a))
    print(f"gankern.{spec.name}({shape})" + (f"  [use_backend({forced!r})]" if forced else ""))
    for name, reason in result:
        state = "taken" if name == taken and reason is None else "can run" if reason is None else f"no: {reason}"
        print(f"  {name:10s} {state}")
    return result


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor."""
    return isinstance(value, torch.Tensor)


class _Standard:
    """Whether ``standard_operators`` is in force, and how many times over. Process-wide, as :class:`_Forced`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.on = False  # beside the depth: torch.compile guards on what it reads, and a bool has two values


_standard = _Standard()


@contextmanager
def standard_operators() -> Iterator[None]:
    """Make gankern's functions compose PyTorch's own operators: ``with gankern.export.standard_operators(): ...``

    For tracers whose results must run without gankern: ``torch.jit.trace``, ``torch.export.export``. In ``torch.onnx.export``
    it is so by itself (not in its older form, ``dynamo=False``). All functions of gankern.ops and modules of gankern.nn then
    take their definitions, in forms that a file for inference wants: modulated convolution scales images, convolves all samples
    with one kernel and scales the result; resampling is padding and depthwise convolutions, strided or transposed. No size of a
    batch is written into a trace, but by ``minibatch_stddev``. Results are equal but for rounding, and differentiate to any
    order. The setting is process-wide; without a tracer it only costs time.
    """
    with _standard.lock:
        _standard.depth += 1
        _standard.on = True
    try:
        yield
    finally:
        with _standard.lock:
            _standard.depth -= 1
            _standard.on = _standard.depth > 0


def standard() -> bool:
    """Whether :func:`standard_operators` is in force, or ``torch.onnx.export`` is tracing."""
    return _standard.on or (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export())


def takes_reference() -> bool:
    """Whether public functions take their differentiable references, for kernels see neither batched tensors nor tangents.

    So it is where a functorch transform (vmap, grad, jvp) or forward-mode differentiation is active; and where
    :func:`standard_operators` is in force, or ``torch.onnx.export`` is tracing.
    """
    if torch.compiler.is_compiling():
        return _standard.on or torch.onnx.is_in_onnx_export()
    return _standard.on or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def require_no_tangents(op: str, values: Iterable[Any]) -> None:
    """Refuse tensors with tangents where no reference takes them: a kernel would drop the tangents in silence.

    Raises:
        NotImplementedError: one of ``values`` is a dual tensor of the forward-mode level that is active.
    """
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    if any(isinstance(v, torch.Tensor) and forward_ad.unpack_dual(v).tangent is not None for v in values):
        raise NotImplementedError(
            f"gankern.{op}: has no forward-mode derivative. Public operators of gankern.ops run their reference within "
            "torch.autograd.forward_ad.dual_level(), if they are called there; this one works in place, or is the derivative "
            "of a call outside of it"
        )
