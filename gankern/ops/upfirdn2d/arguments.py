"""Arguments of upfirdn2d: the forms that users may give, their checks, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gankern import _validate
from gankern._validate import check_filter, factors, filter_size, paddings

OP = "upfirdn2d"


def output_size(
    height: int, width: int, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of the output: (size * up + padding - taps) // down + 1 along each axis."""
    taps_x, taps_y = filter_size(f)
    out_w = (width * up[0] + padding[0] + padding[1] - taps_x) // down[0] + 1
    out_h = (height * up[1] + padding[2] + padding[3] - taps_y) // down[1] + 1
    return out_h, out_w


def prepare(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> tuple[Tensor, Tensor | None, list[int], list[int], list[int], bool, float]:
    """Check the public arguments and give the registered operator's: up and down (x, y), padding (x0, x1, y0, y1)."""
    _validate.tensor4(OP, "x", x)
    check_filter(OP, f)
    if f is not None and f.device != x.device:
        raise ValueError(f"{OP}: f must be on the device of x ({x.device}), got {f.device}")
    up2, down2, pad4 = factors(OP, "up", up), factors(OP, "down", down), paddings(OP, padding)
    if not isinstance(flip_filter, bool):
        raise TypeError(f"{OP}: flip_filter must be a bool, got {flip_filter!r}")
    gain = _validate.number(OP, "gain", gain)
    height, width = x.shape[2], x.shape[3]
    if height < 1 or width < 1:
        raise ValueError(f"{OP}: x must have at least one pixel, got {list(x.shape)}")
    # The filter must fit into the padded image, and padding must leave a pixel of it.
    taps_x, taps_y = filter_size(f)
    for axis, size, u, before, after, taps in (
        ("x", width, up2[0], pad4[0], pad4[1], taps_x),
        ("y", height, up2[1], pad4[2], pad4[3], taps_y),
    ):
        if size * u + before + after < taps:
            raise ValueError(
                f"{OP}: padding leaves no output pixel along {axis}: {size} pixels * up {u} + padding {before} + {after} "
                f"is less than the filter's {taps} taps"
            )
    return x, f, list(up2), list(down2), list(pad4), flip_filter, gain


def adjoint(
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> list[int]:
    """Padding with which upfirdn2d of the output's gradient, with up and down exchanged and the filter reversed, is the
    gradient of the input: before = taps - 1 - pad0; after such that exactly the input's size comes out.
    """
    taps_x, taps_y = filter_size(f)
    return [
        taps_x - 1 - padding[0],
        (x_shape[3] - 1) * up[0] - y_shape[3] * down[0] + 1 + padding[0],
        taps_y - 1 - padding[2],
        (x_shape[2] - 1) * up[1] - y_shape[2] * down[1] + 1 + padding[2],
    ]


__all__ = ["adjoint", "check_filter", "factors", "filter_size", "output_size", "paddings", "prepare"]
