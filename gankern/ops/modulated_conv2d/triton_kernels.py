"""Modulated convolution in Triton: an implicit GEMM that scales the image on the way in and finishes the layer on the way out.

    v[n,o,p] = d[n,o] * sum over i, ky, kx of w[o,i,ky,kx] * (a[n,i] * x[n,i,p + k - padding]) + noise[n,p] + b[o]
    y = clamp(gain * f(v))

A program owns a tile: SAMPLES x ROWS x COLUMNS pixels (the M of the GEMM) times OUTPUTS channels (its N). It walks over blocks
of DEPTH input channels and, within a block, over the taps, so that the shifted windows of a block, which share almost all of
their pixels, follow each other. One window is one load: with tensor descriptors the hardware fills what lies outside the image
with zeros, with pointers a mask does. Triton cannot shift a window in shared memory, so windows are loaded again, from L2: its
asynchronous copies of 16 bytes pass L1 by. Two forms:

- GROUP == 1: a window a tap;
- GROUP == 3 (kernels 3 wide): a window a row of taps, multiplied by each tap's weights into an accumulator of its own. The
  sums that belong to one pixel of y lie in neighbouring columns of the three, so they are shifted once, at the end, and the
  tile has two columns more than it has of output. A third of the loads and of the modulation.

Where a picture has too few tiles to fill the machine, SPLIT programs share a tile's walk; each stores its float32 part, and a
second kernel adds the parts in their order, so that results are the same bits from run to run.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern import _triton
from gankern._activations import activation_funcs
from gankern._triton import INTERPRETING, jit, narrow, tl
from gankern._triton_activations import activate
from gankern.ops.modulated_conv2d import configs
from gankern.ops.modulated_conv2d.configs import Tile

_NAMES = tuple(activation_funcs)
_FAR = 2**31  # offsets from here on take 64 bits


# ---- kernels --------------------------------------------------------------------------------------------------------
@jit
def _modulated(window, scale):
    """``window`` times ``scale``, rounded to the type of the window as activations that were scaled before would be."""
    if INTERPRETING:  # which cannot multiply bfloat16; products of two half numbers are exact in float32
        r = narrow(window.to(tl.float32) * narrow(scale, window.dtype).to(tl.float32), window.dtype)
    else:
        r = window * scale.to(window.dtype)
    return r


@jit
def _finished(
    acc, d, noise, b, alpha, gain, clamp, sample, spot, spot_live, o, o_live, live, outputs,
    HAS_D: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_B: tl.constexpr, ACT: tl.constexpr, CLAMPED: tl.constexpr,
):  # fmt: skip
    """The epilogue: ``d`` at (sample, o), ``noise`` at spot, ``b`` at o; ``live`` is the mask of d."""
    v = acc
    if HAS_D:
        v = v * tl.load(d + sample * outputs + o, mask=live, other=0.0).to(tl.float32)
    if HAS_NOISE:
        v += tl.load(noise + spot, mask=spot_live, other=0.0).to(tl.float32)
    if HAS_B:
        v += tl.load(b + o, mask=o_live, other=0.0).to(tl.float32)
    f = activate(v, alpha, ACT) * gain
    if CLAMPED:
        f = tl.where(f > clamp, clamp, tl.where(f < -clamp, -clamp, f))
    return f


@jit
def _product(
    acc, window, w, w_rows, o0, o_live, tap, k0, k_live, inputs,
    OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``acc`` plus the window times the weights of one tap."""
    if DESCRIPTOR:
        weight = w.load([o0, tap, k0]).reshape(OUTPUTS, DEPTH)
    else:
        at = w_rows[:, None] + (tap * inputs + k0) + tl.arange(0, DEPTH)[None, :]
        weight = tl.load(w + at, mask=o_live[:, None] & k_live, other=0.0)
    if INTERPRETING:  # whose product of bfloat16 matrices is wrong
        window = window.to(tl.float32)
        weight = weight.to(tl.float32)
    return tl.dot(window, tl.trans(weight), acc, input_precision=PRECISION)


@jit
def _plus_right(sums, more, LINES: tl.constexpr, COLUMNS: tl.constexpr, OUTPUTS: tl.constexpr):
    """``sums`` plus what ``more`` has one column further right. The last column of a line has no such and is never used."""
    right = tl.minimum(tl.arange(0, COLUMNS) + 1, COLUMNS - 1)
    right = tl.broadcast_to(right[None, :, None], (LINES, COLUMNS, OUTPUTS))
    shifted = tl.gather(more.reshape(LINES, COLUMNS, OUTPUTS), right, 1)
    return sums + shifted.reshape(LINES * COLUMNS, OUTPUTS)


