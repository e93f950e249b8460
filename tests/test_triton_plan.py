"""The arithmetic behind upfirdn2d's Triton launches, against the definition; nothing of Triton runs here."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gankern.ops.upfirdn2d import arguments, triton_plan
from gankern.ops.upfirdn2d.triton_plan import Geometry, plan, tap_of

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("up, down", list(itertools.product((1, 2, 3, 4), (1, 2, 3, 5))))
def test_lanes_meet_exactly_the_taps_of_the_definition(up: int, down: int) -> None:
    for taps, pad, many in itertools.product((1, 2, 4, 5), (-3, 0, 1, 6), (1, 2)):
        period = up // math.gcd(up, down)
        axis, first, shift = triton_plan._best_axis(up, down, taps, pad, period * many)
        for lane, output in itertools.product((0, 1, 3), range(axis.outputs)):
            o = lane * axis.outputs - shift + output
            expected = {}
            for tap in range(taps):
                at = o * down - pad + tap
                if at % up == 0:
                    expected[at // up] = tap
            window = first + lane * axis.step
            found = {window + j: tap_of(axis, output, j) for j in range(axis.pixels) if tap_of(axis, output, j) >= 0}
            assert found == expected, (taps, pad, many, lane, output)


def test_blocks_are_aligned_and_cover_the_window() -> None:
    for vector, pixels in itertools.product((2, 4, 8), range(1, 30)):
        for offset in range(vector):
            blocks, skip = triton_plan._blocks(offset, pixels, vector)
            read = [start + i for start, count in blocks for i in range(count)]
            assert read == list(range(read[0], read[0] + len(read)))
            assert read[skip] == offset and read[-1] >= offset + pixels - 1
            for start, count in blocks:
                assert count <= vector and count & (count - 1) == 0 and start % count == 0
                assert start // vector == (start + count - 1) // vector


def geometry(
    shape: tuple[int, ...],
    taps: tuple[int, ...],
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int, int, int] = (2, 1, 2, 1),
    dtype: torch.dtype = torch.bfloat16,
    layout: torch.memory_format = torch.contiguous_format,
) -> Geometry:
    x = torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
    f = torch.empty(taps, device="meta")
    out = arguments.output_size(shape[2], shape[3], f, (up, up), (down, down), pad)
    y = torch.empty((*shape[:2], *out), dtype=dtype, device="meta", memory_format=layout)
    factors = ((up, up), (down, down), (pad[0], pad[2]), False)
    return Geometry(dtype, tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), taps, *factors)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("up, down, pad", [(1, 1, (2, 1, 2, 1)), (2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1))])
def test_networks_shapes_get_16_byte_vectors(
    layout: torch.memory_format, dtype: torch.dtype, up: int, down: int, pad: tuple[int, int, int, int]
) -> None:
    launch = plan(geometry((4, 64, 256, 256), (4, 4), up, down, pad, dtype, layout), 132)
    assert launch.sliding and launch.vector == (16, 16)


@pytest.mark.parametrize("taps", [(40,), (9, 9)])
def test_many_taps_take_the_loop_kernel(taps: tuple[int, ...]) -> None:
    assert not plan(geometry((1, 8, 64, 64), taps, pad=(20, 20, 20, 20)), 132).sliding


def test_programs_cover_the_output_once() -> None:
    names = ["steps_y", "steps", "strips", "tiles_x", "tiles_c"]
    for layout, up, size in itertools.product((torch.contiguous_format, torch.channels_last), (1, 2), (5, 64, 257)):
        g = geometry((3, 24, size, size), (4, 4), up, layout=layout)
        launch = plan(g, 132)
        scalars = dict(zip(names, launch.scalars[-5:], strict=True))
        ay, ax = launch.constants["AY"], launch.constants["AX"]
        assert scalars["steps"] * scalars["strips"] >= scalars["steps_y"] > scalars["steps"] * (scalars["strips"] - 1)
        assert scalars["steps_y"] * ay.outputs >= g.y_size[2]
        assert scalars["tiles_x"] * launch.constants["GROUPS"] * ax.outputs >= g.y_size[3]
        per_tile = scalars["strips"] * scalars["tiles_x"] * scalars["tiles_c"]
        side = launch.constants["SIDE"]
        outer = 3 if g.channels_last else -(-3 * 24 // side)
        assert launch.programs == outer * per_tile
        assert not g.channels_last or scalars["tiles_c"] * side >= 24


def test_far_coordinates_take_the_loop_kernel() -> None:
    """The sliding kernel counts pixels in 32 bits."""
    assert not plan(geometry((1, 1, 2, 2), (2, 2), up=2**29, pad=(0, 0, 0, 0)), 132).sliding
