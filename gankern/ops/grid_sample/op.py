"""grid_sample: the front door. Docstring, schemas, fakes and derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _dispatch
from gankern._autograd import Differentiable, composed_backward, wanted
from gankern._library import LIBRARY
from gankern.ops.grid_sample import arguments, backends
from gankern.ops.grid_sample.reference import double_backward_composed, grid_sample_reference
from gankern.ops.grid_sample.samples import SAMPLES

LIBRARY.define("grid_sample(Tensor x, Tensor grid) -> Tensor")
LIBRARY.define("grid_sample_backward(Tensor dy, Tensor x, Tensor grid, bool[2] mask) -> (Tensor, Tensor)")
LIBRARY.define(
    "grid_sample_double_backward(Tensor? u_x, Tensor? u_grid, Tensor dy, Tensor x, Tensor grid, bool[3] mask) "
    "-> (Tensor, Tensor, Tensor)"
)


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    r"""Sample images at given positions by bilinear interpolation; outside of an image is zero.

    Output pixel (i, j) of image n is taken at ``x, y = grid[n, i, j]``, where -1 and 1 are the outer edges of the image
    (not the centres of its outer pixels). Equals ``torch.nn.functional.grid_sample(input, grid, mode="bilinear",
    padding_mode="zeros", align_corners=False)``, which has no second derivative.

    Args:
        input: images [N, C, H, W] of at least one pixel; float32, float64, bfloat16 or float16; any strides. N and C may be 0.
        grid: positions [N, H_out, W_out, 2], (x, y) in the last dimension, in the dtype of ``input`` or float32. Positions in
            half types are coarse: near an edge of 256 pixels bfloat16 knows every half pixel only. Keep the grid in float32.
            A position that is NaN or infinite is outside.

    Returns:
        [N, C, H_out, W_out] in the dtype of ``input``; channels_last if ``input`` is. Positions, weights and sums are
        computed in float32 for half types.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: of any order in ``input`` and in ``grid``; first and second order by kernels, further ones through the
    reference. At the centre of a pixel, where the slope in the position jumps, it is that of the cell to the right or below.
    A sample that is outside has none. Deterministic, the scatter into ``input``'s gradient included. Under functorch
    transforms the reference runs.

    Source: the sampler of spatial transformers (Jaderberg et al. 2015); the second derivative serves gradient penalties
    through differentiable augmentation (Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020).
    """
    if _dispatch.takes_reference():
        return grid_sample_reference(input, grid)
    x, grid = arguments.prepare(input, grid)
    return _GRID_SAMPLE(x, grid)


# ---- implementations and fakes -----------------------------------------------------------------------------------------
LIBRARY.impl("grid_sample", backends.FORWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("grid_sample_backward", backends.BACKWARD.__call__, "CompositeExplicitAutograd")
LIBRARY.impl("grid_sample_double_backward", backends.DOUBLE_BACKWARD.__call__, "CompositeExplicitAutograd")


@torch.library.register_fake("gankern::grid_sample", lib=LIBRARY)
def _fake(x: Tensor, grid: Tensor) -> Tensor:
    return backends.output(x, grid)


@torch.library.register_fake("gankern::grid_sample_backward", lib=LIBRARY)
def _fake_backward(dy: Tensor, x: Tensor, grid: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    return backends.backward_outputs(x, grid, mask)


@torch.library.register_fake("gankern::grid_sample_double_backward", lib=LIBRARY)
def _fake_double_backward(
    u_x: Any, u_grid: Any, dy: Tensor, x: Tensor, grid: Tensor, mask: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return backends.double_backward_outputs(x, grid, mask)


def _kept(outputs: tuple[Tensor, ...], mask: Any) -> tuple[Tensor | None, ...]:
    return tuple(t if w else None for t, w in zip(outputs, mask, strict=True))


# ---- first order -------------------------------------------------------------------------------------------------------
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    mask = wanted(ctx, [True, True])
    if dy is None or not any(mask):
        return None, None
    x, grid = ctx.saved_tensors
    return _kept(_GRID_SAMPLE_BACKWARD(dy, x, grid, mask), mask)


# ---- second order ------------------------------------------------------------------------------------------------------
def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.mask = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, u_x: Tensor | None, u_grid: Tensor | None) -> tuple[Tensor | None, ...]:
    u_x, u_grid = _kept((u_x, u_grid), ctx.mask)  # type: ignore[arg-type]
    mask = wanted(ctx, [True, True, True])
    mask[1] = mask[1] and u_grid is not None  # dx does not depend on x
    if (u_x is None and u_grid is None) or not any(mask):
        return None, None, None, None
    dy, x, grid = ctx.saved_tensors
    outputs = _GRID_SAMPLE_DOUBLE_BACKWARD(u_x, u_grid, dy, x, grid, mask)
    return *_kept(outputs, mask), None


# ---- registration, and what the functions above call; third order and above through the reference ---------------------------
_GRID_SAMPLE = Differentiable("grid_sample", backends.FORWARD, _backward, _setup_context)
_GRID_SAMPLE_BACKWARD = Differentiable("grid_sample_backward", backends.BACKWARD, _backward_backward, _backward_setup_context)
_GRID_SAMPLE_DOUBLE_BACKWARD = Differentiable(
    "grid_sample_double_backward", backends.DOUBLE_BACKWARD, *composed_backward(double_backward_composed)
)

_dispatch.register(
    _dispatch.OpSpec(
        name="grid_sample",
        public=grid_sample,
        reference=grid_sample_reference,
        prepare=arguments.prepare,
        table=backends.FORWARD,
        samples=SAMPLES,
        image="input",
    )
)
