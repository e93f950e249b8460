"""The law: PyTorch's own convolutions with autograd's own derivatives, and a weight gradient written out tap by tap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def conv2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`gankern.ops.conv2d` with PyTorch's derivatives."""
    return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]


def conv_transpose2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """:func:`gankern.ops.conv_transpose2d` with PyTorch's derivatives."""
    return torch.nn.functional.conv_transpose2d(
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,  # type: ignore[arg-type]
    )


def weight_gradient_composed(
    x: Tensor,
    g: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Derivative of <conv2d(x, w), g> in w, [O, I / groups, kh, kw].

    dw[o, i, ky, kx] = sum over n, y, x of g[n, o, y, x] * x[n, i, y * stride + ky * dilation - padding, likewise x], for the
    channels i of o's group.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    padded = torch.nn.functional.pad(x.to(wide), [padding[1], padding[1], padding[0], padding[0]])
    images = padded.unflatten(1, (groups, size[1]))
    cotangents = g.to(wide).unflatten(1, (groups, size[0] // groups))
    height, width = g.shape[2:]
    taps = []
    for ky in range(size[2]):
        for kx in range(size[3]):
            y0, x0 = ky * dilation[0], kx * dilation[1]
            seen = images[..., y0 : y0 + (height - 1) * stride[0] + 1 : stride[0], :]
            seen = seen[..., x0 : x0 + (width - 1) * stride[1] + 1 : stride[1]]
            taps.append(torch.einsum("ngohw,ngihw->goi", cotangents, seen).flatten(0, 1))
    return torch.stack(taps, -1).unflatten(-1, (size[2], size[3])).to(x.dtype)
