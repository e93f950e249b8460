"""Arguments of filtered_lrelu: the forms that users may give, their checks, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gankern import _layout, _validate
from gankern._dtypes import wide
from gankern._validate import filter_size

OP = "filtered_lrelu"


class Prepared(NamedTuple):
    """The registered operator's arguments: up and down (x, y), padding (x0, x1, y0, y1), clamp -1 for none."""

    x: Tensor
    fu: Tensor | None
    fd: Tensor | None
    b: Tensor | None
    up: list[int]
    down: list[int]
    padding: list[int]
    gain: float
    slope: float
    clamp: float
    flip_filter: bool
    with_mask: bool


class Resampling(NamedTuple):
    """Where the two filters lie, as [x, y] pairs: what ``filtered_lrelu_masked`` takes. README.md beside this file."""

    start: list[int]
    offset: list[int]
    mid: list[int]
    size: list[int]


def prepare(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Prepared:
    """Check the public arguments and give the registered operator's; masks are wanted where x or b has a gradient."""
    _validate.tensor4(OP, "x", x)
    for name, f in (("fu", fu), ("fd", fd)):
        _validate.check_filter(OP, f, name)
        if f is not None and f.device != x.device:
            raise ValueError(f"{OP}: {name} must be on the device of x ({x.device}), got {f.device}")
    if b is not None:
        _validate.companion(OP, x, "b", b)
        if b.dim() != 1 or b.shape[0] != x.shape[1]:
            raise ValueError(f"{OP}: b must have shape [C] = [{x.shape[1]}], one number a channel of x, got {list(b.shape)}")
        b = b.to(wide(x.dtype)).contiguous()
    up2, down2 = _validate.factors(OP, "up", up), _validate.factors(OP, "down", down)
    pad4 = _validate.paddings(OP, padding)
    gain, slope = _validate.number(OP, "gain", gain), _validate.number(OP, "slope", slope)
    if gain <= 0:
        raise ValueError(f"{OP}: gain must be positive, got {gain!r}")
    if slope < 0:
        raise ValueError(f"{OP}: slope must not be negative, got {slope!r}")
    limit = -1.0 if clamp is None else _validate.number(OP, "clamp", clamp)
    if clamp is not None and limit < 0:
        raise ValueError(f"{OP}: clamp must not be negative (None for no clamping), got {clamp!r}")
    if not isinstance(flip_filter, bool):
        raise TypeError(f"{OP}: flip_filter must be a bool, got {flip_filter!r}")
    _check_size(x, fu, fd, up2, pad4)
    with_mask = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    return Prepared(x, fu, fd, b, list(up2), list(down2), list(pad4), gain, slope, limit, flip_filter, with_mask)


def _check_size(x: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], pads: Sequence[int]) -> None:
    """Both filters, one after the other, must fit into the padded image."""
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{OP}: x must have at least one pixel, got {list(x.shape)}")
    taps_u, taps_d = filter_size(fu), filter_size(fd)
    for axis, size, u, before, after, first, second in (
        ("x", x.shape[3], up[0], pads[0], pads[1], taps_u[0], taps_d[0]),
        ("y", x.shape[2], up[1], pads[2], pads[3], taps_u[1], taps_d[1]),
    ):
        if size * u + before + after < first + second - 1:
            raise ValueError(
                f"{OP}: padding leaves no output pixel along {axis}: {size} pixels * up {u} + padding {before} + {after} "
                f"is less than the {first + second - 1} that the filters of {first} and {second} taps reach over"
            )


def resampling(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> Resampling:
    """Of a forward call: the upsampled image starts with its padding, and holds just what the output is made of."""
    taps_u, taps_d = filter_size(fu), filter_size(fd)
    mid, size = [], []
    for axis in (0, 1):
        whole = x.shape[3 - axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1] - taps_u[axis] + 1
        size.append((whole - taps_d[axis]) // down[axis] + 1)
        mid.append((size[axis] - 1) * down[axis] + taps_d[axis])
    return Resampling([padding[0], padding[2]], [0, 0], mid, size)


def transposed(r: Resampling, fu: Tensor | None, fd: Tensor | None, x_shape: Sequence[int]) -> Resampling:
    """Of the transposed call, whose filters and factors are exchanged and reversed, and whose output is like x."""
    taps_u, taps_d = filter_size(fu), filter_size(fd)
    return Resampling(
        [taps - 1 + offset for taps, offset in zip(taps_d, r.offset, strict=True)],
        [start - taps + 1 for taps, start in zip(taps_u, r.start, strict=True)],
        list(r.mid),
        [x_shape[3], x_shape[2]],
    )


def is_channels_last(x: Tensor) -> bool:
    """Whether the output and the masks of ``x`` have channels innermost."""
    return _layout.memory_format(x) == torch.channels_last


def mask_shape(n: int, c: int, mid: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """Of the masks, whose bytes hold four numbers each: along x, or along the channels."""
    return (n, mid[1], mid[0], (c + 3) // 4) if channels_last else (n, c, mid[1], (mid[0] + 3) // 4)
