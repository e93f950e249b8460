"""The linear maps that have parameters, and the tape on which the merged gradient of ``merged.py`` is made.

A layer with parameters is a linear map of its input and of its weight. It runs through ``_Apply``, whose derivative is
``_Adjoint``, whose derivative is the map again: so autograd's first pass brings the cotangents g of one per logit, its second
pass the tangents x' (the masks of piecewise linear layers are constants to both), and there stands all that the weight
gradient of loss and penalty together needs: W(c x + x', g). Whatever has no parameters runs as it is, by autograd.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import ops
from gankern._autocast import lowered
from gankern._dtypes import wide


class Unfit(Exception):
    """Why a critic does not qualify; ``where`` is its layer."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.where = where


def from_images(value: Any) -> bool:
    """Whether a tensor of the running critic depends on the images."""
    return isinstance(value, Tensor) and getattr(value, "_of_images", False)


def trained(value: Any) -> bool:
    """Whether a tensor is a parameter in training, or made of such, and not of images."""
    return isinstance(value, Tensor) and value.requires_grad and not from_images(value)


# ---- linear maps ------------------------------------------------------------------------------------------------------------
class Map(Protocol):
    """A linear map of x and of w (and + b), with its adjoints in both."""

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The map of ``x`` by ``w``, plus ``b``."""

    def adjoint(self, g: Tensor, w: Tensor, size: torch.Size) -> Tensor:
        """Its adjoint in x of ``size``."""

    def weight(self, x: Tensor, g: Tensor, size: torch.Size) -> Tensor:
        """Its adjoint in w of ``size``: the weight gradient."""


class Convolution(Map):
    """A convolution of images."""

    def __init__(self, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
        self.stride, self.padding, self.dilation = pair(stride), pair(padding), pair(dilation)
        self.groups = groups

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return ops.conv2d(x, w, b, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, g: Tensor, w: Tensor, size: torch.Size) -> Tensor:
        more = []  # what the stride left out at the bottom and right
        for i in (0, 1):
            full = (g.shape[2 + i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (w.shape[2 + i] - 1) + 1
            more.append(size[2 + i] - full)
        return ops.conv_transpose2d(g, w, None, self.stride, self.padding, more, self.groups, self.dilation)

    def weight(self, x: Tensor, g: Tensor, size: torch.Size) -> Tensor:
        return _weight_gradient(x, g, size, self)


class Transposed(Map):
    """A transposed convolution of images."""

    def __init__(self, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int) -> None:
        self.stride, self.padding, self.dilation = pair(stride), pair(padding), pair(dilation)
        self.output_padding, self.groups = pair(output_padding), groups

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        more = self.output_padding
        return ops.conv_transpose2d(x, w, b, self.stride, self.padding, more, self.groups, self.dilation)

    def adjoint(self, g: Tensor, w: Tensor, size: torch.Size) -> Tensor:
        # An output padding of a stride or more (which dilation allows) makes the convolution larger than the images.
        return ops.conv2d(g, w, None, self.stride, self.padding, self.dilation, self.groups)[:, :, : size[2], : size[3]]

    def weight(self, x: Tensor, g: Tensor, size: torch.Size) -> Tensor:
        rows = []
        for i in (0, 1):
            seen = g.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (size[2 + i] - 1) - 1
            rows.append(seen // self.stride[i] + 1 - x.shape[2 + i])
        x = F.pad(x, [0, rows[1], 0, rows[0]]) if any(rows) else x
        return _weight_gradient(g, x, size, self)


def _weight_gradient(x: Tensor, g: Tensor, size: torch.Size, of: Convolution | Transposed) -> Tensor:
    run = torch.ops.gankern.conv2d_weight_gradient.default
    return run(x, g, list(size), of.stride, of.padding, of.dilation, of.groups)  # type: ignore[no-any-return]


class Matrix(Map):
    """A matrix on the last dimension."""

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    def adjoint(self, g: Tensor, w: Tensor, size: torch.Size) -> Tensor:
        return g @ w

    def weight(self, x: Tensor, g: Tensor, size: torch.Size) -> Tensor:
        return g.flatten(0, -2).t() @ x.flatten(0, -2)


class Factor(Map):
    """``x`` times a trained tensor that broadcasts to it."""

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return x * w

    def adjoint(self, g: Tensor, w: Tensor, size: torch.Size) -> Tensor:
        return g * w

    def weight(self, x: Tensor, g: Tensor, size: torch.Size) -> Tensor:
        return (x.to(wide(x.dtype)) * g).sum_to_size(size)


# ---- the tape ---------------------------------------------------------------------------------------------------------------
class _Entry:
    """One run of a layer: what its parameters' gradients are made of, as the passes bring it."""

    def __init__(self, tape: Tape, map: Map | None, weight: Tensor | None, bias: Tensor | None, dim: int | None) -> None:
        self.tape, self.map, self.weight, self.bias = tape, map, weight, bias
        self.dim = dim  # of the output, that the bias belongs to; None: the bias broadcasts
        self.x: Tensor | None = None
        self.g: Tensor | None = None

    def merge(self, tangent: Tensor | None) -> None:
        """Give out the gradients of the weight, W(c x + x', g), and of the bias, the sum of c g."""
        x, g, c = self.x, self.g, self.tape.cotangents
        self.x = self.g = None
        if g is None:
            return  # nothing that leads to a logit
        assert c is not None
        if self.weight is not None and self.map is not None and x is not None:
            each = c.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
            mixed = x * each if tangent is None else torch.addcmul(tangent, x, each)
            self.tape.give(self.weight, self.map.weight(mixed, g, self.weight.shape))
        if self.bias is not None:
            self.tape.give(self.bias, self._bias_gradient(g, c))

    def _bias_gradient(self, g: Tensor, c: Tensor) -> Tensor:
        assert self.bias is not None
        if self.dim is None:
            return (g.to(c.dtype) * c.view(-1, *[1] * (g.dim() - 1))).sum_to_size(self.bias.shape)
        others = [i for i in range(1, g.dim()) if i != self.dim % g.dim()]
        return c @ (g.sum(others, dtype=c.dtype) if others else g.to(c.dtype))


