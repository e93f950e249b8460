"""Which rows there are: every op's samples tagged 'quick' or 'full', times dtype, layout, direction and backend.

What each mode measures is data (:data:`SETTINGS`). 'best' is the backend that dispatch takes, so that rows of different
machines and builds have the same name; every other kernel that can run on the device gets a row under its own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._dispatch import OpSpec
from gankern._samples import LAYOUTS, Sample
from gankern.bench.common import SHORT_DIRECTIONS, SHORT_DTYPES, SHORT_LAYOUTS, BenchError
from gankern.bench.inference import INFERENCE
from gankern.bench.metrics import METRICS
from gankern.bench.models import MODELS
from gankern.bench.networks import SPECS as NETWORKS
from gankern.bench.steps import STEPS

MODES = ("quick", "full")
RUNS = {"quick": "quick", "smoke": "quick", "full": "full", "goals": "full"}
"""The kinds of runs, and the mode whose rows they measure: 'smoke' with one round each, 'goals' those with a goal alone."""
DIRECTIONS = ("forward", "backward", "double_backward")
ORDER = {direction: order for order, direction in enumerate(DIRECTIONS)}
BEST = "best"

_ALL = tuple(DIRECTIONS)

WHOLE = frozenset({*MODELS, *NETWORKS, *INFERENCE})
"""Rows of whole networks, which bring their own comparisons."""

QUICK_INFERENCE = ("dcgan", "cyclegan", "pix2pix", "r3gan", "stylegan2", "stylegan3")
"""Families whose compiled generators are in quick runs: compiling and exporting one takes seconds."""

# (mode, device kind) -> (dtype, layout, directions). The quick CPU list is short because 2 cores measure all ops in 5 minutes.
SETTINGS: dict[tuple[str, str], tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    ("quick", "cpu"): (
        ("float32", "nchw", _ALL),
        ("float32", "channels_last", ("forward",)),
        ("bfloat16", "nchw", ("forward",)),
    ),
    ("quick", "cuda"): (
        ("float32", "nchw", _ALL),
        ("float32", "channels_last", ("forward",)),
        ("bfloat16", "nchw", ("forward",)),
        ("bfloat16", "channels_last", _ALL),
    ),
    **{
        ("full", kind): (
            *((dtype, layout, _ALL) for dtype in ("float32", "bfloat16") for layout in LAYOUTS),
            ("float16", "nchw", ("forward", "backward")),
            ("float16", "channels_last", ("forward", "backward")),
            ("float64", "nchw", ("forward", "backward")),
        )
        for kind in ("cpu", "cuda")
    },
}


@dataclass(frozen=True)
class Row:
    """One row: what is measured. ``compile``: whether torch.compile of the reference takes part."""

    op: str
    sample: str
    dtype: str
    layout: str
    direction: str
    backend: str = BEST
    compile: bool = False

    @property
    def key(self) -> str:
        """Unique name, the same on every machine."""
        return "-".join((self.op, self.sample, self.dtype, self.layout, self.direction, self.backend))

    @property
    def title(self) -> str:
        """Short name for progress lines and plots."""
        parts = [self.sample, SHORT_DTYPES[self.dtype], SHORT_LAYOUTS[self.layout], SHORT_DIRECTIONS[self.direction]]
        return " ".join(parts if self.backend == BEST else [*parts, f"[{self.backend}]"])


@dataclass(frozen=True)
class Facts:
    """What is known of a row's call before it runs: sizes, and what dispatch says.

    ``outputs`` holds (shape, strides, dtype) of every output; ``gradients`` the numbers of elements of the
    differentiable inputs.
    """

    shape: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    gradients: tuple[int, ...]
    taken: str
    reasons: tuple[tuple[str, str | None], ...]


def known() -> dict[str, OpSpec]:
    """Everything that has rows: the registered ops, training steps, whole models and metrics."""
    return {**_dispatch.OPS, **STEPS, **METRICS}


def specs(ops: Sequence[str] | None = None) -> list[OpSpec]:
    """All ops and steps, or those named.

    Raises:
        BenchError: a name is not an op.
    """
    for name in ops or ():
        if name not in known():
            raise BenchError(f"unknown op {name!r}; known: {', '.join(sorted(known()))}")
    return [spec for spec in known().values() if not ops or spec.name in ops]


def find(row: Row) -> tuple[OpSpec, Sample]:
    """The op and the sample of a row."""
    spec = known()[row.op]
    return spec, next(sample for sample in spec.samples if sample.name == row.sample)


def selections(mode: str, kind: str, ops: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of the best backend on a kind of device ('cpu' or 'cuda'); needs no such device."""
    for spec in specs(ops):
        order = 2 if spec.derivative_order is None else spec.derivative_order
        compiled = False
        for sample in spec.samples:
            if not {mode, f"{mode}_{kind}"} & sample.tags:
                continue
            if mode == "quick" and spec.name in INFERENCE and sample.name not in QUICK_INFERENCE:
                continue
            for dtype, layout, directions in SETTINGS[mode, kind]:
                if layout not in sample.layouts or getattr(torch, dtype) not in sample.dtypes:
                    continue
                for direction in directions:
                    if ORDER[direction] > (order if sample.differentiable else 0):
                        continue
                    # Compiling costs seconds: quick runs show it once per op. Whole models cost minutes, metrics are loops.
                    compiling = spec.name not in WHOLE and spec.name not in METRICS and (mode == "full" or not compiled)
                    compiling = compiling or spec.name in NETWORKS  # which know best what to compile
                    yield Row(spec.name, sample.name, dtype, layout, direction, compile=compiling)
                    compiled = True


