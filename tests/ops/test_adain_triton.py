"""The Triton kernels of adain by themselves, on rectangles and tiles that configs.py would not choose.

Kernels run in Triton's interpreter; a plain process starts it for them, and tests itself how images are cut up.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_emulation.adain_cases import EPS, Case, Cut
from machine import INTERPRETED

from gankern.ops.adain import configs

triton_kernels: Any = pytest.importorskip("gankern.ops.adain.triton_kernels")
pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
interpreted = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
CUTS = {
    "planes": Cut(False, (2, 5, 6, 8), 48, 2),
    "planes_of_a_vector": Cut(False, (2, 11, 2, 4), 8, 5, one_noise=True),
    "planes_of_two_pixels": Cut(False, (2, 19, 2, 1), 2, 4),
    "planes_odd": Cut(False, (2, 3, 7, 9), 63, 3, off=1, one_noise=True),
    "planes_in_pieces": Cut(False, (2, 3, 12, 16), 80, 2),
    "planes_in_pieces_off_the_vector": Cut(False, (1, 3, 6, 10), 22, 2),
    "pixels": Cut(True, (2, 16, 5, 3), 15, 8, one_noise=True),
    "pixels_odd": Cut(True, (2, 13, 5, 7), 35, 5, off=1),
    "pixels_in_pieces": Cut(True, (1, 16, 9, 7), 20, 8),
    "pixels_in_pieces_odd": Cut(True, (2, 5, 9, 7), 20, 3),
}
# Activation with its alpha and gain; the one before the statistics.
SETTINGS = [
    ("lrelu", 0.2, 1.4, "lrelu", 0.2),
    ("swish", 0.0, 1.4, "softplus", 0.0),
    ("linear", 0.0, 1.5, "relu", 0.0),
    ("tanh", 0.0, -1.0, "linear", 0.0),
]
# Tiles of few elements: programs that walk over channels, planes of more rectangles than a finishing kernel reads at a time.
SMALL = configs.Gpu(tile=64, finish=2)


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "failed" not in run.stdout


# ---- kernels ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(configs, "GPU", SMALL)
    triton_kernels.plan.cache_clear()
    yield
    triton_kernels.plan.cache_clear()


def kernel(name: str) -> Any:
    """The operator ``name``."""
    return getattr(triton_kernels, f"{name}_triton")


def check(cut: str, dtype: torch.dtype) -> None:
    """The three operators: everything there with factors of planes, then some of it with factors of pixels."""
    draw = torch.Generator().manual_seed(len(cut))
    for spatial in (False, True):
        has = [bool(not spatial or torch.rand((), generator=draw) < 0.5) for _ in range(15)]
        settings = SETTINGS[(len(cut) + spatial) % len(SETTINGS)]
        Case(kernel, CUTS[cut], dtype, settings, spatial, tuple(has[:9])).check(tuple(has[9:]))


@interpreted
@pytest.mark.parametrize("cut", CUTS)
def test_rectangles(cut: str) -> None:
    check(cut, torch.float32)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("cut", ["planes_odd", "planes_in_pieces", "pixels_odd"])
def test_dtypes(cut: str, dtype: torch.dtype) -> None:
    check(cut, dtype)


@interpreted
@pytest.mark.parametrize("cut", ["planes", "planes_in_pieces", "pixels_in_pieces"])
def test_small_tiles(cut: str, small_tiles: None) -> None:
    channels_last, shape, *chunks = CUTS[cut].channels_last, CUTS[cut].shape, CUTS[cut].pixel_chunk, CUTS[cut].channel_chunk
    sizes = (shape[0], shape[1], shape[2] * shape[3])
    launch = triton_kernels.plan("adain_backward", False, sizes, torch.float32, channels_last, *chunks)
    assert launch.constants["WALK"] or launch.finish_constants["TK"] < launch.finish_scalars[3]
    check(cut, torch.float32)


@interpreted
@pytest.mark.parametrize("cut", ["planes", "planes_in_pieces", "pixels_in_pieces"])
def test_statistics_far_from_zero(cut: str) -> None:
    """The variance is of deviations, and rectangles' means must not differ by their rounding."""
    case = Case(kernel, CUTS[cut], torch.float32, SETTINGS[3], False, (False,) * 4 + (True,) + (False,) * 4)
    case.x.add_(1000)
    _, mean, rstd = case.forward()
    variance, centre = torch.var_mean(case.x.double(), (2, 3), correction=0)
    assert torch.allclose(mean.double(), centre, rtol=3e-7, atol=0)
    assert torch.allclose(rstd.double(), (variance + EPS).rsqrt(), rtol=1e-6, atol=0)


# ---- how images are cut up ----------------------------------------------------------------------------------------------
PIXELS = (2, 9, 48, 256, 1024, 1025, 4096, 8192, 16384, 16385, 65536, 1024 * 1024)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", configs.SUMS)
def test_rectangles_hold_planes_where_a_program_can(name: str, channels_last: bool) -> None:
    """Every pixel and channel is in one rectangle, which is no longer than registers hold; none longer than needs be."""
    several = 0
    for pixels, n, c, size, heavy, noise in itertools.product(
        PIXELS, (1, 4), (1, 3, 64, 513), (2, 4, 8), (False, True), (False, True)
    ):
        gradient = noise and name != "adain"
        chunk, channels = configs.triton_chunks(name, heavy, channels_last, n, c, pixels, size, gradient)
        assert 1 <= chunk <= pixels and 1 <= channels <= c
        dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[size]
        launch = triton_kernels.plan(name, heavy, (n, c, pixels), dtype, channels_last, chunk, channels)
        rows, columns = launch.constants["TR"], launch.constants["TC"]
        _, largest, _ = configs.GPU.held(name, heavy, size, c if channels_last else pixels)
        assert rows * columns <= largest
        assert launch.programs == n * -(-pixels // chunk) * -(-c // channels)
        assert launch.constants["num_warps"] in (4, 8, 16)
        assert rows >= chunk and columns >= channels if channels_last else columns >= chunk
        plane = 1 << (pixels - 1).bit_length()
        if not channels_last:
            assert (chunk == pixels) == (plane <= largest)
        assert bool(launch.finish_programs) == (chunk < pixels)
        several += chunk < pixels
    assert several  # both ways were there


def test_images_of_a_network_make_enough_programs() -> None:
    for name, noise in itertools.product(configs.SUMS, (False, True)):
        chunk, channels = configs.triton_chunks(name, False, False, 2, 128, 256 * 256, 2, noise and name != "adain")
        assert 2 * (256 * 256 // chunk) * -(-128 // channels) >= 2 * 132, (name, noise)
