"""What resampling operators share: the padding that they mean, and the definitions in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern import _validate
from gankern._autocast import suspended


def total_padding(op: str, f: Tensor | None, up: int, down: int, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """The user's padding plus what keeps the image centred, that of upsample2d and of downsample2d: (x0, x1, y0, y1)."""
    x0, x1, y0, y1 = _validate.paddings(op, padding)
    taps_x, taps_y = _validate.filter_size(f)
    if up > 1:
        x0, x1 = x0 + (taps_x + up - 1) // 2, x1 + (taps_x - up) // 2
        y0, y1 = y0 + (taps_y + up - 1) // 2, y1 + (taps_y - up) // 2
    if down > 1:
        x0, x1 = x0 + (taps_x - down + 1) // 2, x1 + (taps_x - down) // 2
        y0, y1 = y0 + (taps_y - down + 1) // 2, y1 + (taps_y - down) // 2
    return x0, x1, y0, y1


def check_size(op: str, x: Tensor, kernel: Sequence[int], f: Tensor | None, up: int, down: int, pads: Sequence[int]) -> None:
    """Require at least one output pixel along each axis; ``kernel`` is (kh, kw), ``pads`` the total padding."""
    taps = _validate.filter_size(f)
    for axis, size, before, after, filter_taps, kernel_taps in (
        ("x", x.shape[3], pads[0], pads[1], taps[0], kernel[1]),
        ("y", x.shape[2], pads[2], pads[3], taps[1], kernel[0]),
    ):
        reach = kernel_taps + ((filter_taps - 1) if up > 1 else 0) + ((filter_taps - 1) if down > 1 else 0)
        if size * up + before + after < reach:
            raise ValueError(
                f"{op}: padding leaves no output pixel along {axis}: {size} pixels * up {up} + padding {before} + {after} (the "
                f"filter's own included) is less than the {reach} that kernel and filter reach over"
            )


def resampled_conv2d(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Sequence[int],
    groups: int,
    flip_weight: bool,
    flip_filter: bool = False,
) -> Tensor:
    """The definition, every pixel of it: upsample with the filter, pad, convolve, downsample with the filter."""
    y = torch.nn.functional.pad(spread(x, (up, up)), list(pads))  # negative padding crops
    if up > 1:
        y = _fir(y, f, flip_filter, up**2)
    y = torch.nn.functional.conv2d(y, w if flip_weight else w.flip(2, 3), groups=groups)
    if down > 1:
        y = _fir(y, f, flip_filter, 1)[:, :, ::down, ::down]
    return y


def spread(x: Tensor, up: Sequence[int]) -> Tensor:
    """``up - 1`` zeros behind every pixel; ``up`` is (x, y)."""
    if up[0] == 1 and up[1] == 1:
        return x
    n, c, h, w = x.shape
    zeros = torch.nn.functional.pad(x.reshape(n, c, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1])
    return zeros.reshape(n, c, h * up[1], w * up[0])


def fir(z: Tensor, f: Tensor | None, step: Sequence[int], flip: bool, gain: float) -> Tensor:
    """Filter every channel where the taps lie wholly inside, every step-th position; ``step`` is (x, y).

    ``f``: taps as upfirdn2d takes them, reversed unless ``flip``; in the dtype of ``z``.
    """
    if f is None:
        return z[:, :, :: step[1], :: step[0]] * gain
    g = f.to(z.dtype)
    if not flip:
        g = g.flip(list(range(g.dim())))
    # Autocast would run the convolution in another dtype than z's.
    with suspended(z.device):
        if g.dim() == 2:
            return correlate(z, g * gain, step[0], step[1])
        return correlate(correlate(z, g[None, :], step[0], 1), g[:, None] * gain, 1, step[1])


def correlate(z: Tensor, g: Tensor, step_x: int, step_y: int) -> Tensor:
    """Correlate every channel with the same taps g [kh, kw], every step-th position."""
    n, c, h, w = z.shape
    # As images of one channel: a depthwise convolution needs a channel, and PyTorch 2.13's hangs on the CPU for half types and
    # more than 13 taps along x.
    wide_half = z.dtype in (torch.bfloat16, torch.float16) and z.device.type == "cpu" and g.shape[1] > 12
    if c == 0 or wide_half:
        y = torch.nn.functional.conv2d(z.reshape(n * c, 1, h, w), g[None, None], stride=(step_y, step_x))
        return y.reshape(n, c, y.shape[2], y.shape[3])
    return torch.nn.functional.conv2d(z, g[None, None].expand(c, 1, -1, -1), stride=(step_y, step_x), groups=c)


def _fir(x: Tensor, f: Tensor | None, flip_filter: bool, gain: float) -> Tensor:
    """Convolve every channel with the taps, where they lie wholly inside."""
    if f is None:
        return x * gain
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    taps = f.to(wide) if f.dim() == 2 else f.to(wide)[:, None] * f.to(wide)[None, :]
    taps = (taps if flip_filter else taps.flip(0, 1)) * gain
    n, c, h, w = x.shape
    y = torch.nn.functional.conv2d(x.to(wide).reshape(n * c, 1, h, w), taps[None, None])
    return y.reshape(n, c, y.shape[2], y.shape[3]).to(x.dtype)
