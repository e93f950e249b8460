"""filtered_lrelu in Triton: FIR filters as products with banded (Toeplitz) matrices on tensor cores.

A program makes one tile of the output of PLANES planes; its part of the intermediate image stays in registers:

    t = Uy @ x @ Ux,   a = slope(t) * t, clamped (or what the mask says),   y = Dy @ a @ Dx

U[j, m] = gu[j * up - m + start] and D[m, o] = gd[m - o * down - offset], zero outside of the taps. The entries are gathered
from the taps where they are needed: with a row's base known, an entry is a comparison and a load at a constant distance, and
no launch comes before the kernel. The planes of a program share them: planes are folded into the free side of every product,
[BMY, BC x BJ] for the vertical ones and [BMY x BC, BJ] for the horizontal ones. That is also how channels_last comes in: there
the planes are neighbouring channels, loaded along them and permuted once on the way in and out.

A filter of full 2-D taps is walked row by row of taps: for the up filter the rows of x that a row of taps meets are loaded
again (from L1), for the down filter a product with a selection matrix takes the rows of ``a``.

Precision: sums are float32. Factors of half types are rounded to that type once, as the images are that eager stores between
its passes: x + b, t after the vertical product, ``a``, and ``a`` after the horizontal product (t itself is not). Taps of
bfloat16 are split in two, of which both are multiplied; float16 has 11 bits, enough for them. float32 is split in two TF32
numbers each, of which three products are taken: 2^-22 is what is left out. TF32 for half types as well costs half of the
kernel's instructions more, for the rounding, which is one instruction for two numbers in half types and four for one in TF32.

A pixel that is not finite spreads to the whole tile, because it is multiplied with the zeros beside the bands as well; so does
a float16 sum beyond 65504 of the first two of these images.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gankern import _triton
from gankern._triton import INTERPRETING, jit, narrow, tl
from gankern.ops.filtered_lrelu import configs
from gankern.ops.filtered_lrelu.triton_plan import Call, counts, fake_call, plan

_FAR = 2**30  # coordinates of the upsampled image stay below, so that sums of two are 32-bit numbers
FAR = tl.constexpr(-_FAR) if tl is not None else None


# ---- products -------------------------------------------------------------------------------------------------------------
@jit
def _tf32(v):
    """``v`` rounded to TF32, to nearest. (What tensor cores do with float32 by themselves is to cut bits off.)"""
    bits = v.to(tl.int32, bitcast=True)
    if INTERPRETING:
        rounded = (bits + 0x1000) & -0x2000
        bits = tl.where(v == v, rounded, bits)
    else:
        bits = tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [bits], dtype=tl.int32, is_pure=True, pack=1)
    return bits.to(tl.float32, bitcast=True)


@jit
def _operand(v, TYPE: tl.constexpr):
    """``v`` rounded to a half type."""
    if INTERPRETING:  # noqa: SIM108 (it cannot multiply bfloat16)
        r = narrow(v.to(tl.float32), TYPE).to(tl.float32)
    else:
        r = v.to(TYPE)
    return r


@jit
def _product(a, b, acc, A: tl.constexpr, B: tl.constexpr, TYPE: tl.constexpr):
    """``acc`` + a @ b in the precision that images of TYPE need. A, B: "taps", "image", or "exact" for small whole numbers."""
    if TYPE == tl.float32:  # noqa: SIM300 (small terms first)
        a_high = _tf32(a)
        b_high = _tf32(b)
        if A != "exact":
            acc = tl.dot(_tf32(a - a_high), b_high, acc, input_precision="tf32")
        acc = tl.dot(a_high, _tf32(b - b_high), acc, input_precision="tf32")
    else:
        a_high = _operand(a, TYPE)
        b_high = _operand(b, TYPE)
        if TYPE == tl.bfloat16:  # noqa: SIM300
            if A == "taps":
                acc = tl.dot(_operand(a - a_high.to(tl.float32), TYPE), b_high, acc)
            if B == "taps":
                acc = tl.dot(a_high, _operand(b - b_high.to(tl.float32), TYPE), acc)
    return tl.dot(a_high, b_high, acc, input_precision="tf32")


@jit
def _taps(f, k, row, TAPS: tl.constexpr, ROWS: tl.constexpr, HAS_F: tl.constexpr, FLIP: tl.constexpr):
    """g[row, k] where 0 <= k < TAPS, else 0: the taps reversed unless FLIP."""
    inside = (k >= 0) & (k < TAPS)
    if HAS_F:
        if FLIP:
            v = tl.load(f + (row * TAPS + k), mask=inside, other=0.0)
        else:
            v = tl.load(f + ((ROWS - row) * TAPS - 1 - k), mask=inside, other=0.0)
    else:
        v = tl.where(inside, 1.0, 0.0)
    return v


# ---- images and masks -------------------------------------------------------------------------------------------------------
@jit
def _image(
    x, b, planes, planes_live, rows, rows_live, columns, columns_live, row_stride, column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr, HAS_B: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """The image x + b, 0 outside of it: [ROWS, PLANES * COLUMNS]."""
    rows_at = rows.to(tl.int64) * row_stride
    if CHANNELS_LAST:
        at = x + rows_at[:, None, None] + (columns.to(tl.int64) * column_stride)[None, :, None] + planes[None, None, :]
        live = rows_live[:, None, None] & columns_live[None, :, None] & planes_live[None, None, :]
        v = tl.load(at, mask=live, other=0.0)
        if HAS_B:
            v = _operand(tl.where(live, v.to(tl.float32) + b[None, None, :], 0.0), x.dtype.element_ty)
        v = tl.permute(v, (0, 2, 1))
    else:
        at = x + rows_at[:, None, None] + planes[None, :, None] + columns[None, None, :]
        live = rows_live[:, None, None] & columns_live[None, None, :] & planes_live[None, :, None]
        v = tl.load(at, mask=live, other=0.0)
        if HAS_B:
            v = _operand(tl.where(live, v.to(tl.float32) + b[None, :, None], 0.0), x.dtype.element_ty)
    return tl.reshape(v, (ROWS, PLANES * COLUMNS))


@jit
def _load_codes(
    mask, planes, planes_live, my, my_live, mx, mx_live, mid_w, groups,
    BMY: tl.constexpr, BMX: tl.constexpr, PLANES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Codes [BMY * PLANES, BMX]; ``planes`` are the offsets of groups of four channels or of planes' first bytes."""
    shift = (tl.arange(0, 4) * 2).to(tl.uint8)[None, None, None, :]
    rows = my.to(tl.int64)[:, None, None] * groups
    if CHANNELS_LAST:
        at = mask + rows * mid_w + (mx.to(tl.int64) * groups)[None, :, None] + planes[None, None, :]
        live = my_live[:, None, None] & mx_live[None, :, None] & planes_live[None, None, :]
        four = tl.load(at, mask=live, other=0)
        codes = tl.reshape((four[:, :, :, None] >> shift) & 3, (BMY, BMX, PLANES))
        codes = tl.permute(codes, (0, 2, 1))
    else:
        at = mask + rows + planes[None, :, None] + mx[None, None, :]
        live = my_live[:, None, None] & mx_live[None, None, :] & planes_live[None, :, None]
        four = tl.load(at, mask=live, other=0)
        codes = (four[:, :, :, None] >> shift) & 3
    return tl.reshape(codes, (BMY * PLANES, BMX))


