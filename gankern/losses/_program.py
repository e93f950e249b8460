"""Whether a critic qualifies for the merged gradient of ``merged.py``, and its forward pass layer by layer if it does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as _hooks
from torch.utils._pytree import tree_leaves

from gankern import ops
from gankern.losses import _rules
from gankern.losses._tape import Tape, Unfit, from_images

# ---- what a decision depends on ---------------------------------------------------------------------------------------------
_SCALARS = (bool, int, float, str, type(None))


def _attributes(module: nn.Module) -> tuple[Any, ...]:
    """Plain attributes by value, others by identity: what a trace has taken as constants."""
    found = []
    for name, value in module.__dict__.items():
        plain = type(value) in _SCALARS or (type(value) is tuple and all(type(v) in _SCALARS for v in value))
        found.append((name, value if plain else id(value)))
    return tuple(found)


def signature(critic: nn.Module) -> Any:
    """All modules with their modes, attributes, hooks, and which parameters are trained."""
    parts = []
    for name, m in critic.named_modules():
        trained = tuple(p is not None and p.requires_grad for p in m._parameters.values())
        parts.append((name, id(m), trained, _hooked(m), _attributes(m)))
    return tuple(parts)


def _hooked(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)


def modes() -> tuple[Any, ...]:
    """Autocast and gradient mode: what a forward pass may switch without a trace of it in the graph."""
    kinds = ("cpu", "cuda")
    return (torch.is_grad_enabled(), *((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds))


# ---- tracing ----------------------------------------------------------------------------------------------------------------
class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is done to buffers is to be seen, not done

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math, ops))  # type: ignore[arg-type]
        self.modes = modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kind = _rules.kind_of(m)
        if kind in _rules.modules():
            return True
        return kind.__module__.split(".")[:2] in (["torch", "nn"], ["gankern", "nn"]) and not isinstance(m, nn.Sequential)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if modes() != self.modes:
            raise Unfit("it switches autocast or gradients in its forward", _where(node))
        return node


def _where(node: fx.Node) -> str:
    """The layer of a node, in words."""
    stack = list(node.meta.get("nn_module_stack", {}))
    if node.op == "call_module":
        return f"layer {node.target!s}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{name} in layer {stack[-1]}" if stack and stack[-1] else f"{name}"


def qualify(critic: nn.Module, images: Tensor) -> Program | Unfit:
    """The critic's program for such images, or why there is none."""
    try:
        for name, m in critic.named_modules():
            where = f"layer {name}" if name else "the critic"
            if _hooked(m):
                raise Unfit("it has hooks", where)
            if "forward" in m.__dict__:
                raise Unfit("its forward was replaced", where)
        if _hooks._global_forward_hooks or _hooks._global_forward_pre_hooks:
            raise Unfit("global hooks of modules are registered")
        program = Program(critic, _traced(critic))
        program.rehearse(images)
    except Unfit as unfit:
        return unfit
    return program


@contextmanager
def _unchanged(critic: nn.Module) -> Iterator[None]:
    """Attributes and buffers afterwards as they were; attributes may not have changed at all."""
    before = [(m, _attributes(m), dict(m.__dict__)) for m in critic.modules()]
    buffers = [(b, b.clone()) for b in critic.buffers()]
    try:
        yield
        for m, attributes, _ in before:
            if tuple(a for a in _attributes(m) if not a[0].startswith(_CONSTANT)) != attributes:
                raise Unfit(f"the forward of {type(m).__name__} changes attributes")
    finally:
        for m, _, values in before:
            for new in set(m.__dict__) - set(values):
                del m.__dict__[new]
            m.__dict__.update(values)
        with torch.no_grad():
            for b, value in buffers:
                b.copy_(value)


_CONSTANT = "_tensor_constant"  # where torch.fx puts tensors that a forward makes
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _others(critic: nn.Module) -> list[Any]:
    """What the forward's further arguments are when only images are given."""
    parameters = list(inspect.signature(critic.forward).parameters.values())[1:]
    positional, named = _VARIABLE
    return [() if p.kind == positional else {} if p.kind == named else p.default for p in parameters]


