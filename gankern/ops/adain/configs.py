"""Settings of adain as data, with the measurement or the argument that justifies each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Numbers a channel of a rectangle has in the scratch of the native kernels, and a plane: csrc/adain/adain_params.h.
SUMS = {"adain": 3, "adain_backward": 2, "adain_double_backward": 12}
COEFFICIENTS = {"adain": 0, "adain_backward": 2, "adain_double_backward": 6}


@dataclass(frozen=True)
class Cpu:
    """How the CPU kernels cut images up. A rectangle is a task.

    Attributes:
        elements: of a rectangle: some 10 us of work; in channels_last 128 KB of floats, so that the second reading is of L2.
        pixels: of a rectangle in channels_last, at most: they are summed in float one after the other, which at worst loses
            a relative 2^-24 a pixel, and the square root of that number of them as a rule.
        tasks: rectangles that an image should have at least, before planes are cut in NCHW.
        noise_channels: channels that share a sum over channels in NCHW: the partial sums are 1/16 of an image.
    """

    elements: int = 32768
    pixels: int = 512
    tasks: int = 8
    noise_channels: int = 16


CPU = Cpu()


def cpu_chunks(channels_last: bool, n: int, c: int, pixels: int, noise_gradient: bool) -> tuple[int, int]:
    """(pixels, channels) of the CPU's rectangles, both at least 1. A rectangle lies within one sample."""
    if channels_last:  # whole pixels
        return max(1, min(pixels, CPU.pixels, CPU.elements // max(c, 1))), max(c, 1)
    across = pixels
    if n * c < CPU.tasks and pixels > CPU.elements:
        across = -(-pixels // -(-pixels // CPU.elements))  # of like lengths
    rows = max(1, CPU.elements // across)
    if noise_gradient:
        rows = max(rows, min(CPU.noise_channels, n * c // CPU.tasks))
    return across, max(1, min(c, rows))


@dataclass(frozen=True)
class Gpu:
    """How the Triton kernels cut images up. Chosen by arithmetic so far: no number was measured on a GPU yet.

    Attributes:
        least_warps: of a program.
        numbers: for each operator (numbers of each image that a thread holds as a rule, at most; warps of a program, at most);
            half the numbers of float64, and at most half where lines are no whole vectors, which takes more addresses. What
            the registers hold without spills: 32 * warps * most are the longest plane that is read once.
        heavy: the same where factors are images, or an activation has a second derivative: more to hold.
        tile: elements of a tile where planes are short, or too long: some 8 KB of an image under way a program.
        sector: bytes of a line of memory, at least, that a channels_last tile reads of a pixel. Less is fetched in vain.
        line: bytes of it where planes are too long for a tile: a cache line.
        least_programs: programs below which tiles shrink: four a multiprocessor of an H200.
        noise_channels, least_noise_channels: channels that share a sum over channels in NCHW: with 32 its writing and reading
            adds 4 % to the traffic of half types, with 8 some 16 %, where there would be too few programs else.
        finish: rectangles of a plane, at most, whose sums are read at a time.
    """

    least_warps: int = 4
    numbers: Mapping[str, tuple[int, int, int]] = field(
        default_factory=lambda: {"adain": (16, 32, 16), "adain_backward": (8, 16, 16), "adain_double_backward": (8, 8, 16)}
    )
    heavy: Mapping[str, tuple[int, int, int]] = field(
        default_factory=lambda: {"adain": (16, 32, 16), "adain_backward": (8, 8, 16), "adain_double_backward": (8, 8, 8)}
    )
    tile: int = 4096
    sector: int = 32
    line: int = 128
    least_programs: int = 132 * 4
    noise_channels: int = 32
    least_noise_channels: int = 8
    finish: int = 64

    def held(self, name: str, heavy: bool, element_size: int, width: int) -> tuple[int, int, int]:
        """Of the operator ``name``: elements of a warp as a rule; of a tile at most, and where planes are short or too long.

        ``width``: of lines.
        """
        usual, most, warps = (self.heavy if heavy else self.numbers)[name]
        wide = 2 if element_size == 8 else 1
        largest = 32 * warps * most // wide // (2 if width * element_size % 16 else 1)
        return 32 * usual // wide, largest, min(largest, self.tile // wide)

    def warps(self, name: str, heavy: bool, element_size: int, width: int, elements: int) -> int:
        """Of a program with a tile of ``elements``."""
        most = (self.heavy if heavy else self.numbers)[name][2]
        return max(self.least_warps, min(most, elements // self.held(name, heavy, element_size, width)[0]))


GPU = Gpu()


def _power_of_two_above(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def triton_chunks(
    name: str, heavy: bool, channels_last: bool, n: int, c: int, pixels: int, element_size: int, noise_gradient: bool
) -> tuple[int, int]:
    """(pixels, channels) of the rectangles of Triton's operator ``name``; all pixels where a program can hold planes.

    ``heavy``: factors are images, or an activation has a second derivative.
    """
    _, largest, tile = GPU.held(name, heavy, element_size, c if channels_last else pixels)
    plane, channels = _power_of_two_above(pixels), _power_of_two_above(c)

    def few(across: int, rows: int) -> bool:
        return n * -(-pixels // across) * -(-c // rows) < GPU.least_programs

    if channels_last:
        least = min(channels, GPU.sector // element_size)
        if plane * least <= largest:
            breadth = min(channels, max(least, tile // plane))
            while few(pixels, breadth) and breadth > least:
                breadth //= 2
            return pixels, min(breadth, c)
        breadth = min(channels, GPU.line // element_size)
        return min(pixels, tile // breadth), min(breadth, c)
    across = pixels if plane <= largest else tile
    rows = min(channels, max(1, tile // plane))
    while few(across, rows) and rows > 1:
        rows //= 2
    if noise_gradient:
        rows = max(rows, min(channels, GPU.noise_channels))
        while few(across, rows) and rows > GPU.least_noise_channels:
            rows //= 2
    return across, min(rows, c)


@dataclass(frozen=True)
class Cuda:
    """How the CUDA kernels cut images up. Chosen by arithmetic so far: no number was measured on a GPU yet.

    Attributes:
        images: images that each operator keeps on chip.
        chip: bytes of shared memory that a block may have on an H200. What does not fit is cut further by the kernels.
        alone: bytes of a plane above which it should not be a block's where there are fewer planes than multiprocessors.
        processors: multiprocessors of an H200.
        row: bytes side by side in channels_last that a block reads.
        piece: elements of a plane's rectangles in NCHW, at least and at most.
        rows: pixels of rectangles in channels_last, at least and at most.
        noise_channels: channels that share a sum over channels.
    """

    images: Mapping[str, int] = field(default_factory=lambda: {"adain": 1, "adain_backward": 2, "adain_double_backward": 3})
    chip: int = 219 * 1024
    alone: int = 32 * 1024
    processors: int = 132
    row: int = 128
    piece: tuple[int, int] = (4096, 32768)
    rows: tuple[int, int] = (64, 1024)
    noise_channels: int = 16


CUDA = Cuda()


def cuda_chunks(
    name: str, channels_last: bool, n: int, c: int, pixels: int, element_size: int, noise_gradient: bool
) -> tuple[int, int]:
    """(pixels, channels) of the rectangles of CUDA's operator ``name``; all pixels where a plane fits on chip.

    Kernels read channels as suits them: how many belong together matters for sums over channels only.
    """
    images, many = CUDA.images[name], 8 * CUDA.processors
    if channels_last:
        breadth = -(-c * element_size // CUDA.row)  # blocks side by side
        # A block reads half a row of a plane that does not fit otherwise.
        if pixels * CUDA.row // 2 * images <= CUDA.chip and n * breadth * 2 >= CUDA.processors // 2:
            across = pixels
        else:
            least, most = CUDA.rows
            across = min(pixels, max(least, min(most, n * breadth * pixels // many)))
        return across, min(c, max(CUDA.noise_channels, 2 * CUDA.row // element_size)) if noise_gradient else c
    size = pixels * element_size * images
    # Of a plane of twice the chip half is read again, and comes from the L2 cache.
    if size <= CUDA.alone or (n * c >= CUDA.processors and size <= CUDA.chip) or (n * c >= many and size <= 2 * CUDA.chip):
        across = pixels
    else:
        least, most = CUDA.piece
        across = max(least, min(most, n * c * pixels // many))
        pieces = -(-pixels // across)
        even = -(-pixels // pieces)  # of like lengths
        across = min(pixels, -(-even // 64) * 64)  # whole vectors
    rows = 1
    if noise_gradient:
        rows = CUDA.noise_channels
        while rows > 4 and n * -(-c // rows) * -(-pixels // across) < CUDA.processors:
            rows //= 2
    return across, min(c, rows)


def chunks(
    backend: str,
    name: str,
    heavy: bool,
    channels_last: bool,
    n: int,
    c: int,
    pixels: int,
    element_size: int,
    noise_gradient: bool,
) -> tuple[int, int]:
    """(pixels, channels) of the rectangles of a backend's operator ``name``; arguments as above."""
    if backend == "cpu":
        return cpu_chunks(channels_last, n, c, pixels, noise_gradient)
    if backend == "cuda":
        return cuda_chunks(name, channels_last, n, c, pixels, element_size, noise_gradient)
    return triton_chunks(name, heavy, channels_last, n, c, pixels, element_size, noise_gradient)
