"""interpolate: the front door. Docstring, schemas, fakes, derivatives and the tables of backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, wanted
from gankern._dtypes import wide
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.interpolate import arguments, backends
from gankern.ops.interpolate.reference import interpolate_reference, per_sample
from gankern.ops.interpolate.samples import SAMPLES

LIBRARY.define("interpolate(Tensor real, Tensor fake, Tensor eps) -> Tensor")
LIBRARY.define(
    "interpolate_backward(Tensor dy, Tensor? real, Tensor? fake, Tensor? eps, bool[3] mask) -> (Tensor, Tensor, Tensor)"
)


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    r"""Points between real and generated images: ``eps * real + (1 - eps) * fake``, with one ``eps`` a sample.

    Args:
        real: images [N, C, H, W], or any shape [N, ...]; float32, float64, bfloat16 or float16; any strides.
        fake: of the shape, dtype and device of ``real``.
        eps: [N] or [N, 1, ..., 1], one number a sample, or one number for all (a scalar tensor, or ones all along). Of any
            floating-point dtype.

    Returns:
        The shape and dtype of ``real``; channels_last if ``real`` is. Half types are computed in float32, with ``eps`` in
        float32. Where ``eps`` is 1 or 0 and the images are finite, the result is ``real`` or ``fake`` to the bit.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``real``, ``fake`` and ``eps``, all by the kernels of forward and backward; only the product of a
    cotangent of eps' gradient with real - fake, a second derivative, is PyTorch's. Backward keeps the images only where ``eps``
    has a gradient. Under functorch transforms the reference runs.

    Source: Gulrajani et al., Improved training of Wasserstein GANs, 2017, algorithm 1.
    """
    if _dispatch.takes_reference():
        return interpolate_reference(real, fake, eps)
    real, fake, eps = arguments.prepare(real, fake, eps)
    y: Tensor = _INTERPOLATE(real, fake, eps)
    return y


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("interpolate", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("interpolate_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::interpolate", lib=LIBRARY)
def _fake(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    return empty_like(real)


@torch.library.register_fake("gankern::interpolate_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, real: Any, fake: Any, eps: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    return backends.backward_outputs(dy, mask)


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    real, fake, eps = inputs
    ctx.set_materialize_grads(False)
    trains_eps = ctx.needs_input_grad[2]
    ctx.save_for_backward(real if trains_eps else None, fake if trains_eps else None, eps)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    mask = wanted(ctx, [True] * 3)
    if dy is None or not any(mask):
        return None, None, None
    real, fake, eps = ctx.saved_tensors
    # What this call does not look at is not handed over: it would seem to have a second derivative.
    images = (real, fake) if mask[2] else (None, None)
    results = _INTERPOLATE_BACKWARD(dy, *images, eps if mask[0] or mask[1] else None, mask)
    return tuple(t if w else None for t, w in zip(results, mask, strict=True))


# ---- second order ------------------------------------------------------------------------------------------------------
# Forward is linear in the images, and backward is forward's adjoint: what backward's derivatives need are, but for one
# product, forward and backward again. So every order ends here.
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.mask = inputs
    ctx.set_materialize_grads(False)
    ctx.present = [t is not None for t in tensors]
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    dy, real, fake, eps = ctx.saved_tensors
    u_real, u_fake, u_eps = (u if w else None for u, w in zip(cotangents, ctx.mask, strict=True))
    needs = wanted(ctx, ctx.present)
    to_dy = to_real = to_fake = to_eps = None
    if needs[0]:
        to_dy = _between(u_real, u_fake, eps)
        if u_eps is not None:
            direct = (per_sample(u_eps, dy) * _difference(real, fake)).to(dy.dtype)
            to_dy = direct if to_dy is None else to_dy + direct
    if u_eps is not None and (needs[1] or needs[2]):
        (product, _, _) = _INTERPOLATE_BACKWARD(dy, None, None, u_eps, [True, False, False])
        to_real = product if needs[1] else None
        to_fake = -product if needs[2] else None
    if needs[3] and (u_real is not None or u_fake is not None):
        (_, _, to_eps) = _INTERPOLATE_BACKWARD(dy, u_real, u_fake, None, [False, False, True])
    return to_dy, to_real, to_fake, to_eps, None


def _between(u_real: Tensor | None, u_fake: Tensor | None, eps: Tensor | None) -> Tensor | None:
    """Eps u_real + (1 - eps) u_fake, where an absent cotangent is 0."""
    if u_real is not None and u_fake is not None:
        both: Tensor = _INTERPOLATE(u_real, u_fake, eps)
        return both
    if u_real is not None:
        (first, _, _) = _INTERPOLATE_BACKWARD(u_real, None, None, eps, [True, False, False])
        return first  # type: ignore[no-any-return]
    if u_fake is not None:
        (_, second, _) = _INTERPOLATE_BACKWARD(u_fake, None, None, eps, [False, True, False])
        return second  # type: ignore[no-any-return]
    return None


def _difference(real: Tensor | None, fake: Tensor | None) -> Tensor:
    """Real - fake in the wide type, where an absent one is 0."""
    given = [t.to(wide(t.dtype)) for t in (real, fake) if t is not None]
    return given[0] - given[1] if len(given) == 2 else given[0] if real is not None else -given[0]


# ---- registration, and what the functions above call -----------------------------------------------------------------------
_INTERPOLATE = Differentiable("interpolate", backends.FORWARD, _backward, _setup_context)
_INTERPOLATE_BACKWARD = Differentiable("interpolate_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)

_dispatch.register(
    _dispatch.OpSpec(
        name="interpolate",
        public=interpolate,
        reference=interpolate_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
        image="real",
    )
)
