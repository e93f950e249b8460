"""The Triton kernel of modulated_conv2d against a composed float64 reference, by itself: every form of its launch.

Kernels run in Triton's interpreter or on a GPU; a plain process starts the interpreter's for them, and tests the arithmetic of
the launches itself.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from machine import HAS_GPU, INTERPRETED
from torch import Tensor

from gankern._activations import activation_funcs
from gankern.ops.modulated_conv2d import configs, triton_kernels
from gankern.ops.modulated_conv2d.configs import Tile
from gankern.ops.modulated_conv2d.triton_kernels import Epilogue, Shape, can_run, modulated_conv2d_triton, plan
from gankern.testing.compare import assert_close

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
kernels = pytest.mark.skipif(not (INTERPRETED or HAS_GPU), reason="needs TRITON_INTERPRET=1 or a GPU")


@pytest.mark.skipif(INTERPRETED or HAS_GPU, reason="this process runs the kernels itself")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not compile", str(Path(__file__))]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "failed" not in run.stdout


# ---- one call and its truth ---------------------------------------------------------------------------------------------
class Call(SimpleNamespace):
    """The arguments of one call; ``y`` lies between guards in NaN-filled memory."""

    def reference(self, dtype: torch.dtype) -> Tensor:
        """The composition, computed in ``dtype`` throughout."""

        def cast(t: Tensor | None, shape: tuple[int, ...] | None = None) -> Tensor | None:
            return None if t is None else t.to(dtype) if shape is None else t.to(dtype).reshape(shape)

        x, a, d, b = cast(self.x), cast(self.a), cast(self.d), cast(self.b)
        v = F.conv2d(x if a is None else x * a[:, :, None, None], cast(self.w), padding=self.padding)
        v = v if d is None else v * d[:, :, None, None]
        v = v if self.noise is None else v + cast(self.noise)
        v = v if b is None else v + b[None, :, None, None]
        v = activation_funcs[self.act].function(v, self.alpha) * self.gain
        return v.clamp(-self.clamp, self.clamp) if self.clamp >= 0 else v

    def tile(self, **changes: Any) -> Tile:
        """The tile that the launcher would take on an H200, with changes."""
        n, i, _, _ = self.x.shape
        o, _, *taps = self.w.shape
        cores, aligned = self.x.dtype != torch.float32, changes.pop("aligned", True)
        tile = configs.tile(n, i, o, *self.y.shape[2:], tuple(taps), self.x.element_size(), (9, 0), cores, aligned)
        return replace(tile, **changes)

    def run(self, tile: Tile | None = None) -> Tensor:
        """y as the kernel writes it; nothing else is written, and all of y is."""
        self.memory.fill_(float("nan"))
        arguments = (self.x, self.w, self.a, self.d, self.noise, self.b, self.y, self.padding)
        index = activation_funcs[self.act].index
        modulated_conv2d_triton(*arguments, index, self.alpha, self.gain, self.clamp, tile=tile)
        guard = (self.memory.numel() - self.y.numel()) // 2
        assert self.memory[:guard].isnan().all() and self.memory[guard + self.y.numel() :].isnan().all()
        return self.y.clone()

    def check(self, tile: Tile | None = None) -> None:
        """Compare with float64; half types are given twice eager's own error."""
        dtype = self.x.dtype
        eager = self.reference(dtype) if dtype != torch.float32 else None
        assert_close(self.run(tile), self.reference(torch.float64), eager, what=str(tile or "own tile"))


def call(
    n: int, i: int, o: int, h: int, w: int, taps: tuple[int, int] | int = 3, padding: tuple[int, int] | int = 1,
    dtype: torch.dtype = torch.float32, *, without: str = "", noise_of_sample: bool = True, act: str = "lrelu",
    gain: float = 1.5, clamp: float = 2.0, style: float = 1.0,
) -> Call:  # fmt: skip
    """A call with random tensors; ``without`` names absent ones."""
    generator = torch.Generator().manual_seed(0)
    kh, kw = (taps, taps) if isinstance(taps, int) else taps
    py, px = (padding, padding) if isinstance(padding, int) else padding
    size = (h + 2 * py - kh + 1, w + 2 * px - kw + 1)

    def draw(*shape: int, scale: float = 1.0, kind: torch.dtype = torch.float32) -> Tensor:
        t = (torch.randn(shape, generator=generator) * scale).to(DEVICE, kind)
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t

    tensors = {
        "a": draw(n, i, scale=style),
        "d": draw(n, o),
        "noise": draw(n if noise_of_sample else 1, 1, *size),
        "b": draw(o),
    }
    tensors = {name: None if name in without.split() else t for name, t in tensors.items()}
    count, guard = n * o * size[0] * size[1], 64
    memory = torch.empty(count + 2 * guard, dtype=dtype, device=DEVICE)
    y = memory[guard : guard + count].view(n, *size, o).permute(0, 3, 1, 2)
    return Call(
        x=draw(n, i, h, w, kind=dtype), w=draw(o, i, kh, kw, scale=(max(i, 1) * kh * kw) ** -0.5, kind=dtype), **tensors, y=y,
        memory=memory, padding=(py, px), act=act, alpha=activation_funcs[act].def_alpha, gain=gain, clamp=clamp,
    )  # fmt: skip


