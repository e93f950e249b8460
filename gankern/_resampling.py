"""What the operators around resampling convolutions share: the padding that they mean, and the definition in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern import _validate


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
    y = torch.nn.functional.pad(_spread(x, up), list(pads))  # negative padding crops
    if up > 1:
        y = _fir(y, f, flip_filter, up**2)
    y = torch.nn.functional.conv2d(y, w if flip_weight else w.flip(2, 3), groups=groups)
    if down > 1:
        y = _fir(y, f, flip_filter, 1)[:, :, ::down, ::down]
    return y


def _spread(x: Tensor, up: int) -> Tensor:
    """``up - 1`` zeros behind every pixel."""
    if up == 1:
        return x
    n, c, h, w = x.shape
    zeros = torch.nn.functional.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1])
    return zeros.reshape(n, c, h * up, w * up)


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
