"""grid_sample and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gankern.ops.grid_sample.arguments import compute_type, prepare


def grid_sample_reference(input: Tensor, grid: Tensor) -> Tensor:
    """Reference of :func:`gankern.ops.grid_sample`: same arguments, same result, composed of PyTorch's own operators."""
    return grid_sample_composed(*prepare(input, grid))


class Axis(NamedTuple):
    """One of the two pixels around each sample along one axis: [N, P] for P samples."""

    pixel: Tensor  # its index, moved inside where it does not exist
    exists: Tensor
    weight: Tensor
    slope: float  # of the weight in the grid value


def axis_of(g: Tensor, size: int) -> tuple[Axis, Axis]:
    """The pixels at and after the positions of the grid values ``g`` along an axis of ``size`` pixels."""
    position = g * (size / 2) + (size - 1) / 2  # ((g + 1) * size - 1) / 2 with the fewest roundings
    inside = (position > -1) & (position < size)  # False for NaN
    position = torch.where(inside, position, torch.zeros_like(position))
    low = position.detach().floor()
    part = position - low
    index = low.long()
    before = Axis(index.clamp(min=0), inside & (index >= 0), 1 - part, -size / 2)
    after = Axis((index + 1).clamp(max=size - 1), inside & (index + 1 < size), part, size / 2)
    return before, after


class Corner(NamedTuple):
    """One of the four pixels around each sample; everything is [N, P], or a number."""

    pixel: Tensor  # its index in the flattened image
    exists: Tensor
    weight: Tensor
    slope_x: Tensor  # derivative of the weight in grid[..., 0]
    slope_y: Tensor  # in grid[..., 1]
    mixed: float  # its second derivative in both; bilinear weights have no other


def corners_of(grid: Tensor, height: int, width: int) -> list[Corner]:
    """The four pixels of every sample of ``grid`` [N, Ho, Wo, 2]; differentiable in it."""
    gx, gy = grid.flatten(1, 2).unbind(2)
    return [
        Corner(
            y.pixel * width + x.pixel,
            y.exists & x.exists,
            y.weight * x.weight,
            y.weight * x.slope,
            x.weight * y.slope,
            x.slope * y.slope,
        )
        for y in axis_of(gy, height)
        for x in axis_of(gx, width)
    ]


def _take(image: Tensor, corner: Corner) -> Tensor:
    """The pixels [N, C, P] of ``image`` [N, C, H, W]; 0 where they do not exist, whatever else the image holds."""
    index = corner.pixel.unsqueeze(1).expand(-1, image.shape[1], -1)
    taken = image.flatten(2).gather(2, index)
    return torch.where(corner.exists.unsqueeze(1), taken, torch.zeros_like(taken))


def _put(values: Tensor, corner: Corner, height: int, width: int) -> Tensor:
    """The adjoint of :func:`_take`: ``values`` [N, C, P] summed into an image [N, C, H, W]."""
    n, c, _ = values.shape
    index = corner.pixel.unsqueeze(1).expand(-1, c, -1)
    values = torch.where(corner.exists.unsqueeze(1), values, torch.zeros_like(values))
    return values.new_zeros(n, c, height * width).scatter_add(2, index, values).unflatten(2, (height, width))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    return sum(rest, first)


def grid_sample_composed(x: Tensor, grid: Tensor) -> Tensor:
    """The same on prepared arguments."""
    wide = x.to(compute_type(x.dtype))
    corners = corners_of(grid, x.shape[2], x.shape[3])
    y = _sum(k.weight.unsqueeze(1) * _take(wide, k) for k in corners)
    return y.unflatten(2, (grid.shape[1], grid.shape[2])).to(x.dtype)


def backward_composed(dy: Tensor, x: Tensor, grid: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor]:
    """(dx, dgrid) for the wanted ones of ``mask``, an empty tensor for the others."""
    wide = compute_type(x.dtype)
    v = dy.to(wide).flatten(2)
    corners = corners_of(grid, x.shape[2], x.shape[3])
    dx, dgrid = x.new_empty(0), grid.new_empty(0)
    if mask[0]:
        dx = _sum(_put(k.weight.unsqueeze(1) * v, k, x.shape[2], x.shape[3]) for k in corners).to(x.dtype)
    if mask[1]:
        # Summed over channels first: a corner then costs one product with each of its two slopes.
        sums = [(v * _take(x.to(wide), k)).sum(1) for k in corners]
        pairs = list(zip(corners, sums, strict=True))
        dgrid = torch.stack((_sum(k.slope_x * s for k, s in pairs), _sum(k.slope_y * s for k, s in pairs)), -1).view_as(grid)
    return dx, dgrid


def double_backward_composed(
    u_x: Tensor | None, u_grid: Tensor | None, dy: Tensor, x: Tensor, grid: Tensor, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of <dx, u_x> + <dgrid, u_grid> in dy, x and grid; empty tensors for what ``mask`` does not want.

    With the weights w_k of the four corners and their directional derivatives a_k = dw_k/dgrid . u_grid:
    dy gets sum_k w_k u_x[k] + a_k x[k], x gets the sums of a_k dy, grid gets <dy, sum_k dw_k/dgrid u_x[k] + da_k/dgrid x[k]>.
    """
    wide, (height, width) = compute_type(x.dtype), x.shape[2:]
    v = dy.to(wide).flatten(2)
    image = x.to(wide)
    corners = corners_of(grid, height, width)
    across: list[Tensor] = []  # to dy, by corner
    into: list[Tensor] = []  # to x
    along_x: list[Tensor] = []  # to grid[..., 0]
    along_y: list[Tensor] = []
    for k in corners:
        if u_x is not None:
            taken = _take(u_x.to(wide), k)
            across.append(k.weight.unsqueeze(1) * taken)
            product = (v * taken).sum(1)
            along_x.append(k.slope_x * product)
            along_y.append(k.slope_y * product)
        if u_grid is not None:
            u0, u1 = u_grid.to(wide).flatten(1, 2).unbind(2)
            slope = (k.slope_x * u0 + k.slope_y * u1).unsqueeze(1)
            taken = _take(image, k)
            across.append(slope * taken)
            into.append(_put(slope * v, k, height, width))
            product = k.mixed * (v * taken).sum(1)
            along_x.append(u1 * product)
            along_y.append(u0 * product)
    d_dy, d_x, d_grid = x.new_empty(0), x.new_empty(0), grid.new_empty(0)
    if mask[0]:
        d_dy = _sum(across).view(dy.shape).to(dy.dtype)
    if mask[1]:
        d_x = (_sum(into) if into else torch.zeros_like(image)).to(x.dtype)
    if mask[2]:
        d_grid = torch.stack((_sum(along_x), _sum(along_y)), -1).view_as(grid)
    return d_dy, d_x, d_grid
