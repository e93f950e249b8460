"""A recorded program as one flat Python function: memory laid out beforehand, no dispatch of ours, no validation, no loop.

Tensors of the run keep their shapes and strides but move into one arena: memory is used again after the last use of what it
held. A call with an ``out=`` form writes into its place there; views are made once. What PyTorch only hands out fresh (oneDNN's
convolutions) lives in a local variable until its last use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map, tree_map_only

from gankern.inference._record import Node, Program, aten, storage_of, tensors

ALIGNMENT = 128
"""Bytes: two cache lines, so that no line is shared."""


def _outs() -> dict[Any, Callable[..., Any]]:
    """Operators whose ``out=`` form computes in place; where they have them, by PyTorch's own bindings, the fastest calls."""
    table: dict[Any, Callable[..., Any]] = {
        aten.mm.default: torch.mm,
        aten.addmm.default: torch.addmm,
        aten.bmm.default: torch.bmm,
        aten.baddbmm.default: torch.baddbmm,
        aten.add.Tensor: torch.add,
        aten.sub.Tensor: torch.sub,
        aten.mul.Tensor: torch.mul,
        aten.div.Tensor: torch.div,
        aten.addcmul.default: torch.addcmul,
        aten.addcdiv.default: torch.addcdiv,
        aten.rsqrt.default: torch.rsqrt,
        aten.sqrt.default: torch.sqrt,
        aten.neg.default: torch.neg,
        aten.sin.default: torch.sin,
        aten.cos.default: torch.cos,
        aten.exp.default: torch.exp,
        aten.tanh.default: torch.tanh,
        aten.sigmoid.default: torch.sigmoid,
        aten.cat.default: torch.cat,
        aten.stack.default: torch.stack,
        aten.matmul.default: torch.matmul,
        aten.square.default: torch.square,
        aten.sum.dim_IntList: torch.sum,
        aten.linalg_vector_norm.default: torch.linalg.vector_norm,
        aten.clamp.default: torch.clamp,
        aten._softmax.default: aten._softmax.out,
        aten.max_pool2d_with_indices.default: aten.max_pool2d_with_indices.out,
        aten.reflection_pad2d.default: aten.reflection_pad2d.out,
        aten.upsample_nearest2d.default: aten.upsample_nearest2d.out,
        aten.leaky_relu.default: aten.leaky_relu.out,
        aten.softplus.default: aten.softplus.out,
        aten.elu.default: aten.elu.out,
        aten.silu.default: aten.silu.out,
        aten.gelu.default: aten.gelu.out,
        aten.avg_pool2d.default: aten.avg_pool2d.out,
    }
    return table


OUT_FORMS = _outs()
COPIES = {aten.clone.default, aten._to_copy.default, aten.contiguous.default}


def _dense(t: Tensor) -> bool:
    """Whether ``t`` fills its memory without gaps or overlaps: what out= must be given."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(t.stride(), t.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _rewritten(node: Node) -> Node:
    """``node`` with its output as an argument, where there is such a form; itself where not."""
    if node.view or node.writes or not node.outs or not all(_dense(t) for t in node.outs):
        return node
    func, outs = node.func, node.outs
    if func in OUT_FORMS:
        target = outs[0] if len(outs) == 1 else tuple(outs)
        if func is aten.max_pool2d_with_indices.default:
            return Node(OUT_FORMS[func], node.args, {**node.kwargs, "out": outs[0], "indices": outs[1]}, outs, outs)
        return Node(OUT_FORMS[func], node.args, {**node.kwargs, "out": target}, outs, list(outs), note=node.note)
    if func is aten.rsub.Scalar and len(node.args) == 2 and not node.kwargs and node.args[0].is_floating_point():
        # A number of float64 without dimensions changes no dtype, and is not rounded before its time.
        number = torch.tensor(node.args[1], dtype=torch.float64)
        return Node(torch.sub, (number, node.args[0]), {"out": outs[0]}, outs, list(outs), note=node.note)
    if func in COPIES:
        return Node(aten.copy_.default, (outs[0], node.args[0]), {}, outs, list(outs), note=node.note)
    if func is aten.embedding.default and node.args[1].dim() == 1:
        weight, index = node.args[:2]
        return Node(torch.index_select, (weight, 0, index), {"out": outs[0]}, outs, list(outs))
    if func in (aten.randn.default, aten.randn_like.default) and node.kwargs.get("generator") is None:
        # randn is normal_ on fresh memory: the same numbers for the same seed.
        return Node(aten.normal_.default, (outs[0],), {}, outs, list(outs), random=True)
    return node


@dataclass
class Convolution:
    """One convolution of a plan by itself: shape, strides and dtype of its images, and the rest of its call."""

    func: Callable[..., Any]
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    settings: dict[str, Any]

    def call(self) -> Callable[[], Tensor]:
        """``call()()`` convolves random images of its own, with the plan's weight."""
        device = next((t.device for t in (*self.before, *self.after) if isinstance(t, Tensor)), torch.device("cpu"))
        images = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device).normal_()
        own = {k: torch.empty_like(v) if isinstance(v, Tensor) else v for k, v in self.settings.items()}
        return lambda: self.func(*self.before, images, *self.after, **own)


