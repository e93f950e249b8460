"""spectral_norm: the front door. Docstring, schemas, fakes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, composed_backward
from gankern._layout import empty_like
from gankern._library import LIBRARY
from gankern.ops.spectral_norm import arguments, backends
from gankern.ops.spectral_norm.reference import backward_composed, spectral_norm_reference
from gankern.ops.spectral_norm.samples import SAMPLES

# sigma is the number u^T W v: the operator is weight / sigma, and its derivatives know what sigma is of the weight.
LIBRARY.define("spectral_norm(Tensor weight, Tensor u, Tensor v, Tensor sigma, int dim) -> Tensor")
LIBRARY.define(
    "spectral_norm_backward(Tensor dy, Tensor weight, Tensor u, Tensor v, Tensor sigma, int dim, bool[1] mask) -> Tensor"
)


def spectral_norm(
    weight: Tensor, u: Tensor, v: Tensor, dim: int = 0, n_power_iterations: int = 1, eps: float = 1e-12
) -> Tensor:
    r"""Divide a weight by its largest singular value, which power iteration follows from call to call.

    W is the weight as a matrix, rows along ``dim`` and columns along all others. Each iteration sets
    ``u = W v / max(|W v|, eps)``, then ``v = W^T u / max(|W^T u|, eps)``; the result is ``weight / sigma`` with
    ``sigma = u^T W v``. That is ``torch.nn.utils.parametrizations.spectral_norm`` as a function.

    Args:
        weight: of at least 2 dimensions; float32, float64, bfloat16 or float16; any strides.
        u: left vector [rows]; overwritten by its iterations, without gradients. Of any floating-point dtype.
        v: right vector [columns], likewise.
        dim: dimension of the rows. Default 0; 1 for the weight of a transposed convolution.
        n_power_iterations: iterations; 0 leaves ``u`` and ``v`` as they are (evaluation). Default 1.
        eps: smallest length that a vector is divided by; positive. Default 1e-12.

    Returns:
        The shape and dtype of ``weight``; channels_last if ``weight`` is. Half types are computed in float32.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``weight``, with ``u`` and ``v`` as constants. Backward keeps ``weight`` and copies of ``u`` and
    ``v``, so that several calls may come before it. Under functorch transforms the reference runs.

    Source: Miyato et al., Spectral normalization for generative adversarial networks, 2018.
    """
    if _dispatch.takes_reference():
        return spectral_norm_reference(weight, u, v, dim, n_power_iterations, eps)
    weight, u, v, dim, n_power_iterations, eps = arguments.prepare(weight, u, v, dim, n_power_iterations, eps)
    if backends.small(weight, u, v):
        made: Tensor = backends.FORWARD.rows[-1].call(backends.of_small, weight, u, v, dim, n_power_iterations, eps)
        return made
    y: Tensor = _SPECTRAL_NORM(weight, *backends.iterate(weight, u, v, dim, n_power_iterations, eps), dim)
    return y


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("spectral_norm", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("spectral_norm_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::spectral_norm", lib=LIBRARY)
def _fake(weight: Tensor, *rest: Any) -> Tensor:
    return empty_like(weight)


@torch.library.register_fake("gankern::spectral_norm_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return empty_like(weight)


# ---- derivatives -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dim = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 5
    return _SPECTRAL_NORM_BACKWARD(dy, *ctx.saved_tensors, ctx.dim, [True]), None, None, None, None


_SPECTRAL_NORM = Differentiable("spectral_norm", backends.FORWARD, _backward, _setup_context)
_SPECTRAL_NORM_BACKWARD = Differentiable("spectral_norm_backward", backends.BACKWARD, *composed_backward(backward_composed))


def _explained(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    count = arguments.prepare(*args, **kwargs)[4]
    steps = (f"{count} power iteration{'s' * (count > 1)}: two matrix-vector products each",) if count else ()
    return (*steps, "weight / sigma, one operator with its own derivatives")


_dispatch.register(
    _dispatch.OpSpec(
        name="spectral_norm",
        public=spectral_norm,
        reference=spectral_norm_reference,
        prepare=_explained,
        table=None,
        samples=SAMPLES,
        image="weight",
    )
)
