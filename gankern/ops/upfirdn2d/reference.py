"""upfirdn2d, the definition: pure PyTorch, any dtype, any order of differentiation in ``x`` and ``f``."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from gankern._resampling import fir, spread
from gankern.ops.upfirdn2d.arguments import prepare


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Reference of :func:`gankern.ops.upfirdn2d`: same arguments, same result, composed of PyTorch's own operators."""
    return upfirdn2d_composed(*prepare(x, f, up, down, padding, flip_filter, gain))


def upfirdn2d_composed(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """The same on prepared arguments: up and down (x, y), padding (x0, x1, y0, y1), all checked."""
    return fir(padded(spread(x, up), padding), f, down, flip_filter, gain)


def padded(z: Tensor, padding: Sequence[int]) -> Tensor:
    """With zeros around; negative padding crops."""
    if not any(padding):
        return z
    if all(p >= 0 for p in padding):
        return F.pad(z, list(padding))
    x_lo, x_hi, before_x, after_x = _crop(z.shape[3], padding[0], padding[1])
    y_lo, y_hi, before_y, after_y = _crop(z.shape[2], padding[2], padding[3])
    return F.pad(z[:, :, y_lo:y_hi, x_lo:x_hi], [before_x, after_x, before_y, after_y])


def _crop(size: int, before: int, after: int) -> tuple[int, int, int, int]:
    """(first, last) to keep of an axis and the zeros (before, after) to add; padding may crop the whole of it away."""
    first = min(max(-before, 0), size)
    last = max(min(size + after, size), first)
    total = size + before + after
    zeros_before = min(max(before, 0), total - (last - first))
    return first, last, zeros_before, total - (last - first) - zeros_before
