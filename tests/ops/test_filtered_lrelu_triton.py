"""The Triton kernel of filtered_lrelu against its formulas in float64, by itself: every form of its launch.

Kernels run in Triton's interpreter or on a GPU; a plain process starts the interpreter's for them, and tests the arithmetic of
the launches itself.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filtered_lrelu_plain as plain
import numpy as np
import pytest
import torch
from machine import HAS_GPU, INTERPRETED
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("triton", reason="Triton is not installed")

from gankern.ops.filtered_lrelu import configs  # noqa: E402
from gankern.ops.filtered_lrelu.triton_kernels import can_run, filtered_lrelu_triton  # noqa: E402
from gankern.ops.filtered_lrelu.triton_plan import fake_call, plan  # noqa: E402
from gankern.testing.compare import UNIT_ROUNDOFF, assert_close  # noqa: E402

DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
kernels = pytest.mark.skipif(not (INTERPRETED or HAS_GPU), reason="needs TRITON_INTERPRET=1 or a GPU")


@pytest.mark.skipif(INTERPRETED or HAS_GPU, reason="this process runs the kernels itself")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "failed" not in run.stdout


# ---- one call and its truth ---------------------------------------------------------------------------------------------
def taps(*shape: int) -> Tensor | None:
    """Taps of random sign that sum to 1 over all phases, about; None for no shape."""
    if not shape:
        return None
    f = torch.rand(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])) - 0.2
    return (f / f.abs().sum()).to(DEVICE)


def numbers(t: Tensor | None) -> Any:
    """As NumPy's float64."""
    return None if t is None else t.detach().double().cpu().numpy()


