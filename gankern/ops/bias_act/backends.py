"""The implementations of bias_act, its backward and its double backward: allocation, geometry and the dispatch tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern._activations import activation_funcs, passes, representable
from gankern._backends import kernel, kernel_table
from gankern._layout import empty_like
from gankern.ops.bias_act import configs
from gankern.ops.bias_act.geometry import dense, dense_as, geometry
from gankern.ops.bias_act.reference import backward_composed, bias_act_composed, double_backward_composed


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def backward_outputs(dy: Tensor, saved: Tensor | None, dim: int, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (dx, db, dnoise); an empty tensor for what ``mask`` does not want. dx has the layout of what was saved."""
    dx = empty_like(dy if saved is None else saved) if mask[0] else dy.new_empty(0)
    db = dy.new_empty(dy.shape[dim]) if mask[1] else dy.new_empty(0)
    dnoise = dy.new_empty((dy.shape[0], 1, *dy.shape[2:])) if mask[2] else dy.new_empty(0)
    return dx, db, dnoise


def double_backward_outputs(dy: Tensor, saved: Tensor | None, mask: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised (d_dy, d_saved); an empty tensor for what ``mask`` does not want."""
    like = dy if saved is None else saved
    return (empty_like(like) if mask[0] else dy.new_empty(0)), (empty_like(like) if mask[1] else dy.new_empty(0))


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


# ---- native and Triton: the same calls -------------------------------------------------------------------------------------
def _forward(backend: str) -> Any:
    def run(x: Tensor, b: Any, noise: Any, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
        x = dense(x)
        y = empty_like(x)
        _forward_into(backend, x, b, noise, y, dim, act, alpha, gain, clamp)
        return y

    return run


def _forward_into(
    backend: str, x: Tensor, b: Any, noise: Any, y: Tensor, dim: int, act: str, alpha: float, gain: float, clamp: float
) -> None:
    if x.numel():
        g = geometry(x, dim)
        limit = clamp if clamp < 0 else representable(clamp, x.dtype)
        run = kernel("bias_act", backend, "bias_act")
        run(x, _contiguous(b), _contiguous(noise), y, *g, activation_funcs[act].index, alpha, gain, limit)


def _backward(backend: str) -> Any:
    def run(
        dy: Tensor, y: Any, x: Any, b: Any, noise: Any, dim: int, act: str, alpha: float, gain: float, clamp: float, mask: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        saved = y if y is not None else x
        saved = None if saved is None else dense(saved)
        dy = dense(dy) if saved is None else dense_as(dy, saved)  # type: ignore[assignment]
        dx, db, dnoise = backward_outputs(dy, saved, dim, mask)
        if dy.numel() == 0:
            return dx, db.zero_(), dnoise.zero_()
        g = geometry(dy, dim)
        chunk, channel_chunk = configs.reduction_chunks(backend, g, dy.element_size(), mask[2])
        wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
        db_partial = dy.new_empty((-(-g.positions // chunk), g.channels), dtype=wide) if mask[1] else None
        dnoise_partial = dy.new_empty((-(-g.channels // channel_chunk), g.positions), dtype=wide) if mask[2] else None
        limit = clamp if clamp < 0 else representable(clamp, dy.dtype)
        kernel("bias_act", backend, "bias_act_backward")(
            dy, saved if y is not None else None, saved if y is None else None, _contiguous(b), _contiguous(noise),
            dx if mask[0] else None, db_partial, dnoise_partial, chunk, channel_chunk,
            *g, activation_funcs[act].index, alpha, gain, limit,
        )  # fmt: skip
        # The second stage of the reductions: few numbers, summed in a fixed order.
        if db_partial is not None:
            db.copy_(db_partial.sum(0))
        if dnoise_partial is not None:
            dnoise.copy_(dnoise_partial.sum(0).view(dnoise.shape))
        return dx, db, dnoise

    return run


def _double_backward(backend: str) -> Any:
    def run(
        u: Any, u_b: Any, u_noise: Any, dy: Tensor, y: Any, x: Any, b: Any, noise: Any,
        dim: int, act: str, alpha: float, gain: float, clamp: float, mask: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        saved = y if y is not None else x
        saved = None if saved is None else dense(saved)
        # Without a second derivative dy only gives the shape.
        dy = dense(dy) if saved is None else dense_as(dy, saved) if mask[1] else saved  # type: ignore[assignment]
        d_dy, d_saved = double_backward_outputs(dy, saved, mask)
        if dy.numel():
            limit = clamp if clamp < 0 else representable(clamp, dy.dtype)
            kernel("bias_act", backend, "bias_act_double_backward")(
                dense_as(u, dy), _contiguous(u_b), _contiguous(u_noise), dy,
                saved if y is not None else None, saved if y is None else None, _contiguous(b), _contiguous(noise),
                d_dy if mask[0] else None, d_saved if mask[1] else None,
                *geometry(dy, dim), activation_funcs[act].index, alpha, gain, limit,
            )  # fmt: skip
        return d_dy, d_saved

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(x: Tensor, *rest: Any) -> Tensor:
    return empty_like(x).copy_(bias_act_composed(x, *rest))


def _reference_backward(dy: Tensor, y: Any, x: Any, b: Any, noise: Any, dim: int, act: str, *rest: Any) -> Any:
    alpha, gain, clamp, mask = rest
    limit = clamp if clamp < 0 else representable(clamp, dy.dtype)
    results = backward_composed(dy, y, x, b, noise, dim, act, alpha, gain, limit, mask)
    outputs = backward_outputs(dy, y if y is not None else x, dim, mask)
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, mask, strict=True))


def _reference_double_backward(
    u: Any, u_b: Any, u_noise: Any, dy: Tensor, y: Any, x: Any, b: Any, noise: Any, *rest: Any
) -> Any:
    dim, act, alpha, gain, clamp, mask = rest
    limit = clamp if clamp < 0 else representable(clamp, dy.dtype)
    results = double_backward_composed(u, u_b, u_noise, dy, y, x, b, noise, dim, act, alpha, gain, limit, mask)
    outputs = double_backward_outputs(dy, y if y is not None else x, mask)
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, mask, strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
def _passes(x: Tensor, b: Any, noise: Any, dim: int, act: str, alpha: float, gain: float, clamp: float) -> int:
    return (b is not None) + (noise is not None) + passes(act, gain, clamp)


FORWARD = kernel_table("bias_act", "bias_act", _forward, _reference_forward, composed=bias_act_composed, passes=_passes)
BACKWARD = kernel_table("bias_act_backward", "bias_act", _backward, _reference_backward)
DOUBLE_BACKWARD = kernel_table("bias_act_double_backward", "bias_act", _double_backward, _reference_double_backward)


def in_place(x: Tensor, *rest: Any) -> None:
    """Overwrite ``x``; a copy in between only where it is not dense."""
    row = FORWARD.choose(x, *rest)
    if row.name == "reference" or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x.copy_(row.run(x, *rest))
    else:
        b, noise, *settings = rest
        row.call(_forward_into, row.name, x, b, noise, x, *settings)
        torch.autograd.graph.increment_version(x)  # so that a backward that has saved x notices
