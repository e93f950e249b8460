"""The commands of a row: ours, the eager reference, torch.compile of the reference, the op's extras, and a copy.

Every command runs the whole direction, end to end:

- forward: ``op(**inputs)`` without autograd;
- backward: forward, then the gradients of the differentiable inputs for a given cotangent;
- double_backward: forward, first gradients with a graph, their squared norm, and its gradients in the inputs and the
  cotangent (what a gradient penalty such as R1 costs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gankern._dispatch import use_backend
from gankern.bench import rows
from gankern.bench.extras import EXTRAS
from gankern.bench.models import MODELS, whole_gradients
from gankern.bench.networks import SPECS as NETWORKS
from gankern.bench.rows import BEST, Facts, Row
from gankern.bench.timing import Call, Contender
from gankern.testing import in_float64

OURS, EAGER, COMPILE, COPY, WARM_COPY = "ours", "eager", "compile", "copy", "warm_copy"

# Largest relative distance (2-norm) of ours from eager that is not called wrong. This guards the benchmark against timing
# nonsense; the tests hold the kernels to far less. Eager convolutions on CUDA may use TF32.
AGREEMENT = {
    ("float64", "cpu"): 1e-10,
    ("float32", "cpu"): 1e-4,
    ("float64", "cuda"): 1e-10,
    ("float32", "cuda"): 5e-3,
    **{("float16", kind): 1e-2 for kind in ("cpu", "cuda")},
    **{("bfloat16", kind): 5e-2 for kind in ("cpu", "cuda")},
}

# In float32, rounding decides on which side of a rectifier's kink a value near zero falls, and a gradient sees the other slope:
# one pixel in 10^5 moves its norm by 10^-3. Both sides are then off by about as much (seen: 10^-3 in filtered_lrelu, 2 10^-3 in
# penalised steps, whose second derivatives are made of slopes). Ours may be off the float64 result by ROUNDING_RATIO of what
# eager is off, as long as that is within KINKS of what is allowed; beyond it eager is no yardstick.
#
# Steps of networks are judged by the norm of their gradients first and, where that differs, by these themselves, behind dozens
# of rectifiers in a row: eager was seen off by 7 10^-3 (NETWORK_KINKS), and one pixel at a kink puts either side four times as
# far off as the other, so that ours may in any case be off by KINKS of what is allowed.
ROUNDING_RATIO, KINKS, NETWORK_KINKS = 2.0, 30.0, 100.0


@lru_cache(maxsize=1)
def _inputs(op: str, sample: str, dtype: str, layout: str, device: torch.device) -> dict[str, Any]:
    """A sample's inputs, kept for the next row: rows that differ in direction or backend alone follow each other."""
    return rows.find(Row(op, sample, dtype, layout, "forward"))[1].inputs(getattr(torch, dtype), layout, device)


