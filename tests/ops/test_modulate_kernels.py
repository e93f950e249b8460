"""The GPU kernels of modulate by themselves, on rectangles that configs.py would not choose: CUDA in the emulation, and, in a
process of its own (TRITON_INTERPRET=1), Triton in the interpreter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cuda_emulation import harness
from machine import INTERPRETED
from torch import Tensor

from gankern._activations import activation_funcs, curvature, slope
from gankern.ops.modulate.reference import modulate_composed

BACKEND = "triton" if INTERPRETED else "cuda"
# (channels_last, shape, pixels and channels of a rectangle, elements by which the images are off 16 bytes)
CUTS = {
    "planes": (False, (2, 10, 6, 8), 16, 4, 0),
    "planes_longer_than_a_warp": (False, (1, 6, 8, 41), 320, 4, 0),  # 41: one number at a time
    "planes_longer_than_a_warp_of_vectors": (False, (2, 5, 16, 40), 640, 5, 0),
    "planes_unaligned": (False, (2, 5, 6, 8), 48, 3, 1),
    "chunk_off_the_vector": (False, (2, 3, 6, 8), 20, 2, 0),
    "pixels": (True, (2, 16, 5, 3), 4, 8, 0),
    "pixels_longer_than_a_warp_of_vectors": (True, (2, 520, 3, 2), 4, 520, 0),
    "pixels_odd": (True, (3, 13, 3, 3), 2, 5, 0),
    "pixels_unaligned": (True, (2, 16, 3, 3), 9, 16, 1),
    "one_pixel": (False, (3, 5, 1, 1), 64, 64, 0),
}
# Clamps are numbers of every dtype, as backends.py gives them.
SETTINGS = [("lrelu", 0.2, 1.4, 0.75), ("swish", 0.0, 1.4, 0.875), ("linear", 0.0, 1.5, -1.0), ("tanh", 0.0, 1.0, -1.0)]
# The interpreter is slow: it does some of them.
DTYPES = (torch.float32, torch.bfloat16) if INTERPRETED else (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TURNS = (2, 2) if INTERPRETED else (4, 3)  # settings; subsets of what there may be
LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

pytestmark = pytest.mark.skipif(not INTERPRETED and harness.missing() is not None, reason=f"emulation: {harness.missing()}")


def kernel(name: str) -> Any:
    """The backend's function."""
    if INTERPRETED:
        triton_kernels = pytest.importorskip("gankern.ops.modulate.triton_kernels")
        return getattr(triton_kernels, f"{name}_triton")
    harness.load()
    return getattr(torch.ops.gankern_native, f"{name}_cuda")