class Call(SimpleNamespace):
    """The arguments of one call; everything that is written lies between guards of memory filled with NaN, or 255."""

    def forward(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, plain.Array, plain.Codes]:
        """y, t and the codes. A type other than float64: the taps and the images x + b, t, a and y are rounded, as in eager."""

        def stored(a: plain.Array) -> plain.Array:
            return torch.from_numpy(a).to(dtype).double().numpy()

        z = numbers(self.x)
        fu, fd = (None if f is None else stored(numbers(f)) for f in (self.fu, self.fd))
        if self.b is not None:
            z = stored(z + numbers(self.b)[:, None, None])
        mid = (self.mid_h, self.mid_w)
        t = stored(plain.intermediate(z, fu, None, self.up, self.start, mid, self.flip, self.scale))
        a, codes = plain.activated(t, self.gain, self.slope, self.clamp)
        if self.codes is not None:
            a = plain.masked(t, self.codes, self.gain, self.slope)
        y = plain.correlate(stored(a), fd, self.offset, self.down, tuple(self.y.shape[2:]), self.flip)
        return torch.from_numpy(stored(y)), t, codes

    def run(self, mask_out: bool = False) -> tuple[Tensor, Tensor | None]:
        """y and the mask as the kernel writes them; nothing else is written, and all of them is."""
        self.memory.fill_(float("nan"))
        n, c = self.x.shape[:2]
        shape = (n, self.mid_h, self.mid_w, -(-c // 4)) if self.channels_last else (n, c, self.mid_h, -(-self.mid_w // 4))
        guarded = torch.full((math.prod(shape) + 128,), 255, dtype=torch.uint8, device=DEVICE)
        mask = guarded[64:-64].view(shape) if mask_out else None
        codes = None if self.codes is None else torch.from_numpy(plain.pack(self.codes, self.channels_last)).to(DEVICE)
        filtered_lrelu_triton(
            self.x, self.fu, self.fd, self.b, codes, mask, self.y, self.channels_last, *self.up[::-1], *self.down[::-1],
            *self.start[::-1], *self.offset[::-1], self.mid_h, self.mid_w, self.flip, self.scale, self.gain, self.slope,
            self.clamp,
        )  # fmt: skip
        guard = (self.memory.numel() - self.y.numel()) // 2
        assert self.memory[:guard].isnan().all() and self.memory[guard + self.y.numel() :].isnan().all()
        assert (guarded[:64] == 255).all() and (guarded[-64:] == 255).all()
        return self.y.clone(), None if mask is None else mask.clone()

    def check(self, mask_out: bool = False) -> None:
        """Compare with float64; half types are given twice the error of images that eager stores."""
        truth, t, codes = self.forward()
        half = self.x.dtype in UNIT_ROUNDOFF
        y, mask = self.run(mask_out)
        assert_close(y, truth, self.forward(self.x.dtype)[0] if half else None)
        if mask is not None:
            got = plain.unpack(mask.cpu().numpy(), self.x.shape[1], self.mid_w, self.channels_last)
            # Codes may differ only where t or its distance from the clamp is a rounding error.
            near = np.minimum(np.abs(t), np.abs(np.abs(plain.activated(t, self.gain, self.slope, -1)[0]) - self.clamp))
            rounding = 2.0**-10 if half else 1e-6
            assert ((got == codes) | (near < rounding * np.abs(t).max())).all()
            assert (got == codes).mean() > 0.98
            assert codes.size < 100 or set(np.unique(codes)) == ({0, 1, 2} if self.clamp >= 0 else {0, 1})
            packed = plain.pack(got, self.channels_last)
            assert (packed == mask.cpu().numpy()).all()  # bits beyond the last number are 0


def call(
    n: int = 1, c: int = 2, h: int = 9, w: int = 11, up: Any = 2, down: Any = 2, fu: Any = (12,), fd: Any = (12,),
    padding: tuple[int, int, int, int] = (9, 8, 7, 10), dtype: torch.dtype = torch.float32, channels_last: bool = False,
    read: bool = False, start: Any = None, offset: Any = (0, 0), mid: Any = None, size: Any = None, bias: bool = True,
    flip: bool = False, clamp: float = 0.6,
) -> Call:  # fmt: skip
    """A call with random tensors. Pairs are (y, x), padding is (x0, x1, y0, y1); ``start`` and so on instead of it."""
    generator = torch.Generator().manual_seed(0)
    up, down = ((v, v) if isinstance(v, int) else v for v in (up, down))
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    f_up, f_down = taps(*fu), taps(*fd)
    x = torch.randn((n, c, h, w), generator=generator).to(DEVICE, dtype, memory_format=fmt)
    of_u, of_d = (((1, 1) if not s else (s[0], s[-1])) for s in (fu, fd))
    if size is None:
        pads = ((padding[2], padding[3]), (padding[0], padding[1]))
        size = [
            (x.shape[2 + i] * up[i] + sum(pads[i]) - (of_u[i] - 1) - (of_d[i] - 1) + down[i] - 1) // down[i] for i in (0, 1)
        ]
        mid = [(size[i] - 1) * down[i] + of_d[i] for i in (0, 1)]
        start = (pads[0][0], pads[1][0])
    count, guard = n * c * size[0] * size[1], 64
    memory = torch.empty(count + 2 * guard, dtype=dtype, device=DEVICE)
    y = memory[guard : guard + count]
    y = y.view(n, *size, c).permute(0, 3, 1, 2) if channels_last else y.view(n, c, *size)
    codes = np.random.default_rng(0).integers(0, 3, (n, c, *mid)).astype(np.uint8) if read else None
    return Call(
        x=x, fu=f_up, fd=f_down, b=torch.randn(c, generator=generator).to(DEVICE) * 0.3 if bias and not read else None, y=y,
        memory=memory, channels_last=channels_last, up=up, down=down, start=start, offset=offset, mid_h=mid[0], mid_w=mid[1],
        flip=flip, scale=float(up[0] * up[1]) * 2.0, gain=2**0.5, slope=0.2, clamp=-1.0 if read else clamp, codes=codes,
    )  # fmt: skip


# ---- kernels ------------------------------------------------------------------------------------------------------------
CALLS: dict[str, dict[str, Any]] = {
    "T": {},
    "T_several_tiles": {"h": 30, "w": 37, "c": 1},
    "T_up4": {"up": 4, "fu": (24,), "padding": (20, 19, 18, 21)},
    "R": {"fd": (12, 12)},
    "full_up": {"fu": (6, 12), "fd": (3,), "c": 1},
    "three_halves": {"up": 3, "down": 2, "fu": (7,), "fd": (5, 4)},
    "axes_differ": {"up": (1, 3), "down": (4, 2), "fu": (5,), "fd": (9,)},
    "many_taps": {"up": 1, "fu": (40,), "fd": (30,), "padding": (40, 41, 32, 33), "c": 1, "clamp": 0.01},
    "no_filters": {"fu": (), "fd": (), "padding": (0, 0, 0, 0), "up": 1, "down": 1},
    "gaps": {"fu": (), "fd": (2,), "up": 2, "down": 5, "padding": (3, 2, 1, 0)},
    "crop": {"padding": (-3, 9, 12, -5), "h": 16, "w": 18, "c": 5},
    "one_pixel": {"h": 1, "w": 1, "padding": (12, 11, 11, 12), "n": 2},
}


@kernels
@LAYOUTS
@pytest.mark.parametrize("name", CALLS)
def test_forward_and_masks(name: str, channels_last: bool) -> None:
    call(**CALLS[name], channels_last=channels_last).check(mask_out=True)


# Transposed calls: negative offsets that are no whole bytes of masks, starts behind the image, roles exchanged.
MASKED: dict[str, dict[str, Any]] = {
    "T": {"start": (13, 12), "offset": (-3, -2), "mid": (40, 37), "size": (17, 16)},
    "T_down4": {"down": 4, "fd": (24,), "start": (9, 9), "offset": (-7, -9), "mid": (30, 50), "size": (8, 11), "w": 20},
    "R": {"fu": (12, 12), "start": (11, 10), "offset": (-4, -5), "mid": (35, 36), "size": (14, 15), "c": 3},
    "R_up4": {"fu": (12, 12), "down": 4, "fd": (24,), "start": (11, 10), "offset": (-20, -21), "mid": (36, 36), "size": (8, 9),
              "c": 1},
    "cut": {"up": (1, 3), "down": (3, 1), "fu": (4,), "fd": (5, 2), "start": (-2, 5), "offset": (3, 1), "mid": (20, 19),
            "size": (9, 22)},
    "no_filters": {"up": 1, "down": 1, "fu": (), "fd": (), "start": (0, 0), "offset": (0, 0), "mid": (9, 11), "size": (9, 11)},
}  # fmt: skip


@kernels
@LAYOUTS
@pytest.mark.parametrize("name", MASKED)
def test_masks_are_read(name: str, channels_last: bool) -> None:
    call(**MASKED[name], read=True, channels_last=channels_last).check()


@kernels
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", ["T", "R", "three_halves"])
def test_half_types(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    call(**CALLS[name], dtype=dtype, channels_last=channels_last).check(mask_out=True)


@kernels
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("read", [False, True], ids=["forward", "masked"])
@pytest.mark.parametrize("fd", [(12,), (12, 12)], ids=["separable", "full"])
def test_half_types_err_no_more_than_images_stored_in_them(fd: tuple[int, ...], read: bool, dtype: torch.dtype) -> None:
    """Twice the error of eager's, without the rounding of the output that other comparisons add, at most and on average."""
    case = call(1, 4, 20, 20, fd=fd, dtype=dtype, clamp=8.0)
    case = call(1, 4, 20, 20, fd=fd, dtype=dtype, read=True, start=(9, 9), mid=(46, 46), size=(18, 18)) if read else case
    truth, eager = case.forward()[0], case.forward(dtype)[0]
    error = (case.run()[0].cpu().double() - truth).abs()
    own = (eager - truth).abs()
    assert error.max() <= 2 * own.max()
    assert error.mean() <= 2 * own.mean()


@kernels
def test_float16_keeps_the_size_of_its_numbers() -> None:
    """The scale of upsampling belongs into the sums: without it they are 1/16, and gradients of 1e-5 lose 4 bits."""
    case = call(1, 2, 12, 12, up=4, fu=(24,), padding=(20, 19, 18, 21), dtype=torch.float16, bias=False, clamp=-1.0)
    case.scale = 16.0
    for size in (1e-4, 2e4):
        case.x = (case.x / case.x.abs().max() * size).to(torch.float16)
        case.check(mask_out=True)


@kernels
@LAYOUTS
def test_other_arguments(channels_last: bool) -> None:
    case = call(n=2, c=2, h=7, w=6, flip=True, bias=False, clamp=-1.0, fu=(4, 6), fd=(3, 5), channels_last=channels_last)
    case.check(mask_out=True)
    first = case.run(mask_out=True)
    assert all(torch.equal(a, b) for a, b in zip(first, case.run(mask_out=True), strict=True))  # the same bits
    # A part of a larger image: strides that are not whole vectors, memory that is not aligned.
    large = torch.randn(2, 5, 12, 13, device=DEVICE)
    large = large.contiguous(memory_format=torch.channels_last) if channels_last else large
    case.x = large[:, 1:3, 2:9, 3:9]
    case.check()
    case = call(n=0, channels_last=channels_last)
    assert case.run(mask_out=True)[0].shape[0] == 0


@kernels
def test_a_program_writes_its_own_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first tile alone: of y and of the mask what is its own, so that every byte has one writer."""
    from gankern.ops.filtered_lrelu import triton_kernels

    case = call(1, 1, 40, 70)
    monkeypatch.setattr(triton_kernels, "plan", lambda c: plan(c)._replace(programs=1))  # type: ignore[union-attr]
    y, mask = case.run(mask_out=True)
    tile = configs.tile((2, 2), (2, 2), (12, 12), (12, 12), 1, 4, False, True, 2, 1, False)
    assert tile is not None and mask is not None
    written = (mask != 255).flatten(0, 2).cpu()
    assert torch.equal(~y[0, 0].cpu().isnan(), _corner(y.shape[2:], tile.y.step, tile.x.step))
    assert torch.equal(written, _corner(written.shape, tile.y.step * 2, tile.x.step * 2 // 4))


def _corner(shape: Any, rows: int, columns: int) -> Tensor:
    corner = torch.zeros(tuple(shape), dtype=torch.bool)
    corner[:rows, :columns] = True
    return corner


@kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_not_lost(dtype: torch.dtype) -> None:
    """In every form that hardware writes; it spreads further than in eager, to its tile."""
    case = call(1, 1, 9, 9, dtype=dtype, bias=False)
    case.x[0, 0, 4, 4] = float("nan")
    if dtype == torch.float32:
        case.x[0, 0, 4, 4] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    truth = case.forward()[0].isnan()
    assert truth.any() and case.run()[0].cpu().isnan()[truth].all()


@kernels
def test_what_is_refused() -> None:
    case = call()
    assert can_run(case.x, case.fu, case.fd, (2, 2), (2, 2), False) is None
    assert can_run(case.x.half(), taps(90), taps(90), (1, 1), (1, 1), False) is None
    assert "float64" in str(can_run(case.x.double(), case.fu, case.fd, (2, 2), (2, 2), False))
    for wide in (taps(130), taps(65)):
        assert "taps (x, y) needs tiles of more" in str(can_run(case.x, None, wide, (1, 1), (1, 1), False))
    far = torch.empty(1, 1, 1, 1, device=DEVICE).expand(1, 1, 1, 2**29)
    assert "2^30" in str(can_run(far, None, None, (2, 2), (2, 2), False))
    case.x = case.x.transpose(2, 3)
    with pytest.raises(ValueError, match="x must have stride 1 along W"):
        case.run()
    case = call(start=(1, 1), offset=(-1, 0), mid=(20, 20), size=(5, 5))
    with pytest.raises(ValueError, match="offsets of 0"):
        case.run(mask_out=True)


# ---- the arithmetic of the launches ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("itemsize", [2, 4])
@LAYOUTS
def test_tiles_cover_what_they_need(channels_last: bool, itemsize: int) -> None:
    least = 4 if channels_last else 1
    for up, down, n_up, n_down, unit in itertools.product(
        (1, 2, 3, 4), (1, 2, 3, 4), (1, 12, 24, 40), (1, 7, 12, 24, 40), (1, 8)
    ):
        tile = configs.tile(
            (up, up), (down, down), (n_up, n_up), (n_down, n_down), 6, itemsize, channels_last, True, unit, unit, False
        )  # fmt: skip
        assert tile is not None or (n_down > 24 and channels_last)
        if tile is None:
            continue
        assert least <= tile.planes <= 8 and tile.planes & (tile.planes - 1) == 0 and tile.warps in (4, 8)
        numbers = tile.planes * tile.y.middle * tile.x.middle
        assert numbers <= configs.NUMBERS[itemsize]
        for side, before in ((tile.y, 0), (tile.x, 0 if channels_last else 3)):
            # The taps of the last pixel, the next tile's first number, behind what alignment puts in front.
            assert before + max((side.step - 1) * down + n_down, side.step * down) <= side.middle
            assert side.inputs * side.parts * up >= side.middle + n_up - 1
            assert 16 <= side.outputs >= side.step and side.inputs >= 16
        assert channels_last or tile.x.step * down % 4 == 0


def test_typical_layers_take_the_tiles_that_were_compiled_for_them() -> None:
    for channels_last, layer, steps in [
        (False, "t_up2", (11, 24)), (True, "t_up2", (11, 11)), (False, "t_down4", (11, 10)), (True, "t_down4", (11, 11)),
    ]:  # fmt: skip
        launch = plan(fake_call(layer, 81, 150, "read", torch.float16, channels_last))
        assert launch is not None
        axes = launch.constants["AY"], launch.constants["AX"]
        assert tuple(side.step for side in axes) == steps
        out = 75 if layer == "t_down4" else 150
        tiles = -(-out // steps[0]) * -(-out // steps[1])
        planes = launch.constants["PLANES"]
        assert launch.programs == tiles * (8 * -(-81 // planes) if channels_last else 8 * 81 // planes)