def _has_goal(row: Row, kind: str) -> bool:
    from gankern.bench.goals import GOALS  # which knows rows

    return any(goal.matches(row, kind) for goal in GOALS)


def plan(mode: str, device: torch.device, ops: Sequence[str] | None = None) -> list[Row]:
    """All rows of a run (:data:`RUNS`) on a device, in the order in which they are measured.

    Beside 'best': every other kernel that can run, and in 'full' the reference called through the operator in float32 (what
    the dispatcher itself costs: its eager contender is the same code called directly).
    """
    rows = []
    goals_alone, mode = mode == "goals", RUNS[mode]
    for row in selections(mode, device.type, ops):
        if goals_alone:
            if _has_goal(row, device.type):
                rows.append(replace(row, compile=False))  # no goal is about it
            continue
        rows.append(row)
        facts = look(row, device)
        dispatched = mode == "full" and row.direction == "forward" and row.dtype == "float32"
        for name, reason in facts.reasons:
            if reason is None and name != facts.taken and (name != "reference" or dispatched):
                rows.append(Row(row.op, row.sample, row.dtype, row.layout, row.direction, name))
    return rows


@cache
def _look(op: str, sample_name: str, dtype: str, layout: str, device: str) -> Facts:
    spec, sample = find(Row(op, sample_name, dtype, layout, "forward"))

    def facts() -> Facts:
        kwargs = sample.inputs(getattr(torch, dtype), layout, device)
        reasons: tuple[tuple[str, str | None], ...] = ()
        taken = "composition"
        if spec.table is not None:
            prepared = spec.prepare(**kwargs)
            reasons = tuple((row.name, row.can_run(*prepared)) for row in spec.table.rows)
            taken = next((name for name, reason in reasons if reason is None), "none")
        first = next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        with torch.no_grad():
            outputs = tensors(spec.reference(**kwargs))
        return Facts(
            shape=tuple(first.shape) if first is not None else (),
            outputs=tuple((tuple(y.shape), tuple(y.stride()), y.dtype) for y in outputs),
            gradients=tuple(leaf.numel() for leaf in leaves(kwargs, sample.differentiable)),
            taken=taken,
            reasons=reasons,
        )

    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        # Fake tensors have sizes and devices but no memory: a plan of hundreds of rows is made in a second.
        with FakeTensorMode():
            return facts()
    except Exception:  # a sample or an op that reads values: look at the real thing instead
        return facts()


def look(row: Row, device: torch.device) -> Facts:
    """Sizes and dispatch reasons of a row, without running it where possible.

    Training steps, networks and metrics have no kernel and no traffic to be compared with a copy's: nothing is looked at.
    """
    if row.op in STEPS or row.op in METRICS:
        return Facts((), (), (), "composition", ())
    return _look(row.op, row.sample, row.dtype, row.layout, str(device))


def leaves(kwargs: dict[str, Any], differentiable: Sequence[str]) -> list[Tensor]:
    """The differentiable inputs that a call really has (an optional argument may be None)."""
    return [kwargs[name] for name in differentiable if isinstance(kwargs.get(name), Tensor)]


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an op's result."""
    if isinstance(value, Tensor):
        return [value]
    return [v for v in value if isinstance(v, Tensor)]
