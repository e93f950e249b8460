"""What a backward function may leave undone, and the short way to an operator in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gankern._dispatch import require_no_tangents
from gankern._library import LIBRARY


def without_leaf(parameter: Tensor | None) -> Tensor | None:
    """An alias of a parameter, so that :func:`wanted` can tell in backward whether its gradient is asked for.

    Autograd tells a Python function that all inputs which require gradients need theirs, also under
    ``torch.autograd.grad(y, x)``, where a bias gradient is thrown away: the waste in every gradient penalty. Whether the
    graph behind an input will be executed can be asked, but not of a leaf.
    """
    if parameter is None or not parameter.is_leaf or not parameter.requires_grad or not torch.is_grad_enabled():
        return parameter
    return parameter if torch.compiler.is_compiling() else parameter.view_as(parameter)


def wanted(ctx: Any, inputs_present: Sequence[bool]) -> list[bool]:
    """For the first inputs of an operator: whether the running backward asks for their gradients.

    Args:
        ctx: the context of a registered backward function, while it runs.
        inputs_present: for each of the first inputs (all tensors or None), whether it was a tensor.
    """
    result = []
    edge = 0
    for index, present in enumerate(inputs_present):
        need = bool(ctx.needs_input_grad[index])
        if present:
            if need and not torch.compiler.is_compiling():
                need = _will_run(ctx.next_functions[edge][0])
            edge += 1
        result.append(need and present)
    return result


def _will_run(node: Any) -> bool:
    # A leaf's node cannot be asked about under autograd.grad: take it as wanted.
    if node is None or hasattr(node, "variable"):
        return True
    return bool(torch._C._will_engine_execute_node(node))


class Differentiable:
    """A registered operator with derivatives, and a short way to it for eager mode.

    The dispatcher's way through a registered Python derivative costs some 40 us in forward and backward each. Where nobody
    wants to see an operator (no tracer, no dispatch mode, plain tensors), an ``autograd.Function`` with the very same functions
    does it in a fraction of that, and without gradients the implementation is called directly.

    Args:
        name: of the operator in ``torch.ops.gankern``; its derivatives are registered here.
        implementation: what it runs, on the operator's positional arguments.
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

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = implementation(*inputs)
                setup_context(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                return backward(ctx, *gradients)

        self.function = Function

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return self.operator(*inputs)
        require_no_tangents(self.name, inputs)
        graph = False
        enabled = torch.is_grad_enabled()
        for value in inputs:
            kind = type(value)
            if kind is Tensor or kind is torch.nn.Parameter:
                graph = graph or (enabled and value.requires_grad)
            elif isinstance(value, Tensor):
                return self.operator(*inputs)  # a subclass has its own ideas of what happens to an operator
        return self.function.apply(*inputs) if graph else self.implementation(*inputs)  # type: ignore[no-untyped-call]


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