@dataclass
class Plan:
    """What runs.

    Attributes:
        run: ``run()`` computes from the static inputs; returns the leaves of the outputs.
        inputs: the static inputs.
        outputs: the structure of the outputs; leaves are indices, or constants that are no tensors.
        single: the output is one tensor.
        fresh: for each output, whether it is a tensor that nothing else holds.
        source: of ``run``.
        steps: calls in it.
        folded: calls that were made once, when compiling.
        arena_bytes: static memory for what is computed.
        constant_bytes: memory of constants: weights.
        local_bytes: the largest sum of tensors that live in local variables at a time.
        conv_flop: floating-point operations of the convolutions.
        notes: one line for each step.
        shapes: of the tensors in the output.
        convolutions: each of them, to be run by itself.
    """

    run: Callable[[], tuple[Tensor, ...]]
    inputs: list[Tensor]
    outputs: Any
    single: bool
    fresh: list[bool]
    source: str
    steps: int
    folded: int
    arena_bytes: int
    constant_bytes: int
    local_bytes: int
    conv_flop: int
    notes: list[str] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    convolutions: list[Convolution] = field(default_factory=list)


@dataclass
class _Block:
    """Memory that one storage of the run needs: [first, last] are indices of calls."""

    key: int
    size: int
    first: int
    last: int
    offset: int = 0


def _place(blocks: list[_Block]) -> int:
    """Offsets for all blocks, largest first, each where it fits among those alive at the same time; gives the total."""
    placed: list[_Block] = []
    total = 0
    for block in sorted(blocks, key=lambda b: -b.size):
        at = 0
        for other in sorted((o for o in placed if o.first <= block.last and block.first <= o.last), key=lambda o: o.offset):
            if at + block.size <= other.offset:
                break
            at = max(at, other.offset + other.size)
        block.offset = at
        placed.append(block)
        total = max(total, at + block.size)
    return total


def alive(program: Program) -> list[Node]:
    """The nodes that outputs depend on, and those that draw random numbers, which must be drawn in their order."""
    needed = {storage_of(t) for t in tensors(program.outputs)}
    kept: list[Node] = []
    for node in reversed(program.nodes):
        touched = {storage_of(t) for t in (*node.outs, *node.writes)}
        if node.random or touched & needed:
            kept.append(node)
            needed |= {storage_of(t) for t in node.reads()}
    return kept[::-1]


def divided(nodes: list[Node], stops: Callable[[Node], bool]) -> tuple[list[Node], list[Node], set[int]]:
    """Calls that can go before all that ``stops``, in their order; the others; the memory that those make.

    A call stays where it is if it depends on one that stays, writes what one that stays before it touches, or draws random
    numbers behind one that stays and does so too.
    """
    first: list[Node] = []
    rest: list[Node] = []
    late: set[int] = set()  # memory that calls which stay make
    touched: set[int] = set()  # memory that they look at
    random = False
    for node in nodes:
        reads = {storage_of(t) for t in node.reads()}
        makes = {storage_of(t) for t in (*node.outs, *node.writes)}
        stays = bool(stops(node) or reads & late or makes & touched or (node.random and random))
        if stays:
            late |= makes
            touched |= reads | makes
            random = random or node.random
        (rest if stays else first).append(node)
    return first, rest, late


def early(nodes: list[Node]) -> list[Node]:
    """What does not wait for a convolution first, in its order: styles and noise, small calls that run from warm caches."""
    first, rest, _ = divided(nodes, lambda node: convolution_flop(node) > 0)
    return [*first, *rest]


