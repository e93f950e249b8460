"""filtered_lrelu's CUDA kernels at their seams: specialisations, phases, tile edges, masks, strides, large offsets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_emulation import harness

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
POSITIVE, NEGATIVE, CLAMPED = 0, 1, 2
# (up, down, which filter is full) of the compiled kernels.
PLANS = ((2, 2, ""), (4, 2, ""), (2, 4, ""), (1, 1, ""), (2, 2, "down"), (4, 2, "down"), (2, 2, "up"), (2, 4, "up"))


@dataclass
class Case:
    """Arguments of the native operator; pairs are (x, y)."""

    what: str
    x: Tensor = field(repr=False)
    channels_last: bool
    fu: Tensor | None = field(repr=False)
    fd: Tensor | None = field(repr=False)
    b: Tensor | None = field(repr=False)
    up: tuple[int, int]
    down: tuple[int, int]
    start: tuple[int, int]
    offset: tuple[int, int]
    mid: tuple[int, int]
    size: tuple[int, int]
    mode: str = "write"  # what is done with masks: "none", "write" or "read"
    flip: bool = False
    scale: float = 4.0
    gain: float = 2**0.5
    slope: float = 0.2
    clamp: float = -1.0
    shift: int = 0  # elements before the output in its memory


# ---- the definition, from csrc/filtered_lrelu/filtered_lrelu_params.h --------------------------------------------------------
def taps2d(f: Tensor | None, flip: bool) -> Tensor:
    """The taps as the formulas have them, [h, w] in float64."""
    if f is None:
        return torch.ones(1, 1, dtype=torch.float64)
    g = f.double()
    g = torch.outer(g, g) if g.dim() == 1 else g
    return g if flip else g.flip(0, 1)


def take(x: Tensor, axis: int, positions: Tensor, factor: int) -> Tensor:
    """x[position / factor] where that is a pixel, else 0."""
    pixel = positions.div(factor, rounding_mode="floor")
    exists = (positions % factor == 0) & (pixel >= 0) & (pixel < x.shape[axis])
    taken = x.index_select(axis, torch.where(exists, pixel, 0)) if x.shape[axis] else x
    shape = [1] * x.dim()
    shape[axis] = -1
    return torch.where(exists.reshape(shape), taken, 0.0)


def correlate(x: Tensor, g: Tensor, stride: Sequence[int]) -> Tensor:
    """Of every channel."""
    n, c, h, w = x.shape
    y = F.conv2d(x.reshape(n * c, 1, h, w), g[None, None], stride=tuple(stride))
    return y.reshape(n, c, *y.shape[2:])


def before(case: Case, x: Tensor, b: Tensor | None, g: Tensor) -> Tensor:
    """The image before the activation function."""
    z = x if b is None else x + b[:, None, None]
    for axis, i in ((3, 0), (2, 1)):
        z = take(z, axis, torch.arange(case.mid[i] + g.shape[1 - i] - 1) - case.start[i], case.up[i])
    return correlate(z, g, (1, 1)) * case.scale


def after(case: Case, a: Tensor, g: Tensor) -> Tensor:
    """The output from the image behind the activation function."""
    for axis, i in ((3, 0), (2, 1)):
        numbers = (case.size[i] - 1) * case.down[i] + g.shape[1 - i]
        a = take(a, axis, torch.arange(numbers) + case.offset[i], 1)
    return correlate(a, g, (case.down[1], case.down[0]))


def unpack(mask: Tensor, case: Case) -> Tensor:
    """Codes [N, C, H, W], those beyond the last number included."""
    codes = torch.stack([mask >> 2 * i & 3 for i in range(4)], -1).flatten(-2)
    return codes.permute(0, 3, 1, 2) if case.channels_last else codes


def pack(codes: Tensor, case: Case) -> Tensor:
    """The mask of codes, with 1 bits beyond the last number, which kernels have to ignore."""
    codes = codes.permute(0, 2, 3, 1) if case.channels_last else codes
    codes = F.pad(codes, (0, -codes.shape[-1] % 4), value=3).unflatten(-1, (-1, 4))
    return torch.stack([codes[..., i] << 2 * i for i in range(4)]).sum(0).to(torch.uint8)


def run(case: Case) -> None:
    """The kernel against the definition in float64, on an output and a mask full of ones that begin within their memory."""
    x, (n, c) = case.x, case.x.shape[:2]
    generator = torch.Generator().manual_seed(len(case.what))
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    like = torch.empty(n, c, case.size[1], case.size[0], dtype=x.dtype).contiguous(memory_format=memory_format)
    memory = torch.full((like.numel() + case.shift + 8,), float("nan"), dtype=x.dtype)
    y = memory.as_strided(like.shape, like.stride(), case.shift)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    fu, fd, b = (None if t is None else t.to(wide) for t in (case.fu, case.fd, case.b))
    groups = -(-(c if case.channels_last else case.mid[0]) // 4)
    shape = (n, case.mid[1], case.mid[0], groups) if case.channels_last else (n, c, case.mid[1], groups)
    codes = torch.randint(0, 3, (n, c, case.mid[1], case.mid[0]), generator=generator)
    mask_in = pack(codes, case) if case.mode == "read" else None
    guarded = torch.full((torch.Size(shape).numel() + 128,), 0xFF, dtype=torch.uint8)
    mask_out = guarded[64:-64].view(shape) if case.mode == "write" else None
    torch.ops.gankern_native.filtered_lrelu_cuda(
        x, fu, fd, b, mask_in, mask_out, y, case.channels_last, *case.up, *case.down, *case.start, *case.offset,
        case.mid[1], case.mid[0], case.flip, case.scale, case.gain, case.slope, case.clamp,
    )  # fmt: skip

    gu, gd = taps2d(fu, case.flip), taps2d(fd, case.flip)
    t = before(case, x.double(), None if b is None else b.double(), gu)
    wide_t = before(case, x.double().abs(), None if b is None else b.double().abs(), gu.abs()).abs()
    where = f"{case.what}: x {tuple(x.shape)} {x.stride()} {x.dtype}, fu {tuple(gu.shape)}, fd {tuple(gd.shape)}, {case}"
    factors = torch.tensor([case.gain, case.gain * case.slope, 0.0], dtype=torch.float64)
    if case.mode == "read":
        a, bound = factors[codes] * t, factors.abs()[codes] * wide_t
    else:
        a = factors[(t <= 0).long()] * t
        clamped = a.abs() > case.clamp if case.clamp >= 0 else torch.zeros_like(a, dtype=torch.bool)
        expected_codes = torch.where(clamped, CLAMPED, torch.where(t <= 0, NEGATIVE, POSITIVE))
        near = TOLERANCE[wide] * wide_t.amax()  # numbers so near to an edge that rounding decides
        unsure = (t.abs() <= near) & (wide_t > 0)
        if case.clamp >= 0:
            unsure |= (a.abs() - case.clamp).abs() <= near * case.gain
            a = a.clamp(-case.clamp, case.clamp)
        bound = wide_t * case.gain
    expected = after(case, a, gd)
    size = after(case, bound, gd.abs()).amax().clamp(min=1e-30)
    bad = ~((y.double() - expected).abs() / size <= TOLERANCE[x.dtype])
    assert not bad.any(), (
        f"{int(bad.sum())} of {bad.numel()} outputs wrong, the first at {bad.nonzero()[0].tolist()}, "
        f"{int(y.isnan().sum())} NaN, {where}"
    )
    assert memory[: case.shift].isnan().all() and memory[-8:].isnan().all(), f"wrote outside of y, {where}"
    if mask_out is not None:
        found = unpack(mask_out, case)
        wrong = (found[:, :c, :, : case.mid[0]] != expected_codes) & ~unsure
        assert not wrong.any(), (
            f"{int(wrong.sum())} of {wrong.numel()} codes wrong, the first at {wrong.nonzero()[0].tolist()}, {where}"
        )
        assert unsure.double().mean() < 0.2, f"too few codes were looked at, {where}"
        assert not found[:, c:].any() and not found[..., case.mid[0] :].any(), f"codes beyond the last number, {where}"
        assert (guarded[:64] == 0xFF).all() and (guarded[-64:] == 0xFF).all(), f"wrote outside of the mask, {where}"


# ---- cases ------------------------------------------------------------------------------------------------------------------
def image(
    shape: Sequence[int], dtype: torch.dtype, channels_last: bool, generator: torch.Generator, view: str = "whole"
) -> Tensor:
    """Random numbers; with another view a part of an image that is NaN elsewhere."""
    n, c, h, w = shape
    vector = 16 // dtype.itemsize
    extra = {"whole": (0, 0, 0, 0), "cut": (0, vector, 2, vector), "odd": (1, 1, 1, 3)}[view]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    sizes = [a + b for a, b in zip(shape, extra, strict=True)]
    memory = torch.full(sizes, float("nan"), dtype=dtype).contiguous(memory_format=memory_format)
    first = extra[3] // 2 if view == "odd" else 0
    x = memory[:n, extra[1] : extra[1] + c, extra[2] // 2 : extra[2] // 2 + h, first : first + w]
    return x.copy_(torch.randn(shape, generator=generator, dtype=torch.float64))


def forward(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int], pad: Sequence[int]
) -> dict[str, Any]:
    """What the operator's forward makes of padding [x0, x1, y0, y1]."""
    sizes = []
    for i in (0, 1):
        taps = [1 if f is None else f.shape[-1 - i] if f.dim() == 2 else len(f) for f in (fu, fd)]
        numbers = x.shape[3 - i] * up[i] + pad[2 * i] + pad[2 * i + 1] - (taps[0] - 1)
        out = (numbers - (taps[1] - 1) + down[i] - 1) // down[i]
        sizes.append((out, (out - 1) * down[i] + taps[1]))
    return {
        "up": tuple(up), "down": tuple(down), "start": (pad[0], pad[2]), "offset": (0, 0),
        "size": tuple(s[0] for s in sizes), "mid": tuple(s[1] for s in sizes), "scale": float(up[0] * up[1]),
    }  # fmt: skip


