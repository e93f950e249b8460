"""The implementations of interpolate and its backward: allocation and the dispatch tables."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gankern import _layout
from gankern._backends import kernel, kernel_table
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern.ops.interpolate import configs
from gankern.ops.interpolate.reference import backward_composed, interpolate_composed


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def backward_outputs(like: Tensor, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (d_real, d_fake, d_eps); an empty tensor for what ``mask`` does not want."""
    d_real, d_fake = (empty_like(like) if wanted else like.new_empty(0) for wanted in mask[:2])
    return d_real, d_fake, like.new_empty(like.shape[0] if mask[2] else 0, dtype=wide(like.dtype))


# ---- kernels: all backends have the same calls ------------------------------------------------------------------------------
def _dense(t: Tensor | None, like: Tensor) -> Tensor | None:
    """``t`` dense in the layout of ``like``, copied only if it is not so already."""
    return None if t is None else t.contiguous(memory_format=_layout.memory_format(like))


def _chunk(backend: str, x: Tensor) -> int:
    return configs.chunk(backend, x.shape[0], math.prod(x.shape[1:]))


def _forward(backend: str) -> Any:
    def run(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
        y = empty_like(real)
        if real.numel():
            kernel("interpolate", backend, "interpolate")(
                _dense(real, real), _dense(fake, real), eps.contiguous(), y, _chunk(backend, real)
            )
        return y

    return run


def _backward(backend: str) -> Any:
    def run(dy: Tensor, real: Any, fake: Any, eps: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
        d_real, d_fake, d_eps = backward_outputs(dy, mask)
        if dy.numel() == 0:
            return d_real, d_fake, d_eps.zero_()
        chunk = _chunk(backend, dy)
        pieces = -(-math.prod(dy.shape[1:]) // chunk)
        partial = d_eps.new_empty(dy.shape[0], pieces) if mask[2] else None
        kernel("interpolate", backend, "interpolate_backward")(
            _dense(dy, dy), _dense(real, dy) if mask[2] else None, _dense(fake, dy) if mask[2] else None,
            eps.contiguous() if mask[0] or mask[1] else None,
            d_real if mask[0] else None, d_fake if mask[1] else None, partial, chunk,
        )  # fmt: skip
        # Few numbers, summed in a fixed order; one is the sum already.
        if partial is not None:
            d_eps = partial.select(1, 0) if pieces == 1 else partial.sum(1)
        return d_real, d_fake, d_eps

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    return empty_like(real).copy_(interpolate_composed(real, fake, eps))


def _reference_backward(dy: Tensor, real: Any, fake: Any, eps: Any, mask: Any) -> tuple[Tensor, ...]:
    results = backward_composed(dy, real, fake, eps, mask)
    outputs = backward_outputs(dy, mask)
    return tuple(o.copy_(r) if w else o for o, r, w in zip(outputs, results, mask, strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
FORWARD = kernel_table("interpolate", "interpolate", _forward, _reference_forward)
BACKWARD = kernel_table("interpolate_backward", "interpolate", _backward, _reference_backward)