class Tape:
    """All layers' entries of one batch, its logits' cotangents ``c`` [N] (loss alone), and the gradients given out."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.cotangents: Tensor | None = None
        self.entries: list[_Entry] = []
        self.gradients: list[tuple[Tensor, Tensor]] = []

    def give(self, parameter: Tensor, gradient: Tensor) -> None:
        """Note a gradient."""
        self.gradients.append((parameter, gradient.to(parameter.dtype)))

    def apply(self, map: Map, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``map`` of x by parameters (or what was made of them, with its graph) in the dtype that autocast wants."""
        if from_images(weight) or from_images(bias):
            raise Unfit("its weight depends on the images")
        entry = self._entry(map, weight, bias, -1 if isinstance(map, Matrix) else 1)
        given: list[Tensor | None] = [x, weight, bias]
        low = given if isinstance(map, Factor) else lowered(given)
        x, *rest = low  # type: ignore[assignment]
        w, b = (None if t is None else t.detach() for t in rest)
        made: Tensor = _Apply.apply(x, w, b, entry)  # type: ignore[no-untyped-call]
        return made

    def watch(self, x: Tensor, bias: Tensor | None, dim: int | None) -> Tensor:
        """``x`` itself, to which the caller adds ``bias`` (along ``dim``, or broadcast), detached: it keeps its gradient."""
        if from_images(bias):
            raise Unfit("its bias depends on the images")
        if bias is None or not bias.requires_grad:
            return x
        entry = self._entry(None, None, bias, dim)
        made: Tensor = _Watch.apply(x, entry)  # type: ignore[no-untyped-call]
        return made

    def _entry(self, map: Map | None, weight: Tensor | None, bias: Tensor | None, dim: int | None) -> _Entry:
        weight = weight if weight is not None and weight.requires_grad else None
        bias = bias if bias is not None and bias.requires_grad else None
        entry = _Entry(self, map, weight, bias, dim)
        self.entries.append(entry)
        return entry

    def finish(self) -> list[tuple[Tensor, Tensor]]:
        """The gradients of what no tangent came by, too: biases."""
        for entry in self.entries:
            entry.merge(None)
        self.entries = []
        return self.gradients


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, entry: _Entry) -> Tensor:
        assert entry.map is not None
        ctx.set_materialize_grads(False)
        ctx.entry = entry
        ctx.save_for_backward(x, w)
        return entry.map.forward(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        x, w = ctx.saved_tensors
        ctx.entry.x = x.detach()
        return _Adjoint.apply(g, w, ctx.entry), None, None, None  # type: ignore[no-untyped-call]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, entry: _Entry) -> Tensor:
        assert entry.map is not None and entry.x is not None
        ctx.entry = entry
        entry.g = g.detach()
        ctx.save_for_backward(w)
        return entry.map.adjoint(g, w, entry.x.shape)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> Any:
        (w,) = ctx.saved_tensors
        ctx.entry.merge(tangent)
        return ctx.entry.map.forward(tangent, w, None), None, None


class _Watch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, entry: _Entry) -> Tensor:
        ctx.entry = entry
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.entry.g = g.detach()
        return g, None


# ---- small things -----------------------------------------------------------------------------------------------------------
def pair(value: Any) -> list[int]:
    """[y, x] from an int or two."""
    return [value, value] if isinstance(value, int) else [value[0], value[-1]]
