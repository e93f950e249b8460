"""upfirdn2d, the definition: pure PyTorch, any dtype, any order of differentiation in ``x`` and ``f``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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
    z = _stuff(x, up, padding)
    if f is None:
        return z[:, :, :: down[1], :: down[0]] * gain
    g = f.to(x.dtype)
    if not flip_filter:
        g = g.flip(list(range(g.dim())))
    # Autocast would run the convolution in another dtype than x's.
    with torch.autocast(x.device.type, enabled=False):
        if g.dim() == 2:
            return _correlate(z, g * gain, down[0], down[1])
        return _correlate(_correlate(z, g[None, :], down[0], 1), g[:, None] * gain, 1, down[1])


def _stuff(x: Tensor, up: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Put up - 1 zeros behind each pixel, then pad with zeros; negative padding crops."""
    n, c, h, w = x.shape
    if up[0] > 1 or up[1] > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1]).reshape(n, c, h * up[1], w * up[0])
    if not any(padding):
        return x
    if all(p >= 0 for p in padding):
        return F.pad(x, list(padding))
    x_lo, x_hi, before_x, after_x = _crop(w * up[0], padding[0], padding[1])
    y_lo, y_hi, before_y, after_y = _crop(h * up[1], padding[2], padding[3])
    return F.pad(x[:, :, y_lo:y_hi, x_lo:x_hi], [before_x, after_x, before_y, after_y])


def _crop(size: int, before: int, after: int) -> tuple[int, int, int, int]:
    """(first, last) to keep of an axis and the zeros (before, after) to add; padding may crop the whole of it away."""
    first = min(max(-before, 0), size)
    last = max(min(size + after, size), first)
    total = size + before + after
    zeros_before = min(max(before, 0), total - (last - first))
    return first, last, zeros_before, total - (last - first) - zeros_before


def _correlate(z: Tensor, g: Tensor, step_x: int, step_y: int) -> Tensor:
    """Correlate every channel with the same taps g [kh, kw], every step-th position."""
    n, c, h, w = z.shape
    # As one image with one channel: a depthwise convolution needs a channel, and PyTorch 2.13's hangs on the CPU for half
    # types and more than 13 taps along x.
    wide_half = z.dtype in (torch.bfloat16, torch.float16) and z.device.type == "cpu" and g.shape[1] > 12
    if c == 0 or wide_half:
        y = F.conv2d(z.reshape(n * c, 1, h, w), g[None, None], stride=(step_y, step_x))
        return y.reshape(n, c, y.shape[2], y.shape[3])
    return F.conv2d(z, g[None, None].expand(c, 1, -1, -1), stride=(step_y, step_x), groups=c)
