"""What a backward function may leave undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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