class Case:
    """A row with its inputs and its contenders on a device."""

    def __init__(self, row: Row, device: torch.device) -> None:
        self.row = row
        self.device = device
        self.spec, self.sample = rows.find(row)
        self.facts = rows.look(row, device)
        self.taken = self.facts.taken if row.backend == BEST else row.backend
        self.kwargs = _inputs(row.op, row.sample, row.dtype, row.layout, device)
        self.cotangents = cotangents(self.facts, device, row.direction) if row.direction != "forward" else []
        self._results: dict[str, list[Tensor | None]] = {}
        self.contenders = [Contender(OURS, self._ours()), Contender(EAGER, self._command(self.spec.reference))]
        if row.compile and row.op not in NETWORKS:
            self.contenders.append(Contender(COMPILE, self._command(self._compiled())))
        for name, call in EXTRAS.get(row.op, lambda *_: {})(row, self.kwargs).items():
            self.contenders.append(Contender(name, call))
        self.copied = 0
        if row.op in rows.STEPS or row.op in rows.METRICS:  # no kernel, whose traffic would be comparable with a copy's
            return
        copied, target = _copied(copy_bytes(self.facts, device.type), device)
        self.copied = copied.nbytes
        self.contenders.append(Contender(COPY, copied.clone))
        if target is not None:
            self.contenders.append(Contender(WARM_COPY, lambda: target.copy_(copied)))

    def _command(self, function: Callable[..., Any]) -> Call:
        return command(function, self.kwargs, self.sample.differentiable, self.row.direction, self.cotangents)

    def _ours(self) -> Call:
        run = self._command(self.spec.public)
        if self.row.backend == BEST:
            return run

        def forced() -> Any:
            with use_backend(self.row.backend):
                return run()

        return forced

    def _compiled(self) -> Callable[..., Any]:
        torch._dynamo.reset()  # earlier rows must not use up the limit of recompilations
        if hasattr(torch._dynamo.config, "trace_autograd_ops"):
            torch._dynamo.config.trace_autograd_ops = True  # a step with a penalty in one graph, where this torch can
        return torch.compile(self.spec.reference, dynamic=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first tensor."""
        first = next((v for v in self.kwargs.values() if isinstance(v, Tensor)), None)
        return self.facts.shape or (() if first is None else tuple(first.shape))

    @property
    def bytes(self) -> int:
        """Least memory traffic of the direction: see :func:`minimal_bytes`."""
        return minimal_bytes(self.sample.bytes, self.facts, getattr(torch, self.row.dtype).itemsize, self.row.direction)

    def seen(self, name: str, result: Any) -> None:
        """Keep the first results of ours and eager until they have been compared."""
        if name in (OURS, EAGER):
            self._results[name] = list(result)

    def disagreement(self) -> tuple[float | None, str | None, str]:
        """Relative distance of ours from eager, what is wrong with ours (None: nothing), and a note. Forgets the results.

        Where they differ, the reference in float64 decides: eager may be the one that is wrong, or rounding may have decided
        the kinks of rectifiers differently (:data:`KINKS`).
        """
        mine, theirs = self._results.pop(OURS, None), self._results.pop(EAGER, None)
        if mine is None or theirs is None:
            return None, None, ""
        error = distance(mine, theirs)
        allowed = AGREEMENT[self.row.dtype, self.device.type]
        if error <= allowed:
            return error, None, ""
        complaint = f"ours differs from eager by {error:.2g} of its norm, allowed {allowed:.0e}"
        if self.row.dtype == "float64":
            return error, complaint, ""
        network = self.row.op in MODELS or self.row.op in NETWORKS
        kinks = NETWORK_KINKS if network else KINKS
        with whole_gradients():
            if network:
                mine, theirs = (list(contender.call()) for contender in self.contenders[:2])
            truth = self._truth()
        own, others = distance(mine, truth), distance(theirs, truth)
        off = f"off by {others:.2g} of the norm of the float64 result, ours by {own:.1g}"
        if self.row.dtype == "float32" and others <= kinks * allowed:
            if own <= max(KINKS * allowed if network else allowed, ROUNDING_RATIO * others):
                return error, None, f"rounding at kinks: eager is {off}"
        elif own <= allowed < others:
            return error, None, f"eager is wrong: {off}"
        return error, f"{complaint}; eager is {off}", ""

    def _truth(self) -> list[Tensor | None]:
        given = [c.detach().double().requires_grad_(c.requires_grad) for c in self.cotangents]
        kwargs = in_float64(self.kwargs)
        with _NoiseOfFloat32():
            return list(command(self.spec.reference, kwargs, self.sample.differentiable, self.row.direction, given)())


class _NoiseOfFloat32(TorchFunctionMode):
    """Networks draw their noise as they go: here the float64 one gets the numbers that the float32 one got."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:  # inputs, which are drawn in float64 for all dtypes
            return function(*args, **kwargs)
        if function is torch.randn and kwargs.get("dtype") == torch.float64:
            return torch.randn(*args, **{**kwargs, "dtype": torch.float32}).double()
        if function is Tensor.normal_ and args[0].dtype == torch.float64:
            return args[0].copy_(torch.empty_like(args[0], dtype=torch.float32).normal_(*args[1:], **kwargs))
        return function(*args, **kwargs)


def copy_bytes(facts: Facts, kind: str) -> int:
    """Size of the copied tensor.

    CUDA: 512 MiB, far larger than any L2. CPU: as large as the op's output, between 16 and 256 MiB. What fresh memory costs
    there depends on its size (the C library keeps small pieces and returns large ones to the system, whose pages must
    then be mapped again at every call), so ours and the copy must ask for the same.
    """
    if kind == "cuda":
        return 512 * 2**20
    output = sum(_elements(shape) * dtype.itemsize for shape, _, dtype in facts.outputs)
    return min(max(output, 16 * 2**20), 256 * 2**20)


@lru_cache(maxsize=1)
def _copied(size: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Random bytes to copy; on the CPU also memory that is mapped already, the copy's limit without fresh memory."""
    copied = torch.empty(size, dtype=torch.uint8, device=device).random_()
    return copied, copied.clone() if device.type == "cpu" else None


def command(
    function: Callable[..., Any], kwargs: dict[str, Any], differentiable: Sequence[str], direction: str, given: Sequence[Tensor]
) -> Call:
    """The call that runs ``function`` in a direction and returns its tensors."""
    leaves = rows.leaves(kwargs, differentiable)

    def forward() -> list[Tensor | None]:
        with torch.no_grad():
            return [*rows.tensors(function(**kwargs))]

    def backward() -> list[Tensor | None]:
        outputs = rows.tensors(function(**kwargs))
        return [*torch.autograd.grad(outputs, leaves, given, allow_unused=True)]

    def double_backward() -> list[Tensor | None]:
        outputs = rows.tensors(function(**kwargs))
        first = torch.autograd.grad(outputs, leaves, given, create_graph=True, allow_unused=True)
        penalty: Any = sum(g.square().sum() for g in first if g is not None)
        return [*torch.autograd.grad(penalty, [*given, *leaves], allow_unused=True)]

    return {"forward": forward, "backward": backward, "double_backward": double_backward}[direction]


def cotangents(facts: Facts, device: torch.device, direction: str) -> list[Tensor]:
    """Random cotangents in the outputs' own shapes, strides and dtypes, with a gradient of their own for the second order."""
    generator = torch.Generator(device).manual_seed(1)
    made = []
    for shape, strides, dtype in facts.outputs:
        value = torch.empty_strided(shape, strides, dtype=dtype, device=device).normal_(generator=generator)
        made.append(value.requires_grad_(direction == "double_backward"))
    return made


def minimal_bytes(forward: Callable[[int], int], facts: Facts, itemsize: int, direction: str) -> int:
    """Least memory traffic of a direction; share of copy = (this / time) / (copy's bytes / copy's time).

    - forward: the sample's own count, every input read and every output written once;
    - backward (with its forward): that, plus cotangents read and input gradients written. Inputs or outputs that the
      formula of some ops needs again are not counted;
    - double_backward: that, plus the squared norm (gradients read, its gradient written) and the second pass (that
      gradient read, the cotangents' gradient written).
    """
    outputs = sum(_elements(shape) for shape, _, _ in facts.outputs) * itemsize
    gradients = sum(facts.gradients) * itemsize
    total = forward(itemsize)
    if direction != "forward":
        total += outputs + gradients
    if direction == "double_backward":
        total += 2 * gradients + gradients + outputs
    return total


def _elements(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def distance(mine: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> float:
    """Largest ||mine - theirs|| / ||theirs|| over pairs; infinite if shapes, presence or finiteness differ."""
    worst = 0.0
    if len(mine) != len(theirs):
        return float("inf")
    for a, b in zip(mine, theirs, strict=True):
        if a is None or b is None:
            # An absent gradient and one of zeros are the same.
            present = b if a is None else a
            if present is not None and bool(present.any()):
                return float("inf")
            continue
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            continue
        kind = torch.float64 if a.dtype == torch.float64 else torch.float32
        a, b = a.detach().to(kind), b.detach().to(kind)
        norm = float(torch.linalg.vector_norm(b))
        error = float(torch.linalg.vector_norm(a - b))
        share = error / norm if norm > 0 else (0.0 if error == 0 else float("inf"))
        worst = max(worst, share if share == share else float("inf"))
    return worst
