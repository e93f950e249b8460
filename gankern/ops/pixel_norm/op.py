"""pixel_norm: the front door. Docstring, schemas, fakes, derivatives and the tables of backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, composed_backward, wanted
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.pixel_norm import arguments, backends
from gankern.ops.pixel_norm.reference import double_backward_composed, pixel_norm_reference
from gankern.ops.pixel_norm.samples import SAMPLES

LIBRARY.define("pixel_norm(Tensor x, int dim, float eps) -> Tensor")
LIBRARY.define("pixel_norm_backward(Tensor dy, Tensor x, int dim, float eps) -> Tensor")
LIBRARY.define(
    "pixel_norm_double_backward(Tensor u, Tensor dy, Tensor x, int dim, float eps, bool[2] mask) -> (Tensor, Tensor)"
)


def pixel_norm(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    r"""Scale each pixel's vector of channels to a root mean square of 1: ``x / sqrt(mean(x^2 over dim) + eps)``.

    Args:
        x: images [N, C, H, W], latents [N, C], or any shape of at least one dimension; float32, float64, bfloat16 or float16;
            any strides.
        dim: dimension of the channels. Default 1.
        eps: added to the mean square; positive. Default 1e-8.

    Returns:
        The shape and dtype of ``x``; channels_last if ``x`` is. Half types are computed in float32. A pixel of zeros stays 0.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``x``; first and second order by kernels, further ones through the reference. Backward keeps
    ``x``. Under functorch transforms the reference runs.

    Source: Karras et al., Progressive growing of GANs, 2018, section 4.2; the input of StyleGAN's mapping network.
    """
    if _dispatch.takes_reference():
        return pixel_norm_reference(x, dim, eps)
    y: Tensor = _PIXEL_NORM(*arguments.prepare(x, dim, eps))
    return y


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("pixel_norm", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("pixel_norm_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("pixel_norm_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::pixel_norm", lib=LIBRARY)
def _fake(x: Tensor, dim: int, eps: float) -> Tensor:
    return empty_like(x)


@torch.library.register_fake("gankern::pixel_norm_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
    return empty_like(x)


@torch.library.register_fake("gankern::pixel_norm_double_backward", lib=LIBRARY)
def _fake_double_backward(u: Tensor, dy: Tensor, x: Tensor, dim: int, eps: float, mask: Any) -> tuple[Tensor, Tensor]:
    return backends.double_backward_outputs(x, mask)


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    return None if dy is None else _PIXEL_NORM_BACKWARD(dy, *ctx.saved_tensors, *ctx.settings), None, None


# ---- second order ------------------------------------------------------------------------------------------------------
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, x)


def _backward_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    dy, x = ctx.saved_tensors
    mask = wanted(ctx, [True, True])
    if u is None or not any(mask):
        return None, None, None, None
    if not mask[1]:  # the Jacobian is symmetric
        return _PIXEL_NORM_BACKWARD(u, x, *ctx.settings), None, None, None
    d_dy, d_x = _PIXEL_NORM_DOUBLE_BACKWARD(u, dy, x, *ctx.settings, mask)
    return d_dy if mask[0] else None, d_x, None, None


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_PIXEL_NORM = Differentiable("pixel_norm", backends.FORWARD, _backward, _setup_context)
_PIXEL_NORM_BACKWARD = Differentiable("pixel_norm_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)
_PIXEL_NORM_DOUBLE_BACKWARD = Differentiable(
    "pixel_norm_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="pixel_norm",
        public=pixel_norm,
        reference=pixel_norm_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
    )
)
