"""What modulated convolutions make of their styles, for all layers in one call.

A layer needs its styles times a gain, the demodulation of its output, or the weights of its RGB output: products of styles with
constants. While recording, :func:`launch` writes down one call of ``modulated_conv2d_factors`` for each layer; afterwards
:func:`merge` makes one of all whose styles are known before the first convolution. The kernel reads what to do from a table
(``csrc/modulated_conv2d/modulated_conv2d_params.h`` has the maths).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern._library import NATIVE
from gankern.inference._plan import COPIES, OUT_FORMS, convolution_flop, divided
from gankern.inference._record import Node, Program, Recorder, aten, storage_of, tensors

STYLES, SAMPLES, OUT = 0, 3, 4  # arguments of the kernel


class Job(NamedTuple):
    """A row of the kernel's table; places are in numbers from the beginning of a tensor."""

    demodulated: int
    normalised: int
    inputs: int
    outputs: int
    styles: int
    weights: int
    norms: int  # -1: none
    out: int
    stride: int  # of the styles' rows


@dataclass
class Wanted:
    """One product of styles [N, I] with ``weights`` [O, I]: factors [N, O, I], or, demodulated, [N, O]."""

    weights: Tensor
    demodulated: bool = False
    normalised: bool = False
    norms: Tensor | None = None


def operator() -> Any:
    """The native operator; None where the native library is missing, or older than it."""
    if NATIVE.reason("cpu", "modulated_conv2d_factors") is not None:
        return None
    return torch.ops.gankern_native.modulated_conv2d_factors_cpu.default


def launch(recorder: Recorder, styles: Tensor, wanted: Sequence[Wanted]) -> list[Tensor]:
    """Record one call; gives what was wanted, dense float32."""
    n, inputs = styles.shape
    jobs: list[Job] = []
    constants: list[Tensor] = []
    at = made = 0
    for each in wanted:
        outputs = each.weights.shape[0]
        norms = -1 if each.norms is None else at + each.weights.numel()
        jobs.append(Job(each.demodulated, each.normalised, inputs, outputs, 0, at, norms, made, inputs))
        constants += [t for t in (each.weights, each.norms) if t is not None]
        at = sum(t.numel() for t in constants)
        made += n * outputs * (1 if each.demodulated else inputs)
    weights = torch.cat([t.float().flatten() for t in constants])
    out = torch.empty(made, dtype=torch.float32)
    results = [
        out[j.out : j.out + n * j.outputs * (1 if j.demodulated else inputs)].view(
            (n, j.outputs) if j.demodulated else (n, j.outputs, inputs)
        )
        for j in jobs
    ]
    recorder.keep += [weights, out, results]
    recorder.uninitialised.add(storage_of(out))
    with recorder:
        operator()(styles.contiguous(), weights, torch.tensor(jobs), n, out)
    return results


# ---- all layers in one call ------------------------------------------------------------------------------------------------
@dataclass
class _Layer:
    """A recorded call: where its styles come from, and by what number they are multiplied on the way."""

    node: Node
    origin: Tensor
    factor: float

    @property
    def jobs(self) -> list[Job]:
        return [Job(*row) for row in self.node.args[2].tolist()]


def _scalar(node: Node) -> float | None:
    """The number that a call multiplies its first argument by; None if it does anything else."""
    if node.name not in ("aten.mul.Tensor", "aten.div.Tensor") or node.kwargs or len(node.args) != 2:
        return None
    number = node.args[1]
    if not isinstance(number, (int, float)) or isinstance(number, bool) or number == 0:
        return None
    return float(number) if node.name == "aten.mul.Tensor" else 1 / float(number)


def _layer(node: Node, makers: dict[int, Node], written: dict[int, int], places: dict[int, int]) -> _Layer:
    """Look through copies to float32, and through numbers that the kernel's constants can take."""
    layer = _Layer(node, node.args[STYLES], 1.0)
    linear = not any(row[0] or row[1] for row in node.args[2].tolist())
    x, factor = layer.origin, 1.0
    while id(x) in makers:
        maker = makers[id(x)]
        number = _scalar(maker) if linear else None
        if number is None and maker.func not in COPIES:
            break
        x, factor = maker.args[0], factor * (1.0 if number is None else number)
        if x.shape != layer.origin.shape or not x.is_floating_point() or (x.stride(1) != 1 and x.shape[1] != 1):
            break
        if written.get(storage_of(x), -1) > places[id(maker)]:
            break  # it is something else by now
        layer = _Layer(node, x, factor)
    return layer


