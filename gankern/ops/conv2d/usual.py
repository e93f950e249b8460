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
from gankern._autograd import leaf_will_run
from gankern._dispatch import Row
from gankern.ops.conv2d import arguments, backends, configs
from gankern.ops.conv2d.scope import weight_gradients_disabled

_KINDS = (Tensor, torch.nn.Parameter)
_MOST = 4096


@dataclass
class Plan:
    """What a usual call comes to.

    Attributes:
        table: of its operator.
        products: whether it is matrix products, see :func:`gankern.ops.conv2d.configs.by_products`.
        settings: as torch.convolution takes them, after the bias.
        adjoint: those of the gradient of the images where that is matrix products, or None.
        geometry: as the operator takes them, likewise.
        backward: the operator's, for what is not usual about a derivative.
        sizes: of images and weight.
        stride: of the output.
        merged: whether the derivatives of images and parameters come from one call.
        channels: of the output, as a bias's size.
    """

    table: _dispatch.Table
    products: bool
    settings: tuple[Any, ...]
    adjoint: tuple[Any, ...] | None
    geometry: tuple[Any, ...]
    backward: Callable[..., tuple[Tensor | None, ...]]
    sizes: tuple[torch.Size, torch.Size]
    stride: tuple[int, ...]
    merged: bool
    channels: list[int]


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
        for value in settings:
            if type(value) is not int:
                return None
        if b is None:
            key: Any = (settings, x.shape, w.shape, x.stride(), w.stride(), x.dtype, w.dtype, x.device, w.device)
        elif type(b) in _KINDS:
            key = (settings, x.shape, w.shape, x.stride(), w.stride(), x.dtype, w.dtype, x.device, w.device, b.shape, b.dtype,
                   b.device)  # fmt: skip
        else:
            return None
        try:
            return self.plans[key]
        except KeyError:
            pass
        found = self._make(x, w, b, settings)
        if len(self.plans) >= _MOST:
            self.plans.clear()
        self.plans[key] = found
        return found

    def _make(self, x: Tensor, w: Tensor, b: Tensor | None, settings: tuple[Any, ...]) -> Plan | None:
        x, w, b, *geometry = self.prepare(x, w, b, *settings)
        stride, padding, *given, dilation, groups = geometry
        if not backends.plainly_nchw(x) or not backends.plainly_nchw(w) or backends.needs_float32(x, w, groups):
            return None
        kinds = ("transpose", "conv") if self.transposed else ("conv", "transpose")
        if configs.channels_last_inside(kinds[0], x, w, stride, groups):
            return None
        y = self.output(x, w, b, *geometry)
        if y.numel() == 0:
            return None
        merged = not configs.channels_last_inside(kinds[1], y, w, stride, groups)
        products = configs.by_products(x if self.transposed else y, w, groups)
        adjoint = None
        if products and not self.transposed:
            more = [  # the rows and columns that the stride left out
                x.shape[i]
                - arguments.size_of_transpose(y.shape[i], w.shape[i], stride[i - 2], padding[i - 2], 0, dilation[i - 2])
                for i in (2, 3)
            ]
            adjoint = (stride, padding, dilation, True, more, groups)
        as_aten = (stride, padding, dilation, self.transposed, *(given or [[0, 0]]), groups)
        return Plan(
            self.table, self.transposed and products, as_aten, adjoint, tuple(geometry), self.backward, (x.shape, w.shape),
            y.stride(), merged, [y.shape[1]],
        )  # fmt: skip


def run(plan: Plan, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """The output of a call that has a plan."""
    images = x.requires_grad
    if (images or w.requires_grad or (b is not None and b.requires_grad)) and torch.is_grad_enabled():
        if images:
            # As without_leaf, where nobody compiles. Where the images need no gradient, a parameter's is what is asked for.
            if x.is_leaf:
                x = x.view_as(x)
            if w.requires_grad and w.is_leaf:
                w = w.view_as(w)
            if b is not None and b.requires_grad and b.is_leaf:
                b = b.view_as(b)
        return _apply(x, w, b, plan)  # type: ignore[no-any-return]
    return _forward(plan, x, w, b)


def _forward(plan: Plan, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    row = plan.table.rows[0]
    function = backends.products if plan.products else backends._aten.convolution
    if type(row) is Row:
        y: Tensor = function(x, w, b, *plan.settings)
    else:  # somebody counts
        y = row.call(function, x, w, b, *plan.settings)
    return y if y.stride() == plan.stride else backends.as_promised(y, torch.contiguous_format)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, plan: Plan) -> Tensor:
        ctx.materialize_grads = False
        ctx.plan = plan
        # Of the images only what a gradient needs is kept; the weight is there anyway.
        ctx.save_for_backward(x if w.requires_grad else None, w)
        return _forward(plan, x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        if g is None:
            return None, None, None, None
        x, w = ctx.saved_tensors
        if (
            (not plan.merged and ctx.needs_input_grad[0])
            or x is None
            or torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or type(g) is not Tensor
            or g.layout is not torch.strided
            or not _dispatch.undisturbed()
        ):
            ctx.present, ctx.geometry = (True, True, len(ctx.next_functions) == 3), plan.geometry
            ctx.x_size, ctx.w_size = plan.sizes
            return *plan.backward(ctx, g)[:3], None
        if g.stride() != plan.stride:
            g = g.contiguous()  # as of a sum or a mean, whose gradient is one number seen everywhere
        images, weight, bias, _ = ctx.needs_input_grad
        if images:
            # None is a leaf: autograd knows of each whether somebody asks for its gradient.
            edges = ctx.next_functions
            images, weight = _will_run(edges[0][0]), weight and _will_run(edges[1][0])
            bias = bias and _will_run(edges[2][0])
        weight = weight and not weight_gradients_disabled()
        if not weight:
            # oneDNN gives the bias's gradient with the weight's; without that it is asked whether anybody wants it.
            db = g.sum((0, 2, 3)) if bias and (images or leaf_will_run(ctx.next_functions[2][0])) else None
            if not images:
                return None, None, db, None
        dx = None
        if images and plan.adjoint is not None:
            dx = backends.CONV_TRANSPOSE2D.rows[0].call(backends.products, g, w, None, *plan.adjoint)
            if not weight:
                return dx, None, db, None
            images = False
        need = [images, weight, weight and bias]
        args = g, x, w, plan.channels if need[2] else None, *plan.settings, need
        row = backends.GRADIENTS.rows[0]
        function = backends._aten.convolution_backward
        made = function(*args) if type(row) is Row else row.call(function, *args)
        if weight:
            return made[0] if dx is None else dx, made[1], made[2] if need[2] else None, None
        return made[0], None, db, None


_will_run = torch._C._will_engine_execute_node
# What Function.apply comes to where no functorch transform is active, and what autograd's engine comes to from there.
_apply = super(torch.autograd.Function, _Function).apply
_Function._backward_cls.apply = _Function.backward  # type: ignore[attr-defined]

__all__ = ["Plan", "Usual", "run"]
