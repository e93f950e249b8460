"""grad_norm_penalty: the front door. Docstring, schemas, fakes, derivatives and the tables of backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, composed_backward, wanted
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.grad_norm_penalty import arguments, backends
from gankern.ops.grad_norm_penalty.reference import double_backward_composed, grad_norm_penalty_reference
from gankern.ops.grad_norm_penalty.samples import SAMPLES

LIBRARY.define("grad_norm_penalty(Tensor grad, float center, float weight) -> (Tensor, Tensor)")
LIBRARY.define("grad_norm_penalty_backward(Tensor dp, Tensor grad, Tensor squares, float center, float weight) -> Tensor")
LIBRARY.define(
    "grad_norm_penalty_double_backward(Tensor u, Tensor dp, Tensor grad, Tensor squares, float center, float weight, "
    "bool[2] mask) -> (Tensor, Tensor)"
)


def grad_norm_penalty(grad: Tensor, center: float = 0.0, weight: float = 1.0) -> Tensor:
    r"""How far each sample's gradient norm is from ``center``, squared: ``p[n] = weight * (||grad[n]|| - center)^2``.

    Args:
        grad: gradients [N, C, H, W], or any shape [N, ...] of at least 2 dimensions; float32, float64, bfloat16 or float16; any
            strides.
        center: norm that costs nothing; finite. Default 0: then no root is taken, ``p[n] = weight * ||grad[n]||^2``.
        weight: factor; finite. Default 1.

    Returns:
        [N] in float32 (float64 for float64 gradients).

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``grad``; first and second order by kernels, further ones through the reference. A norm of 0 has
    the subgradient 0; NaN stays NaN. Backward keeps ``grad`` and the squared norms. Under functorch transforms the reference
    runs.

    Source: Gulrajani et al., Improved training of Wasserstein GANs, 2017 (``center`` 1); Mescheder et al., Which training
    methods for GANs do actually converge?, 2018 (``center`` 0).
    """
    if _dispatch.takes_reference():
        return grad_norm_penalty_reference(grad, center, weight)
    p: Tensor = _GRAD_NORM_PENALTY(*arguments.prepare(grad, center, weight))[0]
    return p


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("grad_norm_penalty", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("grad_norm_penalty_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("grad_norm_penalty_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::grad_norm_penalty", lib=LIBRARY)
def _fake(grad: Tensor, center: float, weight: float) -> tuple[Tensor, Tensor]:
    return backends.outputs(grad)


@torch.library.register_fake("gankern::grad_norm_penalty_backward", lib=LIBRARY)
def _fake_backward(dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float) -> Tensor:
    return empty_like(grad)


@torch.library.register_fake("gankern::grad_norm_penalty_double_backward", lib=LIBRARY)
def _fake_double_backward(
    u: Tensor, dp: Tensor, grad: Tensor, squares: Tensor, center: float, weight: float, mask: Any
) -> tuple[Tensor, Tensor]:
    return backends.double_backward_outputs(grad, mask)


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, *ctx.settings = inputs
    _, squares = output
    ctx.mark_non_differentiable(squares)  # the derivatives below know it as a function of grad
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, squares)


def _backward(ctx: Any, dp: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    return None if dp is None else _GRAD_NORM_PENALTY_BACKWARD(dp, *ctx.saved_tensors, *ctx.settings), None, None


# ---- second order ------------------------------------------------------------------------------------------------------
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dp, grad, squares, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dp, grad, squares)


def _backward_backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 3
    dp, grad, squares = ctx.saved_tensors
    mask = wanted(ctx, [True, True, True])[:2]
    if u is None or not any(mask):
        return None, None, *nothing
    if not mask[0] and ctx.settings[0] == 0:  # around 0 the penalty is a quadratic form: backward again, with u for grad
        return None, _GRAD_NORM_PENALTY_BACKWARD(dp, u, squares, *ctx.settings), *nothing
    d_dp, d_grad = _GRAD_NORM_PENALTY_DOUBLE_BACKWARD(u, dp, grad, squares, *ctx.settings, mask)
    return d_dp if mask[0] else None, d_grad if mask[1] else None, *nothing


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_GRAD_NORM_PENALTY = Differentiable("grad_norm_penalty", backends.FORWARD, _backward, _setup_context)
_GRAD_NORM_PENALTY_BACKWARD = Differentiable(
    "grad_norm_penalty_backward", backends.BACKWARD, _backward_backward, _backward_setup_context
)
_GRAD_NORM_PENALTY_DOUBLE_BACKWARD = Differentiable(
    "grad_norm_penalty_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="grad_norm_penalty",
        public=grad_norm_penalty,
        reference=grad_norm_penalty_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        wide_output=True,
        samples=SAMPLES,
        image="grad",
    )
)
