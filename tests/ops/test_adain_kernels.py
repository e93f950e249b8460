"""The CUDA kernels of adain by themselves, in the emulation, on rectangles that nobody would choose."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cuda_emulation import harness
from cuda_emulation.adain_cases import EPS, Case, Cut
from machine import INTERPRETED

from gankern.ops.adain.reference import adain_composed

CUTS = {
    "planes": Cut(False, (2, 5, 6, 8), 48, 2),
    "planes_of_a_vector": Cut(False, (3, 37, 2, 4), 8, 5),
    "planes_of_two_pixels": Cut(False, (2, 19, 2, 1), 2, 4),
    "planes_of_a_warp": Cut(False, (2, 3, 24, 40), 960, 2),
    "planes_of_a_block": Cut(False, (1, 3, 64, 80), 5120, 2),
    "planes_odd": Cut(False, (2, 3, 17, 19), 323, 3, one_noise=True),
    "planes_odd_of_a_block": Cut(False, (1, 2, 41, 43), 1763, 2),
    "planes_unaligned": Cut(False, (2, 5, 6, 8), 48, 3, off=1),
    "planes_in_pieces": Cut(False, (2, 3, 12, 16), 80, 2),
    "planes_in_pieces_off_the_vector": Cut(False, (2, 3, 6, 10), 22, 2),
    "planes_in_long_pieces": Cut(False, (1, 2, 64, 96), 4096, 1),
    "planes_beyond_the_chip": Cut(False, (1, 2, 192, 320), 61440, 2),
    "pixels": Cut(True, (2, 16, 5, 3), 15, 8, one_noise=True),
    "pixels_of_many_channels": Cut(True, (1, 136, 6, 7), 42, 136),
    "pixels_of_a_block": Cut(True, (1, 24, 40, 24), 960, 24),
    "pixels_odd": Cut(True, (2, 13, 5, 7), 35, 5),
    "pixels_unaligned": Cut(True, (2, 16, 3, 3), 9, 16, off=1),
    "pixels_in_pieces": Cut(True, (2, 16, 9, 7), 20, 8),
    "pixels_in_pieces_odd": Cut(True, (2, 5, 9, 7), 20, 3),
    "pixels_in_long_pieces": Cut(True, (1, 8, 48, 48), 1600, 8),
    "pixels_beyond_the_chip": Cut(True, (1, 8, 96, 128), 12288, 8),
}
# Activation with its alpha and gain; the one before the statistics.
SETTINGS = [
    ("lrelu", 0.2, 1.4, "lrelu", 0.2),
    ("swish", 0.0, 1.4, "softplus", 0.0),
    ("linear", 0.0, 1.5, "relu", 0.0),
    ("tanh", 0.0, -1.0, "linear", 0.0),
]
NOTHING = (False,) * 4 + (True,) + (False,) * 4  # of what may be absent; u is there
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has a process of its own"),
    pytest.mark.skipif(harness.missing() is not None, reason=f"emulation: {harness.missing()}"),
]


def kernel(name: str) -> Any:
    """The native operator."""
    harness.load()
    return getattr(torch.ops.gankern_native, f"{name}_cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("cut", CUTS)
def test_rectangles(cut: str, dtype: torch.dtype) -> None:
    """All kernels on all optional inputs, cotangents and outputs, then each time some of them; factors of both kinds."""
    draw = torch.Generator().manual_seed(len(cut) + 31 * dtype.itemsize)
    turns = SETTINGS[: 1 if cut.endswith("chip") else None]  # large planes are slow in the emulation
    for turn, (spatial, settings) in enumerate(itertools.product((False, True), turns)):
        has = [bool(turn < 2 or torch.rand((), generator=draw) < 0.5) for _ in range(15)]
        Case(kernel, CUTS[cut], dtype, settings, spatial, tuple(has[:9])).check(tuple(has[9:]))


@pytest.mark.parametrize("cut", ["planes_in_pieces", "pixels_in_pieces", "planes_of_a_block"])
def test_statistics_far_from_zero(cut: str) -> None:
    """A mean of a thousand standard deviations must not drown them."""
    case = Case(kernel, CUTS[cut], torch.float32, SETTINGS[3], False, NOTHING)
    case.x.add_(1000)
    _, mean, rstd = case.forward()
    variance, centre = torch.var_mean(case.x.double(), (2, 3), correction=0)
    assert torch.allclose(mean.double(), centre, rtol=1e-6, atol=0)
    assert torch.allclose(rstd.double(), (variance + EPS).rsqrt(), rtol=1e-5, atol=0)


def test_infinities_do_not_become_nan_in_relu() -> None:
    """relu is 0 there, in whatever form kernels compute it."""
    case = Case(kernel, CUTS["planes"], torch.float32, ("linear", 0.0, 1.0, "relu", 0.0), False, NOTHING)
    case.x[0, 0, 0, 0] = -torch.inf
    y, _, _ = case.forward()
    case.close(y, adain_composed(case.x.double(), *case.inputs, *case.settings), "y")


@pytest.mark.parametrize("cut", ["planes_of_a_block", "planes_in_pieces", "pixels_in_long_pieces", "pixels_of_a_block"])
def test_the_same_bits_in_any_order_of_threads(cut: str) -> None:
    case = Case(kernel, CUTS[cut], torch.float32, SETTINGS[1], True, (True,) * 9)
    results = []
    harness.load()
    try:
        for seed, threads in ((0, 1), (1, 1), (7, 2)):
            harness.set_order(seed, threads)
            y, mean, rstd = case.forward()
            gradients = [*case.backward(mean, rstd, (True,) * 5), *case.double_backward(mean, rstd, (True,) * 6)]
            results.append([y, mean, rstd, *(t for t in gradients if t is not None)])
    finally:
        harness.set_order()
    assert len(results[0]) == 14
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
