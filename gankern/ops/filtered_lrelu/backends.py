"""The implementations of filtered_lrelu and of its linear part: allocation, and the dispatch tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._backends import kernel
from gankern._dispatch import Row, Table
from gankern._dtypes import wide
from gankern._library import native_can_run
from gankern.ops.filtered_lrelu.arguments import Resampling, is_channels_last, mask_shape, resampling
from gankern.ops.filtered_lrelu.reference import codes, filtered_lrelu_composed, masked_composed, pack
from gankern.ops.modulate import relayout


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def outputs(x: Tensor, r: Resampling, with_mask: bool) -> tuple[Tensor, Tensor]:
    """Uninitialised output and mask; an empty mask if it is not wanted."""
    n, c = x.shape[:2]
    y = _layout.empty(x, (n, c, r.size[1], r.size[0]))
    return y, x.new_empty(mask_shape(n, c, r.mid, is_channels_last(x)) if with_mask else 0, dtype=torch.uint8)


def masked_output(x: Tensor, size: Any, channels_last: bool) -> Tensor:
    """Uninitialised output of the linear part."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((*x.shape[:2], size[1], size[0]), dtype=x.dtype, device=x.device, memory_format=form)


# ---- native and Triton: one kernel serves both operators ---------------------------------------------------------------------
def _taps(x: Tensor, f: Tensor | None) -> Tensor | None:
    """The taps in the kernels' accumulation type."""
    return None if f is None else f.to(wide(x.dtype)).contiguous()


def _unit_stride(x: Tensor, channels_last: bool) -> Tensor:
    """``x``, copied only if what the layout puts innermost is not contiguous."""
    if x.stride(1 if channels_last else 3) == 1:
        return x
    return relayout(x, torch.channels_last if channels_last else torch.contiguous_format)


def _forward(backend: str) -> Any:
    def run(
        x: Tensor, fu: Any, fd: Any, b: Any, up: Any, down: Any, padding: Any,
        gain: float, slope: float, clamp: float, flip_filter: bool, with_mask: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        r = resampling(x, fu, fd, up, down, padding)
        channels_last = is_channels_last(x)
        y, mask = outputs(x, r, with_mask)
        if y.numel():
            kernel("filtered_lrelu", backend, "filtered_lrelu")(
                _unit_stride(x, channels_last), _taps(x, fu), _taps(x, fd), None if b is None else b.contiguous(),
                None, mask if with_mask else None, y, channels_last, *up, *down, *r.start, *r.offset, r.mid[1], r.mid[0],
                flip_filter, float(up[0] * up[1]), gain, slope, clamp,
            )  # fmt: skip
        return y, mask

    return run


def _masked(backend: str) -> Any:
    def run(
        x: Tensor, mask: Tensor, fu: Any, fd: Any, up: Any, down: Any, start: Any, offset: Any, mid: Any, size: Any,
        scale: float, gain: float, slope: float, flip_filter: bool, channels_last: bool,
    ) -> Tensor:  # fmt: skip
        y = masked_output(x, size, channels_last)
        if y.numel():
            kernel("filtered_lrelu", backend, "filtered_lrelu")(
                _unit_stride(x, channels_last), _taps(x, fu), _taps(x, fd), None,
                mask.contiguous(), None, y, channels_last, *up, *down, *start, *offset, mid[1], mid[0],
                flip_filter, scale, gain, slope, -1.0,
            )  # fmt: skip
        return y

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(
    x: Tensor, fu: Any, fd: Any, b: Any, up: Any, down: Any, padding: Any, gain: float, slope: float, *rest: Any
) -> tuple[Tensor, Tensor]:
    clamp, _, with_mask = rest
    value, t = filtered_lrelu_composed(x, fu, fd, b, up, down, padding, gain, slope, *rest[:2])
    y, mask = outputs(x, resampling(x, fu, fd, up, down, padding), with_mask)
    y.copy_(value)
    return y, mask.copy_(pack(codes(t, gain, slope, clamp), is_channels_last(x))) if with_mask else mask


def _reference_masked(x: Tensor, *rest: Any) -> Tensor:
    return masked_output(x, rest[8], rest[-1]).copy_(masked_composed(x, *rest))


# ---- tables: named alike, for both are the one kernel ----------------------------------------------------------------------
def _table(make: Callable[[str], Callable[..., Any]], reference: Callable[..., Any], limited: Callable[..., Any]) -> Table:
    """``limited`` picks (fu, fd, up, down, channels_last) from an operator's arguments: Triton's has limits for them."""

    def triton_can_run(x: Tensor, *rest: Any) -> str | None:
        from gankern.ops.filtered_lrelu import triton_kernels

        return triton_kernels.can_run(x, *limited(x, *rest))

    return Table(
        "filtered_lrelu",
        [
            Row("cuda", lambda x, *_: native_can_run("cuda", "filtered_lrelu", x), make("cuda")),
            Row("cpu", lambda x, *_: native_can_run("cpu", "filtered_lrelu", x), make("cpu")),
            Row("triton", triton_can_run, make("triton")),
            Row("reference", lambda *_: None, reference),
        ],
    )


FORWARD = _table(_forward, _reference_forward, lambda x, fu, fd, b, up, down, *_: (fu, fd, up, down, is_channels_last(x)))
MASKED = _table(_masked, _reference_masked, lambda x, mask, fu, fd, up, down, *rest: (fu, fd, up, down, rest[-1]))
