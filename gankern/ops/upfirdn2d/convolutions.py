"""upfirdn2d as padding and depthwise convolutions: the form that exported files get (gankern.export)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern._autocast import suspended
from gankern._resampling import fir
from gankern.ops.upfirdn2d.reference import padded, upfirdn2d_composed


def upfirdn2d_convolutions(
    x: Tensor, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool, gain: float
) -> Tensor:
    """:func:`gankern.ops.upfirdn2d` of prepared arguments.

    Upsampling is a transposed convolution, which has no zeros to multiply with, where the definition convolves an image that is
    mostly zeros. Not for training: PyTorch's second derivatives of grouped convolutions are slow.
    """
    if f is None or (up[0] == 1 and up[1] == 1):
        return upfirdn2d_composed(x, f, up, down, padding, flip_filter, gain)
    g = f.to(x.dtype)
    if flip_filter:  # a transposed convolution convolves
        g = g.flip(list(range(g.dim())))
    with suspended(x.device):
        if g.dim() == 2:
            y = _transposed(x, g * gain, up, padding)
        else:
            y = _transposed(x, g[None, :], (up[0], 1), (*padding[:2], 0, 0))
            y = _transposed(y, g[:, None] * gain, (1, up[1]), (0, 0, *padding[2:]))
    return fir(y, None, down, False, 1) if down[0] > 1 or down[1] > 1 else y


def _transposed(x: Tensor, g: Tensor, up: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Upsample, pad and convolve every channel with taps g [taps_y, taps_x]; up is (x, y), padding (x0, x1, y0, y1).

    The full result has (size - 1) * up + taps pixels. The wanted ones begin with number taps - 1 - padding_before of these; the
    definition has up - 1 zeros behind the last pixel too.
    """
    taps_y, taps_x = g.shape
    rest = [
        padding[0] - (taps_x - 1), padding[1] + up[0] - taps_x,
        padding[2] - (taps_y - 1), padding[3] + up[1] - taps_y,
    ]  # fmt: skip
    # What both sides have too much, the convolution need not compute, but it must leave a pixel.
    crop_x, crop_y = (
        max(0, min(-rest[2 * i], -rest[2 * i + 1], ((x.shape[3 - i] - 1) * up[i] + (taps_x, taps_y)[i] - 1) // 2))
        for i in (0, 1)
    )
    channels = x.shape[1]
    if channels == 0:
        return upfirdn2d_composed(x, g, up, (1, 1), padding, False, 1.0)
    y = torch.nn.functional.conv_transpose2d(
        x, g[None, None].expand(channels, 1, -1, -1), stride=(up[1], up[0]), padding=(crop_y, crop_x), groups=channels
    )
    return padded(y, [rest[0] + crop_x, rest[1] + crop_x, rest[2] + crop_y, rest[3] + crop_y])
