"""Filters and the common uses of upfirdn2d: filter2d, upsample2d, downsample2d."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gankern import _validate
from gankern.ops.upfirdn2d import arguments
from gankern.ops.upfirdn2d.op import upfirdn2d


def setup_filter(
    f: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Make filter taps ready for :func:`upfirdn2d`.

    Args:
        f: taps as a tensor, array or nested list: [taps] or [taps_y, taps_x]; a number is one tap; None is an impulse.
        device: device of the result. Default 'cpu'.
        normalize: scale the taps to a sum of 1 (before ``gain``). Default True.
        flip_filter: reverse the taps. Default False.
        gain: overall factor of the 2-D filter: 1-D taps, which act twice, get its square root. Default 1.
        separable: True keeps 1-D taps 1-D, False makes their outer product. Default None: separable from 8 taps on.

    Returns:
        float32 taps on ``device``: [taps] if kept separable, else [taps_y, taps_x].

    Raises:
        TypeError, ValueError: the taps are not numbers, empty, of more than 2 dimensions, sum to 0 under ``normalize``, or are
            2-D although ``separable=True``.
    """
    op = "setup_filter"
    try:
        target = torch.device("cpu" if device is None else device)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{op}: device must be a torch.device or its name, got {device!r}") from error
    if isinstance(f, Tensor) and f.is_meta and target.type != "meta":
        raise ValueError(f"{op}: f must hold numbers, got a tensor on the meta device")
    try:
        # With a device, numbers do not land on the default one, which is 'meta' where a model is only to be counted.
        given = f if isinstance(f, Tensor) else torch.as_tensor(1 if f is None else f, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{op}: f must hold numbers as [taps] or [taps_y, taps_x], got {type(f).__name__}: {error}") from error
    if given.is_complex():
        raise TypeError(f"{op}: f must hold real numbers, got {_validate.short(given.dtype)}")
    taps = given.detach().to(dtype=torch.float32, device=target)
    if taps.dim() == 0:
        taps = taps[None]
    if taps.dim() > 2 or taps.numel() == 0:
        raise ValueError(f"{op}: f must be [taps] or [taps_y, taps_x] with at least one tap, got {list(taps.shape)}")
    gain = _validate.number(op, "gain", gain)
    for name, flag in (("normalize", normalize), ("flip_filter", flip_filter)):
        if not isinstance(flag, bool):
            raise TypeError(f"{op}: {name} must be a bool, got {flag!r}")
    if separable is not None and not isinstance(separable, bool):
        raise TypeError(f"{op}: separable must be a bool or None, got {separable!r}")
    if separable is None:
        separable = taps.dim() == 1 and taps.numel() >= 8
    if separable and taps.dim() == 2:
        raise ValueError(f"{op}: separable=True takes 1-D taps, got {list(taps.shape)}")
    if separable and gain < 0:
        raise ValueError(f"{op}: gain of a separable filter must not be negative (its taps get the square root), got {gain}")
    if taps.dim() == 1 and not separable:
        taps = taps[:, None] * taps[None, :]
    if normalize:
        total = taps.sum()
        if float(total) == 0:
            raise ValueError(f"{op}: normalize=True needs taps with a sum other than 0")
        taps = taps / total
    if flip_filter:
        taps = taps.flip(list(range(taps.dim())))
    return (taps * gain ** (taps.dim() / 2)).contiguous()


def filter2d(
    x: Tensor, f: Tensor | None, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filter images; the output has the size of the input, plus ``padding``.

    Args:
        x: images [N, C, H, W].
        f: taps as for :func:`upfirdn2d`.
        padding: pixels on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.

    Returns:
        [N, C, H + y0 + y1, W + x0 + x1]. Gradients of any order, as :func:`upfirdn2d`.

    Raises:
        TypeError, ValueError: as :func:`upfirdn2d`.
    """
    return upfirdn2d(x, f, flip_filter=flip_filter, **filter2d_arguments(f, padding, gain))


def filter2d_arguments(f: Tensor | None, padding: int | Sequence[int], gain: float) -> dict[str, Any]:
    """up, down, padding and gain of the :func:`upfirdn2d` that is ``filter2d``."""
    pad = _resampling_padding("filter2d", f, padding, lambda taps, _: (taps // 2, (taps - 1) // 2), (1, 1))
    return {"padding": pad, "gain": gain}


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample images by integer factors; the output has ``up`` times the size of the input, plus ``padding``.

    Args:
        x: images [N, C, H, W].
        f: taps as for :func:`upfirdn2d`.
        up: factor, an int or [x, y]. Default 2.
        padding: pixels of the output on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result, times up_x * up_y (which keeps the brightness of the input). Default 1.

    Returns:
        [N, C, H * up_y + y0 + y1, W * up_x + x0 + x1]. Gradients of any order, as :func:`upfirdn2d`.

    Raises:
        TypeError, ValueError: as :func:`upfirdn2d`.
    """
    return upfirdn2d(x, f, flip_filter=flip_filter, **upsample2d_arguments(f, up, padding, gain))


def upsample2d_arguments(
    f: Tensor | None, up: int | Sequence[int], padding: int | Sequence[int], gain: float
) -> dict[str, Any]:
    """up, down, padding and gain of the :func:`upfirdn2d` that is ``upsample2d``."""
    op = "upsample2d"
    factors = arguments.factors(op, "up", up)
    pad = _resampling_padding(op, f, padding, lambda taps, u: ((taps + u - 1) // 2, (taps - u) // 2), factors)
    return {"up": list(factors), "padding": pad, "gain": _validate.number(op, "gain", gain) * factors[0] * factors[1]}


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filter images and keep every ``down``-th pixel; the output has 1 / ``down`` of the size of the input plus ``padding``.

    Args:
        x: images [N, C, H, W].
        f: taps as for :func:`upfirdn2d`.
        down: factor, an int or [x, y]. Default 2.
        padding: pixels of the input on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.

    Returns:
        [N, C, H / down_y, W / down_x] for sizes that divide. Gradients of any order, as :func:`upfirdn2d`.

    Raises:
        TypeError, ValueError: as :func:`upfirdn2d`.
    """
    return upfirdn2d(x, f, flip_filter=flip_filter, **downsample2d_arguments(f, down, padding, gain))


def downsample2d_arguments(
    f: Tensor | None, down: int | Sequence[int], padding: int | Sequence[int], gain: float
) -> dict[str, Any]:
    """up, down, padding and gain of the :func:`upfirdn2d` that is ``downsample2d``."""
    op = "downsample2d"
    factors = arguments.factors(op, "down", down)
    pad = _resampling_padding(op, f, padding, lambda taps, d: ((taps - d + 1) // 2, (taps - d) // 2), factors)
    return {"down": list(factors), "padding": pad, "gain": gain}


def _resampling_padding(
    op: str,
    f: Tensor | None,
    padding: int | Sequence[int],
    own: Callable[[int, int], tuple[int, int]],
    factors: tuple[int, int],
) -> list[int]:
    """The user's padding plus (before, after) = own(taps, factor) along each axis."""
    arguments.check_filter(op, f)
    x0, x1, y0, y1 = arguments.paddings(op, padding)
    taps_x, taps_y = arguments.filter_size(f)
    own_x, own_y = own(taps_x, factors[0]), own(taps_y, factors[1])
    return [x0 + own_x[0], x1 + own_x[1], y0 + own_y[0], y1 + own_y[1]]
