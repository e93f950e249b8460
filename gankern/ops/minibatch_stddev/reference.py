"""minibatch_stddev and its derivative, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern._dtypes import wide
from gankern.ops.minibatch_stddev.arguments import prepare

EPS = 1e-8
"""Added to the variance. ProGAN's and StyleGAN's number; a group of one sample has a deviation of its root."""


def minibatch_stddev_reference(x: Tensor, group_size: int = 4, num_channels: int = 1) -> Tensor:
    """Reference of :func:`gankern.ops.minibatch_stddev`: same arguments, same result, composed of PyTorch's operators."""
    return minibatch_stddev_composed(*prepare(x, group_size, num_channels))


def grouped(x: Tensor, group: int, channels: int) -> Tensor:
    """``x`` as [group, N / group, channels, C / channels, H, W], a view: sample n belongs to group n mod (N / group)."""
    n, c, h, w = x.shape
    return x.view(group, n // group, channels, c // channels, h, w)


def deviations(x: Tensor, group: int, channels: int) -> Tensor:
    """[N / group, channels] in the wide type: the deviation over the group, averaged over channels and pixels."""
    v = grouped(x, group, channels).to(wide(x.dtype))
    return (v.var(0, correction=0) + EPS).sqrt().mean((2, 3, 4))


def minibatch_stddev_composed(x: Tensor, group: int, channels: int) -> Tensor:
    """The same on prepared arguments."""
    n, _, h, w = x.shape
    if n == 0:
        return torch.cat([x, x.new_empty(0, channels, h, w)], 1)
    extra = deviations(x, group, channels).to(x.dtype).repeat(group, 1)
    return torch.cat([x, extra[:, :, None, None].expand(n, channels, h, w)], 1)


def backward_composed(dy: Tensor, x: Tensor, group: int, channels: int, mask: list[bool]) -> tuple[Tensor]:
    """The gradient in ``x``, of which there is always one to want.

    A group's deviation is the mean of s = sqrt(v + eps) over C / channels * H * W places, and v's derivative in a sample is
    2 / group times that sample's distance from the group's mean; so the gradient of the deviation is the distance divided by
    s, group, and the number of places.
    """
    n, c, h, w = x.shape
    dx = dy[:, :c]
    if n == 0 or group == 1:  # of one sample the distance is 0
        return (dx.clone(),)
    dtype = wide(x.dtype)
    v = grouped(x, group, channels).to(dtype)
    distance = v - v.mean(0)
    s = (distance.square().mean(0) + EPS).sqrt()
    of_extra = dy[:, c:].to(dtype).sum((2, 3)).view(group, n // group, channels).sum(0)
    factor = of_extra / (group * (c // channels) * h * w)
    more = distance * (factor[:, :, None, None, None] / s)
    return ((dx + more.reshape(x.shape)).to(x.dtype),)
