"""A run of a network, written down as a flat list of operator calls on tensors that are there already.

The recorder sits below PyTorch's dispatcher (``TorchDispatchMode``). Calls of gankern's operators on the CPU are opened, so
that what is written down is what their backend calls: PyTorch's operators, and native kernels with the outputs they fill. What
does not depend on inputs or random numbers is computed once and for all while recording: it never reaches the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gankern._scopes import recording
from gankern._triton import interpreting

aten = torch.ops.aten

UNINITIALISED = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default}
UNINITIALISED |= {aten.new_empty_strided.default}
CONVOLUTIONS = {aten.convolution.default, aten._convolution.default}
# Batch normalisation in training mode moves running statistics (arguments 3 and 4) without saying so in its schema.
_UNDECLARED = {aten.native_batch_norm.default, aten.cudnn_batch_norm.default}


def storage_of(t: Tensor) -> int:
    """Which memory a tensor lives in: the same number for views of each other. Packed weights are by themselves."""
    if t.layout != torch.strided:
        return -id(t)
    return t.untyped_storage()._cdata


def tensors(*values: Any) -> list[Tensor]:
    """All tensors among (nested) values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@dataclass(eq=False)
class Node:
    """One call.

    Attributes:
        func: the operator, or any function of tensors.
        args: its arguments; tensors are those of the recorded run.
        kwargs: likewise.
        outs: the tensors it returned.
        writes: arguments that it writes into.
        random: draws random numbers.
        view: returns views of an argument and computes nothing.
        note: in words, for describe().
        flop: multiplications and additions of a convolution, where that is known.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    outs: list[Tensor] = field(default_factory=list)
    writes: list[Tensor] = field(default_factory=list)
    random: bool = False
    view: bool = False
    note: str = ""
    flop: int | None = None

    @property
    def name(self) -> str:
        """The operator's name."""
        if isinstance(self.func, OpOverload):
            return str(self.func)
        return getattr(self.func, "__name__", str(self.func))

    def reads(self) -> list[Tensor]:
        """Tensors among the arguments, also those that are written."""
        return tensors(self.args, self.kwargs)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Take ``new`` where ``old`` was an argument."""
        swap = tree_map_only(Tensor, lambda t: new if t is old else t, (self.args, self.kwargs))
        self.args, self.kwargs = swap


@dataclass
class Program:
    """What :func:`record` found.

    Attributes:
        nodes: the calls in order.
        inputs: the static tensors that inputs are copied into.
        outputs: what the function returned, with tensors of the recorded run.
        dynamic: memory whose contents depend on inputs or random numbers (see ``storage_of``).
        folded: calls that were computed once and for all.
        keep: all tensors of the run, so that none's identity is used again.
    """

    nodes: list[Node]
    inputs: list[Tensor]
    outputs: Any
    dynamic: set[int]
    folded: int
    keep: list[Any]

    def is_dynamic(self, t: Tensor) -> bool:
        """Whether the contents of ``t`` are known at run time only."""
        return storage_of(t) in self.dynamic


class Recorder(TorchDispatchMode):
    """Writes down every call that depends on ``inputs`` or on random numbers.

    Args:
        inputs: tensors that will have other contents in every run.
        protected: names of tensors that must not be written: parameters and buffers.
        channels_last: convolve in channels_last: images are turned where they are not so already.
    """

    def __init__(self, inputs: Sequence[Tensor], protected: dict[int, str], channels_last: bool) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.dynamic = {storage_of(t) for t in inputs}
        self.protected = protected
        self.channels_last = channels_last
        self.uninitialised: set[int] = set()
        self.keep: list[Any] = [*inputs]
        self.folded = 0
        self.open = not interpreting()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors(args, kwargs)
        cpu = all(t.device.type == "cpu" for t in given)
        if func.namespace == "gankern" and cpu and self.open:
            lowered = self.lowered(func, args, kwargs)
            if lowered is not NotImplemented:
                return lowered
            if self.channels_last and func._schema.name in ("gankern::conv2d", "gankern::conv_transpose2d"):
                with self:
                    args = (turned(args[0]), *args[1:])
            with self:
                return func.redispatch(DispatchKeySet(DispatchKey.CPU), *args, **kwargs)
        if self.channels_last and cpu and func in CONVOLUTIONS and given[0].dim() == 4:
            with self:
                args = (turned(args[0]), *args[1:])
        return self.call(func, args, kwargs)

    def lowered(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator in a form for inference; NotImplemented where there is none."""
        from gankern.inference import _styles

        if self.channels_last and not kwargs and func is torch.ops.gankern.modulated_conv2d_inference.default:
            return _styles.lower(self, *args)
        return NotImplemented

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], note: str = "") -> Any:
        """Run, and write down if need be."""
        given = tensors(args, kwargs)
        random = torch.Tag.nondeterministic_seeded in func.tags
        written = _written(func, args, kwargs)
        dynamic = random or any(storage_of(t) in self.dynamic for t in given)
        if dynamic:
            self.before_write(func, written)
        result = func(*args, **kwargs)
        outs = tensors(result)
        self.keep += [result, args, kwargs]
        if func in UNINITIALISED:
            self.uninitialised |= {storage_of(t) for t in outs}
            return result
        if not dynamic:
            self.before_write(func, written)
            self.uninitialised -= {storage_of(t) for t in written}
            self.folded += 1
            return result
        if not outs and not written:
            raise ValueError(
                f"compile_generator: control flow that depends on data cannot be compiled: {func} made {result!r} of tensors "
                "that are known at run time only"
            )
        if outs and not written and not random and all(any(t is g for g in given) for t in outs):
            return result  # nothing happened
        inside = {storage_of(t) for t in given}
        view = bool(outs) and not written and not random and all(storage_of(t) in inside for t in outs)
        self.dynamic |= {storage_of(t) for t in (*outs, *written)}
        self.uninitialised -= {storage_of(t) for t in written}
        self.nodes.append(Node(func, args, kwargs, outs, written, random, view, note))
        return result

    def before_write(self, func: Any, written: Sequence[Tensor]) -> None:
        """Refuse writes into the network's own tensors; note what other memory held before the first run."""
        for t in written:
            where = storage_of(t)
            if where in self.protected:
                raise ValueError(
                    f"compile_generator: the network writes into its own {self.protected[where]!r} ({func}): such a step "
                    "belongs to training and cannot be compiled"
                )
            if where not in self.dynamic and where not in self.uninitialised:
                whole = t.as_strided((_numel(t),), (1,), 0)
                before = whole.clone()
                self.keep += [whole, before]
                self.nodes.append(Node(aten.copy_.default, (whole, before), {}, [whole], [whole], note="initial contents"))