def merge(program: Program) -> int:
    """One call of the kernel for all layers whose styles do not wait for a convolution; gives how many calls went away."""
    run = operator()
    calls = [n for n in program.nodes if n.func is run] if run is not None else []
    if not calls:
        return 0
    before = len(program.nodes)
    makers = {id(n.outs[0]): n for n in program.nodes if len(n.outs) == 1 and not n.writes and not n.view and not n.random}
    places = {id(n): i for i, n in enumerate(program.nodes)}
    written = {storage_of(t): i for i, n in enumerate(program.nodes) for t in (*n.outs, *n.writes) if not n.view}
    layers = [_layer(n, makers, written, places) for n in calls]
    first, rest, late = divided(program.nodes, lambda n: n.func is run or bool(convolution_flop(n)))
    movable = _movable(first, {storage_of(t) for t in (*program.inputs, *tensors(program.outputs))})
    sources: dict[int, list[_Layer]] = {}
    made: dict[int, list[Node]] = {}  # calls in place of one that was recorded
    moved: dict[int, tuple[Tensor, int]] = {}
    for layer in layers:
        # One launch has one number of samples.
        if storage_of(layer.origin) in late or layer.node.args[SAMPLES] != calls[0].args[SAMPLES]:
            made[id(layer.node)] = _launch(program, {storage_of(layer.origin): [layer]}, moved)
        else:
            sources.setdefault(storage_of(layer.origin), []).append(layer)
            made[id(layer.node)] = []
    together = {k: v for k, v in sources.items() if k in movable or v[0].origin.dtype != torch.float32}
    launches = [together] if together else []
    launches += [{k: v} for k, v in sources.items() if k not in together]
    early = [node for each in launches for node in _launch(program, each, moved)]
    program.nodes = [*first, *early, *(m for n in rest for m in made.get(id(n), [n]))]
    known: dict[int, Tensor] = {}
    for node in program.nodes:
        _relocate(node, moved, known)
    program.keep.append(known)
    return before - len(program.nodes)


def _movable(first: list[Node], fixed: set[int]) -> set[int]:
    """Float32 memory that calls of ``first`` make, in a form that can write anywhere."""
    found: set[int] = set()
    for node in first:
        for t in (*node.outs, *node.writes):
            free = node.view or node.writes or node.func in OUT_FORMS or node.func in COPIES
            (found if free and t.dtype == torch.float32 else fixed).add(storage_of(t))
    return found - fixed


def _launch(program: Program, sources: dict[int, list[_Layer]], moved: dict[int, tuple[Tensor, int]]) -> list[Node]:
    """One call for all layers of these sources, with copies before it where styles are not float32.

    ``moved``: where memory of the recorded run is from now on: a tensor, and from which of its numbers on.
    """
    wholes = {key: _whole(members[0].origin) for key, members in sources.items()}
    nodes: list[Node] = []
    starts: dict[int, int] = {}
    styles = next(iter(wholes.values()))
    if len(wholes) > 1 or styles.dtype != torch.float32:
        styles = torch.empty(sum(t.numel() for t in wholes.values()), dtype=torch.float32)
    begin = 0
    for key, whole in wholes.items():
        starts[key] = begin
        if whole.dtype != torch.float32:
            part = styles[begin : begin + whole.numel()]
            nodes.append(Node(aten.copy_.default, (part, whole), {}, [part], [part], note="styles in float32"))
        elif whole is not styles:
            moved[key] = styles, begin
        begin += whole.numel()
    layers = [(starts[key], layer) for key, members in sources.items() for layer in members]
    out = torch.empty(sum(layer.node.args[OUT].numel() for _, layer in layers), dtype=torch.float32)
    jobs: list[Job] = []
    constants: list[Tensor] = []
    at = made = 0
    for start, layer in layers:
        x, weights, own = layer.origin, layer.node.args[1], layer.node.args[OUT]
        for j in layer.jobs:
            norms = -1 if j.norms < 0 else at + j.norms
            place = start + int(x.storage_offset()) + j.styles
            jobs.append(
                j._replace(styles=place, stride=int(x.stride(0)), weights=at + j.weights, norms=norms, out=made + j.out)
            )
        constants.append(weights if layer.factor == 1 else weights * layer.factor)
        moved[storage_of(own)] = out, made
        at, made = at + weights.numel(), made + own.numel()
    demodulated = sum(j.demodulated for j in jobs)
    note = f"demodulation of {demodulated} layers, {len(jobs) - demodulated} products of styles"
    args = (styles, torch.cat(constants), torch.tensor(jobs), layers[0][1].node.args[SAMPLES], out)
    nodes.append(Node(operator(), args, {}, [], [out], note=note))
    program.keep += [wholes, nodes, args]
    program.dynamic |= {storage_of(styles), storage_of(out)}
    return nodes


def _whole(t: Tensor) -> Tensor:
    """All numbers of the memory that a tensor is in."""
    return t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)


def _relocate(node: Node, moved: dict[int, tuple[Tensor, int]], known: dict[int, Tensor]) -> None:
    """Let a call use memory where it is now."""

    def now(t: Tensor) -> Tensor:
        if t.layout != torch.strided or storage_of(t) not in moved:
            return t
        if id(t) not in known:
            target, start = moved[storage_of(t)]
            known[id(t)] = target.as_strided(t.shape, t.stride(), start + t.storage_offset())
        return known[id(t)]

    for t in node.reads():
        if now(t) is not t:
            node.replace(t, now(t))
    node.outs, node.writes = [now(t) for t in node.outs], [now(t) for t in node.writes]


__all__ = ["Job", "Wanted", "launch", "merge", "operator"]
