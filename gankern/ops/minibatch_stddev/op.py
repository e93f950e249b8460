"""minibatch_stddev: the front door. Docstring, schemas, fakes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch, _layout
from gankern._autograd import Differentiable, composed_backward
from gankern._library import LIBRARY
from gankern.ops.minibatch_stddev import arguments, backends
from gankern.ops.minibatch_stddev.reference import backward_composed, minibatch_stddev_reference
from gankern.ops.minibatch_stddev.samples import SAMPLES

LIBRARY.define("minibatch_stddev(Tensor x, int group, int channels) -> Tensor")
LIBRARY.define("minibatch_stddev_backward(Tensor dy, Tensor x, int group, int channels, bool[1] mask) -> Tensor")


def minibatch_stddev(x: Tensor, group_size: int = 4, num_channels: int = 1) -> Tensor:
    r"""Append to each sample the standard deviation of its features over its minibatch group, as extra channels.

    With G the largest divisor of N that is not above ``group_size``, sample n belongs to group n mod (N / G), of G samples. Of
    each feature the deviation over the group is ``sqrt(var + 1e-8)`` with the biased variance; its mean over pixels and over
    the C / num_channels channels of the i-th part of the channels is the i-th extra channel, the same at every pixel.

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16; any strides. N may be 0.
        group_size: samples of a group, at most; at least 1. Default 4.
        num_channels: extra channels; a divisor of C. Default 1.

    Returns:
        [N, C + num_channels, H, W] in the dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32. A
        group of one sample has a deviation of 1e-4.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``, which backward keeps. Under functorch transforms the reference runs.

    Source: Karras et al., Progressive growing of GANs, 2018, section 3; the groups: StyleGAN's discriminator, 2019.
    """
    if _dispatch.takes_reference():
        return minibatch_stddev_reference(x, group_size, num_channels)
    y: Tensor = _MINIBATCH_STDDEV(*arguments.prepare(x, group_size, num_channels))
    return y


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("minibatch_stddev", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("minibatch_stddev_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::minibatch_stddev", lib=LIBRARY)
def _fake(x: Tensor, group: int, channels: int) -> Tensor:
    return backends.output(x, channels)


@torch.library.register_fake("gankern::minibatch_stddev_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return _layout.empty(x, x.shape)


# ---- derivatives -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None
    return _MINIBATCH_STDDEV_BACKWARD(dy, *ctx.saved_tensors, *ctx.settings, [True]), None, None


_MINIBATCH_STDDEV = Differentiable("minibatch_stddev", backends.FORWARD, _backward, _setup_context)
_MINIBATCH_STDDEV_BACKWARD = Differentiable(
    "minibatch_stddev_backward", backends.BACKWARD, *composed_backward(backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="minibatch_stddev",
        public=minibatch_stddev,
        reference=minibatch_stddev_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
    )
)