def _numel(t: Tensor) -> int:
    return t.untyped_storage().nbytes() // t.element_size()


def turned(x: Tensor) -> Tensor:
    """``x`` in channels_last; itself where it is so."""
    if x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return aten.clone.default(x, memory_format=torch.channels_last)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operator writes into, by its schema."""
    found: list[Tensor] = []
    if func in _UNDECLARED and args[5]:
        found += tensors(args[3:5])
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        found += tensors(value)
    return found


@contextmanager
def plain() -> Iterator[None]:
    """No autograd, no autocast."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        if torch.cuda.is_available():
            with torch.autocast("cuda", enabled=False):
                yield
        else:
            yield


def record(
    function: Callable[..., Any], inputs: Sequence[Tensor], protected: dict[int, str], channels_last: bool = True
) -> Program:
    """Run ``function(*inputs)`` once and write down what depends on its inputs.

    Args:
        function: tensors in, tensors out.
        inputs: examples; later runs have others of the same shapes in the same memory.
        protected: names by ``storage_of`` of tensors that it must not write.
        channels_last: let convolutions on the CPU run in channels_last. Default True.

    Raises:
        ValueError: control flow that depends on data; a write into a protected tensor.
    """
    recorder = Recorder(inputs, protected, channels_last)
    with plain(), recording(), recorder:
        outputs = function(*inputs)
    return Program(recorder.nodes, list(inputs), outputs, recorder.dynamic, recorder.folded, recorder.keep)


__all__ = ["Node", "Program", "Recorder", "aten", "plain", "record", "storage_of", "tensors", "turned"]