def specialisations() -> Iterator[Case]:
    """Every compiled kernel at each of its phases, beyond a tile, with masks written and read or without."""
    generator = torch.Generator().manual_seed(0)
    for number, (up, down, full) in enumerate(PLANS):
        for channels_last in (False, True):
            for phase in range(max(up, 2)):
                dtype = DTYPES[(number + phase + channels_last) % 3]
                taps = [1 if factor == 1 else 6 * factor for factor in (up, down)]
                fu, fd = (torch.randn(k, generator=generator, dtype=torch.float64).float() for k in taps)
                if full == "up":
                    fu = torch.randn(taps[0], taps[0], generator=generator)
                if full == "down":
                    fd = torch.randn(taps[1], taps[1], generator=generator)
                c = (8, 11, 16, 3)[phase] if channels_last else (5, 4, 3, 6)[phase]
                outs = (21, 19) if channels_last else (37, 18)
                h, w = (-(-n * down // up) for n in reversed(outs))
                x = image((1 + phase % 2, c, h, w), dtype, channels_last, generator)
                pad = [taps[0] - 1 + phase, taps[1], taps[0] + 1 - phase, taps[1] - 1]
                rest = forward(x, fu, fd, (up, up), (down, down), pad)
                b = torch.randn(c, generator=generator) if phase % 2 else None
                for mode in ("none", "write", "read"):
                    if full == "up" and mode == "write" and phase:
                        continue  # the generic kernel's
                    what = f"up {up} down {down} full {full or 'none'}, phase {phase}, {mode}"
                    masks = dict(rest)
                    if mode == "read":  # as a derivative: the intermediate image is cut on both sides, or does not reach
                        masks["offset"] = (-3 + phase, 2 - 3 * phase)
                        masks["mid"] = (rest["mid"][0] - 3, rest["mid"][1] - 4 + phase)
                    clamp = -1.0 if phase % 2 else 1.5
                    yield Case(what, x, channels_last, fu, fd, b, mode=mode, clamp=clamp, flip=bool(phase & 1), **masks)


def fuzz(count: int, seed: int) -> Iterator[Case]:
    """Random shapes, factors, offsets, taps, strides and alignments; whatever lies outside of a view is NaN."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for i in range(count):
        dtype = draw.choice([*DTYPES, *DTYPES, torch.float64])
        up, down, full = draw.choice([*PLANS, (0, 0, draw.choice(["", "up", "down", "both"]))])
        ups = (up, up) if up else (draw.randint(1, 5), draw.randint(1, 5))
        downs = (down, down) if up else (draw.randint(1, 5), draw.randint(1, 5))
        channels_last = draw.random() < 0.5
        c = draw.choice([8, 16, 11, 3, 5, 1]) if channels_last else draw.choice([1, 2, 3, 5])
        n = draw.choice([1, 1, 2])
        h, w = (draw.choice([1, 2, 3, 5, 9, 14, 20]) for _ in range(2))
        fs: list[Tensor | None] = []
        for factor, role in ((up, "up"), (down, "down")):
            most = 6 * factor if factor > 1 else draw.choice([1, 3, 9]) if factor else 9
            exact = factor > 1 and draw.random() < 0.5
            kw, kh = (most, most) if exact else (draw.randint(1, most), draw.randint(1, most))
            shape = (kh, kw) if full in (role, "both") else (kw,)
            fs.append(None if draw.random() < 0.07 else torch.randn(shape, generator=generator, dtype=torch.float64))
        fu, fd = fs
        x = image((n, c, h, w), dtype, channels_last, generator, draw.choice(["whole", "whole", "cut", "odd"]))
        pad = [draw.randint(-3, 14) for _ in range(4)]
        for j in (0, 1):  # leave at least one output
            taps = [1 if f is None else f.shape[-1 - j] if f.dim() == 2 else len(f) for f in fs]
            pad[2 * j + 1] += max(0, sum(taps) - 1 - (x.shape[3 - j] * ups[j] + pad[2 * j] + pad[2 * j + 1]))
        rest = forward(x, fu, fd, ups, downs, pad)
        rest["scale"] *= draw.choice([1.0, 1.0, 0.3])
        mode = draw.choice(["none", "write", "write", "read", "read"])
        if mode == "read":
            rest["mid"] = tuple(max(1, m + draw.randint(-6, 9)) for m in rest["mid"])
            rest["offset"] = tuple(draw.randint(-7, 7) for _ in range(2))
        b = torch.randn(c, generator=generator) if draw.random() < 0.5 else None
        yield Case(
            f"fuzz {seed}/{i}", x, channels_last, fu, fd, b, mode=mode, flip=draw.random() < 0.5,
            gain=draw.choice([2**0.5, 1.0]), slope=draw.choice([0.2, 0.0, 1.0]), clamp=draw.choice([-1.0, 2.0, 0.4]),
            shift=draw.choice([0, 0, 0, 1, 2]), **rest,
        )  # fmt: skip


def large_offsets() -> None:
    """Images more than 2^31 elements apart, in memory that is reserved but hardly touched, and factors beyond 32 bits."""
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(12, generator=generator)
    far = 2**31 + 64
    for channels_last in (False, True):
        shape, inner = (2, 8, 6, 10), (1, 80, 8) if channels_last else (60, 10, 1)
        x = torch.empty(far + 2000, dtype=torch.float16).as_strided(shape, (far, *inner))
        x.copy_(torch.randn(shape, generator=generator))
        y = torch.empty(far + 2000, dtype=torch.float16).as_strided(shape, (far, *inner))
        for up, down in (((2, 2), (2, 2)), ((3, 2), (3, 2))):  # a compiled kernel, and the generic one
            y.fill_(float("nan"))
            rest = forward(x, f, f, up, down, [11, 11, 11, 11])
            case = Case("", x, channels_last, f, f, None, mode="none", **rest)
            torch.ops.gankern_native.filtered_lrelu_cuda(
                x, f, f, None, None, None, y, channels_last, *up, *down, 11, 11, 0, 0, case.mid[1], case.mid[0],
                False, case.scale, 1.0, 0.2, -1.0,
            )  # fmt: skip
            t = before(case, x.double(), None, taps2d(f, False))
            expected = after(case, torch.where(t > 0, t, 0.2 * t), taps2d(f, False))
            assert ((y - expected).abs() <= 1e-3 * expected.abs().amax()).all(), f"large offsets, {up}, {channels_last}"
    # Of a row of two pixels 2^33 apart all but the neighbourhood of the second one is cut away.
    big, f = 2**33, torch.randn(5, generator=generator)
    x, y = torch.randn(1, 1, 3, 2, generator=generator), torch.full((1, 1, 5, 8), float("nan"))
    torch.ops.gankern_native.filtered_lrelu_cuda(
        x, f, None, None, None, None, y, False, big, 2, 1, 1, 6 - big, 3, 0, 0, 5, 8, False, 1.0, 1.0, 0.2, -1.0
    )
    case = Case("", x, False, f, None, None, (16, 2), (1, 1), (6, 3), (0, 0), (8, 5), (8, 5), scale=1.0)
    t = before(case, x[..., 1:].double(), None, taps2d(f, False))
    assert torch.allclose(y.double(), torch.where(t > 0, t, 0.2 * t), atol=1e-5), "huge factor"


def run_all(count: int, seed: int, orders: tuple[int, ...], every: int = 1) -> None:
    """The specialisations (every n-th), then `count` random cases, in changing orders of threads."""
    for i, case in enumerate([*list(specialisations())[::every], *fuzz(count, seed)]):
        harness.set_order(orders[i % len(orders)])
        run(case)
    harness.set_order()
