"""upfirdn2d in Triton: one pass over the image, polyphase, the rows of a column sliding through registers.

Along each axis an output ``o`` meets the taps ``k`` with ``o * down - pad + k`` divisible by ``up``, so outputs repeat with a
period of ``up / gcd(up, down)``. A *lane* computes some neighbouring outputs (a multiple of the period) from a *window* of
input pixels; which tap meets which pixel of the window is then known when the kernel is compiled, and the zeros that
upsampling puts in are neither read nor multiplied. :class:`Axis` is that geometry.

``_upfirdn2d_fwd_kernel`` walks down the image. Each step reads the rows that are new in the window and finishes
``Axis.outputs`` rows. What earlier rows contribute stays in registers, in the smaller of two forms: sums of the outputs that
are not finished yet, or the older rows of the window (if the filter is separable: filtered along x).

- channels_last: a lane is a group of pixels; vectors run over channels; every column of the window is its own vector load.
- NCHW: vectors run along x; the window is read in aligned vectors, taken apart in registers, and the results put together.

``_upfirdn2d_any_kernel`` takes what registers cannot hold (many taps, large factors) with loops of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import constexpr_function, jit, tl
from gankern.ops.upfirdn2d import configs


# ---- geometry of one axis -------------------------------------------------------------------------------------------
class Axis(NamedTuple):
    """One axis for a lane: ``outputs`` neighbouring outputs from a window of ``pixels`` inputs, ``step`` further per lane."""

    up: int
    down: int
    taps: int
    outputs: int
    pixels: int
    step: int
    phase: int  # upsampled coordinate of the first output's first tap, from the window's first pixel


@constexpr_function
def _tap(axis, output, pixel):
    """The tap with which an output of the lane meets a pixel of the window, or -1."""
    tap = pixel * axis.up - axis.phase - output * axis.down
    return tap if 0 <= tap < axis.taps else -1


@constexpr_function
def _pending(axis):
    """How many later steps the newest pixels of a window contribute to."""
    return max(0, -((axis.step - axis.pixels) // axis.step))


@constexpr_function
def _get(axis, name):
    return getattr(axis, name)


# ---- pieces of the kernel -------------------------------------------------------------------------------------------
@jit
def _take_apart(v, COUNT: tl.constexpr):
    """[A, B, COUNT] to a tuple of COUNT tensors [A, B]; threads hold whole vectors, so that nothing moves."""
    if COUNT == 1:
        parts = (tl.reshape(v, (v.shape[0], v.shape[1])),)
    else:
        even, odd = tl.split(tl.reshape(v, (v.shape[0], v.shape[1], COUNT // 2, 2)))
        evens = _take_apart(even, COUNT // 2)
        odds = _take_apart(odd, COUNT // 2)
        parts = ()
        for i in tl.static_range(COUNT // 2):
            parts = parts + (evens[i], odds[i])
    return parts


@jit
def _put_together(parts, FIRST: tl.constexpr, STRIDE: tl.constexpr, COUNT: tl.constexpr):
    """parts[FIRST], parts[FIRST + STRIDE], ..., COUNT of them [A, B], to [A, B, COUNT]."""
    if COUNT == 1:
        v = parts[FIRST][:, :, None]
    else:
        even = _put_together(parts, FIRST, STRIDE * 2, COUNT // 2)
        odd = _put_together(parts, FIRST + STRIDE, STRIDE * 2, COUNT // 2)
        v = tl.reshape(tl.join(even, odd), (even.shape[0], even.shape[1], COUNT))
    return v


@jit
def _load_columns(row, live, column, width, stride, AX: tl.constexpr, BLOCKS: tl.constexpr, SKIP: tl.constexpr, ACC: tl.constexpr):
    """The window's pixels of one row, a tensor [A, B] per column. BLOCKS (start, count) are the aligned vectors that hold
    them, the first SKIP pixels too many; without BLOCKS every column is loaded by itself, ``stride`` from the last."""
    columns = ()
    if len(BLOCKS) > 0:
        for b in tl.static_range(len(BLOCKS)):
            i = BLOCKS[b][0] + tl.arange(0, BLOCKS[b][1])[None, None, :]
            at = column[:, :, None] + i
            v = tl.load(row[:, :, None] + i, mask=live[:, :, None] & (at >= 0) & (at < width), other=0.0)
            columns = columns + _take_apart(v.to(ACC), BLOCKS[b][1])
        columns = columns[SKIP:]
    else:
        for j in tl.static_range(_get(AX, "pixels")):
            v = tl.load(row + j * stride, mask=live & (column + j >= 0) & (column + j < width), other=0.0)
            columns = columns + (v.to(ACC),)
    return columns


@jit
def _filter_x(columns, taps_x, AX: tl.constexpr):
    """The lane's outputs along x of one row."""
    outputs = ()
    for o in tl.static_range(_get(AX, "outputs")):
        v = columns[0] * 0.0 if _tap(AX, o, 0) < 0 else columns[0] * taps_x[_tap(AX, o, 0)]
        for j in tl.static_range(1, _get(AX, "pixels")):
            if _tap(AX, o, j) >= 0:
                v += columns[j] * taps_x[_tap(AX, o, j)]
        outputs = outputs + (v,)
    return outputs
