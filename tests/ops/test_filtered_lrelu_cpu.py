"""filtered_lrelu's CPU kernel by itself, against the formulas of filtered_lrelu_params.h written out in float64.

Most inputs are small integers and the factors powers of two, so that every number is exact in float32: results, ties at zero
and at the clamp, and masks have to be equal, in all dtypes. How planes share vectors and how masks are packed depends on the
instruction set: the last test runs all others once more for each that is not the machine's best.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gankern

pytestmark = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LEVELS = ["baseline", "avx2", "avx512"]


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    fu: tuple[int, ...] | None = (12,)  # shapes of the taps
    fd: tuple[int, ...] | None = (12,)
    up: tuple[int, int] = (2, 2)  # x, y
    down: tuple[int, int] = (2, 2)
    start: tuple[int, int] = (11, 11)
    offset: tuple[int, int] = (0, 0)
    out: tuple[int, int] | None = None  # w, h; none: all that the intermediate image is enough for
    mid: tuple[int, int] = (40, 36)  # w, h
    clamp: float = 20.0
    flip: bool = False
    bias: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Of y: w, h."""
        if self.out:
            return self.out
        taps = taps_of(self.fd)
        return tuple((self.mid[i] - taps[i]) // self.down[i] + 1 for i in (0, 1))  # type: ignore[return-value]

    def transposed(self) -> Case:
        """The case whose masked linear map is the transpose of this one's."""
        nu, nd = taps_of(self.fu), taps_of(self.fd)
        return replace(
            self,
            shape=(*self.shape[:2], self.size[1], self.size[0]),
            fu=self.fd,
            fd=self.fu,
            up=self.down,
            down=self.up,
            start=tuple(nd[i] - 1 + self.offset[i] for i in (0, 1)),
            offset=tuple(self.start[i] - nu[i] + 1 for i in (0, 1)),
            out=(self.shape[3], self.shape[2]),
            flip=not self.flip,
        )


def taps_of(shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Numbers of taps along x, y."""
    return (1, 1) if shape is None else (shape[-1], shape[0])


CASES = {
    "T": Case((2, 19, 18, 17)),
    "T up 4": Case((1, 33, 9, 11), fu=(24,), up=(4, 4), start=(23, 23), mid=(50, 41)),
    "T down 4": Case((1, 17, 30, 29), fd=(24,), down=(4, 4), mid=(65, 62)),
    "R": Case((1, 18, 17, 16), fd=(12, 12), mid=(39, 36)),
    "R transposed": Case((1, 18, 17, 16), fu=(12, 12), fd=(24,), down=(4, 4), mid=(41, 38)),
    "full both": Case((1, 5, 9, 8), fu=(4, 6), fd=(5, 3), mid=(19, 17)),
    "bare": Case((2, 3, 5, 6), fu=None, fd=None, up=(1, 1), down=(1, 1), start=(0, 0), mid=(6, 5)),
    "3 to 2": Case((1, 4, 9, 8), fu=(7,), fd=(5,), up=(3, 3), down=(2, 2), start=(4, 5), mid=(26, 27)),
    "2 to 3": Case((1, 6, 9, 12), fu=(7,), fd=(9,), up=(2, 2), down=(3, 3), start=(4, 5), mid=(26, 21)),
    "4 to 1": Case((1, 3, 5, 6), fu=(9,), fd=(3,), up=(4, 4), down=(1, 1), start=(8, 8), mid=(31, 27)),
    "1 to 3": Case((1, 3, 15, 16), fu=(3,), fd=(7,), up=(1, 1), down=(3, 3), start=(2, 1), mid=(17, 16)),
    "x is not y": Case((1, 9, 9, 8), fu=(3, 5), fd=(6,), up=(3, 1), down=(1, 4), start=(2, 3), mid=(24, 13)),
    "fewer taps than factors": Case((1, 3, 5, 6), fu=(2,), fd=(2,), up=(5, 3), down=(3, 4), start=(1, 0), mid=(29, 19)),
    "cropped": Case((1, 3, 12, 13), fu=(4,), fd=(4,), start=(-5, -3), mid=(17, 15)),
    "beyond the image": Case((1, 3, 4, 4), fu=(4,), fd=(4,), start=(23, -29), mid=(41, 35)),
    "offsets": Case((1, 3, 9, 8), fu=(4,), fd=(4,), start=(3, 3), offset=(-7, 3), mid=(22, 19), out=(13, 14)),
    "far offsets": Case((1, 3, 9, 8), fu=(4,), fd=(4,), start=(3, 3), offset=(9, -9), mid=(22, 19), out=(5, 5)),
    "one pixel": Case((1, 1, 1, 1), fu=(4,), fd=(4,), start=(3, 3), mid=(5, 5)),
    "flip": Case((1, 3, 9, 8), fu=(4, 5), fd=(5,), mid=(19, 17), flip=True),
    "no clamp, no bias": Case((1, 3, 9, 8), fu=(4,), fd=(5,), mid=(19, 17), clamp=-1.0, bias=False),
    "nothing passes": Case((1, 3, 9, 8), fu=(4,), fd=(5,), mid=(19, 17), clamp=0.0),
    "tiles and bands": Case((1, 3, 240, 330), fu=(4,), fd=(4,), start=(3, 3), mid=(661, 470)),
    "no overlap": Case((1, 1, 300, 300), fu=None, fd=None, up=(1, 1), down=(2, 3), start=(0, 0), mid=(300, 300)),
    "many taps": Case((1, 2, 20, 20), fu=(35,), fd=(67,), up=(1, 1), down=(1, 1), start=(34, 34), mid=(90, 80)),
}
SMALL = ["T", "R", "x is not y", "offsets"]


def integers(shape: tuple[int, ...], largest: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


@dataclass
class Inputs:
    x: Tensor
    fu: Tensor | None
    fd: Tensor | None
    b: Tensor | None

    @classmethod
    def of(cls, case: Case, seed: int = 0) -> Inputs:
        def taps(shape: tuple[int, ...] | None, seed: int) -> Tensor | None:
            return None if shape is None else integers(shape, 2, seed)

        bias = integers((case.shape[1],), 4, 3) if case.bias else None
        return cls(integers(case.shape, 8, seed), taps(case.fu, 1), taps(case.fd, 2), bias)


def crop(x: Tensor, top: int, left: int, h: int, w: int) -> Tensor:
    """h x w pixels from (top, left) on; there are zeros around the image."""
    rows, columns = max(0, -top), max(0, -left)
    inside = x[:, :, max(0, top) : max(0, top + h), max(0, left) : max(0, left + w)]
    out = x.new_zeros(*x.shape[:2], h, w)
    out[:, :, rows : rows + inside.shape[2], columns : columns + inside.shape[3]] = inside
    return out


def correlated(x: Tensor, f: Tensor | None, flip: bool, top: int, left: int, h: int, w: int) -> Tensor:
    """out[i] = sum of g[k] * x[i + k + (top, left)], h x w numbers, g the taps used: reversed unless ``flip``."""
    if f is None:
        return crop(x, top, left, h, w)
    g = f.double() if flip else f.double().flip(*range(f.dim()))
    if g.dim() == 1:  # rows, then columns
        rows = correlated(x, f[None, :], flip, top, left, h + len(f) - 1, w)
        return correlated(rows, f[:, None], flip, 0, 0, h, w)
    out = x.new_zeros(*x.shape[:2], h, w)
    for ky in range(g.shape[0]):
        for kx in range(g.shape[1]):
            out += g[ky, kx] * crop(x, top + ky, left + kx, h, w)
    return out


GAIN, SLOPE, SCALE = 0.5, 0.25, 2.0


def plain(case: Case, t: Inputs, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """y and the codes of the formulas, in float64; with `codes` those are read."""
    x = t.x.double() if t.b is None else t.x.double() + t.b.double()[:, None, None]
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h * case.up[1], w * case.up[0])
    z[:, :, :: case.up[1], :: case.up[0]] = x
    mid = SCALE * correlated(z, t.fu, case.flip, -case.start[1], -case.start[0], case.mid[1], case.mid[0])
    if codes is None:
        codes = (mid <= 0).to(torch.uint8)
        a = torch.where(mid > 0, GAIN * mid, GAIN * SLOPE * mid)
        if case.clamp >= 0:
            codes[a.abs() > case.clamp] = 2
            a = a.clamp(-case.clamp, case.clamp)
    else:
        a = mid * torch.tensor([GAIN, GAIN * SLOPE, 0.0], dtype=torch.float64)[codes.long()]
    (out_w, out_h), (step_x, step_y) = case.size, case.down
    span = (out_h - 1) * step_y + 1, (out_w - 1) * step_x + 1
    return correlated(a, t.fd, case.flip, case.offset[1], case.offset[0], *span)[:, :, ::step_y, ::step_x], codes


def packed(codes: Tensor, channels_last: bool) -> Tensor:
    """Codes [N, C, H, W] as the mask has them."""
    c = codes.permute(0, 2, 3, 1) if channels_last else codes
    c = F.pad(c, (0, -c.shape[3] % 4)).unflatten(3, (-1, 4))
    return (c[..., 0] | c[..., 1] << 2 | c[..., 2] << 4 | c[..., 3] << 6).contiguous()


def laid_out(x: Tensor, dtype: torch.dtype, channels_last: bool, spread: bool) -> Tensor:
    """x in that dtype and layout; `spread`: in the middle of more memory, full of NaN."""
    x = x.to(dtype)
    n, c, h, w = x.shape
    order = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
    back = (0, 3, 1, 2) if channels_last else (0, 1, 2, 3)
    sizes = [(n, c, h, w)[i] for i in order]
    room = [s + 3 for s in sizes] if spread else sizes
    whole = torch.full(room, float("nan"), dtype=dtype)
    view = whole[tuple(slice(1, 1 + s) for s in sizes)] if spread else whole
    view.copy_(x.permute(order))
    return view.permute(back)


def run(
    case: Case,
    t: Inputs,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    mask_in: Tensor | None = None,
    want_mask: bool = False,
    spread: bool = False,
) -> tuple[Tensor, Tensor | None]:
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    x = laid_out(t.x, dtype, channels_last, spread)
    n, c = case.shape[:2]
    y = laid_out(torch.full((n, c, *case.size[::-1]), float("nan")), dtype, channels_last, spread)
    mask_out = None
    if want_mask:  # full of ones: every byte must be written
        shape = (n, case.mid[1], case.mid[0], -(-c // 4)) if channels_last else (n, c, case.mid[1], -(-case.mid[0] // 4))
        mask_out = torch.full(shape, 255, dtype=torch.uint8)
    fu, fd, b = (None if f is None else f.to(acc) for f in (t.fu, t.fd, t.b))
    torch.ops.gankern_native.filtered_lrelu_cpu(
        *(x, fu, fd, b, mask_in, mask_out, y, channels_last),
        *(*case.up, *case.down, *case.start, *case.offset, case.mid[1], case.mid[0]),
        *(case.flip, SCALE, GAIN, SLOPE, case.clamp),
    )
    return y, mask_out


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For the plain formulas: their tensors are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", CASES)
def test_exact(name: str, channels_last: bool) -> None:
    """Forward without and with masks, and the masked map, of integers."""
    case = CASES[name]
    t = Inputs.of(case)
    want, codes = plain(case, t)
    y, _ = run(case, t, channels_last=channels_last)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=0)
    y, mask = run(case, t, channels_last=channels_last, want_mask=True, spread=True)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=0)
    assert mask is not None and torch.equal(mask, packed(codes, channels_last))
    random = torch.randint(0, 3, codes.shape, generator=torch.Generator().manual_seed(9), dtype=torch.uint8)
    want, _ = plain(case, t, random)
    y, _ = run(case, t, channels_last=channels_last, mask_in=packed(random, channels_last), spread=True)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["T", "R", "T down 4", "full both"])
def test_every_width(name: str) -> None:
    """Sums are made in blocks of several results; what is left over, in blocks that overlap, or one by one."""
    case = CASES[name]
    for width in range(1, 41):
        mid = (width - 1) * case.down[0] + taps_of(case.fd)[0]
        narrow = replace(case, shape=(1, 2, 7, width + 3), mid=(mid, case.down[1] + taps_of(case.fd)[1]))
        t = Inputs.of(narrow, width)
        want, codes = plain(narrow, t)
        y, mask = run(narrow, t, want_mask=True, spread=True)
        assert torch.equal(y.double(), want), width
        assert mask is not None and torch.equal(mask, packed(codes, False)), width


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_dtypes(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    case = CASES[name]
    t = Inputs.of(case)
    want, codes = plain(case, t)
    for spread in (False, True):
        y, mask = run(case, t, dtype, channels_last, want_mask=True, spread=spread)
        torch.testing.assert_close(y, want.to(dtype), rtol=0, atol=0)
        assert mask is not None and torch.equal(mask, packed(codes, channels_last))
    want, _ = plain(case, t, codes)
    y, _ = run(case, t, dtype, channels_last, mask_in=packed(codes, channels_last))
    torch.testing.assert_close(y, want.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("name", ["T", "T up 4", "T down 4", "R", "R transposed", "full both"])
def test_real_numbers(name: str, dtype: torch.dtype, bound: float) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(4)
    t = Inputs.of(case)
    for tensor in (t.x, t.fu, t.fd, t.b):
        assert tensor is not None
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    for f in (t.fu, t.fd):
        assert f is not None
        f.div_(f.abs().sum())
    t = Inputs(*(None if v is None else v.to(dtype).double() for v in (t.x, t.fu, t.fd, t.b)))  # type: ignore[arg-type]
    want, codes = plain(case, t)
    y, _ = run(case, t, dtype)
    assert (y.double() - want).norm() <= bound * want.norm()
    want, _ = plain(case, t, codes)
    y, _ = run(case, t, dtype, True, mask_in=packed(codes, True))
    assert (y.double() - want).norm() <= bound * want.norm()


def test_product_filter() -> None:
    """A full filter that is a product of two is used as that."""
    case = replace(CASES["R"], fu=(4, 6))
    t = Inputs.of(case)
    t.fu = torch.tensor([1.0, 4, -2, 1])[:, None] * torch.tensor([2.0, 1, 0, -4, 8, 1])
    t.fd = torch.tensor([1.0, 2, -2, 1] * 3)[:, None] * torch.tensor([2.0, 1, 0, -4, 4, 1] * 2)
    want, codes = plain(case, t)
    y, mask = run(case, t, want_mask=True)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=0)
    assert mask is not None and torch.equal(mask, packed(codes, False))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["T", "T up 4", "R", "3 to 2", "x is not y", "offsets", "cropped", "tiles and bands"])
def test_adjoint(name: str, channels_last: bool) -> None:
    """<A x, v> = <x, A^T v> with one mask for both."""
    case = replace(CASES[name], bias=False)
    t = Inputs.of(case)
    back = case.transposed()
    assert back.transposed() == case if case.out else True
    v = Inputs(integers(back.shape, 8, 5), t.fd, t.fu, None)
    shape = (*case.shape[:2], case.mid[1], case.mid[0])
    mask = packed(torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(9), dtype=torch.uint8), channels_last)
    ax, _ = run(case, t, torch.float64, channels_last, mask_in=mask)
    atv, _ = run(back, v, torch.float64, channels_last, mask_in=mask)
    assert (ax * v.x).sum() == (t.x * atv).sum()  # integers and powers of two


def test_mirrored_filter() -> None:
    """Rows of a full filter that are the same from both ends, as a radial one's are, are summed before they are weighed."""
    case = CASES["R"]
    t = Inputs.of(case)
    assert t.fd is not None
    t.fd[6:] = t.fd[:6].flip(0)
    want, codes = plain(case, t)
    y, mask = run(case, t, want_mask=True)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=0)
    assert mask is not None and torch.equal(mask, packed(codes, False))
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-14)):  # nearly the same, as after rounding
        t.fd *= 1 + torch.finfo(dtype).eps * torch.rand(12, 12, generator=torch.Generator().manual_seed(1)).double()
        real = Inputs(torch.randn(case.shape, generator=torch.Generator().manual_seed(4)), t.fu, t.fd.to(dtype), t.b)
        want, _ = plain(case, real)
        y, _ = run(case, real, dtype)
        assert (y.double() - want).norm() <= bound * want.norm()


