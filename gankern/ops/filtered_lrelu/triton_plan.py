"""How a call of filtered_lrelu becomes a launch of its Triton kernel: arithmetic on shapes and strides only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from gankern import _triton
from gankern.ops.filtered_lrelu import configs


class Call(NamedTuple):
    """What a launch depends on, besides the floating-point arguments."""

    dtype: torch.dtype
    x_size: Sequence[int]
    x_strides: Sequence[int]
    y_size: Sequence[int]
    y_strides: Sequence[int]
    fu_size: Sequence[int]
    fd_size: Sequence[int]
    bias: bool
    read: bool
    write: bool
    channels_last: bool
    up: tuple[int, int]
    down: tuple[int, int]
    start: tuple[int, int]
    offset: tuple[int, int]
    mid: tuple[int, int]  # (height, width)
    flip: bool
    clamped: bool
    aligned: tuple[bool, bool] = (True, True)  # whether x and y lie at multiples of 16 bytes


class Launch(NamedTuple):
    """The kernel's integer arguments, its constexpr ones, how many programs it takes, and the bytes of its vectors."""

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int
    vector: tuple[int, int]


def counts(size: Sequence[int]) -> tuple[int, int]:
    """Numbers of taps along (x, y) of a filter of this shape."""
    return (1, 1) if not size else (size[-1], size[0])


def plan(call: Call) -> Launch | None:
    """The launch of a call, None if the filters have too many taps."""
    n, c, h, w = call.x_size
    height, width = call.y_size[2:]
    channels_last, size = call.channels_last, call.dtype.itemsize
    units = []
    for aligned, shape, strides in (
        (call.aligned[0], call.x_size, call.x_strides),
        (call.aligned[1], call.y_size, call.y_strides),
    ):
        # The strides that are taken; those of sizes of 1 may be anything.
        taken = [s for i, s in enumerate(strides) if shape[i] > 1 and i != (1 if channels_last else 3)]
        units.append(_triton.alignment(16 // size if aligned else 1, *taken, c if channels_last else shape[3]))
    x_unit, y_unit = units
    full_u, full_d = len(call.fu_size) == 2, len(call.fd_size) == 2
    tile = configs.tile(
        call.up, call.down, counts(call.fu_size), counts(call.fd_size), c, size, channels_last,
        call.read or call.write, x_unit, y_unit, full_d,
    )  # fmt: skip
    if tile is None:
        return None
    most = max(x_unit, y_unit)
    groups = -(-c // 4) if channels_last else -(-call.mid[1] // 4)
    tiles_x, tiles_y = -(-width // tile.x.step), -(-height // tile.y.step)
    tiles_c = -(-c // tile.planes) if channels_last else 1
    outer = n * tiles_c if channels_last else -(-n * c // tile.planes)
    strides = (*(s // x_unit for s in call.x_strides), *(s // y_unit for s in call.y_strides))
    widths = (w, width) if channels_last else (w // x_unit, width // y_unit)
    scalars = (
        n if channels_last else n * c, c // most if channels_last else c, h, widths[0], height, widths[1], *call.mid, groups,
        *strides, *call.start, *call.offset, tiles_x, tiles_y, tiles_c,
    )  # fmt: skip
    constants = {
        "AY": tile.y, "AX": tile.x, "PLANES": tile.planes, "HAS_FU": bool(call.fu_size), "HAS_FD": bool(call.fd_size),
        "FULL_U": full_u, "FULL_D": full_d, "FLIP": call.flip, "HAS_B": call.bias, "CLAMPED": call.clamped,
        "READ": call.read, "WRITE": call.write, "CHANNELS_LAST": channels_last, "X_UNIT": x_unit, "Y_UNIT": y_unit,
        "num_warps": tile.warps, "num_stages": configs.STAGES,
    }  # fmt: skip
    # A vector is no more than a thread's share.
    rows = tile.y.middle if full_u else tile.y.inputs
    spans = (x_unit, tile.planes), (y_unit, tile.planes)
    if not channels_last:
        spans = (x_unit, tile.x.inputs), (y_unit, _triton.alignment(y_unit, tile.x.step))
    shares = (rows * tile.x.inputs, tile.y.outputs * tile.x.outputs)
    vector = [min(*span, share * tile.planes // (32 * tile.warps)) * size for span, share in zip(spans, shares, strict=True)]
    return Launch(scalars, constants, tiles_x * tiles_y * outer, (vector[0], vector[1]))


# ---- the compile gate -------------------------------------------------------------------------------------------------------
# (up, taps of fu, down, taps of fd) of StyleGAN3-T's and -R's layers and their transposed calls, which read masks.
NETWORK = {
    "t_up2": (2, (12,), 2, (12,)), "t_up4": (4, (24,), 2, (12,)), "t_down4": (2, (12,), 4, (24,)),
    "r_up2": (2, (12,), 2, (12, 12)), "r_up2_back": (2, (12, 12), 2, (12,)), "r_up4_back": (2, (12, 12), 4, (24,)),
}  # fmt: skip


def fake_call(layer: str, channels: int, size: int, masks: str, dtype: torch.dtype, channels_last: bool) -> Call:
    """A call of 8 square images with everything present that goes with ``masks``: "write", "read" or ""."""
    up, fu, down, fd = NETWORK[layer]
    out = size * up // down
    mid = (out - 1) * down + fd[0]

    def strides(side: int) -> tuple[int, int, int, int]:
        plane = side * side
        if channels_last:
            return channels * plane, 1, side * channels, channels
        return channels * plane, plane, side, 1

    read = masks == "read"
    return Call(
        dtype, (8, channels, size, size), strides(size), (8, channels, out, out), strides(out), fu, fd, not read, read,
        masks == "write", channels_last, (up, up), (down, down), (9, 9), (-2, -2) if read else (0, 0), (mid, mid), False,
        not read,
    )  # fmt: skip