# ---- kernels ------------------------------------------------------------------------------------------------------------
SHAPES = {
    "odd_3x3": (2, 24, 20, 7, 9, 3, 1),
    "blocks_of_channels": (1, 80, 24, 5, 6, 3, 1),
    "unaligned_channels": (2, 5, 7, 6, 6, 3, 0),
    "torgb": (3, 40, 3, 9, 5, 1, 0),
    "one_tap_padded": (1, 16, 16, 4, 4, 1, 1),
    "five_taps": (1, 16, 20, 6, 7, 5, 2),
    "oblong": (1, 16, 8, 4, 21, (1, 3), (0, 2)),
    "one_pixel": (1, 16, 16, 1, 1, 3, 1),
    "tiles_of_pixels": (1, 8, 16, 18, 20, 3, 1),
}


@kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("aligned", [True, False], ids=["descriptors", "pointers"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, aligned: bool, dtype: torch.dtype) -> None:
    case = call(*SHAPES[shape], dtype=dtype)  # type: ignore[arg-type]
    tile = case.tile(aligned=aligned)
    assert tile.descriptor == (aligned and case.x.shape[1] % 8 == 0)
    case.check(tile)


@kernels
@pytest.mark.parametrize("act", activation_funcs)
def test_activations(act: str) -> None:
    call(2, 8, 5, 4, 5, act=act, clamp=-1.0).check()


@kernels
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("without", ["a", "d", "noise", "b", "a d noise b"])
def test_absent_tensors(without: str, split: int) -> None:
    case = call(2, 16, 5, 4, 5, without=without, dtype=torch.bfloat16)
    case.check(case.tile(split=split))


@kernels
@pytest.mark.parametrize("noise_of_sample", [True, False])
@pytest.mark.parametrize("window", [(1, 4, 8), (2, 4, 4), (4, 2, 2), (1, 1, 32)])
def test_windows_of_several_samples(window: tuple[int, int, int], noise_of_sample: bool) -> None:
    case = call(3, 16, 20, 5, 6, dtype=torch.bfloat16, noise_of_sample=noise_of_sample)
    samples, rows, columns = window
    case.check(case.tile(samples=samples, rows=rows, columns=columns, outputs=16, depth=16, split=1))


@kernels
@pytest.mark.parametrize("noise_of_sample", [True, False])
@pytest.mark.parametrize("split", [2, 18])
def test_parts(split: int, noise_of_sample: bool) -> None:
    case = call(3, 24, 20, 5, 7, dtype=torch.float16, noise_of_sample=noise_of_sample)
    case.check(case.tile(samples=2, rows=4, columns=4, outputs=16, depth=16, split=split))


@kernels
@pytest.mark.parametrize("descriptor", [True, False])
@pytest.mark.parametrize("taps, padding", [(3, 1), (3, 0), ((1, 3), (0, 2)), ((5, 3), (2, 1))])
@pytest.mark.parametrize("samples", [1, 2])
def test_windows_of_three_taps(samples: int, taps: Any, padding: Any, descriptor: bool) -> None:
    """Columns on both sides of a tile's border, which lies after 14 of 16."""
    case = call(2, 24, 12, 6, 17, taps, padding, torch.float16)
    case.check(Tile(samples, 4, 16, 16, 16, 4, 3, 1, descriptor, 3))
    case.check(Tile(samples, 8, 4, 16, 32, 4, 3, 1, descriptor, 3))


@kernels
def test_columns_of_a_neighbour_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program alone writes 14 of its 16 columns: the others would race with the next program."""
    monkeypatch.setattr(triton_kernels, "plan", lambda *args: plan(*args)._replace(programs=1))
    y = call(1, 16, 8, 4, 20).run(Tile(1, 4, 16, 16, 16, 4, 3, 1, True, 3))
    assert y[..., :14].isfinite().all() and y[..., 14:].isnan().all()


@kernels
def test_a_full_machine_shares_windows() -> None:
    """The launcher's own choice for few channels and many pixels, in a machine of 2 multiprocessors."""
    case = call(1, 8, 8, 9, 64, dtype=torch.float16)
    tile = configs.tile(1, 8, 8, 9, 64, (3, 3), 2, (9, 0), multiprocessors=2)
    assert tile.group == 3 and tile.split == 1 and tile.descriptor
    case.check(tile)


@kernels
@pytest.mark.parametrize("descriptor", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_far_offsets(group: int, descriptor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "_FAR", 0)
    case = call(3, 24, 20, 5, 7, dtype=torch.float16)
    case.check(Tile(2, 4, 8, 16, 16, 4, 3, 1, descriptor, group))


@kernels
def test_same_bits_every_time() -> None:
    case = call(2, 64, 20, 5, 7, dtype=torch.bfloat16)
    tile = case.tile(split=4)
    assert torch.equal(case.run(tile), case.run(tile))


@kernels
def test_large_styles_stay_finite_in_float16() -> None:
    """Styles of 1e3 overflow where they are not normalised; normalised, with d for the rest, they do not."""
    raw = call(1, 64, 8, 6, 6, dtype=torch.float16, style=1e3, without="noise b", clamp=-1.0, act="linear", gain=1.0)
    raw.x.mul_(100)
    size = raw.a.square().mean().sqrt()
    raw.d = (raw.a / size).square() @ raw.w.float().square().sum((2, 3)).t()
    raw.d = (raw.d + 1e-8).rsqrt()
    normal = Call(**{**vars(raw), "a": raw.a / size})
    normal.check()
    assert normal.run().isfinite().all() and not raw.run().isfinite().all()


@kernels
def test_nothing_to_do_and_nothing_to_read() -> None:
    assert call(0, 8, 4, 5, 5).run().shape == (0, 4, 5, 5)
    assert call(2, 8, 0, 5, 5).run().shape == (2, 0, 5, 5)
    for case in (call(2, 0, 4, 5, 5), call(1, 8, 4, 0, 3, padding=2)):
        v = case.noise.double() + case.b.double()[None, :, None, None]
        assert_close(case.run(), (F.leaky_relu(v, 0.2) * case.gain).clamp(-case.clamp, case.clamp))


@kernels
def test_weights_of_another_layout_and_type_are_copied() -> None:
    case = call(1, 16, 8, 5, 5, dtype=torch.float16)
    expected = case.run()
    case.w = case.w.float().contiguous()
    assert torch.equal(case.run(), expected)


@kernels
def test_other_layouts_are_refused() -> None:
    case = call(1, 16, 8, 5, 6)
    assert can_run(case.x, case.w) is None
    assert "channels_last" in str(can_run(case.x.contiguous(), case.w))
    assert "float64" in str(can_run(case.x.double(), case.w.double()))
    for name in ("x", "y"):
        wrong = Call(**{**vars(case), name: getattr(case, name).contiguous()})
        with pytest.raises(ValueError, match=f"{name} must be dense in channels_last"):
            wrong.run()


@pytest.mark.gpu
def test_beyond_32_bits() -> None:
    """More than 2^31 elements in one sample: its last rows against the convolution of these rows alone."""
    size = 16400
    x = torch.randn(1, size, size, 8, device="cuda", dtype=torch.bfloat16).permute(0, 3, 1, 2)
    case = call(1, 8, 8, 20, size, dtype=torch.bfloat16, without="noise")
    y = torch.empty_like(x)
    case.x = x[:, :, -20:].contiguous(memory_format=torch.channels_last)
    index = activation_funcs[case.act].index
    modulated_conv2d_triton(x, case.w, case.a, case.d, None, case.b, y, (1, 1), index, case.alpha, case.gain, case.clamp)
    truth, eager = case.reference(torch.float64), case.reference(torch.bfloat16)
    assert_close(y[:, :, -16:], truth[:, :, -16:], eager[:, :, -16:])


# ---- the arithmetic of the launches ---------------------------------------------------------------------------------------
LAYERS = [
    (n, i, o, r, k)
    for n in (1, 8)
    for i, o, r, k in (
        (512, 512, 4, 3), (512, 512, 16, 3), (512, 512, 64, 3), (256, 256, 128, 3), (128, 128, 256, 3), (64, 64, 512, 3),
        (32, 32, 1024, 3), (512, 3, 64, 1), (32, 3, 1024, 1), (81, 51, 532, 3), (3, 96, 65, 5), (1, 1, 1, 1),
    )
]  # fmt: skip


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("itemsize, cores", [(2, True), (4, True), (4, False)])
def test_tiles_fit(itemsize: int, cores: bool, capability: tuple[int, int]) -> None:
    for n, i, o, r, k in LAYERS:
        tile = configs.tile(n, i, o, r, r, (k, k), itemsize, capability, cores)
        pixels = tile.samples * tile.rows * tile.columns
        for side in (tile.samples, tile.rows, tile.columns, tile.outputs, tile.depth, tile.warps):
            assert side & (side - 1) == 0
        # What tl.dot and a descriptor's box take.
        assert 16 <= pixels <= 256 and 16 <= tile.outputs <= 256 and tile.depth >= 16 and tile.depth * itemsize <= 128
        shared = tile.stages * (pixels + tile.group * tile.outputs) * tile.depth * itemsize
        assert shared <= configs.SHARED.get(capability, 99) * 1024, tile
        assert tile.group * pixels * tile.outputs // (32 * tile.warps) <= 128, tile
        assert not tile.descriptor or (capability >= (9, 0) and i * itemsize % 16 == 0)
        assert tile.group == 1 or (k == 3 and tile.split == 1)


def test_small_pictures_fill_the_machine() -> None:
    for n, size in itertools.product((1, 8), (4, 8, 16, 32)):
        s = Shape(n, 512, 512, size, size, (3, 3), (1, 1))
        tile = configs.tile(n, 512, 512, size, size, (3, 3), 2, (9, 0))
        launch = plan(s, torch.bfloat16, tile, Epilogue(True, True, 1, True, 2, True), False)
        assert 100 <= launch.programs <= 264, (n, size, tile)
        steps, walk = 512 // tile.depth * 9, launch.scalars[-1]
        assert walk * tile.split >= steps > walk * (tile.split - 1)


def test_exponentials_get_more_warps_where_registers_are_full() -> None:
    full, half = (configs.tile(8, c, c, 256, 256, (3, 3), 2, (9, 0)) for c in (128, 64))
    assert (configs.warps(full, "lrelu"), configs.warps(full, "softplus")) == (4, 8)
    assert configs.warps(half, "softplus") == configs.warps(half, "lrelu") == 8


def test_programs_cover_the_output() -> None:
    for n, i, o, r, k in LAYERS:
        s = Shape(n, i, o, r, r, (k, k), (k // 2, k // 2))
        tile = configs.tile(n, i, o, *s.output, s.taps, 2, (9, 0))
        launch = plan(s, torch.bfloat16, tile, Epilogue(True, True, 1, True, 2, True), False)
        h, w, tiles_y, tiles_x = (launch.scalars[at] for at in (5, 6, 9, 10))
        assert (tiles_y - 1) * tile.rows < h <= tiles_y * tile.rows
        assert (tiles_x - 1) * tile.own_columns < w <= tiles_x * tile.own_columns
        rest = launch.programs // (tiles_y * tiles_x * tile.split)
        assert rest == -(-n // tile.samples) * -(-o // tile.outputs)


def test_offsets_take_64_bits_where_they_must() -> None:
    for size, index in ((4000, "int32"), (16400, "int64")):
        s = Shape(2, 8, 8, size, size, (3, 3), (1, 1))
        tile = configs.tile(2, 8, 8, size, size, (3, 3), 2, (9, 0))
        launch = plan(s, torch.bfloat16, tile, Epilogue(True, True, 1, True, 2, True), False)
        assert str(launch.constants["INDEX"]) == index


def test_what_goes_to_triton() -> None:
    half = torch.bfloat16
    assert configs.prefer_triton(8, 64, 64, 512, 512, half) and configs.prefer_triton(8, 32, 32, 1024, 1024, torch.float16)
    assert configs.prefer_triton(1, 512, 3, 4, 4, half)
    assert not configs.prefer_triton(8, 512, 512, 64, 64, half) and not configs.prefer_triton(8, 256, 128, 256, 256, half)
    assert not configs.prefer_triton(8, 64, 64, 16, 16, half) and not configs.prefer_triton(0, 32, 32, 64, 64, half)
    assert not configs.prefer_triton(8, 64, 64, 512, 512, torch.float32)


@pytest.mark.compile_gate
def test_compiled_for_an_h200_it_uses_tensor_cores_and_descriptors() -> None:
    if INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    sys.path.insert(0, str(ROOT))
    from triton.runtime import driver

    from benchmarks.resources import FakeDriver

    driver.set_active(FakeDriver(90))
    seen = 0
    for case in triton_kernels.compile_cases():
        if case.constants.get("DESCRIPTOR") and case.dtype == torch.bfloat16 and case.constants["ROWS"] >= 8:
            ptx = case.kernel.warmup(*case.args, **case.constants, grid=(1,)).asm["ptx"]
            assert "cp.async.bulk.tensor" in ptx and "wgmma.mma_async" in ptx and ".local." not in ptx, case.sample
            seen += 1
    assert seen >= 7
