"""The implementations of adain, its backward and its double backward: allocation, rectangles and the dispatch tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._activations import activation_funcs
from gankern._backends import kernel, kernel_table
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern.ops.adain import configs
from gankern.ops.adain.reference import (
    adain_composed,
    backward_composed,
    centred_planes,
    double_backward_composed,
    pre_activation,
)
from gankern.ops.modulate import relayout


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (y, mean, rstd)."""
    dtype = wide(x.dtype)
    return empty_like(x), x.new_empty(x.shape[:2], dtype=dtype), x.new_empty(x.shape[:2], dtype=dtype)


def backward_outputs(x: Tensor, spatial: bool, mask: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised (dx, dscale, dshift, dnoise, db); an empty tensor for what ``mask`` does not want."""
    n, c, h, w = x.shape
    dtype = wide(x.dtype)

    def factor(wanted: bool) -> Tensor:
        if spatial:
            return empty_like(x) if wanted else x.new_empty(0)
        return x.new_empty((n, c) if wanted else 0, dtype=dtype)

    return (
        empty_like(x) if mask[0] else x.new_empty(0),
        factor(mask[1]),
        factor(mask[2]),
        x.new_empty((n, 1, h, w) if mask[3] else 0, dtype=dtype),
        x.new_empty(c if mask[4] else 0, dtype=dtype),
    )


def double_backward_outputs(x: Tensor, spatial: bool, mask: Any) -> tuple[Tensor, ...]:
    """Uninitialised (d_dy, d_x, d_scale, d_shift, d_noise, d_b); an empty tensor for what ``mask`` does not want."""
    return (empty_like(x) if mask[0] else x.new_empty(0), *backward_outputs(x, spatial, mask[1:]))


# ---- native ----------------------------------------------------------------------------------------------------------------
def _dense_as(t: Tensor | None, like: Tensor) -> Tensor | None:
    """``t`` ready for a kernel: an image dense in the layout of ``like``, copied only if it is not so already."""
    if t is None or t.dim() != 4 or t.shape != like.shape:
        return None if t is None else t.contiguous()
    return relayout(t, _layout.memory_format(like))


class _Cut:
    """How images are cut into rectangles, and the scratch for their sums."""

    def __init__(self, backend: str, name: str, x: Tensor, spatial: bool, settings: Any, noise_gradient: bool = False) -> None:
        n, c, h, w = x.shape
        self.x, self.dtype, self.spatial = x, wide(x.dtype), spatial
        self.channels_last = _layout.memory_format(x) == torch.channels_last
        heavy = spatial or activation_funcs[settings[0]].curved or activation_funcs[settings[3]].curved
        cut = configs.chunks(backend, name, heavy, self.channels_last, n, c, h * w, x.element_size(), noise_gradient)
        self.pixel_chunk, self.channel_chunk = cut
        self.across = -(-(h * w) // self.pixel_chunk)

    def scratch(self, name: str) -> list[Tensor]:
        n, c = self.x.shape[:2]
        partial = self.x.new_empty((n, self.across, configs.SUMS[name], c), dtype=self.dtype)
        count = configs.COEFFICIENTS[name]
        return [partial, self.x.new_empty((n, count, c), dtype=self.dtype)] if count else [partial]

    def reductions(self, mask: Any) -> tuple[Tensor | None, Tensor | None]:
        """Partial sums of the gradients of noise and bias, for what ``mask`` wants of them."""
        n, c, h, w = self.x.shape
        rows = -(-c // self.channel_chunk)
        return (
            self.x.new_empty((rows, n, 1, h, w), dtype=self.dtype) if mask[0] else None,
            self.x.new_empty((n, self.across, c), dtype=self.dtype) if mask[1] else None,
        )

    def settings(self, act: str, alpha: float, gain: float, pre_act: str, pre_alpha: float, eps: float) -> tuple[Any, ...]:
        """As the kernels take them."""
        index, pre_index = activation_funcs[act].index, activation_funcs[pre_act].index
        cut = (self.channels_last, self.spatial, self.pixel_chunk, self.channel_chunk)
        return *cut, index, alpha, gain, pre_index, pre_alpha, eps


def _total(partial: Tensor) -> Tensor:
    """The second stage of a reduction: few numbers, summed in a fixed order; one is the sum already."""
    return partial[0] if partial.shape[0] == 1 else partial.sum(0)


def _reduced(results: tuple[Tensor, ...], noise: Tensor | None, b: Tensor | None) -> tuple[Tensor, ...]:
    """``results`` with its last two, the gradients of noise and bias, from their partial sums."""
    *images, dnoise, db = results
    return *images, dnoise if noise is None else _total(noise), db if b is None else _total(b.flatten(0, 1))


def _is_spatial(*factors: Tensor | None) -> bool:
    return any(t is not None and t.dim() == 4 for t in factors)


def _forward(backend: str) -> Callable[..., Any]:
    def run(x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd = outputs(x)
        if x.numel():
            cut = _Cut(backend, "adain", y, _is_spatial(scale, shift), settings)
            inputs = [_dense_as(t, y) for t in (x, scale, shift)]
            kernel("adain", backend, "adain")(*inputs, noise, b, y, mean, rstd, *cut.scratch("adain"), *cut.settings(*settings))
        return y, mean, rstd

    return run


def _backward(backend: str) -> Callable[..., Any]:
    def run(
        dy: Tensor, x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, mean: Tensor, rstd: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        *settings, spatial, mask = rest
        results = backward_outputs(x, spatial, mask)
        if x.numel() == 0:
            return tuple(t.zero_() for t in results)
        cut = _Cut(backend, "adain_backward", x, spatial, settings, mask[3])
        images = [_dense_as(t, x) for t in (dy, x, scale, shift)]
        sums = cut.reductions(mask[3:])
        wanted = [t if w else None for t, w in zip(results[:3], mask, strict=False)]
        kernel("adain", backend, "adain_backward")(
            *images, noise, b, mean, rstd, *wanted, *sums, *cut.scratch("adain_backward"), *cut.settings(*settings)
        )
        return _reduced(results, *sums)

    return run


def _double_backward(backend: str) -> Callable[..., Any]:
    def run(
        u: Any, u_scale: Any, u_shift: Any, u_noise: Any, u_b: Any,
        dy: Tensor, x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, mean: Tensor, rstd: Tensor, *rest: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        *settings, spatial, mask = rest
        results = double_backward_outputs(x, spatial, mask)
        if x.numel() == 0:
            return tuple(t.zero_() for t in results)
        cut = _Cut(backend, "adain_double_backward", x, spatial, settings, mask[4])
        given = [_dense_as(t, x) for t in (u, u_scale, u_shift)]
        given += [None if t is None else t.contiguous() for t in (u_noise, u_b)]
        images = [_dense_as(t, x) for t in (dy, x, scale, shift)]
        sums = cut.reductions(mask[4:])
        wanted = [t if w else None for t, w in zip(results[:4], mask, strict=False)]
        kernel("adain", backend, "adain_double_backward")(
            *given, *images, noise, b, mean, rstd, *wanted, *sums,
            *cut.scratch("adain_double_backward"), *cut.settings(*settings),
        )  # fmt: skip
        return _reduced(results, *sums)

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(x: Tensor, scale: Any, shift: Any, noise: Any, b: Any, *settings: Any) -> Any:
    y, mean, rstd = outputs(x)
    if x.numel() == 0:
        return y, mean, rstd
    pre_act, pre_alpha, eps = settings[3:]
    v = activation_funcs[pre_act].function(pre_activation(x.to(mean.dtype), noise, b), pre_alpha)
    y.copy_(adain_composed(x, scale, shift, noise, b, *settings))
    mean.copy_(v.mean((2, 3)))
    return y, mean, rstd.copy_(centred_planes(v, eps)[1][:, :, 0, 0])


def _filled(made: tuple[Tensor, ...], composed: Callable[..., tuple[Tensor, ...]], x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    if x.numel() == 0:
        return tuple(t.zero_() for t in made)
    return tuple(t.copy_(result) for t, result in zip(made, composed(*args), strict=True))


def _reference_backward(*args: Any) -> tuple[Tensor, ...]:
    x = args[1]
    return _filled(backward_outputs(x, *args[-2:]), backward_composed, x, *args)


def _reference_double_backward(*args: Any) -> tuple[Tensor, ...]:
    x = args[6]
    return _filled(double_backward_outputs(x, *args[-2:]), double_backward_composed, x, *args)


# ---- tables -----------------------------------------------------------------------------------------------------------------
FORWARD = kernel_table("adain", "adain", _forward, _reference_forward)
BACKWARD = kernel_table("adain_backward", "adain", _backward, _reference_backward)
DOUBLE_BACKWARD = kernel_table("adain_double_backward", "adain", _double_backward, _reference_double_backward)
