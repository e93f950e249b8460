"""How ops on samples as flat memory (interpolate, grad_norm_penalty) cut them up, as data, with what justifies it."""

from __future__ import annotations

from dataclasses import dataclass

MOST_PIECES = 4096
"""Of a sample, at most: their sums are then added up in no time, and a sample of any size has few of them."""


@dataclass(frozen=True)
class Cpu:
    """How the CPU kernels cut a sample up. A piece is a task.

    Attributes:
        elements: of a piece: a few us of work, so that a single large image keeps every core busy, and far more than what
            starting a task or adding up its sum costs.
    """

    elements: int = 16384


CPU = Cpu()


@dataclass(frozen=True)
class Gpu:
    """How the Triton and CUDA kernels cut a sample up. Chosen by arithmetic: no number was measured on a GPU yet.

    Attributes:
        elements: of a piece, at most: 16 to 32 vectors of 16 bytes a thread, beside which the ends of a program weigh little.
        least: elements of a piece, at least: one or two vectors a thread.
        programs: below which pieces shrink: four a multiprocessor of an H200.
        warps: of a Triton program; CUDA's blocks have 256 threads.
        bytes: that a Triton program has of each tensor at a time: two vectors of 16 bytes a thread.
    """

    elements: int = 32768
    least: int = 2048
    programs: int = 132 * 4
    warps: int = 8
    bytes: int = 8192


GPU = Gpu()


def chunk(backend: str, samples: int, inner: int) -> int:
    """Elements of a piece: as above, and whole vectors whatever the type."""
    if backend == "cpu":
        elements = CPU.elements
    else:
        elements = GPU.elements
        while elements > GPU.least and samples * -(-inner // elements) < GPU.programs:
            elements //= 2
    while -(-inner // elements) > MOST_PIECES:
        elements *= 2
    return elements


def tile(element_size: int) -> int:
    """Elements that a Triton program has of each tensor at a time."""
    return GPU.bytes // element_size
