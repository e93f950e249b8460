"""The implementations of modulate, its backward and its double backward: allocation, rectangles and the dispatch tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._activations import activation_funcs, passes, representable
from gankern._backends import kernel, kernel_table
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern.ops.modulate import configs
from gankern.ops.modulate.layouts import relayout, turn, turns
from gankern.ops.modulate.reference import backward_composed, double_backward_composed, modulate_composed


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def leader(dy: Tensor, y: Tensor | None, x: Tensor | None) -> Tensor:
    """The image whose layout the others take in backward: a saved one if there is one."""
    return y if y is not None else dy if x is None else x


def backward_outputs(like: Tensor, mask: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised (dx, dscale, dnoise, db); an empty tensor for what ``mask`` does not want."""
    n, c, h, w = like.shape
    dtype = wide(like.dtype)
    return (
        empty_like(like) if mask[0] else like.new_empty(0),
        like.new_empty((n, c) if mask[1] else 0, dtype=dtype),
        like.new_empty((n, 1, h, w) if mask[2] else 0, dtype=dtype),
        like.new_empty(c if mask[3] else 0, dtype=dtype),
    )


def double_backward_outputs(like: Tensor, mask: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised (d_dy, d_saved, d_x, d_scale); an empty tensor for what ``mask`` does not want."""
    d_dy, d_saved, d_x = (empty_like(like) if wanted else like.new_empty(0) for wanted in mask[:3])
    return d_dy, d_saved, d_x, like.new_empty(like.shape[:2] if mask[3] else 0, dtype=wide(like.dtype))


def _is_channels_last(x: Tensor) -> bool:
    return _layout.memory_format(x) == torch.channels_last


def _dense_as(t: Tensor | None, like: Tensor) -> Tensor | None:
    """``t`` dense in the layout of ``like``, copied only if it is not so already."""
    return None if t is None else relayout(t, _layout.memory_format(like))


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


# ---- native and Triton: the same calls -------------------------------------------------------------------------------------
class _Cut:
    """How an image is cut into rectangles, and the partial sums of their lines."""

    def __init__(self, backend: str, x: Tensor) -> None:
        self.channels_last = _is_channels_last(x)
        n, c, h, w = x.shape
        pixels = h * w
        self.pixel_chunk, self.channel_chunk = configs.chunks(backend, self.channels_last, n, c, pixels, x.element_size())
        self.per_channel = (n, -(-pixels // self.pixel_chunk), c)
        self.per_pixel = (-(-c // self.channel_chunk), n, pixels)

    @property
    def arguments(self) -> tuple[bool, int, int]:
        return self.channels_last, self.pixel_chunk, self.channel_chunk


def _total(partial: Tensor, dim: int) -> Tensor:
    """The second stage of a reduction: few numbers, summed in a fixed order; one is the sum already."""
    return partial.select(dim, 0) if partial.shape[dim] == 1 else partial.sum(dim)


def _settings(dtype: torch.dtype, act: str, alpha: float, gain: float, clamp: float) -> tuple[int, float, float, float]:
    """As the kernels take them."""
    return activation_funcs[act].index, alpha, gain, clamp if clamp < 0 else representable(clamp, dtype)


def _forward(backend: str) -> Any:
    def run(x: Tensor, scale: Any, noise: Any, b: Any, *settings: Any) -> Tensor:
        y = empty_like(x)
        _forward_into(backend, x, scale, noise, b, y, *settings)
        return y

    return run


def _forward_into(backend: str, x: Tensor, scale: Any, noise: Any, b: Any, y: Tensor, *settings: Any) -> None:
    if x.numel() and backend == "cpu" and turns(x, y):
        turn(x, _contiguous(scale), _contiguous(noise), _contiguous(b), y, *_settings(x.dtype, *settings))
    elif x.numel():
        kernel("modulate", backend, "modulate")(
            _dense_as(x, y), _contiguous(scale), _contiguous(noise), _contiguous(b), y,
            *_Cut(backend, y).arguments, *_settings(x.dtype, *settings),
        )  # fmt: skip


def _backward(backend: str) -> Any:
    def run(
        dy: Tensor, y: Any, x: Any, scale: Any, noise: Any, b: Any,
        act: str, alpha: float, gain: float, clamp: float, mask: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        like = leader(dy, y, x)
        dx, dscale, dnoise, db = backward_outputs(like, mask)
        if dy.numel() == 0:
            return dx, dscale.zero_(), dnoise.zero_(), db.zero_()
        cut, dtype = _Cut(backend, like), wide(like.dtype)
        dscale_partial = dy.new_empty(cut.per_channel, dtype=dtype) if mask[1] else None
        dnoise_partial = dy.new_empty(cut.per_pixel, dtype=dtype) if mask[2] else None
        db_partial = dy.new_empty(cut.per_channel, dtype=dtype) if mask[3] else None
        kernel("modulate", backend, "modulate_backward")(
            _dense_as(dy, like), _dense_as(y, like), _dense_as(x, like),
            _contiguous(scale), _contiguous(noise), _contiguous(b),
            dx if mask[0] else None, dscale_partial, dnoise_partial, db_partial,
            *cut.arguments, *_settings(like.dtype, act, alpha, gain, clamp),
        )  # fmt: skip
        if dscale_partial is not None:
            dscale = _total(dscale_partial, 1)
        if dnoise_partial is not None:
            dnoise = _total(dnoise_partial, 0).view(dnoise.shape)
        if db_partial is not None:
            db = _total(db_partial.flatten(0, 1), 0)
        return dx, dscale, dnoise, db

    return run


def _double_backward(backend: str) -> Any:
    def run(
        u: Any, u_scale: Any, u_noise: Any, u_b: Any, dy: Tensor, y: Any, x: Any, scale: Any, noise: Any, b: Any,
        act: str, alpha: float, gain: float, clamp: float, mask: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        like = leader(dy, y, x)
        d_dy, d_saved, d_x, d_scale = double_backward_outputs(like, mask)
        if dy.numel() == 0:
            return d_dy, d_saved, d_x, d_scale.zero_()
        cut = _Cut(backend, like)
        # For U * slope alone dy only gives the shape.
        dy = _dense_as(dy, like) if any(mask[1:]) else _dense_as(like, like)  # type: ignore[assignment]
        d_scale_partial = dy.new_empty(cut.per_channel, dtype=wide(like.dtype)) if mask[3] else None
        kernel("modulate", backend, "modulate_double_backward")(
            _dense_as(u, like), _contiguous(u_scale), _contiguous(u_noise), _contiguous(u_b),
            dy, _dense_as(y, like), _dense_as(x, like), _contiguous(scale), _contiguous(noise), _contiguous(b),
            d_dy if mask[0] else None, d_saved if mask[1] else None, d_x if mask[2] else None, d_scale_partial,
            *cut.arguments, *_settings(like.dtype, act, alpha, gain, clamp),
        )  # fmt: skip
        return d_dy, d_saved, d_x, d_scale if d_scale_partial is None else _total(d_scale_partial, 1)

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(x: Tensor, *rest: Any) -> Tensor:
    return empty_like(x).copy_(modulate_composed(x, *rest))


def _limited(dtype: torch.dtype, act: str, alpha: float, gain: float, clamp: float, mask: Any) -> tuple[Any, ...]:
    return act, alpha, gain, clamp if clamp < 0 else representable(clamp, dtype), mask


def _reference_backward(dy: Tensor, y: Any, x: Any, scale: Any, noise: Any, b: Any, *rest: Any) -> Any:
    results = backward_composed(dy, y, x, scale, noise, b, *_limited(dy.dtype, *rest))
    outputs = backward_outputs(leader(dy, y, x), rest[-1])
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, rest[-1], strict=True))


def _reference_double_backward(
    u: Any, u_scale: Any, u_noise: Any, u_b: Any, dy: Tensor, y: Any, x: Any, scale: Any, noise: Any, b: Any, *rest: Any
) -> Any:
    saved = (y, x, scale, noise, b)
    results = double_backward_composed(u, u_scale, u_noise, u_b, dy, *saved, *_limited(dy.dtype, *rest))
    outputs = double_backward_outputs(leader(dy, y, x), rest[-1])
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, rest[-1], strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
def _passes(x: Tensor, scale: Any, noise: Any, b: Any, act: str, alpha: float, gain: float, clamp: float) -> int:
    return (scale is not None) + (noise is not None) + (b is not None) + passes(act, gain, clamp)


FORWARD = kernel_table("modulate", "modulate", _forward, _reference_forward, composed=modulate_composed, passes=_passes)
BACKWARD = kernel_table("modulate_backward", "modulate", _backward, _reference_backward)
DOUBLE_BACKWARD = kernel_table("modulate_double_backward", "modulate", _double_backward, _reference_double_backward)


def in_place(x: Tensor, *rest: Any) -> None:
    """Overwrite ``x``; a copy in between only where it is not dense."""
    row = FORWARD.choose(x, *rest)
    if row.name == "reference" or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x.copy_(row.run(x, *rest))
    else:
        scale, noise, b, *settings = rest
        row.call(_forward_into, row.name, x, scale, noise, b, x, *settings)
        torch.autograd.graph.increment_version(x)  # so that a backward that has saved x notices


def into(x: Tensor, scale: Any, noise: Any, b: Any, act: str, alpha: float, gain: float, clamp: float, y: Tensor) -> None:
    """Write the result for ``x`` into the dense image ``y``."""
    row = FORWARD.choose(x, scale, noise, b, act, alpha, gain, clamp)
    if row.name == "reference":
        y.copy_(row.run(x, scale, noise, b, act, alpha, gain, clamp))
    else:
        row.call(_forward_into, row.name, x, scale, noise, b, y, act, alpha, gain, clamp)
        torch.autograd.graph.increment_version(y)