@jit
def _store_codes(
    mask, codes, planes, planes_live, my, my_live, mx, mx_live, mid_w, groups,
    BMY: tl.constexpr, BMX: tl.constexpr, PLANES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """The reverse of :func:`_load_codes`, of ``codes`` [BMY, PLANES, BMX]."""
    rows = my.to(tl.int64)[:, None, None] * groups
    if CHANNELS_LAST:
        codes = tl.reshape(tl.permute(codes, (0, 2, 1)), (BMY, BMX, PLANES // 4, 4))
        at = mask + rows * mid_w + (mx.to(tl.int64) * groups)[None, :, None] + planes[None, None, :]
        live = my_live[:, None, None] & mx_live[None, :, None] & planes_live[None, None, :]
    else:
        codes = tl.reshape(codes, (BMY, PLANES, BMX // 4, 4))
        at = mask + rows + planes[None, :, None] + mx[None, None, :]
        live = my_live[:, None, None] & mx_live[None, None, :] & planes_live[None, :, None]
    even, odd = tl.split(tl.reshape(codes, (codes.shape[0], codes.shape[1], codes.shape[2], 2, 2)))
    low, high = tl.split(even | (odd << 2))
    tl.store(at, (low | (high << 4)).to(tl.uint8, bitcast=True), mask=live)


@jit
def _ceil_div(a, B: tl.constexpr):
    """ceil(a / B), of negative numbers too, whichever way // rounds."""
    q = a // B
    return q + tl.where(q * B < a, 1, 0)


# ---- the kernel -------------------------------------------------------------------------------------------------------------
_SCALARS = [
    "count", "channels", "height", "width", "height_y", "width_y", "mid_h", "mid_w", "groups", "xn", "xc", "xh", "xw",
    "yn", "yc", "yh", "yw", "start_x", "start_y", "offset_x", "offset_y", "tiles_x", "tiles_y", "tiles_c",
]  # fmt: skip


@jit(do_not_specialize=_SCALARS)
def _filtered_lrelu_kernel(
    x, fu, fd, b, mask, y, lift, positive, negative, clamp,
    count,  # planes, or (channels_last) images
    channels, height, width, height_y, width_y, mid_h, mid_w, groups, xn, xc, xh, xw, yn, yc, yh, yw,
    start_x, start_y, offset_x, offset_y, tiles_x, tiles_y, tiles_c,
    AY: tl.constexpr, AX: tl.constexpr, PLANES: tl.constexpr,
    HAS_FU: tl.constexpr, HAS_FD: tl.constexpr, FULL_U: tl.constexpr, FULL_D: tl.constexpr, FLIP: tl.constexpr,
    HAS_B: tl.constexpr, CLAMPED: tl.constexpr, READ: tl.constexpr, WRITE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr,
):  # fmt: skip
    """``positive`` and ``negative`` are the slopes, times the scale of upsampling. x's strides (and channels or width) come
    divided by X_UNIT where they are whole numbers of it, y's likewise, so that Triton sees the vectors' alignment.
    """
    UP_Y: tl.constexpr = AY.up
    UP_X: tl.constexpr = AX.up
    DOWN_Y: tl.constexpr = AY.down
    DOWN_X: tl.constexpr = AX.down
    BMY: tl.constexpr = AY.middle
    BMX: tl.constexpr = AX.middle
    BOY: tl.constexpr = AY.outputs
    BOX: tl.constexpr = AX.outputs
    BI: tl.constexpr = AY.inputs
    BJ: tl.constexpr = AX.inputs
    TYPE: tl.constexpr = x.dtype.element_ty

    pid = tl.program_id(0)
    ox0 = (pid % tiles_x) * AX.step
    rest = pid // tiles_x
    oy0 = (rest % tiles_y) * AY.step
    rest = rest // tiles_y

    # This program's planes.
    plane = tl.arange(0, PLANES)
    if CHANNELS_LAST:
        c = (rest % tiles_c) * PLANES + plane
        n = rest // tiles_c
        planes_live = c < channels * (X_UNIT if X_UNIT > Y_UNIT else Y_UNIT)
        x_planes = n * (xn.to(tl.int64) * X_UNIT) + c
        y_planes = n * (yn.to(tl.int64) * Y_UNIT) + c
        # A group of four channels.
        four = (rest % tiles_c) * (PLANES // 4) + tl.arange(0, PLANES // 4)
        four_live = four < groups
        four_planes = n.to(tl.int64) * mid_h * mid_w * groups + four
        in_w = width
        out_w = width_y
    else:
        number = rest.to(tl.int64) * PLANES + plane
        c = number % channels
        planes_live = number < count
        x_planes = (number // channels) * (xn.to(tl.int64) * X_UNIT) + c * (xc.to(tl.int64) * X_UNIT)
        y_planes = (number // channels) * (yn.to(tl.int64) * Y_UNIT) + c * (yc.to(tl.int64) * Y_UNIT)
        four_live = planes_live
        four_planes = number * mid_h * groups
        in_w = width * X_UNIT
        out_w = width_y * Y_UNIT
    x_row = xh.to(tl.int64) * X_UNIT
    x_column = xw.to(tl.int64) * X_UNIT
    y_row = yh.to(tl.int64) * Y_UNIT
    y_column = yw.to(tl.int64) * Y_UNIT
    bias = 0.0
    if HAS_B:
        bias = tl.load(b + c, mask=planes_live, other=0.0)

    # Its part of the intermediate image, from (my0, mx0) on; bytes of masks are whole in it.
    my0 = oy0 * DOWN_Y + offset_y
    mx0 = ox0 * DOWN_X + offset_x
    if (READ or WRITE) and not CHANNELS_LAST:
        mx0 = (_ceil_div(mx0 - 3, 4)) * 4
    my = my0 + tl.arange(0, BMY)
    mx = mx0 + tl.arange(0, BMX)

    # ---- up
    j0 = _ceil_div(mx0 - start_x, UP_X)
    if not CHANNELS_LAST:
        j0 = _ceil_div(j0 - (X_UNIT - 1), X_UNIT) * X_UNIT
    i0 = _ceil_div(my0 - start_y, UP_Y)
    t = tl.zeros((BMY * PLANES, BMX), tl.float32)
    for part_x in range(AX.parts):
        j = j0 + part_x * BJ + tl.arange(0, BJ)
        j_live = (j >= 0) & (j < in_w)
        kx = (j * UP_X)[:, None] - (mx - start_x)[None, :]
        if FULL_U:
            for k in range(AY.up_taps):
                # Row k of the taps meets the row i of x where i * up lies k behind the intermediate row.
                i = _ceil_div(my + k - start_y, UP_Y)
                i_live = (i >= 0) & (i < height) & (i * UP_Y == my + k - start_y)
                v = _image(
                    x, bias, x_planes, planes_live, i, i_live, j, j_live, x_row, x_column,
                    BMY, BJ, PLANES, HAS_B, CHANNELS_LAST,
                )  # fmt: skip
                ux = _taps(fu, kx, k, AX.up_taps, AY.up_taps, HAS_FU, FLIP)
                t = _product(tl.reshape(v, (BMY * PLANES, BJ)), ux * lift, t, "image", "taps", TYPE)
        else:
            v = tl.zeros((BMY, PLANES * BJ), tl.float32)
            for part_y in range(AY.parts):
                i = i0 + part_y * BI + tl.arange(0, BI)
                i_live = (i >= 0) & (i < height)
                image = _image(
                    x, bias, x_planes, planes_live, i, i_live, j, j_live, x_row, x_column,
                    BI, BJ, PLANES, HAS_B, CHANNELS_LAST,
                )  # fmt: skip
                ky = (i * UP_Y)[None, :] - (my - start_y)[:, None]
                uy = _taps(fu, ky, 0, AY.up_taps, 1, HAS_FU, FLIP) * lift
                v = _product(uy, image, v, "taps", "image", TYPE)
            ux = _taps(fu, kx, 0, AX.up_taps, 1, HAS_FU, FLIP) * lift
            t = _product(tl.reshape(v, (BMY * PLANES, BJ)), ux, t, "image", "taps", TYPE)

    # ---- activation
    my_live = (my >= 0) & (my < mid_h)
    mx_live = (mx >= 0) & (mx < mid_w)
    fours = mx
    fours_live = mx_live
    if not CHANNELS_LAST:
        fours = mx0 // 4 + tl.arange(0, BMX // 4)
        fours_live = (fours >= 0) & (fours < groups)
    if READ:
        codes = _load_codes(
            mask, four_planes, four_live, my, my_live, fours, fours_live, mid_w, groups, BMY, BMX, PLANES, CHANNELS_LAST
        )  # fmt: skip
        a = t * tl.where(codes == 0, positive, tl.where(codes == 1, negative, 0.0))
    else:
        a = t * tl.where(t <= 0, negative, positive)
        if WRITE:
            codes = tl.where(t <= 0, 1, 0)
            if CLAMPED:
                codes = tl.where(tl.abs(a) > clamp, 2, codes)
            # Every number has one tile that owns it; the last ones own what is left.
            own_y = my_live & ((my < my0 + AY.step * DOWN_Y) | (oy0 + AY.step >= height_y))
            first = fours if CHANNELS_LAST else fours * 4
            own_x = fours_live & ((first < mx0 + AX.step * DOWN_X) | (ox0 + AX.step >= out_w))
            # Bits beyond the last number are 0.
            codes = tl.reshape(codes.to(tl.int8), (BMY, PLANES, BMX))
            codes = tl.where(planes_live[None, :, None] if CHANNELS_LAST else mx_live[None, None, :], codes, 0)
            _store_codes(
                mask, codes, four_planes, four_live, my, own_y, fours, own_x, mid_w, groups, BMY, BMX, PLANES, CHANNELS_LAST
            )  # fmt: skip
        if CLAMPED:
            a = tl.where(a > clamp, clamp, tl.where(a < -clamp, -clamp, a))

    # ---- down
    oy = oy0 + tl.arange(0, BOY)
    ox = ox0 + tl.arange(0, BOX)
    # Beyond the intermediate image there is no tap; ``a`` itself need not be 0 there.
    kx = tl.where(mx_live, mx - offset_x, FAR)[:, None] - (ox * DOWN_X)[None, :]
    ky = tl.where(my_live, my - offset_y, FAR)[None, :] - (oy * DOWN_Y)[:, None]
    if FULL_D:
        if TYPE != tl.float32:  # noqa: SIM300
            a = _operand(a, TYPE)
        a = tl.reshape(a, (BMY, PLANES * BMX))
        out = tl.zeros((BOY * PLANES, BOX), tl.float32)
        for k in range(AY.down_taps):
            zero = tl.zeros((BOY, PLANES * BMX), tl.float32)
            rows = _product(tl.where(ky == k, 1.0, 0.0), a, zero, "exact", "image", TYPE)
            dx = _taps(fd, kx, k, AX.down_taps, AY.down_taps, HAS_FD, FLIP)
            out = _product(tl.reshape(rows, (BOY * PLANES, BMX)), dx, out, "image", "taps", TYPE)
    else:
        dx = _taps(fd, kx, 0, AX.down_taps, 1, HAS_FD, FLIP)
        rows = _product(a, dx, tl.zeros((BMY * PLANES, BOX), tl.float32), "image", "taps", TYPE)
        dy = _taps(fd, ky, 0, AY.down_taps, 1, HAS_FD, FLIP)
        zero = tl.zeros((BOY, PLANES * BOX), tl.float32)
        out = _product(dy, tl.reshape(rows, (BMY, PLANES * BOX)), zero, "taps", "image", TYPE)
    out = tl.reshape(out, (BOY, PLANES, BOX))

    oy_live = (oy < height_y) & (oy < oy0 + AY.step)
    ox_live = (ox < out_w) & (ox < ox0 + AX.step)
    rows_at = (oy.to(tl.int64) * y_row)[:, None, None]
    if CHANNELS_LAST:
        out = tl.permute(out, (0, 2, 1))
        at = y + rows_at + (ox.to(tl.int64) * y_column)[None, :, None] + y_planes[None, None, :]
        out_live = oy_live[:, None, None] & ox_live[None, :, None] & planes_live[None, None, :]
    else:
        at = y + rows_at + y_planes[None, :, None] + ox[None, None, :]
        out_live = oy_live[:, None, None] & planes_live[None, :, None] & ox_live[None, None, :]
    tl.store(at, narrow(out, y.dtype.element_ty), mask=out_live)


# ---- what backends.py calls -------------------------------------------------------------------------------------------------
def can_run(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int], channels_last: bool
) -> str | None:
    """None if the kernel serves these arguments, else the reason why not. Pairs are (x, y)."""
    reason = _triton.can_run(x)
    if reason is not None:
        return reason
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return (
            f"the Triton kernel has no {str(x.dtype).removeprefix('torch.')}: Triton 3.7 cannot compile its products for sm_100"
        )
    taps = counts(() if fd is None else tuple(fd.shape))
    factors = (down[0], down[1])
    if configs.tile((1, 1), factors, (1, 1), taps, x.shape[1], x.element_size(), channels_last, True, 1, 1, False) is None:
        return f"down {factors} with {taps} taps (x, y) needs tiles of more intermediate pixels than a program can hold"
    pads = counts(() if fu is None else tuple(fu.shape))
    sides = [side * factor + count for side, factor, count in zip((x.shape[3], x.shape[2]), up, pads, strict=True)]
    if max(*sides, x.shape[0] * x.shape[1]) >= _FAR:
        return f"x of {tuple(x.shape)} upsampled by {tuple(up)} has sides or planes beyond 2^30"
    return None


def filtered_lrelu_triton(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, mask_in: Tensor | None, mask_out: Tensor | None,
    y: Tensor, channels_last: bool, up_x: int, up_y: int, down_x: int, down_y: int, start_x: int, start_y: int,
    offset_x: int, offset_y: int, mid_h: int, mid_w: int, flip: bool, scale: float, gain: float, negative_slope: float,
    clamp: float,
) -> None:  # fmt: skip
    """Compute filtered_lrelu of ``x`` into ``y``, on the current stream of their device; deterministic.

    Args:
        x: images [N, C, H, W], float32, bfloat16 or float16.
        fu: contiguous float32 taps of upsampling, [taps] for both axes or [taps_y, taps_x], or None.
        fd: those of downsampling.
        b: contiguous float32 bias [C] or None.
        mask_in: what the activation did, two bits a number of the intermediate image, instead of the activation; or None.
        mask_out: where to write that; or None. It takes offsets of 0 and mid = (out - 1) * down + taps of fd.
        y: the result [N, C, H_out, W_out], in the dtype of ``x``. Both have stride 1 along W, with ``channels_last`` along C.
        channels_last: which of the two; masks are laid out alike.
        up_x: factor of upsampling along x.
        up_y: the same along y.
        down_x: factor of downsampling along x.
        down_y: the same along y.
        start_x: pixels of the upsampled image before the first.
        start_y: the same along y.
        offset_x: pixel of the intermediate image that the first tap of fd meets.
        offset_y: the same along y.
        mid_h: height of the intermediate image.
        mid_w: its width.
        flip: correlate instead of convolve.
        scale: factor on the upsampled image.
        gain: factor after the activation.
        negative_slope: of the leaky ReLU.
        clamp: bound of the magnitude after that; below 0 for none.

    Raises:
        ValueError: if x or y has another stride, if masks are to be written at an offset, or if ``can_run`` has refused.
    """
    if y.numel() == 0:
        return
    inner = 1 if channels_last else 3
    for name, image in (("x", x), ("y", y)):
        if image.shape[inner] > 1 and image.stride(inner) != 1:
            along = "C (channels_last)" if channels_last else "W"
            raise ValueError(f"filtered_lrelu_triton: {name} must have stride 1 along {along}, got strides {image.stride()}")
    if mask_out is not None and (offset_x or offset_y):
        raise ValueError(f"filtered_lrelu_triton: mask_out is written for offsets of 0 only, got {(offset_x, offset_y)} (x, y)")
    call = Call(
        x.dtype, tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), () if fu is None else tuple(fu.shape),
        () if fd is None else tuple(fd.shape), b is not None, mask_in is not None, mask_out is not None, channels_last,
        (up_x, up_y), (down_x, down_y), (start_x, start_y), (offset_x, offset_y), (mid_h, mid_w), bool(flip),
        clamp >= 0 and mask_in is None, (x.data_ptr() % 16 == 0, y.data_ptr() % 16 == 0),
    )  # fmt: skip
    launch = plan(call)
    if launch is None or launch.programs >= 2**31:
        raise ValueError(f"filtered_lrelu_triton: y of {call.y_size} by fd of {call.fd_size} takes too many taps or programs")
    mask = mask_in if mask_in is not None else mask_out
    pointers = (x, *(x if t is None else t for t in (fu, fd, b)), x if mask is None else mask, y)
    # Half of the scale's power of two goes to the taps of either axis: t then is about as large as x, and so a float16, already
    # after the vertical product. (A full filter has one product, not two.)
    lift = 2.0 ** (math.frexp(abs(scale))[1] // 2) if scale else 1.0
    left = gain * scale / (lift if fu is not None and fu.dim() == 2 else lift * lift)
    numbers = (lift, float(left), float(left * negative_slope), float(clamp))
    index = x.device.index if x.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        _filtered_lrelu_kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            _filtered_lrelu_kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants)


# ---- the compile gate -------------------------------------------------------------------------------------------------------
def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launcher compiles for StyleGAN3's layers, in both layouts."""
    half, wide = torch.float16, torch.float32
    layers = [("t_up2", 256, 148, "write", dtype) for dtype in (half, torch.bfloat16, wide)]
    layers += [("t_up2", 256, 148, "read", dtype) for dtype in (half, torch.bfloat16, wide)]
    layers += [("t_up2", 323, 148, masks, half) for masks in ("", "write")]
    layers += [("t_up4", 128, 148, "write", half), ("t_down4", 128, 276, "read", half)]
    layers += [("r_up2", 512, 148, "write", dtype) for dtype in (half, wide)]
    layers += [("r_up2_back", 512, 148, "read", half), ("r_up4_back", 512, 276, "read", half)]
    for layer, channels, size, masks, dtype in layers:
        for channels_last in (False, True):
            call = fake_call(layer, channels, size, masks, dtype, channels_last)
            launch = plan(call)
            assert launch is not None
            name = f"{layer}_{channels}x{size}" + (f"_{masks}" if masks else "")
            yield _triton.CompileCase(
                sample=f"{name}/{'channels_last' if channels_last else 'nchw'}/{str(dtype).removeprefix('torch.')}",
                kernel=_filtered_lrelu_kernel,
                args=(dtype, wide, wide, wide, torch.uint8, dtype, 2.0, 1.5, 0.3, 256.0, *launch.scalars),
                constants=launch.constants,
                dtype=dtype,
                vector=launch.vector,
            )
