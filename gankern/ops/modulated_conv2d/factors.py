"""Modulation and demodulation as factors on channels: what makes per-sample weights unnecessary.

Sample n convolves with w[o, i] s[n, i] d[n, o]. Scaling input channels and output channels of a convolution is scaling its
input and its output, so x * s goes in and the result is multiplied by

    d[n, o] = 1 / sqrt(sum_i s[n, i]^2 q[o, i] + eps),        q[o, i] = sum over taps of w[o, i]^2:

a product of [N, I] and [I, O], whatever the kernel's size. These are small tensors in float32 (float64), and plain PyTorch
operators, so any derivative follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autocast import suspended
from gankern._library import native_can_run

EPS = 1e-8
"""Added to the sum of squares, as in StyleGAN2."""


class Factors(NamedTuple):
    """A kernel for all samples [O, I, kh, kw], what scales the input channels [N, I], and the output channels [N, O]."""

    w: Tensor
    a: Tensor
    d: Tensor | None


def factors(
    weight: Tensor, styles: Tensor, input_gain: Tensor | None, demodulate: bool, half: bool, channels_last: bool = False
) -> Factors:
    """Of a weight [O, I, kh, kw] and styles [N, I].

    ``half``: keep everything in the range of half types. Demodulation undoes any factor on styles or on a row of the weight
    (with eps scaled alike), so both are normalised first: rows of norm 1, styles of root mean square 1 over the batch. The
    result does not depend on those norms, so they are constants to autograd.

    ``channels_last``: the kernel is wanted so, and comes so if that costs no pass of its own.
    """
    if not demodulate:
        return Factors(weight, styles if input_gain is None else styles * input_gain, None)
    q, weight = _squares(weight, channels_last)
    eps: Tensor | float = EPS
    if half:
        with torch.no_grad():
            rows = (q.sum(1) + torch.finfo(torch.float32).tiny).rsqrt()
            size = (styles.square().mean() + 1e-20).rsqrt() if styles.numel() else styles.new_ones(())
            # An eps that would vanish in float32 beside a sum of squares did so before.
            eps = EPS * (rows * size).square().clamp(max=1e30)
        weight, q = weight * rows[:, None, None, None], q * rows[:, None].square()
        styles = styles * size
    with suspended(weight.device):  # no product in half precision
        d = (styles.square() @ q.t() + eps).rsqrt()
    return Factors(weight, styles if input_gain is None else styles * input_gain, d)


def _squares(weight: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Sums of squares over the taps, [O, I]: our kernel, unless autograd or a tracer wants to see operators. And the weight.

    Our kernel, having read a weight, can write it in the other layout.
    """
    traced = torch.compiler.is_compiling() or _dispatch.standard() or type(weight) not in (Tensor, torch.nn.Parameter)
    differentiable = torch.is_grad_enabled() and weight.requires_grad
    is_last = weight.is_contiguous(memory_format=torch.channels_last)
    dense = weight.is_contiguous() or is_last
    if traced or differentiable or not dense or native_can_run("cpu", "modulated_conv2d_squares", weight) is not None:
        return weight.square().sum((2, 3)), weight
    q = weight.new_empty(weight.shape[:2])
    turned = None
    if channels_last and not is_last:
        turned = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    torch.ops.gankern_native.modulated_conv2d_squares_cpu(weight, q, not weight.is_contiguous(), turned)
    return q, weight if turned is None else turned
