"""filtered_lrelu written down plainly: the formulas of csrc/filtered_lrelu/filtered_lrelu_params.h in NumPy's float64, with
loops over taps. What kernels are held against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.uint8]
Pair = tuple[int, int]


def correlate(z: Array, f: Array | None, first: Pair, step: Pair, size: Pair, flip: bool) -> Array:
    """r[o] = sum over k of g[k] * z[o * step + k + first], z 0 outside. Pairs are (y, x), g is f, reversed unless ``flip``."""
    g = np.ones((1, 1)) if f is None else np.outer(f, f) if f.ndim == 1 else f
    g = g if flip else g[::-1, ::-1]
    r = np.zeros((*z.shape[:2], *size))
    for ky, kx in np.ndindex(*g.shape):
        y = np.arange(size[0]) * step[0] + ky + first[0]
        x = np.arange(size[1]) * step[1] + kx + first[1]
        in_y, in_x = (y >= 0) & (y < z.shape[2]), (x >= 0) & (x < z.shape[3])
        if in_y.any() and in_x.any():
            r[:, :, np.flatnonzero(in_y)[:, None], np.flatnonzero(in_x)] += g[ky, kx] * z[:, :, y[in_y][:, None], x[in_x]]
    return r


def intermediate(
    x: Array, fu: Array | None, b: Array | None, up: Pair, start: Pair, mid: Pair, flip: bool, scale: float
) -> Array:
    """t: what the activation function is given. Pairs are (y, x)."""
    z = np.zeros((*x.shape[:2], x.shape[2] * up[0], x.shape[3] * up[1]))
    z[:, :, :: up[0], :: up[1]] = x if b is None else x + b[:, None, None]
    return scale * correlate(z, fu, (-start[0], -start[1]), (1, 1), mid, flip)


def activated(t: Array, gain: float, slope: float, clamp: float) -> tuple[Array, Codes]:
    """a, and its codes: 0 positive, 1 negative, 2 clamped."""
    a = np.where(t <= 0, gain * slope, gain) * t
    codes = (t <= 0).astype(np.uint8)
    if clamp >= 0:
        codes[np.abs(a) > clamp] = 2
        a = np.clip(a, -clamp, clamp)
    return a, codes


def masked(t: Array, codes: Codes, gain: float, slope: float) -> Array:
    """a, where masks are read."""
    return t * np.array([gain, gain * slope, 0.0, 0.0])[codes]


def pack(codes: Codes, channels_last: bool) -> Codes:
    """Four codes a byte along x, or along the channels behind x."""
    codes = codes.transpose(0, 2, 3, 1) if channels_last else codes
    codes = np.pad(codes, [(0, 0)] * 3 + [(0, -codes.shape[3] % 4)])
    return sum(codes[..., r::4] << (2 * r) for r in range(4)).astype(np.uint8)  # type: ignore[union-attr]


def unpack(mask: Codes, channels: int, width: int, channels_last: bool) -> Codes:
    """The codes [N, C, mid_h, mid_w]."""
    codes = np.stack([(mask >> (2 * r)) & 3 for r in range(4)], -1).reshape(*mask.shape[:3], -1)
    return codes[..., :channels].transpose(0, 3, 1, 2) if channels_last else codes[..., :width]
