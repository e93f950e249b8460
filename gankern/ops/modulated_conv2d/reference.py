"""The law: a weight for each sample, modulated and demodulated, and a grouped convolution with one group a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern._activations import activation_funcs
from gankern._autocast import suspended
from gankern._resampling import resampled_conv2d, total_padding
from gankern.ops.modulated_conv2d import arguments


def modulated_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    kernel_mix: Tensor | None = None,
) -> Tensor:
    """:func:`gankern.ops.modulated_conv2d` as it is defined, out of PyTorch's own operators. Weights are made in float32."""
    p = arguments.prepare(
        x, weight, styles, noise=noise, up=up, down=down, padding=padding, resample_filter=resample_filter,
        demodulate=demodulate, flip_weight=flip_weight, input_gain=input_gain, bias=bias, act=act, alpha=alpha, gain=gain,
        clamp=clamp, kernel_mix=kernel_mix,
    )  # fmt: skip
    n, i, height, width = p.x.shape
    pads = total_padding(arguments.OP, p.f, p.up, p.down, p.padding)
    # [N, O, I, kh, kw]
    with suspended(p.x.device):
        weights = p.weight[None] if p.kernel_mix is None else torch.einsum("nk,koiyx->noiyx", p.kernel_mix, p.weight)
    weights = weights * p.styles[:, None, :, None, None]
    if p.demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if p.input_gain is not None:
        weights = weights * p.input_gain[:, None, :, None, None]
    if n:
        images, kernels = p.x.reshape(1, n * i, height, width), weights.flatten(0, 1).to(p.x.dtype)
        y = resampled_conv2d(images, kernels, p.f, p.up, p.down, pads, n, p.flip_weight)
        y = y.reshape(n, -1, y.shape[2], y.shape[3])
    else:
        kernel = p.weight.sum(0) if p.weight.dim() == 5 else p.weight
        y = resampled_conv2d(p.x, kernel.to(p.x.dtype), p.f, p.up, p.down, pads, 1, p.flip_weight)
    if p.noise is not None:
        y = y + p.noise.to(y.dtype)
    if p.bias is not None:
        y = y + p.bias.to(y.dtype)[:, None, None]
    name, slope, factor, limit = p.settings
    y = activation_funcs[name].function(y, slope)
    if factor != 1:
        y = y * factor
    return y.clamp(-limit, limit) if limit >= 0 else y
