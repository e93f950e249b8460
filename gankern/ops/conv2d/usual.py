"""The usual call, decided once: dense NCHW images and weights in eager mode, which PyTorch's convolution takes as they are.

Between two convolutions of small images Python's share is as long as theirs, and a network makes the same few calls over and
over. So what a call comes to is kept as a :class:`Plan` by all that it depends on: sizes, strides, dtypes and devices of the
tensors, and the settings. Whatever is not usual (layouts, turned images, tracers, transforms, a forced backend, autocast,
derivatives that are themselves differentiated) takes the way of every operator, with the same arithmetic and derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import without_leaf
from gankern.ops.conv2d import backends, configs
from gankern.ops.conv2d.scope import weight_gradients_disabled

_KINDS = (Tensor, torch.nn.Parameter)
_INT = {int}
_MOST = 4096
_UNKNOWN = "unknown"


@dataclass
class Plan:
    """What a usual call comes to.

    Attributes:
        table: of its operator.
        settings: as torch.convolution takes them, after the bias.
        geometry: as the operator takes them, likewise.
        backward: the operator's, for what is not usual about a derivative.
        sizes: of images and weight.
        stride: of the output.
        merged: whether all derivatives come from one call.
    """

    table: _dispatch.Table
    settings: tuple[Any, ...]
    geometry: tuple[Any, ...]
    backward: Callable[..., tuple[Tensor | None, ...]]
    sizes: tuple[torch.Size, torch.Size]
    stride: tuple[int, ...]
    merged: bool


class Usual:
    """One operator's plans.

    Args:
        transposed: whether it is the transposed convolution.
        prepare: checks its arguments.
        table: its rows, of which the first one is PyTorch's arithmetic.
        output: gives its uninitialised output.
        backward: its derivative.
    """

    def __init__(
        self,
        transposed: bool,
        prepare: Callable[..., Any],
        table: _dispatch.Table,
        output: Callable[..., Tensor],
        backward: Callable[..., tuple[Tensor | None, ...]],
    ) -> None:
        self.transposed, self.prepare, self.table, self.output, self.backward = transposed, prepare, table, output, backward
        self.plans: dict[Any, Plan | None] = {}

    def plan(self, x: Any, w: Any, b: Any, settings: tuple[Any, ...]) -> Plan | None:
        """The plan of a call with these settings as the user gave them, or None where it is not usual.

        Raises:
            TypeError, ValueError: as the operator.
        """
        if torch.compiler.is_compiling() or type(x) not in _KINDS or type(w) not in _KINDS or not _dispatch.undisturbed():
            return None
        # Only whole numbers, and no bool, which would be taken for one: anything else is checked at every call.
        if not {*map(type, settings)} <= _INT:
            return None
        key: Any = (settings, x.shape, w.shape, x.stride(), w.stride(), x.dtype, w.dtype, x.device, w.device)
        if b is not None:
            if type(b) not in _KINDS:
                return None
            key = (key, b.shape, b.dtype, b.device)
        found = self.plans.get(key, _UNKNOWN)
        if isinstance(found, str):
            found = self._make(x, w, b, settings)
            if len(self.plans) >= _MOST:
                self.plans.clear()
            self.plans[key] = found
        return found

    def _make(self, x: Tensor, w: Tensor, b: Tensor | None, settings: tuple[Any, ...]) -> Plan | None:
        x, w, b, *geometry = self.prepare(x, w, b, *settings)
        stride, padding, *more, dilation, groups = geometry
        if not backends.plainly_nchw(x) or not backends.plainly_nchw(w) or backends.needs_float32(x, w, groups):
            return None
        kinds = ("transpose", "conv") if self.transposed else ("conv", "transpose")
        if configs.channels_last_inside(kinds[0], x, w, stride, groups):
            return None
        y = self.output(x, w, b, *geometry)
        if y.numel() == 0:
            return None
        merged = not configs.channels_last_inside(kinds[1], y, w, stride, groups)
        as_aten = (stride, padding, dilation, self.transposed, *(more or [[0, 0]]), groups)
        return Plan(self.table, as_aten, tuple(geometry), self.backward, (x.shape, w.shape), y.stride(), merged)


def run(plan: Plan, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """The output of a call that has a plan."""
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad or (b is not None and b.requires_grad)):
        return _apply(without_leaf(x), without_leaf(w), without_leaf(b), plan)  # type: ignore[no-any-return]
    return _forward(plan, x, w, b)


def _forward(plan: Plan, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y: Tensor = plan.table.rows[0].call(backends._aten.convolution, x, w, b, *plan.settings)
    return y if y.stride() == plan.stride else backends.as_promised(y, torch.contiguous_format)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, plan: Plan) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.plan = plan
        # Of the images only what a gradient needs is kept; the weight is there anyway.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        return _forward(plan, x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        if g is None:
            return None, None, None, None
        x, w = ctx.saved_tensors
        if (
            not plan.merged
            or x is None
            or torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or type(g) is not Tensor
            or g.layout != torch.strided
            or not _dispatch.undisturbed()
        ):
            ctx.present, ctx.geometry = (True, True, len(ctx.next_functions) == 3), plan.geometry
            ctx.x_size, ctx.w_size = plan.sizes
            return *plan.backward(ctx, g)[:3], None
        if g.stride() != plan.stride:
            g = g.contiguous()  # as of a sum or a mean, whose gradient is one number seen everywhere
        # None of the inputs is a leaf: autograd knows of each whether somebody asks for its gradient.
        needs, edges = ctx.needs_input_grad, ctx.next_functions
        images = needs[0] and _will_run(edges[0][0])
        weight = needs[1] and _will_run(edges[1][0]) and not weight_gradients_disabled()
        bias = needs[2] and _will_run(edges[2][0])
        # oneDNN gives the bias's gradient with the weight's, and computes both where one is asked for.
        with_weight = bias and weight
        db = g.sum((0, 2, 3)) if bias and not weight else None
        if not images and not weight:
            return None, None, db, None
        sizes, need = [g.shape[1]] if with_weight else None, [images, weight, with_weight]
        made = backends.GRADIENTS.rows[0].call(backends._aten.convolution_backward, g, x, w, sizes, *plan.settings, need)
        return made[0], made[1] if weight else None, made[2] if with_weight else db, None


_will_run = torch._C._will_engine_execute_node
# What Function.apply comes to where no functorch transform is active.
_apply = super(torch.autograd.Function, _Function).apply

__all__ = ["Plan", "Usual", "run"]
