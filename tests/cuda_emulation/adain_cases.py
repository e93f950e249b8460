"""adain's kernels on rectangles, subsets of inputs and outputs, alignments and activations drawn at random, held to the
float64 formulas in NaN-filled memory. tests/ops/test_adain_kernels.py and test_adain_triton.py do chosen ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cuda_emulation import harness
from gankern._activations import activation_funcs
from gankern.ops.adain import configs
from gankern.ops.adain.reference import adain_composed, backward_composed, double_backward_composed

EPS = 0.1  # planes of two like pixels are ill-conditioned with less
LIMIT = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Cut:
    """How images are cut: layout, shape, pixels and channels of a rectangle; elements by which images are off 16 bytes."""

    channels_last: bool
    shape: tuple[int, int, int, int]
    pixel_chunk: int
    channel_chunk: int
    off: int = 0
    one_noise: bool = False  # for all samples


class Case:
    """Inputs of one cut. ``has``: whether there are scale, shift, noise, b, u and the cotangents of the first four.

    ``kernel``: gives the operator of a name (adain, adain_backward, adain_double_backward).
    """

    def __init__(
        self, kernel: Callable[[str], Any], cut: Cut, dtype: torch.dtype, settings: tuple[Any, ...], spatial: bool,
        has: tuple[bool, ...],
    ) -> None:  # fmt: skip
        self.kernel, self.cut, self.shape, self.dtype, self.spatial = kernel, cut, cut.shape, dtype, spatial
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.generator = torch.Generator().manual_seed(0)
        self.x, self.dy = (self.image(self.normal(*self.shape)) for _ in range(2))
        self.inputs: tuple[Any, ...] = self.optional(has[:4], 1 if cut.one_noise else self.shape[0])
        u = self.image(self.normal(*self.shape)) if has[4] or not any(has[5:9]) else None
        self.cotangents = (u, *self.optional(has[5:9], self.shape[0]))
        act, alpha, gain, pre_act, pre_alpha = settings
        index, pre_index = activation_funcs[act].index, activation_funcs[pre_act].index
        cut_into = (cut.channels_last, spatial, cut.pixel_chunk, cut.channel_chunk)
        self.tail = (*cut_into, index, alpha, gain, pre_index, pre_alpha, EPS)
        self.settings: tuple[Any, ...] = (act, alpha, gain, pre_act, pre_alpha, EPS)

    def optional(self, has: tuple[bool, ...], noise_samples: int) -> tuple[Any, ...]:
        """(scale, shift, noise, b) or the cotangents of these."""
        n, c, h, w = self.shape
        factors = [self.factor(self.normal(*(self.shape if self.spatial else (n, c)))) for _ in range(2)]
        made = (*factors, self.normal(noise_samples, 1, h, w).to(self.wide), self.normal(c).to(self.wide))
        return tuple(t if there else None for t, there in zip(made, has, strict=True))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def image(self, values: Tensor) -> Tensor:
        """An image with ``values`` in this layout and at this distance from 16 bytes."""
        memory = torch.channels_last if self.cut.channels_last else torch.contiguous_format
        values = values.to(self.dtype).contiguous(memory_format=memory)
        room = torch.empty(values.numel() + self.cut.off, dtype=self.dtype)
        return room.as_strided(self.shape, values.stride(), self.cut.off).copy_(values)

    def factor(self, values: Tensor) -> Tensor:
        return self.image(values) if self.spatial else values.to(self.wide)

    def unwritten(self, *shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=self.wide)

    def unwritten_image(self) -> Tensor:
        return self.image(torch.full(self.shape, torch.nan))

    def unwritten_factor(self) -> Tensor:
        return self.unwritten_image() if self.spatial else self.unwritten(*self.shape[:2])

    def scratch(self, name: str) -> list[Tensor]:
        n, c, h, w = self.shape
        partial = self.unwritten(n, -(-h * w // self.cut.pixel_chunk), configs.SUMS[name], c)
        count = configs.COEFFICIENTS[name]
        return [partial, self.unwritten(n, count, c)] if count else [partial]

    def gradients(self, wanted: tuple[bool, ...]) -> list[Tensor | None]:
        """(dx, dscale, dshift, dnoise_partial, db_partial), unwritten."""
        n, c, h, w = self.shape
        made = [self.unwritten_image(), self.unwritten_factor(), self.unwritten_factor()]
        made.append(self.unwritten(-(-c // self.cut.channel_chunk), n, 1, h, w))
        made.append(self.unwritten(n, -(-h * w // self.cut.pixel_chunk), c))
        return [t if want else None for t, want in zip(made, wanted, strict=True)]

    # ---- the kernels -------------------------------------------------------------------------------------------------
    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """(y, mean, rstd)."""
        y, mean, rstd = self.unwritten_image(), self.unwritten(*self.shape[:2]), self.unwritten(*self.shape[:2])
        self.kernel("adain")(self.x, *self.inputs, y, mean, rstd, *self.scratch("adain"), *self.tail)
        return y, mean, rstd

    def backward(self, mean: Tensor, rstd: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
        results, scratch = self.gradients(wanted), self.scratch("adain_backward")
        self.kernel("adain_backward")(self.dy, self.x, *self.inputs, mean, rstd, *results, *scratch, *self.tail)
        return results

    def double_backward(self, mean: Tensor, rstd: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
        results = [self.unwritten_image() if wanted[0] else None, *self.gradients(wanted[1:])]
        given = (*self.cotangents, self.dy, self.x, *self.inputs, mean, rstd)
        self.kernel("adain_double_backward")(*given, *results, *self.scratch("adain_double_backward"), *self.tail)
        return results

    # ---- what they must give -----------------------------------------------------------------------------------------
    def check(self, wanted: tuple[bool, ...]) -> None:
        """The three kernels against the float64 formulas; ``wanted``: of d_dy and the five gradients."""
        if not any(wanted[1:]):
            wanted = (True, True, *wanted[2:])
        x, dy, everything = self.x.double(), self.dy.double(), [True] * 6
        inputs: list[Any]
        cotangents: list[Any]
        inputs, cotangents = ([None if t is None else t.double() for t in ts] for ts in (self.inputs, self.cotangents))
        y, mean, rstd = self.forward()
        self.close(y, adain_composed(x, *inputs, *self.settings), "y")
        last: list[Any] = [x, *inputs, mean, rstd, *self.settings, self.spatial, everything]

        have, want = self.backward(mean, rstd, wanted[1:]), backward_composed(dy, *last)
        for got, expected, name in zip(have[:3], want[:3], ("dx", "dscale", "dshift"), strict=True):
            self.close(got, expected, name)
        self.sums(have[3], have[4], want[0], want, "first")

        have = self.double_backward(mean, rstd, wanted)
        twice = double_backward_composed(*[*cotangents, dy, *last])
        for got, expected, name in zip(have[:4], twice[:4], ("d_dy", "d_x", "d_scale", "d_shift"), strict=True):
            self.close(got, expected, name)
        self.sums(have[4], have[5], twice[1], twice, "second")

    def close(self, have: Tensor | None, want: Tensor, what: str) -> None:
        if have is None:
            return
        assert have.isfinite().all(), f"{what}: something was not written; {self}"
        error = (have.double() - want).abs().max().item()
        assert error <= LIMIT[self.dtype] * max(1.0, want.abs().max().item()), f"{what}: {error}; {self}"

    def sums(self, dnoise: Tensor | None, db: Tensor | None, of: Tensor, want: tuple[Tensor, ...], order: str) -> None:
        """Sums of ``of``: a term is itself a difference of numbers around 1, all with the errors of the same coefficients.

        They are in the wide type whatever the images are.
        """
        terms = of.abs() + 1
        for partial, dims, expected, size, name in (
            (dnoise, (0,), want[-2], terms.sum(1, keepdim=True), "noise"),
            (db, (0, 1), want[-1], terms.sum((0, 2, 3)), "bias"),
        ):
            if partial is None:
                continue
            have = partial.sum(dims).double()
            assert have.isfinite().all(), f"{order} order, {name}: something was not written; {self}"
            bound = LIMIT[self.wide] * expected.abs().clamp(min=1) + 2 * torch.finfo(self.wide).eps * size
            error = (have - expected).abs()
            assert (error <= bound).all(), f"{order} order, {name}: {error.max()}; {self}"

    def __repr__(self) -> str:
        there = [[t is not None for t in ts] for ts in (self.inputs, self.cotangents)]
        return f"{self.cut}, {self.dtype}, {self.settings}, spatial {self.spatial}, inputs {there[0]}, cotangents {there[1]}"


def fuzz(count: int, seed: int) -> Iterator[tuple[Case, tuple[bool, ...]]]:
    """Random cases, and which outputs are wanted of each."""
    draw = random.Random(seed)
    acts = ["linear", "relu", "lrelu", *activation_funcs]
    for _ in range(count):
        dtype = draw.choice([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64])
        n, c = draw.choice([1, 1, 2, 3]), draw.choice([1, 2, 3, 5, 8, 16, 17, 24, 40])
        h, w = draw.choice([1, 2, 3, 4, 7, 8, 16, 31, 40]), draw.choice([2, 3, 4, 5, 8, 9, 16, 32, 48])
        while n * c * h * w > 20000 and c > 1:
            c //= 2
        pixel_chunk = draw.choice([h * w, h * w, draw.randint(1, h * w), 8 * draw.randint(1, h * w // 8 + 1)])
        channel_chunk = draw.choice([1, c, draw.randint(1, c), 8])
        cut = Cut(draw.random() < 0.5, (n, c, h, w), pixel_chunk, channel_chunk, draw.choice([0, 0, 0, 1]), draw.random() < 0.3)
        settings = (draw.choice(acts), draw.choice([0.2, -0.3]), draw.choice([1.0, 1.4, -0.5]), draw.choice(acts), 0.2)
        likely = draw.choice([0.3, 0.7, 1.0])
        has, wanted = (tuple(draw.random() < likely for _ in range(k)) for k in (9, 6))
        kernel: Callable[[str], Any] = lambda name: getattr(torch.ops.gankern_native, f"{name}_cuda")  # noqa: E731
        yield Case(kernel, cut, dtype, settings, draw.random() < 0.4, has), wanted


def run_all(count: int, seed: int, orders: tuple[int, ...]) -> None:
    """``count`` random cases in changing orders of threads."""
    for i, (case, wanted) in enumerate(fuzz(count, seed)):
        harness.set_order(orders[i % len(orders)])
        case.check(wanted)
    harness.set_order()
