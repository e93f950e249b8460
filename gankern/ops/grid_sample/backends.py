"""The implementations of grid_sample, its backward and its double backward: allocation and the dispatch tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern import _layout
from gankern._backends import kernel, kernel_table
from gankern.ops.grid_sample.arguments import compute_type
from gankern.ops.grid_sample.reference import backward_composed, double_backward_composed, grid_sample_composed


# ---- what comes out: one place for every backend and for the fakes --------------------------------------------------------
def output(x: Tensor, grid: Tensor) -> Tensor:
    """Uninitialised [N, C, Ho, Wo] in the layout of ``x``."""
    return _layout.empty(x, (x.shape[0], x.shape[1], grid.shape[1], grid.shape[2]))


def backward_outputs(x: Tensor, grid: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Uninitialised (dx, dgrid); an empty tensor for what ``mask`` does not want. dx has the layout of ``x``."""
    dx = _layout.empty(x, x.shape) if mask[0] else x.new_empty(0)
    return dx, (grid.new_empty(grid.shape) if mask[1] else grid.new_empty(0))


def double_backward_outputs(x: Tensor, grid: Tensor, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised (d_dy, d_x, d_grid); an empty tensor for what ``mask`` does not want. d_dy is laid out as the output."""
    return (output(x, grid) if mask[0] else x.new_empty(0)), *backward_outputs(x, grid, mask[1:])


# ---- native and Triton: the same calls -------------------------------------------------------------------------------------
def _grid(grid: Tensor | None, x: Tensor) -> Tensor | None:
    return None if grid is None else grid.to(compute_type(x.dtype)).contiguous()


def _fixed(backend: str, dx: Tensor | None) -> Tensor | None:
    """Integers into which a GPU sums the scattered gradient: exact, so that the order of its threads does not matter."""
    return None if dx is None or backend == "cpu" else torch.zeros_like(dx, dtype=torch.int64)


def _largest(t: Tensor) -> Tensor:
    """The largest magnitude, on the device, in the compute type."""
    return torch.linalg.vector_norm(t, float("inf"), dtype=compute_type(t.dtype))


def _forward(backend: str) -> Any:
    def run(x: Tensor, grid: Tensor) -> Tensor:
        y = output(x, grid)
        if y.numel():
            kernel("grid_sample", backend, "grid_sample")(_layout.with_unit_stride(x), _grid(grid, x), y)
        return y

    return run


def _backward(backend: str) -> Any:
    def run(dy: Tensor, x: Tensor, grid: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
        dx, dgrid = backward_outputs(x, grid, mask)
        if dy.numel() == 0:
            return dx.zero_(), dgrid.zero_()
        wanted_dx, wanted_dgrid = (t if w else None for t, w in zip((dx, dgrid), mask, strict=True))
        fixed = _fixed(backend, wanted_dx)
        kernel("grid_sample", backend, "grid_sample_backward")(
            _layout.with_unit_stride(dy), _layout.with_unit_stride(x), _grid(grid, x), wanted_dx, wanted_dgrid,
            fixed, None if fixed is None else _largest(dy),
        )  # fmt: skip
        return dx, dgrid

    return run


def _double_backward(backend: str) -> Any:
    def run(
        u_x: Tensor | None, u_grid: Tensor | None, dy: Tensor, x: Tensor, grid: Tensor, mask: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        d_dy, d_x, d_grid = double_backward_outputs(x, grid, mask)
        if u_grid is None:  # nothing but dgrid depends on x
            d_x.zero_()
        if dy.numel() == 0:
            return d_dy, d_x.zero_(), d_grid.zero_()
        wanted_d_x = d_x if mask[1] and u_grid is not None else None
        fixed = _fixed(backend, wanted_d_x)
        bound = None
        if fixed is not None and u_grid is not None:
            # |dw/dx| <= W / 2 and |dw/dy| <= H / 2.
            bound = _largest(dy) * (_largest(u_grid) * ((x.shape[2] + x.shape[3]) / 2))
        kernel("grid_sample", backend, "grid_sample_double_backward")(
            None if u_x is None else _layout.with_unit_stride(u_x), _grid(u_grid, x),
            _layout.with_unit_stride(dy), _layout.with_unit_stride(x), _grid(grid, x),
            d_dy if mask[0] else None, wanted_d_x, d_grid if mask[2] else None, fixed, bound,
        )  # fmt: skip
        return d_dy, d_x, d_grid

    return run


# ---- reference: composed of PyTorch's operators, in the layout that was promised --------------------------------------------
def _reference_forward(x: Tensor, grid: Tensor) -> Tensor:
    return output(x, grid).copy_(grid_sample_composed(x, grid))


def _reference_backward(dy: Tensor, x: Tensor, grid: Tensor, mask: Any) -> Any:
    results = backward_composed(dy, x, grid, mask)
    return tuple(o.copy_(r) for o, r in zip(backward_outputs(x, grid, mask), results, strict=True))


def _reference_double_backward(u_x: Any, u_grid: Any, dy: Tensor, x: Tensor, grid: Tensor, mask: Any) -> Any:
    results = double_backward_composed(u_x, u_grid, dy, x, grid, mask)
    return tuple(o.copy_(r) for o, r in zip(double_backward_outputs(x, grid, mask), results, strict=True))


# ---- tables -----------------------------------------------------------------------------------------------------------------
FORWARD = kernel_table("grid_sample", "grid_sample", _forward, _reference_forward, image=0)
BACKWARD = kernel_table("grid_sample_backward", "grid_sample", _backward, _reference_backward, image=0)
DOUBLE_BACKWARD = kernel_table(
    "grid_sample_double_backward", "grid_sample", _double_backward, _reference_double_backward, image=2
)
