"""How the Triton kernel of modulated_conv2d cuts its work up, and which shapes it takes.

By arithmetic and by what the compiler reports; no number here was measured on a GPU yet. Of an H200 (compute capability 9.0):
132 multiprocessors with 65,536 registers and 227 KiB of shared memory each, 2,048 multiply-adds of half types a clock, and some
25 to 40 bytes a clock out of L2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """The work of one program.

    Attributes:
        samples: times ``rows`` times ``columns``: pixels, powers of two. They are the M of the matrix product, 16 or more.
        rows: of each sample.
        columns: of each row.
        outputs: output channels, its N.
        depth: input channels of a step, its K.
        warps: of a program.
        stages: of the software pipeline.
        split: programs that share a tile's walk over channels and taps; their parts are added by another kernel.
        descriptor: whether loads go through tensor descriptors (TMA) or through pointers.
        group: taps of a row that share a window: 1, or 3 where the kernel is 3 wide.
    """

    samples: int
    rows: int
    columns: int
    outputs: int
    depth: int
    warps: int
    stages: int
    split: int = 1
    descriptor: bool = False
    group: int = 1

    @property
    def own_columns(self) -> int:
        """Columns of output: the last ``group`` - 1 are of use to their neighbours only."""
        return self.columns - self.group + 1


@dataclass(frozen=True)
class Gpu:
    """What :func:`tile` chooses from.

    Attributes:
        outputs: output channels of a tile. With 256 the factors of the epilogue take all 255 registers.
        pixels: output pixels of a tile with up to 64 output channels, and with more. Each step loads pixels + outputs rows for
            pixels x outputs products: 256 x 64 asks L2 for 80 bytes a clock at full rate, 128 x 64 for 96, 128 x 128 for 64.
            All are more than L2 has: this and not the tensor cores bounds the kernel, and why cuDNN keeps the wide layers.
        bytes: of a row of channels in shared memory: 128 is the widest swizzle, so that a row is free of bank conflicts.
        accumulators: of a thread. 64 make 8 warps of a full tile; 128 for 128 channels on compute capability 9.0, where 8 warps
            of 174 registers would have a multiprocessor to themselves and 4 warps of 254 share it with another program, whose
            products run beside their epilogue. 8.0 and 10.0 spill with 128.
        stages: loads under way. 3 leave room for two programs (3 x 32 KiB each).
        stages_small: the same where the machine is not full and latency decides.
        least_pixels: below which a tile is not made smaller to have more programs: 64 is the M of one wgmma.
        least_outputs: the same of output channels: half of what is loaded a step would be the window.
        least_walk: steps of a part, at least: fewer would not fill the pipeline.
        group_outputs: up to so many output channels, all input channels in one block, on compute capability 9.0 (which has the
            registers: the accumulators of 8.0 and 10.0 want more), rows of taps share a window. Of 32 channels each tap's
            windows ask L2 for 144 bytes a clock; shared, with 128 pixels, of which 112 are of use, for 75.
        group_window: rows and columns there. With 16 columns a line is within a warp, so that shifting takes no barrier.
        group_width: least width there: 14 columns of output a tile leave a narrow picture's last tile mostly idle.
        waste: lanes of a block of channels that may be idle, as a factor.
    """

    outputs: tuple[int, ...] = (128, 64, 32, 16)
    pixels: tuple[int, int] = (256, 128)
    bytes: int = 128
    accumulators: tuple[int, int] = (64, 128)
    stages: int = 3
    stages_small: int = 4
    least_pixels: int = 64
    least_outputs: int = 64
    least_walk: int = 4
    group_outputs: int = 32
    group_window: tuple[int, int] = (8, 16)
    group_width: int = 64
    waste: float = 4 / 3


GPU = Gpu()

SHARED = {(8, 6): 99, (8, 9): 99, (8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
"""KiB of shared memory that a program may have; 99 for what is not named (compute capability 12)."""


def power_of_two(number: int) -> int:
    """Smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def block(length: int, choices: tuple[int, ...]) -> int:
    """Of ``choices``, largest first, the first that leaves few lanes idle (``Gpu.waste``), else the one with the fewest."""
    padded = [-(-length // choice) * choice for choice in choices]
    for choice, lanes in zip(choices, padded, strict=True):
        if lanes <= length * GPU.waste:
            return choice
    return min(zip(padded, choices, strict=True), key=lambda pair: (pair[0], -pair[1]))[1]


def _window(n: int, h: int, w: int, pixels: int) -> tuple[int, int, int]:
    """(samples, rows, columns) with the fewest idle pixels, of those the one with the smallest halo, of those the widest."""
    most_rows, most_columns = power_of_two(h), power_of_two(w)
    if most_rows * most_columns <= pixels:
        samples = min(pixels // (most_rows * most_columns), power_of_two(n))
        return samples, most_rows, max(most_columns, 16 // (samples * most_rows))

    def cost(rows: int) -> tuple[int, int, int]:
        columns = pixels // rows
        return -(-h // rows) * rows * -(-w // columns) * columns, (rows + 2) * (columns + 2), rows

    sides = [1 << k for k in range(pixels.bit_length())]
    rows = min((r for r in sides if r <= most_rows and pixels // r <= most_columns), key=cost)
    return 1, rows, pixels // rows


def tile(
    n: int,
    i: int,
    o: int,
    h: int,
    w: int,
    taps: tuple[int, int],
    itemsize: int,
    capability: tuple[int, int],
    tensor_cores: bool = True,
    aligned: bool = True,
    multiprocessors: int = 132,
) -> Tile:
    """The tile for an output [n, o, h, w] from ``i`` channels.

    Args:
        n: samples.
        i: input channels.
        o: output channels.
        h: height of the output.
        w: its width.
        taps: height and width of the kernel.
        itemsize: bytes of a number.
        capability: compute capability.
        tensor_cores: False for float32 that must not be rounded to TF32: plain multiply-adds, whose operands go through
            registers. 64 x 64 leaves room for them.
        aligned: whether x and w begin at multiples of 16 bytes.
        multiprocessors: of the device.
    """
    depth = block(i, tuple(d for d in (64, 32, 16) if d * itemsize <= GPU.bytes))
    outputs = block(o, GPU.outputs if tensor_cores else GPU.outputs[1:])
    pixels = (GPU.pixels[1] if outputs > 64 else GPU.pixels[0]) if tensor_cores else 64

    def programs() -> int:
        samples, rows, columns = _window(n, h, w, pixels)
        return -(-n // samples) * -(-h // rows) * -(-w // columns) * -(-o // outputs)

    # A machine that is not full: smaller tiles first, which cost loads out of L2; then parts, which cost traffic of their own.
    while programs() < multiprocessors and outputs > GPU.least_outputs:
        outputs //= 2
    while programs() < multiprocessors and pixels > GPU.least_pixels and n * h * w > pixels // 2:
        pixels //= 2
    small = programs() < multiprocessors
    descriptor = aligned and capability[0] >= 9 and i > 0 and i * itemsize % 16 == 0
    grouped = capability[0] == 9 and itemsize == 2 and taps[1] == 3 and i <= depth and outputs <= GPU.group_outputs
    if grouped and not small and w >= GPU.group_width:
        return Tile(1, *GPU.group_window, outputs, depth, 4, GPU.stages, descriptor=descriptor, group=3)
    samples, rows, columns = _window(n, h, w, pixels)
    steps = -(-i // depth) * taps[0] * taps[1]
    walk = -(-steps // max(1, min(multiprocessors // programs(), steps // GPU.least_walk)))
    m = samples * rows * columns
    accumulators = GPU.accumulators[capability[0] == 9 and outputs == 128]
    warps = max(4, m * outputs // (32 * accumulators))
    stages = GPU.stages_small if small else GPU.stages
    while stages > 2 and stages * (m + outputs) * depth * itemsize > SHARED.get(capability, 99) * 1024:
        stages -= 1
    return Tile(
        samples, rows, columns, outputs, depth, warps, stages,
        split=max(1, -(-steps // walk)) if steps else 1,
        descriptor=descriptor,
    )  # fmt: skip


def warps(tile: Tile, act: str) -> int:
    """Warps of a program: the tile's, or 8 for activations with exponentials, which spill beside 128 accumulators a thread."""
    full = tile.samples * tile.rows * tile.columns * tile.outputs // (32 * tile.warps) > GPU.accumulators[0]
    return tile.warps * 2 if full and act not in ("linear", "relu", "lrelu") else tile.warps


def sum_tile(pixels: int, outputs: int) -> tuple[int, int]:
    """(pixels, channels) of a program that adds parts: 8 numbers a thread of 4 warps, in rows of up to 256 bytes."""
    channels = min(64, power_of_two(outputs))
    return min(1024 // channels, power_of_two(pixels)), channels


@dataclass(frozen=True)
class Preference:
    """Where :func:`prefer_triton` draws its lines. UNMEASURED, all of them: the first thing to look at on a GPU.

    Attributes:
        outputs: up to so many output channels (ToRGB) the layer is one pass over x, which scaling x first would make three.
        channels: up to so many channels, in and out, this kernel: around cuDNN a layer moves 4 tensors (scale: read, write;
            epilogue: read, write) where this moves 2, and at 64 channels the products take less time than either. At 128
            the two are expected to be close. From 256 on the products decide, which cuDNN computes at some 80 % of peak.
        pixels: up to so many pixels a sample, cuDNN: launches and the reading of the weights decide there, not passes over x.
    """

    outputs: int = 16
    channels: int = 128
    pixels: int = 32 * 32


PREFERENCE = Preference()


def prefer_triton(n: int, i: int, o: int, h: int, w: int, dtype: torch.dtype) -> bool:
    """Whether an output [n, o, h, w] from ``i`` channels goes to the Triton kernel, not to scaling, cuDNN and an epilogue.

    float32 never: without TF32 Triton has plain multiply-adds through shared memory, with it half of a half type's rate at
    twice the bytes.
    """
    if dtype not in (torch.bfloat16, torch.float16) or n == 0:
        return False
    return o <= PREFERENCE.outputs or (max(i, o) <= PREFERENCE.channels and h * w > PREFERENCE.pixels)