def test_nan_and_infinity() -> None:
    """They stay where they are, and the lanes beside them see nothing."""
    case = replace(CASES["T"], fu=(3,), fd=(3,))
    t = Inputs.of(case)
    t.fu, t.fd = torch.ones(3), torch.ones(3)
    t.x[0, 3, 4, 5] = float("nan")
    t.x[1, 2, 7, 7] = float("inf")
    want, codes = plain(case, t)
    for channels_last in (False, True):
        y, mask = run(case, t, channels_last=channels_last, want_mask=True)
        where = torch.zeros_like(want, dtype=torch.bool)
        where[0, 3], where[1, 2] = True, True
        torch.testing.assert_close(y.double()[~where], want[~where], rtol=0, atol=0)
        assert y[0, 3].isnan().any() and not y[0, 3].isnan().all()
        whole = case.mid[0] // 4  # bytes without bits to spare
        if not channels_last:
            assert mask is not None and torch.equal(mask[0, :3, :, :whole], packed(codes, False)[0, :3, :, :whole])


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["T", "R", "tiles and bands"])
def test_bits_do_not_depend_on_the_cut(name: str, channels_last: bool) -> None:
    """One thread or two, all planes at once or a few of them: the same bits."""
    case = CASES[name]
    t = Inputs.of(case)
    t.x = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    y, mask = run(case, t, channels_last=channels_last, want_mask=True)
    torch.set_num_threads(2)
    again, mask_again = run(case, t, channels_last=channels_last, want_mask=True)
    assert mask is not None and mask_again is not None
    assert torch.equal(y, again) and torch.equal(mask, mask_again)
    h, w = case.shape[2:]
    few = Inputs(t.x[-1:, -2:].clone(), t.fu, t.fd, None if t.b is None else t.b[-2:].clone())
    part, _ = run(replace(case, shape=(1, 2, h, w)), few, channels_last=channels_last)
    assert torch.equal(part, y[-1:, -2:])


