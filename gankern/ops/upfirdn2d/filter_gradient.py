"""The gradient of upfirdn2d in its filter, composed of PyTorch's own operators: differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern._resampling import correlate, spread
from gankern.ops.upfirdn2d.reference import padded


def filter_gradient_reference(
    x: Tensor, dy: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool
) -> Tensor:
    """D <upfirdn2d(x, f), dy> / d f at gain 1, in the dtype of f.

    With the reversed filter g the output is linear in every tap, y = sum_k g[k] z[k + o * down], so dg[k] is the inner product
    of dy with the slice of z that this tap meets. A separable filter g (x) g gets the sum of both axes' gradients.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    z, dy = padded(spread(x.to(dtype), up), padding), dy.to(dtype)
    if f.dim() == 2:
        dg = _taps_gradient(z, dy, f.shape[0], f.shape[1], down[0], down[1])
        return (dg if flip_filter else dg.flip([0, 1])).to(f.dtype)
    taps = f.shape[0]
    g = f.to(dtype) if flip_filter else f.to(dtype).flip([0])
    along_x = _taps_gradient(correlate(z, g[:, None], 1, down[1]), dy, 1, taps, down[0], 1)[0]
    along_y = _taps_gradient(correlate(z, g[None, :], down[0], 1), dy, taps, 1, 1, down[1])[:, 0]
    dg = along_x + along_y
    return (dg if flip_filter else dg.flip([0])).to(f.dtype)


def _taps_gradient(z: Tensor, dy: Tensor, taps_y: int, taps_x: int, step_x: int, step_y: int) -> Tensor:
    """[taps_y, taps_x]: the inner products of dy with z shifted by each tap."""
    height, width = dy.shape[2], dy.shape[3]
    rows = []
    for ky in range(taps_y):
        band = z[:, :, ky : ky + (height - 1) * step_y + 1 : step_y]
        rows.append(
            torch.stack([(band[:, :, :, kx : kx + (width - 1) * step_x + 1 : step_x] * dy).sum() for kx in range(taps_x)])
        )
    return torch.stack(rows)
