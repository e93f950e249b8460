"""filtered_lrelu and its linear part, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern._dtypes import wide
from gankern._resampling import fir, spread
from gankern.ops.filtered_lrelu.arguments import prepare, resampling


def filtered_lrelu_reference(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Reference of :func:`gankern.ops.filtered_lrelu`: same arguments, same result, composed of PyTorch's own operators."""
    p = prepare(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
    return filtered_lrelu_composed(*p[:-1])[0]


def filtered_lrelu_composed(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    gain: float,
    slope: float,
    clamp: float,
    flip_filter: bool,
) -> tuple[Tensor, Tensor]:
    """The output for prepared arguments, and the image that the activation function has been given."""
    r = resampling(x, fu, fd, up, down, padding)
    z = x if b is None else x + b.to(x.dtype)[:, None, None]
    t = _fir(spread(z, up), fu, _minus(r.start), r.mid, (1, 1), flip_filter, up[0] * up[1])
    a = F.leaky_relu(t, slope) * gain
    if clamp >= 0:
        a = a.clamp(-clamp, clamp)
    return _fir(a, fd, r.offset, r.size, down, flip_filter, 1), t


# ---- the linear part, with masks in the place of the activation -----------------------------------------------------------
POSITIVE, NEGATIVE, CLAMPED = 0, 1, 2


def codes(t: Tensor, gain: float, slope: float, clamp: float) -> Tensor:
    """For every number before the activation function which of its three branches it takes: uint8 like ``t``."""
    negative = (t <= 0).to(torch.uint8)  # NEGATIVE is 1
    if clamp < 0:
        return negative
    a = F.leaky_relu(t, slope) * gain
    return torch.where(a.abs() > clamp, negative.new_tensor(CLAMPED), negative)


def pack(code: Tensor, channels_last: bool) -> Tensor:
    """Four codes a byte, the first in the lowest bits: along x, or in channels_last along the channels."""
    code = code.permute(0, 2, 3, 1) if channels_last else code
    whole = F.pad(code, [0, -code.shape[-1] % 4])
    groups = whole.reshape(*whole.shape[:-1], whole.shape[-1] // 4, 4)
    shifted = groups << torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=code.device)
    return shifted.sum(-1, dtype=torch.uint8)


def unpack(mask: Tensor, channels: int, width: int, channels_last: bool) -> Tensor:
    """The codes [N, C, H, W] of a packed mask."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=mask.device)
    code = ((mask[..., None] >> shifts) & 3).flatten(-2)[..., : channels if channels_last else width]
    return code.permute(0, 3, 1, 2) if channels_last else code


def masked_composed(
    x: Tensor,
    mask: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    start: Sequence[int],
    offset: Sequence[int],
    mid: Sequence[int],
    size: Sequence[int],
    scale: float,
    gain: float,
    slope: float,
    flip_filter: bool,
    channels_last: bool,
) -> Tensor:
    """Upsample, multiply with the slope that the mask tells, downsample: linear in ``x``, computed in the wide type."""
    t = _fir(spread(x.to(wide(x.dtype)), up), fu, _minus(start), mid, (1, 1), flip_filter, scale)
    code = unpack(mask, x.shape[1], mid[0], channels_last)
    factors = torch.tensor([gain, gain * slope, 0.0, 0.0], dtype=t.dtype, device=t.device)
    return _fir(t * factors[code.int()], fd, offset, size, down, flip_filter, 1).to(x.dtype)


# ---- resampling, every pixel of it -----------------------------------------------------------------------------------------
def _minus(pair: Sequence[int]) -> tuple[int, int]:
    return -pair[0], -pair[1]


def _fir(
    z: Tensor,
    f: Tensor | None,
    first: Sequence[int],
    size: Sequence[int],
    step: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """Filter every channel: output o is the sum over k of g[k] z[first + o * step + k], taps g reversed unless ``flip``.

    z is 0 outside; ``first``, ``size`` of the output and ``step`` are (x, y) pairs.
    """
    taps = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    z = _window(z, 3, first[0], (size[0] - 1) * step[0] + taps[0])
    z = _window(z, 2, first[1], (size[1] - 1) * step[1] + taps[1])
    return fir(z, f, step, flip, gain)


def _window(z: Tensor, dim: int, first: int, size: int) -> Tensor:
    """``size`` pixels of z along ``dim``, beginning with pixel ``first``; zeros where z has none."""
    low = min(max(first, 0), z.shape[dim])
    high = max(min(first + size, z.shape[dim]), low)
    before = min(max(-first, 0), size - (high - low))
    z = z.narrow(dim, low, high - low)
    pads = [before, size - (high - low) - before]
    return F.pad(z, pads if dim == 3 else [0, 0, *pads]) if any(pads) else z