def test_empty() -> None:
    case = replace(CASES["T"], shape=(0, 3, 18, 17))
    y, mask = run(case, Inputs.of(case), want_mask=True)
    assert y.shape == (0, 3, *case.size[::-1]) and mask is not None and mask.numel() == 0
    case = replace(CASES["T"], shape=(1, 3, 0, 5))  # nothing but borders
    want, codes = plain(case, Inputs.of(case))
    y, mask = run(case, Inputs.of(case), want_mask=True)
    assert torch.equal(y.double(), want) and mask is not None and torch.equal(mask, packed(codes, False))


def test_bad_input() -> None:
    case = CASES["T"]
    t = Inputs.of(case)
    with pytest.raises(RuntimeError, match="mask_in must be contiguous uint8"):
        run(case, t, mask_in=torch.zeros(2, 19, 36, 11, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="one number per channel"):
        run(case, Inputs(t.x, t.fu, t.fd, torch.zeros(4)))
    with pytest.raises(RuntimeError, match="fu must have taps"):
        run(case, Inputs(t.x, torch.zeros(0), t.fd, t.b))
    with pytest.raises(RuntimeError, match="up and down must be positive"):
        run(replace(case, up=(0, 1)), t)
    with pytest.raises(RuntimeError, match="not both"):
        run(case, t, mask_in=torch.zeros(2, 19, 36, 10, dtype=torch.uint8), want_mask=True)


@pytest.mark.skipif("GANKERN_CPU_LEVEL" in os.environ, reason="this is such a process")
@pytest.mark.parametrize("level", LEVELS)
def test_instruction_sets(level: str) -> None:
    if LEVELS.index(level) >= LEVELS.index(gankern.NATIVE.module.cpu_level()):
        pytest.skip("not below this machine's own")
    environment = {**os.environ, "GANKERN_CPU_LEVEL": level}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