def _traced(critic: nn.Module) -> fx.Graph:
    parameters = list(inspect.signature(critic.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.kind not in _VARIABLE}
    if inspect.Parameter.empty in defaults.values():
        raise Unfit("its forward takes more than images", "the critic")
    with _unchanged(critic):
        try:
            graph = _Tracer().trace(critic, concrete_args=defaults or None)
        except Unfit:
            raise
        except Exception as error:  # whatever the user's code makes of a proxy
            raise Unfit(f"torch.fx cannot trace it: {_first_line(error)}", "the critic") from error
    for node in graph.nodes:
        if node.op == "get_attr" and _CONSTANT in str(node.target):
            raise Unfit("its forward makes a tensor", "the critic")
    return graph


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Program:
    """A critic's graph, run layer by layer with the rules of ``_rules.py``."""

    def __init__(self, critic: nn.Module, graph: fx.Graph) -> None:
        self.critic = critic
        self.nodes = list(graph.nodes)
        self.last_use: dict[fx.Node, list[fx.Node]] = {}
        inputs = [n for n in self.nodes if n.op == "placeholder"]
        if not inputs or str(inputs[0].target).startswith("*"):
            raise Unfit("its forward has no argument for images", "the critic")
        self.images = inputs[0]
        self.defaults = dict(zip(inputs[1:], _others(critic), strict=True))
        self.dependent = {self.images}
        seen: set[fx.Node] = set()
        for node in self.nodes:
            if any(n in self.dependent for n in node.all_input_nodes):
                self.dependent.add(node)
        for node in reversed(self.nodes):
            self.last_use[node] = [n for n in node.all_input_nodes if n not in seen]
            seen |= set(node.all_input_nodes)

    def rehearse(self, images: Tensor) -> None:
        """Run on a few samples, to see whether all layers qualify; buffers stay as they were."""
        with _unchanged(self.critic), torch.enable_grad():
            for count in {1 if images.shape[0] == 1 else 3, 3}:
                x = images[:1].detach().repeat(count, *[1] * (images.dim() - 1)).requires_grad_()
                try:
                    self.run(x, Tape(count))
                except (Unfit, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # the critic's own, which double backward will meet, or a form that no rule knows
                    raise Unfit(f"it fails on such images: {_first_line(error)}", "the critic") from error

    def run(self, images: Tensor, tape: Tape) -> Tensor:
        """The logits of ``images``, which require gradients."""
        images._of_images = True  # type: ignore[attr-defined]
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "output":
                return self._logits(fx.map_arg(node.args[0], values.__getitem__), tape, node)
            if node.op == "placeholder":
                values[node] = images if node is self.images else self.defaults[node]
                continue
            values[node] = self._value(node, values, tape)
            for unused in self.last_use[node]:
                del values[unused]
        raise AssertionError("a graph without an output")

    def _value(self, node: fx.Node, values: dict[fx.Node, Any], tape: Tape) -> Any:
        args = fx.map_arg(node.args, values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, values.__getitem__)
        try:
            of_images = node in self.dependent and any(from_images(t) for t in tree_leaves((args, kwargs)))
            value = self._ruled(node, args, kwargs, tape) if of_images else self._plain(node, args, kwargs)
            if not isinstance(value, Tensor):
                if of_images and any(isinstance(t, Tensor) for t in tree_leaves(value)):
                    raise Unfit("it gives several tensors")
                return value
            if of_images:
                if value.dim() == 0 or value.shape[0] != tape.batch or not value.is_floating_point():
                    raise Unfit(f"it does not keep the batch: {tape.batch} samples to shape {list(value.shape)}")
                value._of_images = True  # type: ignore[attr-defined]
            elif node in self.dependent:
                raise Unfit("it makes a tensor of the batch's size")
            return value
        except Unfit as unfit:
            unfit.where = unfit.where or _where(node)
            raise

    def _ruled(self, node: fx.Node, args: Any, kwargs: Any, tape: Tape) -> Any:
        if node.op == "call_module":
            module = self.critic.get_submodule(str(node.target))
            kind = _rules.kind_of(module)
            rule = _rules.modules().get(kind)
            if rule is None:
                raise Unfit("it is not known to be piecewise linear", f"layer {node.target!s} ({kind.__name__})")
            return rule(tape, module, *args, **kwargs)
        rules: dict[Any, Any] = _rules.METHODS if node.op == "call_method" else _rules.FUNCTIONS
        if node.target not in rules:
            raise Unfit("it is not known to be piecewise linear")
        return rules[node.target](tape, *args, **kwargs)

    def _plain(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """What does not depend on the images: parameters, what is made of them, and sizes."""
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(self.critic.get_submodule(owner), name)
        if node.op == "call_module":
            return self.critic.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _logits(self, value: Any, tape: Tape, node: fx.Node) -> Tensor:
        if not isinstance(value, Tensor):
            several = isinstance(value, (list, tuple, dict))
            raise Unfit("it gives several outputs" if several else f"it gives {type(value).__name__}", "the critic")
        if not from_images(value) or not value.requires_grad:
            raise Unfit("its logits do not depend on the images", "the critic")
        if value.numel() != tape.batch:
            raise Unfit(f"it gives {value.numel() // tape.batch} logits a sample, not one", "the critic")
        return value