class Planner:
    """Makes a :class:`Plan` of a :class:`Program`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = early([_rewritten(node) for node in alive(program)])
        self.local: set[int] = set()  # storages that calls hand out fresh
        for node in self.nodes:
            if not node.view and not node.writes:
                inside = {storage_of(t) for t in node.reads()}
                self.local |= {storage_of(t) for t in node.outs} - inside
        self.device = next((t.device for t in (*program.inputs, *tensors(program.outputs))), torch.device("cpu"))
        self.static: dict[int, Tensor] = {}  # id of a tensor of the run to its place
        self.names: dict[int, str] = {}
        self.bound: dict[str, Any] = {}
        self.seen: dict[Any, str] = {}

    def plan(self) -> Plan:
        """Lay out memory and write the function."""
        arena_bytes = self.lay_out()
        lines, notes = self.lines()
        outputs = [t for t in tensors(self.program.outputs)]
        results = ", ".join(self.expression(t) for t in outputs)
        body = "\n    ".join([*lines, f"return ({results}{',' if outputs else ''})"])
        source = f"def run():\n    {body}\n"
        parameters = ", ".join(f"{name}={name}" for name in self.bound)
        made: dict[str, Any] = dict(self.bound)
        # Constants as default arguments: locals are the fastest names Python has.
        exec(compile(source.replace("def run()", f"def run({parameters})"), "<compiled generator>", "exec"), made)
        counter = iter(range(len(outputs)))
        structure = tree_map(lambda leaf: _Leaf(next(counter)) if isinstance(leaf, Tensor) else leaf, self.program.outputs)
        # Every tensor of the run is a constant, lives in the arena or in a local variable.
        own = storage_of(self.arena)
        constants = {storage_of(t): _bytes(t) for t in self.bound.values() if isinstance(t, Tensor) and storage_of(t) != own}
        flop = sum(convolution_flop(node) for node in self.nodes)
        holders = [storage_of(t) for t in outputs]
        fresh = [storage_of(t) in self.local and holders.count(storage_of(t)) == 1 and _dense(t) for t in outputs]
        return Plan(
            run=made["run"],
            inputs=[self.place(t) for t in self.program.inputs],
            outputs=structure,
            single=isinstance(structure, _Leaf),
            fresh=fresh,
            source=source,
            steps=len(lines),
            folded=self.program.folded,
            arena_bytes=arena_bytes,
            constant_bytes=sum(constants.values()),
            local_bytes=self.local_bytes(),
            conv_flop=flop,
            notes=notes,
            shapes=[t.shape for t in outputs],
            convolutions=[self.alone(node) for node in self.nodes if convolution_flop(node)],
        )

    def alone(self, node: Node) -> Convolution:
        """A convolution by itself."""
        at = next(i for i, a in enumerate(node.args) if isinstance(a, Tensor) and self.program.is_dynamic(a))
        x = node.args[at]
        settings = {k: self.place(v) if isinstance(v, Tensor) else v for k, v in node.kwargs.items()}
        return Convolution(node.func, x.shape, x.stride(), x.dtype, tuple(node.args[:at]), tuple(node.args[at + 1 :]), settings)

    # ---- memory ------------------------------------------------------------------------------------------------------------
    def lay_out(self) -> int:
        """Places for all static memory; gives its size."""
        blocks: dict[int, _Block] = {}
        end = len(self.nodes)

        def use(t: Tensor, at: int) -> None:
            key = storage_of(t)
            if key in self.local or not self.program.is_dynamic(t) or t.device != self.device:
                return  # what lives elsewhere stays where it was
            size = -(-t.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
            block = blocks.setdefault(key, _Block(key, size, at, at))
            block.last = max(block.last, at)

        for t in self.program.inputs:
            use(t, 0)
        for i, node in enumerate(self.nodes):
            for t in (*node.reads(), *node.outs):
                use(t, i)
        for t in tensors(self.program.outputs):
            use(t, end)
        total = _place(list(blocks.values()))
        self.arena = torch.empty(total + ALIGNMENT, dtype=torch.uint8, device=self.device)
        self.start = -self.arena.data_ptr() % ALIGNMENT
        self.blocks = blocks
        return total

    def place(self, t: Tensor) -> Tensor:
        """The tensor that stands for ``t`` at run time: in the arena, or ``t`` itself if it is a constant."""
        key = storage_of(t)
        if key not in self.blocks:
            return t
        if id(t) not in self.static:
            block = self.blocks[key]
            begin = self.start + block.offset
            memory = self.arena[begin : begin + t.untyped_storage().nbytes()].view(t.dtype)
            self.static[id(t)] = memory.as_strided(t.shape, t.stride(), memory.storage_offset() + t.storage_offset())
        return self.static[id(t)]

    def local_bytes(self) -> int:
        """The most that local variables hold at a time."""
        spans: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for t in (*node.reads(), *node.outs):
                key = storage_of(t)
                if key in self.local:
                    span = spans.setdefault(key, [i, i, t.untyped_storage().nbytes()])
                    span[1] = i
        return max((sum(s[2] for s in spans.values() if s[0] <= i <= s[1]) for i in range(len(self.nodes))), default=0)

    # ---- the function ------------------------------------------------------------------------------------------------------
    def lines(self) -> tuple[list[str], list[str]]:
        """One statement for each call; names of local variables are dropped after their last use."""
        last: dict[int, int] = {}
        kept = {storage_of(t) for t in tensors(self.program.outputs)}
        holders: dict[int, set[str]] = {}
        for i, node in enumerate(self.nodes):
            for t in (*node.reads(), *node.outs):
                if storage_of(t) in self.local:
                    last[storage_of(t)] = i
        lines: list[str] = []
        notes: list[str] = []
        for i, node in enumerate(self.nodes):
            if node.view and not any(storage_of(t) in self.local for t in node.outs):
                continue
            call = self.call(node)
            fresh = [t for t in node.outs if storage_of(t) in self.local and id(t) not in self.names]
            if fresh and isinstance(node.outs, list):
                targets = []
                for t in node.outs:
                    name = self.names.setdefault(id(t), f"v{len(self.names)}")
                    holders.setdefault(storage_of(t), set()).add(name)
                    targets.append(name)
                many = len(node.outs) > 1 or _returns_list(node)
                call = f"{', '.join(targets)}{',' if many and len(targets) == 1 else ''} = {call}"
            dropped = sorted(n for key, at in last.items() if at == i and key not in kept for n in holders.get(key, ()))
            if dropped:
                call += "; " + " = ".join(dropped) + " = None"
            lines.append(call)
            shapes = ", ".join(str(list(t.shape)) for t in (node.outs or node.writes))
            notes.append(f"{node.name} -> {shapes}" + (f"  ({node.note})" if node.note else ""))
        return lines, notes

    def call(self, node: Node) -> str:
        func = node.func._op if isinstance(node.func, OpOverload) else node.func
        parts = [self.expression(a) for a in node.args]
        parts += [f"{k}={self.expression(v)}" for k, v in node.kwargs.items()]
        return f"{self.bind(func, 'f')}({', '.join(parts)})"

    def expression(self, value: Any) -> str:
        """Python for an argument."""
        if isinstance(value, Tensor):
            if storage_of(value) in self.local:
                return self.names[id(value)]
            return self.bind(self.place(value), "t")
        if value is None or isinstance(value, (bool, int, str)):
            return repr(value)
        if isinstance(value, float) and value == value and abs(value) != float("inf"):
            return repr(value)
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self.expression(v) for v in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
        return self.bind(value, "k")

    def bind(self, value: Any, prefix: str) -> str:
        """A name for a constant."""
        key = id(value)
        if key not in self.seen:
            name = f"{prefix}{len(self.bound)}"
            self.seen[key], self.bound[name] = name, value
        return self.seen[key]


def _bytes(t: Tensor) -> int:
    return t.untyped_storage().nbytes() if t.layout == torch.strided else t.numel() * t.element_size()


@dataclass
class _Leaf:
    index: int


def restore(structure: Any, leaves: list[Tensor]) -> Any:
    """The outputs, from their leaves."""
    return tree_map_only(_Leaf, lambda leaf: leaves[leaf.index], structure)


def _returns_list(node: Node) -> bool:
    if not isinstance(node.func, OpOverload):
        return False
    returns = node.func._schema.returns
    return len(returns) > 1 or (len(returns) == 1 and "[]" in str(returns[0].type))


def convolution_flop(node: Node) -> int:
    """Multiplications and additions of a convolution; 0 of other calls."""
    name = node.name
    if node.flop is not None:
        return node.flop
    if "convolution" not in name or not node.outs:
        return 0
    x, w, y = node.args[0], node.args[1], node.outs[0]
    transposed = len(node.args) > 6 and node.args[6] is True
    positions = (x if transposed else y).shape[2:].numel()
    return 2 * x.shape[0] * positions * w.numel()


__all__ = ["Plan", "Planner", "convolution_flop", "restore"]