class Case:
    """Inputs of one rectangle scheme and, by ``sums``, what their partial sums must be."""

    def __init__(self, cut: str, dtype: torch.dtype, act: str, alpha: float, gain: float, clamp: float) -> None:
        self.channels_last, self.shape, self.pixel_chunk, self.channel_chunk, self.off = CUTS[cut]
        self.dtype, self.wide = dtype, torch.float64 if dtype == torch.float64 else torch.float32
        self.generator = torch.Generator().manual_seed(0)
        n, c, h, w = self.shape
        self.x, self.dy, self.u = (self.image(torch.randn(self.shape, generator=self.generator)) for _ in range(3))
        self.scale, self.u_scale = self.numbers(n, c), self.numbers(n, c)
        self.noise, self.u_noise = self.numbers(1, 1, h, w), self.numbers(n, 1, h, w)
        self.b, self.u_b = self.numbers(c), self.numbers(c)
        self.settings = (act, alpha, gain, clamp)
        self.tail = (self.channels_last, self.pixel_chunk, self.channel_chunk, activation_funcs[act].index, alpha, gain, clamp)

    def image(self, values: Tensor) -> Tensor:
        """An image with ``values`` in this layout and at this distance from 16 bytes."""
        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        values = values.to(self.dtype).contiguous(memory_format=memory)
        room = torch.empty(values.numel() + self.off, dtype=self.dtype)
        return room.as_strided(self.shape, values.stride(), self.off).copy_(values)

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.wide)

    def unwritten(self) -> Tensor:
        return self.image(torch.full(self.shape, torch.nan))

    def partial(self, per_pixel: bool) -> Tensor:
        n, c, h, w = self.shape
        pixels = h * w
        shape = (-(-c // self.channel_chunk), n, pixels) if per_pixel else (n, -(-pixels // self.pixel_chunk), c)
        return torch.full(shape, torch.nan, dtype=self.wide)

    def sums(self, values: Tensor, per_pixel: bool) -> Tensor:
        """The partial sums of ``values``: one for each line of each rectangle."""
        if per_pixel:
            return torch.stack([part.sum(1) for part in values.flatten(2).split(self.channel_chunk, 1)])
        return torch.stack([part.sum(2) for part in values.flatten(2).split(self.pixel_chunk, 2)], 1)


def inputs(case: Case, have: tuple[bool, ...]) -> tuple[Any, Any, Any, Any]:
    """(scale, noise, b) that are there, and their form for the reference."""
    scale, noise, b = (t if there else None for t, there in zip((case.scale, case.noise, case.b), have, strict=True))
    return scale, noise, b, [None if t is None else t.double() for t in (scale, noise, b)]


def close(case: Case, have: Tensor, want: Tensor) -> None:
    assert have.isfinite().all(), "something was not written"
    error = (have.double() - want).abs().max().item()
    assert error <= LIMIT[case.dtype] * max(1.0, want.abs().max().item()), error


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("cut", CUTS)
def test_rectangles(cut: str, dtype: torch.dtype) -> None:
    """All kernels on all optional inputs, cotangents and outputs, each time some of them, each as one piece of the sums."""
    draw = torch.Generator().manual_seed(len(cut))
    subsets = [(True,) * 7, *(tuple(bool(torch.rand((), generator=draw) < 0.5) for _ in range(7)) for _ in range(2))]
    for settings, have in itertools.product(SETTINGS[: TURNS[0]], subsets[: TURNS[1]]):
        case = Case(cut, dtype, *settings)
        scale, noise, b, wide = inputs(case, have[:3])
        y = case.unwritten()
        kernel("modulate")(case.x, scale, noise, b, y, *case.tail)
        close(case, y, modulate_composed(case.x.double(), *wide, *settings))
        check_derivatives(case, y, scale, noise, b, wide, have[3:])


def check_derivatives(case: Case, y: Tensor, scale: Any, noise: Any, b: Any, wide: Any, have: tuple[bool, ...]) -> None:
    act, *_ = case.settings
    by_v = act == "swish"
    x, dy = case.x.double(), case.dy.double()
    factor = 1.0 if scale is None else wide[0][:, :, None, None]
    v = modulate_composed(x, *wide, "linear", 0.0, 1.0, -1.0)
    saved = (None, v) if by_v else (y.double(), None)
    s = slope(*saved, *case.settings)
    g = dy * s
    y_in = y if act in ("lrelu", "tanh") else None

    dx = case.unwritten() if have[0] else None
    dscale, db = (case.partial(False) if want else None for want in have[1:3])
    dnoise = case.partial(True) if have[3] else None
    x_in = case.x if by_v or have[1] else None
    kernel("modulate_backward")(case.dy, y_in, x_in, scale, noise, b, dx, dscale, dnoise, db, *case.tail)
    for got, want in (
        (dx, g * factor), (dscale, case.sums(g * x, False)), (db, case.sums(g, False)), (dnoise, case.sums(g, True)),
    ):  # fmt: skip
        if got is not None:
            close(case, got, want)

    u = case.u if have[0] else None
    u_scale, u_noise, u_b = (t if h else None for t, h in zip((case.u_scale, case.u_noise, case.u_b), have[1:], strict=True))
    total = torch.zeros_like(x)
    if u is not None:
        total = total + u.double() * factor
    if u_scale is not None:
        total = total + u_scale.double()[:, :, None, None] * x
    if u_noise is not None:
        total = total + u_noise.double()
    if u_b is not None:
        total = total + u_b.double()[:, None, None]
    d_dy, d_saved = case.unwritten(), case.unwritten() if act != "linear" else None
    d_x = case.unwritten() if u_scale is not None else None
    d_scale = case.partial(False) if u is not None else None
    x_in = case.x if by_v or have[1] else None
    kernel("modulate_double_backward")(
        u, u_scale, u_noise, u_b, case.dy, y_in, x_in, scale, noise, b, d_dy, d_saved, d_x, d_scale, *case.tail
    )
    close(case, d_dy, total * s)
    if d_saved is not None:
        close(case, d_saved, total * dy * curvature(*saved, act, *case.settings[2:]))
    if d_x is not None and u_scale is not None:
        close(case, d_x, u_scale.double()[:, :, None, None] * g)
    if d_scale is not None and u is not None:
        close(case, d_scale, case.sums(u.double() * g, False))


@pytest.mark.skipif(INTERPRETED, reason="of the emulation")
@pytest.mark.parametrize("cut", ["planes_longer_than_a_warp_of_vectors", "pixels_longer_than_a_warp_of_vectors"])
def test_sums_are_the_same_bits_in_any_order_of_threads(cut: str) -> None:
    case = Case(cut, torch.float32, *SETTINGS[1])
    results = []
    try:
        for seed, threads in ((0, 1), (1, 1), (7, 2)):
            run = kernel("modulate_backward")
            harness.set_order(seed, threads)
            outputs = (case.unwritten(), case.partial(False), case.partial(True), case.partial(False))
            run(case.dy, None, case.x, case.scale, case.noise, case.b, *outputs, *case.tail)
            results.append(outputs)
    finally:
        harness.set_order()
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(INTERPRETED, reason="of the emulation")
def test_rectangles_beyond_an_int_are_refused() -> None:
    case = Case("planes", torch.float32, *SETTINGS[0])
    run = kernel("modulate")
    with pytest.raises(RuntimeError, match=r"chunks of more than 2\^30"):
        run(case.x, None, None, None, case.unwritten(), False, 2**31, 4, *case.tail[3:])


@pytest.mark.skipif(not INTERPRETED, reason="of Triton's launchers")
def test_what_is_absent_makes_no_variant() -> None:
    """A kernel is compiled for the dtypes of its pointers: those of absent tensors must not differ."""
    from gankern.ops.modulate import triton_kernels

    seen: list[list[torch.dtype]] = []

    class Recorder:
        def __getitem__(self, _: Any) -> Any:
            return lambda *args, **kwargs: seen.append([a.dtype for a in args if isinstance(a, Tensor)])

    case = Case("planes", torch.bfloat16, *SETTINGS[0])
    launch = triton_kernels._plan("forward", case.x, 2, 0.75, *case.tail[:3])
    for tensors in ((case.x, case.scale, case.noise, case.b, case.x), (case.x, None, None, None, case.x)):
        triton_kernels._launch(Recorder(), case.x, launch, tensors, (0, 4), (), 0, None)
    assert seen[0] == seen[1]