_UNSPECIAL = ["samples", "height", "width", "height_y", "width_y", "pad_y", "pad_x", "tiles_y", "tiles_x", "walk"]


@jit(do_not_specialize=_UNSPECIAL)
def _modulated_conv2d_fwd_kernel(
    x, w, a, d, noise, b, y, alpha, gain, clamp,
    inputs, outputs, samples, height, width, height_y, width_y, pad_y, pad_x, tiles_y, tiles_x, walk,
    KH: tl.constexpr, KW: tl.constexpr, SAMPLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr, DESCRIPTOR: tl.constexpr,
    ONE_BLOCK: tl.constexpr, HAS_A: tl.constexpr, HAS_D: tl.constexpr, HAS_NOISE: tl.constexpr,
    NOISE_OF_SAMPLE: tl.constexpr, HAS_B: tl.constexpr, ACT: tl.constexpr, CLAMPED: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """One tile of y, or with SPLIT > 1 a part of one; y is then the workspace [SPLIT, samples, height_y, width_y, outputs].

    ``walk`` is the number of steps (a block of channels at one window each) that a program takes; x and w are descriptors
    [samples, height, width, inputs] and [outputs, taps, inputs] with DESCRIPTOR, else pointers.
    """
    PIXELS: tl.constexpr = ROWS * COLUMNS
    LINES: tl.constexpr = SAMPLES * ROWS
    M: tl.constexpr = LINES * COLUMNS
    WINDOWS: tl.constexpr = KH * KW // GROUP
    OWN: tl.constexpr = COLUMNS - GROUP + 1  # columns of output
    # Parts of a tile and then tiles of other channels follow each other: programs that run together read the same pixels.
    pid = tl.program_id(0)
    part = pid % SPLIT
    pid = pid // SPLIT
    tiles_o = tl.cdiv(outputs, OUTPUTS)
    o0 = (pid % tiles_o) * OUTPUTS
    pid = pid // tiles_o
    x0 = (pid % tiles_x) * OWN
    pid = pid // tiles_x
    y0 = (pid % tiles_y) * ROWS
    n0 = (pid // tiles_y) * SAMPLES

    m = tl.arange(0, M)
    sample = m // PIXELS
    row = y0 + m // COLUMNS % ROWS
    column = x0 + m % COLUMNS
    n_live = n0 + sample < samples
    o = o0 + tl.arange(0, OUTPUTS)
    o_live = o < outputs
    k = tl.arange(0, DEPTH)
    w_rows = o
    if not DESCRIPTOR:
        top = row - pad_y
        left = column - pad_x
        x_first = x + n0.to(tl.int64) * height * width * inputs
        x_rows = ((sample.to(INDEX) * height + top) * width + left) * inputs
        w_rows = o.to(INDEX) * (KH * KW * inputs)
    if HAS_A:
        # One row of scales a sample of the tile.
        own = n0 + tl.arange(0, SAMPLES)
        a_rows = a + own[:, None].to(tl.int64) * inputs
        a_live = (own < samples)[:, None]
        if ONE_BLOCK:
            scale = tl.load(a_rows + k[None, :], mask=a_live & (k < inputs)[None, :], other=0.0).to(tl.float32)

    acc = tl.zeros((M, OUTPUTS), tl.float32)
    if GROUP == 3:
        acc_1 = tl.zeros((M, OUTPUTS), tl.float32)
        acc_2 = tl.zeros((M, OUTPUTS), tl.float32)
    last = tl.minimum((part + 1) * walk, tl.cdiv(inputs, DEPTH) * WINDOWS)
    for step in range(part * walk, last):
        tap = step % WINDOWS * GROUP
        ky = tap // KW
        kx = tap % KW
        k0 = step // WINDOWS * DEPTH
        k_live = (k0 + k < inputs)[None, :]
        if DESCRIPTOR:
            window = x.load([n0, y0 + ky - pad_y, x0 + kx - pad_x, k0]).reshape(M, DEPTH)
        else:
            inside = (top + ky >= 0) & (top + ky < height) & (left + kx >= 0) & (left + kx < width) & n_live
            at = x_rows[:, None] + ((ky * width + kx).to(INDEX) * inputs + k0) + k[None, :]
            window = tl.load(x_first + at, mask=inside[:, None] & k_live, other=0.0)
        if HAS_A:
            if not ONE_BLOCK:
                scale = tl.load(a_rows + (k0 + k)[None, :], mask=a_live & k_live, other=0.0).to(tl.float32)
            if SAMPLES == 1:
                window = _modulated(window, scale)
            else:
                window = _modulated(window.reshape(SAMPLES, PIXELS, DEPTH), scale[:, None, :]).reshape(M, DEPTH)
        acc = _product(
            acc, window, w, w_rows, o0, o_live, tap, k0, k_live, inputs, OUTPUTS, DEPTH, DESCRIPTOR, PRECISION
        )  # fmt: skip
        if GROUP == 3:
            acc_1 = _product(
                acc_1, window, w, w_rows, o0, o_live, tap + 1, k0, k_live, inputs, OUTPUTS, DEPTH, DESCRIPTOR, PRECISION
            )  # fmt: skip
            acc_2 = _product(
                acc_2, window, w, w_rows, o0, o_live, tap + 2, k0, k_live, inputs, OUTPUTS, DEPTH, DESCRIPTOR, PRECISION
            )  # fmt: skip
    if GROUP == 3:
        acc = _plus_right(acc, _plus_right(acc_1, acc_2, LINES, COLUMNS, OUTPUTS), LINES, COLUMNS, OUTPUTS)

    plane = height_y.to(INDEX) * width_y
    spot = (row.to(INDEX) * width_y + column)[:, None]
    pixel = sample[:, None].to(INDEX) * plane + spot
    pixel_live = (n_live & (row < height_y) & (column < width_y) & (m % COLUMNS < OWN))[:, None]
    o = o[None, :]
    o_live = o_live[None, :]
    live = pixel_live & o_live
    first = n0.to(tl.int64)
    if SPLIT == 1:
        if NOISE_OF_SAMPLE:
            noise += first * plane
            spot = pixel
        d += first * outputs
        if SAMPLES == 1:
            acc = _finished(
                acc, d, noise, b, alpha, gain, clamp, 0, spot, pixel_live, o, o_live, o_live, outputs,
                HAS_D, HAS_NOISE, HAS_B, ACT, CLAMPED,
            )  # fmt: skip
        else:
            acc = _finished(
                acc, d, noise, b, alpha, gain, clamp, sample[:, None], spot, pixel_live, o, o_live, live, outputs,
                HAS_D, HAS_NOISE, HAS_B, ACT, CLAMPED,
            )  # fmt: skip
    else:
        first += part.to(tl.int64) * samples
    tl.store(y + first * plane * outputs + (pixel * outputs + o), narrow(acc, y.dtype.element_ty), mask=live)


@jit(do_not_specialize=["plane", "pixels"])
def _modulated_conv2d_sum_kernel(
    parts, d, noise, b, y, alpha, gain, clamp, outputs, plane, pixels,
    SPLIT: tl.constexpr, M: tl.constexpr, OUTPUTS: tl.constexpr, HAS_D: tl.constexpr, HAS_NOISE: tl.constexpr,
    NOISE_OF_SAMPLE: tl.constexpr, HAS_B: tl.constexpr, ACT: tl.constexpr, CLAMPED: tl.constexpr,
):  # fmt: skip
    """The sum of the parts [SPLIT, pixels, outputs] in their order, and the epilogue; ``plane`` pixels make a sample."""
    tiles_o = tl.cdiv(outputs, OUTPUTS)
    pid = tl.program_id(0)
    o = ((pid % tiles_o) * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    pixel = ((pid // tiles_o).to(tl.int64) * M + tl.arange(0, M))[:, None]
    o_live = o < outputs
    pixel_live = pixel < pixels
    live = pixel_live & o_live
    at = pixel * outputs + o
    acc = tl.zeros((M, OUTPUTS), tl.float32)
    for part in range(SPLIT):
        acc += tl.load(parts + part * (pixels.to(tl.int64) * outputs) + at, mask=live, other=0.0)
    spot = pixel
    if not NOISE_OF_SAMPLE:
        spot = pixel % plane
    f = _finished(
        acc, d, noise, b, alpha, gain, clamp, pixel // plane, spot, pixel_live, o, o_live, live, outputs,
        HAS_D, HAS_NOISE, HAS_B, ACT, CLAMPED,
    )  # fmt: skip
    tl.store(y + at, narrow(f, y.dtype.element_ty), mask=live)


# ---- launches -------------------------------------------------------------------------------------------------------
class Shape(NamedTuple):
    """Sizes of one call."""

    samples: int
    inputs: int
    outputs: int
    height: int
    width: int
    taps: tuple[int, int]
    padding: tuple[int, int]

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of y."""
        (kh, kw), (py, px) = self.taps, self.padding
        return self.height + 2 * py - kh + 1, self.width + 2 * px - kw + 1


class Epilogue(NamedTuple):
    """What is there besides x and w: the flags of both kernels."""

    a: bool
    d: bool
    noise: int
    b: bool
    act: int
    clamped: bool

    def constants(self) -> dict[str, Any]:
        """Those that both kernels have."""
        return {
            "HAS_D": self.d, "HAS_NOISE": self.noise > 0, "NOISE_OF_SAMPLE": self.noise > 1, "HAS_B": self.b,
            "ACT": _NAMES[self.act], "CLAMPED": self.clamped,
        }  # fmt: skip


class Launch(NamedTuple):
    """A kernel's integer arguments, its constexpr ones, and how many programs it takes."""

    scalars: tuple[int, ...]
    constants: dict[str, Any]
    programs: int


def precision(dtype: torch.dtype, allow_tf32: bool) -> str:
    """tl.dot's input_precision; half types have one way only."""
    return "ieee" if dtype == torch.float32 and not allow_tf32 else "tf32"


def plan(s: Shape, dtype: torch.dtype, tile: Tile, epilogue: Epilogue, allow_tf32: bool) -> Launch:
    """The launch of the convolution itself with ``tile``."""
    (h, w), (kh, kw) = s.output, s.taps
    blocks = -(-s.inputs // tile.depth)
    steps = blocks * kh * kw // tile.group
    tiles_y, tiles_x = -(-h // tile.rows), -(-w // tile.own_columns)
    programs = -(-s.samples // tile.samples) * tiles_y * tiles_x * -(-s.outputs // tile.outputs) * tile.split
    # Offsets within a tile's samples: a program adds its first sample's in 64 bits.
    far = max(
        tile.samples * (s.height + 2 * kh) * (s.width + 2 * kw) * s.inputs,
        tile.samples * (h + tile.rows) * (w + tile.columns) * s.outputs,
        (s.outputs + tile.outputs) * kh * kw * (s.inputs + tile.depth),
    )
    flags = epilogue.constants()
    if tile.split > 1:  # the other kernel has the epilogue
        flags = Epilogue(epilogue.a, False, 0, False, 0, False).constants()
    constants = {
        "KH": kh, "KW": kw, "SAMPLES": tile.samples, "ROWS": tile.rows, "COLUMNS": tile.columns, "OUTPUTS": tile.outputs,
        "DEPTH": tile.depth, "GROUP": tile.group, "SPLIT": tile.split, "DESCRIPTOR": tile.descriptor,
        "ONE_BLOCK": blocks == 1, "HAS_A": epilogue.a, **flags, "PRECISION": precision(dtype, allow_tf32),
        "INDEX": tl.int32 if far < _FAR else tl.int64, "num_warps": configs.warps(tile, flags["ACT"]),
        "num_stages": tile.stages,
    }  # fmt: skip
    scalars = (
        s.inputs, s.outputs, s.samples, s.height, s.width, h, w, *s.padding, tiles_y, tiles_x, -(-steps // tile.split)
    )  # fmt: skip
    return Launch(scalars, constants, programs)


def plan_sum(s: Shape, tile: Tile, epilogue: Epilogue) -> Launch:
    """The launch that adds the parts of a split walk."""
    plane = s.output[0] * s.output[1]
    m, outputs = configs.sum_tile(s.samples * plane, s.outputs)
    constants = {"SPLIT": tile.split, "M": m, "OUTPUTS": outputs, **epilogue.constants(), "num_warps": 4}
    programs = -(-s.samples * plane // m) * -(-s.outputs // outputs)
    return Launch((s.outputs, plane, s.samples * plane), constants, programs)


def descriptors(x: Any, w: Any, s: Shape, tile: Tile) -> tuple[Any, Any]:
    """Tensor descriptors of x and w; the strides are of dense memory, whatever PyTorch says where a size is 1."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    image = [s.height * s.width * s.inputs, s.width * s.inputs, s.inputs, 1]
    taps = s.taps[0] * s.taps[1]
    return (
        TensorDescriptor(
            x, [s.samples, s.height, s.width, s.inputs], image, [tile.samples, tile.rows, tile.columns, tile.depth]
        ),
        TensorDescriptor(
            w, [s.outputs, taps, s.inputs], [taps * s.inputs, s.inputs, 1], [tile.outputs, 1, tile.depth]
        ),
    )  # fmt: skip


# ---- what backends.py calls -----------------------------------------------------------------------------------------
def can_run(x: Tensor, w: Tensor) -> str | None:
    """None if the kernels serve x and w, else the reason why not."""
    reason = _triton.can_run(x)
    if reason is not None:
        return reason
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return (
            f"the Triton kernel has no {str(x.dtype).removeprefix('torch.')}: Triton 3.7 cannot compile its product for sm_100"
        )
    if w.device != x.device:
        return f"w is on {w.device}, x on {x.device}"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "x is not dense in channels_last"
    return None


def _launch(kernel: Any, like: Tensor, launch: Launch, arguments: tuple[Any, ...], numbers: tuple[float, ...]) -> None:
    """Run ``kernel``; an absent tensor's place is taken by another that it will not touch."""
    pointers = [like if t is None else t for t in arguments]
    index = like.device.index if like.is_cuda else None
    if index is None or index == torch.cuda.current_device():
        kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants)
    else:
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(index):
            kernel[(launch.programs,)](*pointers, *numbers, *launch.scalars, **launch.constants)


def modulated_conv2d_triton(
    x: Tensor, w: Tensor, a: Tensor | None, d: Tensor | None, noise: Tensor | None, b: Tensor | None, y: Tensor,
    padding: tuple[int, int], act: int, alpha: float, gain: float, clamp: float, tile: Tile | None = None,
) -> None:  # fmt: skip
    """Write clamp(gain * f(d * conv(a * x, w) + noise + b)) into ``y``.

    Args:
        x: [N, I, H, W], dense in channels_last, float32, bfloat16 or float16.
        w: [O, I, kh, kw]; copied if it has not the dtype of x and channels_last.
        a: [N, I] or None: scale of the inputs, in float32 best. Rounded to the dtype of x before the product is.
        d: [N, O] or None: scale of the outputs, in float32 best.
        noise: [N or 1, 1, Ho, Wo] or None.
        b: [O] or None.
        y: [N, O, Ho, Wo], dense in channels_last, of the dtype of x: the output.
        padding: zeros above and below, left and right.
        act: number of the activation in bias_act's table.
        alpha: its parameter.
        gain: factor after the activation.
        clamp: bound of the output's magnitude; below 0 for none.
        tile: how to cut the work up; by default what ``configs`` says.

    Raises:
        ValueError: if x or y is not dense in channels_last.
    """
    if y.numel() == 0:
        return
    for name, image in (("x", x), ("y", y)):
        if not image.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"modulated_conv2d_triton: {name} must be dense in channels_last, got strides {image.stride()}")
    w = w.to(x.dtype, memory_format=torch.channels_last)
    s = Shape(x.shape[0], x.shape[1], w.shape[0], x.shape[2], x.shape[3], (w.shape[2], w.shape[3]), padding)
    a, d, noise, b = (None if t is None else t.contiguous() for t in (a, d, noise, b))
    allow_tf32 = torch.backends.cudnn.allow_tf32
    if tile is None:
        index = x.device.index if x.is_cuda else None
        capability = (9, 0) if index is None else _triton.capability(index)
        aligned = x.numel() > 0 and w.numel() > 0 and x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0
        tensor_cores = x.dtype != torch.float32 or allow_tf32
        tile = configs.tile(
            s.samples, s.inputs, s.outputs, *s.output, s.taps, x.element_size(), capability, tensor_cores, aligned,
            _triton.multiprocessors(index),
        )  # fmt: skip
    epilogue = Epilogue(
        a is not None, d is not None, 0 if noise is None else 1 + (noise.shape[0] > 1), b is not None, act, clamp >= 0
    )
    numbers = (float(alpha), float(gain), float(clamp))
    images = descriptors(x, w, s, tile) if tile.descriptor else (x, w)
    launch = plan(s, x.dtype, tile, epilogue, allow_tf32)
    if tile.split == 1:
        _launch(_modulated_conv2d_fwd_kernel, y, launch, (*images, a, d, noise, b, y), numbers)
        return
    parts = torch.empty((tile.split, s.samples, *s.output, s.outputs), dtype=torch.float32, device=y.device)
    _launch(_modulated_conv2d_fwd_kernel, y, launch, (*images, a, None, None, None, parts), (0.0, 1.0, -1.0))
    _launch(_modulated_conv2d_sum_kernel, y, plan_sum(s, tile, epilogue), (parts, d, noise, b, y), numbers)


# ---- the compile gate -----------------------------------------------------------------------------------------------
# (samples, inputs, outputs, size, taps a side) of StyleGAN2-1024's layers: of each width, ToRGB, and small pictures.
_NETWORK = (
    (8, 128, 128, 256, 3), (8, 512, 512, 64, 3), (8, 256, 256, 128, 3), (8, 64, 64, 512, 3), (8, 32, 32, 1024, 3),
    (8, 512, 3, 64, 1), (8, 32, 3, 1024, 1), (1, 512, 512, 4, 3), (1, 512, 512, 16, 3), (8, 512, 512, 4, 3),
)  # fmt: skip


def _fake_descriptors(dtype: torch.dtype, s: Shape, tile: Tile) -> tuple[Any, Any]:
    """Descriptors without memory, which the compile gate can put into a set."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    class Fake(TensorDescriptor):
        __hash__ = object.__hash__  # type: ignore[assignment]

    memory = SimpleNamespace(dtype=dtype, data_ptr=lambda: 0)
    return tuple(Fake(t.base, t.shape, t.strides, t.block_shape) for t in descriptors(memory, memory, s, tile))  # type: ignore[return-value]


def _cases(s: Shape, dtype: torch.dtype, capability: tuple[int, int], act: str) -> Iterator[tuple[Any, ...]]:
    """(kernel, arguments, constants, bytes of vectors to load and store) of one call with everything present."""
    tile = configs.tile(
        s.samples, s.inputs, s.outputs, *s.output, s.taps, dtype.itemsize, capability, dtype != torch.float32
    )  # fmt: skip
    epilogue = Epilogue(True, True, 2, True, _NAMES.index(act), True)
    wide, numbers = torch.float32, (0.2, 1.0, 256.0)
    launch = plan(s, dtype, tile, epilogue, False)
    images = _fake_descriptors(dtype, s, tile) if tile.descriptor else (dtype, dtype)
    load = 0 if tile.descriptor else 16
    store = 16 if s.outputs * dtype.itemsize % 16 == 0 else 0
    out = wide if tile.split > 1 else dtype
    arguments = (*images, wide, wide, wide, wide, out, *numbers, *launch.scalars)
    yield _modulated_conv2d_fwd_kernel, arguments, launch.constants, (load, store)
    if tile.split > 1:
        launch = plan_sum(s, tile, epilogue)
        arguments = (wide, wide, wide, wide, dtype, *numbers, *launch.scalars)
        yield _modulated_conv2d_sum_kernel, arguments, launch.constants, (16, store)


def compile_cases() -> Iterator[_triton.CompileCase]:
    """What the launcher compiles for StyleGAN2's layers. The first case of a dtype stands for it on other architectures: with
    pointers, as on compute capability 8.0, for bfloat16 and float32; with descriptors for float16.
    """
    networks = [Shape(n, i, o, r, r, (k, k), (k // 2, k // 2)) for n, i, o, r, k in _NETWORK]
    calls = [(networks[0], torch.bfloat16, (8, 0)), (networks[3], torch.float16, (9, 0))]
    calls += [(s, torch.float32, (8, 0)) for s in networks[:1]] + [(networks[0], torch.float32, (9, 0))]
    calls += [(s, torch.bfloat16, (9, 0)) for s in networks]
    calls += [(networks[index], torch.bfloat16, (8, 0)) for index in (3, 4, 5)]
    for s, dtype, capability in calls:
        name = f"{s.inputs}_to_{s.outputs}_{s.taps[0]}x{s.taps[1]}_{s.height}_b{s.samples}"
        form = "descriptors" if capability >= (9, 0) else "pointers"
        for kernel, arguments, constants, vector in _cases(s, dtype, capability, "lrelu"):
            yield _triton.CompileCase(
                sample=f"{name}/{form}/{str(dtype).removeprefix('torch.')}",
                kernel=kernel,
                args=arguments,
                constants=constants,
                dtype=dtype,
                vector=vector,
            )
