"""What a backward function may leave undone, and the short way to an operator in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad

from gankern._dispatch import Table, require_no_tangents
from gankern._library import LIBRARY


def without_leaf(parameter: Tensor | None) -> Tensor | None:
    """An alias of a parameter, so that :func:`wanted` can tell in backward whether its gradient is asked for.

    Autograd tells a Python function that all inputs which require gradients need theirs, also under
    ``torch.autograd.grad(y, x)``, where a bias gradient is thrown away: the waste in every gradient penalty. Whether the
    graph behind an input will be executed can be asked, but not of a leaf.
    """
    if parameter is None or not parameter.requires_grad or not parameter.is_leaf or not torch.is_grad_enabled():
        return parameter
    return parameter if torch.compiler.is_compiling() else parameter.view_as(parameter)


def wanted(ctx: Any, inputs_present: Sequence[bool]) -> list[bool]:
    """For the first inputs of an operator: whether the running backward asks for their gradients.

    Args:
        ctx: the context of a registered backward function, while it runs.
        inputs_present: for each of the first inputs (all tensors or None), whether it was a tensor.
    """
    result = []
    edges = None if torch.compiler.is_compiling() else iter(ctx.next_functions)
    for need, present in zip(ctx.needs_input_grad, inputs_present, strict=False):
        if present and edges is not None:
            node = next(edges)[0]
            need = need and _will_run(node)
        result.append(need and present)
    return result


def _will_run(node: Any) -> bool:
    return node is None or leaf_will_run(node)


def leaf_will_run(node: Any) -> bool:
    """Whether the running backward asks for the gradient behind ``node``, which may be a leaf's.

    Autograd says of a leaf that its gradient is not asked for, or by ``backward()``; where it is by name, it refuses to say
    anything, and takes some 20 us for that: what costs more to compute in vain is worth :func:`without_leaf`.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return True


def _without_leaves(inputs: tuple[Any, ...]) -> list[Any]:
    """:func:`without_leaf` of all tensors among an operator's inputs, which has them first."""
    return [without_leaf(value) if isinstance(value, Tensor) else value for value in inputs]


class Differentiable:
    """A registered operator with derivatives, and a short way to it for eager mode.

    The dispatcher's way through a registered Python derivative costs some 40 us in forward and backward each. Where nobody
    wants to see an operator (no tracer, no dispatch mode, plain tensors), an ``autograd.Function`` with the very same functions
    does it in a fraction of that, and without gradients the implementation is called directly. For small images even that
    fraction is too much: where the implementation is a table with a definition for them, that is run as it stands.

    Args:
        name: of the operator in ``torch.ops.gankern``; its derivatives are registered here.
        implementation: what it runs, on the operator's positional arguments: a :class:`gankern._dispatch.Table` or a function.
        backward: (ctx, *gradients) -> gradients, as for ``torch.library.register_autograd``.
        setup_context: (ctx, inputs, output), likewise.
    """

    def __init__(
        self,
        name: str,
        implementation: Callable[..., Any],
        backward: Callable[..., Any],
        setup_context: Callable[..., None],
    ) -> None:
        torch.library.register_autograd(f"gankern::{name}", backward, setup_context=setup_context, lib=LIBRARY)
        self.name = name
        self.operator = getattr(torch.ops.gankern, name).default
        self.implementation = implementation
        self.table = implementation if isinstance(implementation, Table) and implementation.composed is not None else None

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = implementation(*inputs)
                setup_context(ctx, inputs, output)
                return output

        # Assigned, not called by a method: a call less for every derivative. The second is what autograd's engine calls, whose
        # own looks for ``backward`` every time.
        Function.backward = staticmethod(backward)  # type: ignore[method-assign]
        Function._backward_cls.apply = backward  # type: ignore[attr-defined]
        self.function = Function
        # What Function.apply comes to where no functorch transform is active and no argument is left over from one.
        self.apply = super(torch.autograd.Function, Function).apply

    def __call__(self, *inputs: Any) -> Any:
        if self.table is not None and self.table.composes(*inputs):
            return self.table.compose(*inputs)
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return self.operator(*_without_leaves(inputs))
        if forward_ad._current_level >= 0:
            require_no_tangents(self.name, inputs)
        graph = False
        for value in inputs:
            kind = type(value)
            if kind is Tensor or kind is torch.nn.Parameter:
                graph = graph or value.requires_grad
            elif isinstance(value, Tensor):
                # A subclass has its own ideas of what happens to an operator.
                return self.operator(*_without_leaves(inputs))
        if not graph or not torch.is_grad_enabled():
            return self.implementation(*inputs)
        if torch._C._are_functorch_transforms_active():
            return self.function.apply(*_without_leaves(inputs))  # type: ignore[no-untyped-call]
        return self.apply(*[without_leaf(unwrap_if_dead(v)) if isinstance(v, Tensor) else v for v in inputs])


def run_in_place(operator: Callable[..., Any], implementation: Callable[..., Any], *inputs: Any) -> None:
    """Run an operator without derivatives that changes its first argument, the short way where nobody wants to see it."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    seen = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    if seen or any(type(value) is not Tensor and type(value) is not torch.nn.Parameter for value in tensors):
        operator(*inputs)
    else:
        implementation(*inputs)


def composed_backward(composed: Callable[..., Sequence[Tensor]]) -> tuple[Callable[..., Any], Callable[..., None]]:
    """(backward, setup_context) of an operator without kernels for its derivatives: those of ``composed``, by autograd.

    The operator's arguments are tensors or None first, then settings, the last of which says of each output whether it is
    wanted; ``composed`` takes the same.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = next(i for i, value in enumerate(inputs) if value is not None and not isinstance(value, Tensor))
        ctx.save_for_backward(*inputs[:tensors])
        ctx.settings = inputs[tensors:]
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        result: list[Tensor | None] = [None] * (len(ctx.saved_tensors) + len(ctx.settings))
        order = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views, so that the derivatives stop here and autograd carries them on.
            views: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            outputs = composed(*views, *ctx.settings)
            used = [(o, g) for o, g, w in zip(outputs, cotangents, ctx.settings[-1], strict=True) if w and g is not None]
            used = [(o, g) for o, g in used if o.requires_grad]
            asked = [i for i, v in enumerate(views) if v is not None and ctx.needs_input_grad[i]]
            if not used or not asked:
                return tuple(result)
            grads = torch.autograd.grad(
                [o for o, _ in used], [views[i] for i in asked], [g for _, g in used], create_graph=order, allow_unused=True
            )
        for i, gradient in zip(asked, grads, strict=True):
            result[i] = gradient
        return tuple(result)

    return backward, setup_context
