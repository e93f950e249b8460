"""Memory layouts: what comes in channels_last goes out channels_last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """``torch.channels_last`` if the strides of ``x`` [N, C, H, W] put channels innermost, else ``torch.contiguous_format``.

    Tensors of another rank have that one only.

    A tensor that is both (one channel or one pixel) is judged by its strides, as PyTorch's own operators do.
    """
    stride = x.stride()
    if len(stride) != 4:
        return torch.contiguous_format
    _, sc, _, sw = stride
    return torch.channels_last if sc == 1 and sw >= x.shape[1] and not (sw == 1 and x.shape[3] > 1) else torch.contiguous_format


def empty(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of ``shape`` with the device, layout and (unless given) dtype of ``x``."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format(x))


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised dense tensor with the shape, dtype, device and layout of ``x``, of any rank."""
    return empty(x, x.shape)


def with_unit_stride(x: Tensor) -> Tensor:
    """``x``, copied only if neither its rows (NCHW) nor its channels (channels_last) are contiguous."""
    fmt = memory_format(x)
    unit = 1 if fmt == torch.channels_last else 3
    if x.stride(unit) == 1:
        return x
    dense = x.contiguous(memory_format=fmt)
    # contiguous() gives x itself where it finds nothing to copy, whatever the stride along an axis of one pixel is.
    return dense if dense.stride(unit) == 1 else torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)
