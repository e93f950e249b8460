"""Settings of bias_act as data, with the measurement or the argument that justifies each."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from gankern.ops.bias_act.geometry import Geometry


@dataclass(frozen=True)
class Gpu:
    """How the Triton and CUDA kernels cut a tensor up. Chosen by arithmetic so far: no number was measured on a GPU yet.

    Attributes:
        warps: of a program (CUDA: of a block).
        vectors: 16-byte vectors that a thread has of each tensor at a time. 2 of half types make 16 numbers in registers; with
            some 12 programs of 4 warps a multiprocessor, 48 KB a tensor are under way, twice what covers H200's latency.
        wide_vectors: the same for float32 and float64, whose vectors hold fewer numbers.
        fold: channels up to which positions are folded into rows of whole vectors; more lose little as they are.
        fold_sums: the same in backward, where sums of a folded row take a pass over the registers for each channel.
        folded_columns: numbers of a folded row, at most.
        programs: programs that backward should have at least (and less than twice as many) in a large problem: two rounds of
            what an H200 holds. More would have to be summed up in the second stage.
        least_programs: programs below which rectangles shrink down to what the traffic of their partial sums allows: four a
            multiprocessor.
        least_chunk: positions of a rectangle, at least. A partial sum is written and read, 8 bytes beside the 6 (half types)
            that each of its elements moves: with 64 positions 2 % of the traffic.
        noise_channels: channels of a rectangle with sums for the noise, by the same account: 128, or 64 if programs are few.
    """

    warps: int = 4
    vectors: int = 2
    wide_vectors: int = 4
    fold: int = 32
    fold_sums: int = 4
    folded_columns: int = 256
    programs: int = 132 * 16
    least_programs: int = 132 * 4
    least_chunk: int = 64
    noise_channels: tuple[int, int] = (64, 128)

    def tile(self, element_size: int) -> int:
        """Elements that a program has in registers at a time."""
        return 32 * self.warps * (self.vectors if element_size == 2 else self.wide_vectors) * 16 // element_size


GPU = Gpu()


def power_of_two_below(number: int) -> int:
    """Largest power of two that is at most ``number`` (1 for less)."""
    return 1 << max(number.bit_length() - 1, 0)


def columns(length: int, most: int) -> int:
    """Power of two, at most ``most``, into which rows of ``length`` are cut: the largest that leaves at most 1/8 of the lanes
    idle, from 64 on; else the one with the fewest idle lanes.
    """
    counts = [c for c in (2**k for k in range(20, 5, -1)) if c <= most and c // 2 < length]
    idle = [-(-length // c) * c for c in counts]
    few = [c for c, lanes in zip(counts, idle, strict=True) if lanes * 7 <= length * 8]
    if few:
        return few[0]
    if counts:
        return min(zip(idle, counts, strict=True), key=lambda a: (a[0], -a[1]))[1]
    return 1 << max(length - 1, 0).bit_length()


def folded(channels: int, element_size: int, most: int) -> int:
    """Positions of a folded row (a whole number of vectors), or 0 where rows of channels are taken as they are."""
    vector = 16 // element_size
    if channels > most or (channels % vector == 0 and channels * element_size >= 32):
        return 0
    step = vector // gcd(vector, channels)
    return GPU.folded_columns // channels // step * step


def _gpu_chunks(g: Geometry, element_size: int, with_noise: bool) -> tuple[int, int]:
    """The rectangle of positions and channels whose partial sums one program owns (see :class:`Gpu`)."""
    c = max(g.channels, 1)
    vector = 16 // element_size
    row = 32 * vector  # of a warp
    if g.inner == 1:
        fold = 0 if with_noise else folded(c, element_size, GPU.fold_sums)
        if fold:
            rows = -(-g.positions // fold)
            return fold * max(GPU.tile(element_size) // GPU.folded_columns, power_of_two_below(rows // GPU.programs)), c
        # Walks along positions with channels in the columns: a cache line of them at least.
        least = max(GPU.noise_channels[0] if with_noise else 0, 128 // element_size)
        across = columns(c, row)
        while across > least and -(-c // across) * -(-g.positions // GPU.least_chunk) < GPU.least_programs:
            across //= 2
        rectangles = -(-c // across)
        return max(GPU.least_chunk, power_of_two_below(g.positions * rectangles // GPU.programs)), across
    positions = 1 << (g.positions - 1).bit_length()
    if with_noise:
        # Walks along channels with positions in the columns.
        chunk, (few, many) = min(positions, row), GPU.noise_channels
        across = many if -(-c // many) * -(-g.positions // chunk) >= GPU.least_programs else few
        while chunk > GPU.least_chunk and -(-c // across) * -(-g.positions // chunk) < GPU.least_programs:
            chunk //= 2
        return chunk, across
    # Walks along positions with a few channels in the rows.
    across = GPU.tile(element_size) // min(positions, row)
    rectangles = -(-c // across)
    return max(min(positions, row), power_of_two_below(g.positions * rectangles // GPU.programs)), across


def reduction_chunks(backend: str, g: Geometry, element_size: int, with_noise: bool) -> tuple[int, int]:
    """(positions a chunk, channels a chunk) of the first stage of backward's reductions.

    CPU: a chunk of positions is a task. Some 64 Ki elements in all (half an L2), but at least a few vectors a row, so that
    each piece of a row is long enough to stream; all channels in one chunk, so that the noise gradient needs one partial.

    Triton and CUDA: see :func:`_gpu_chunks`.
    """
    if backend != "cpu":
        return _gpu_chunks(g, element_size, with_noise)
    if g.inner == 1:
        return max(1, min(g.positions, 65536 // max(g.channels, 1))), g.channels
    return max(1, min(g.positions, max(1024, 65536 // max(g.channels, 1)))), g.channels
