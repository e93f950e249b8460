"""pixel_norm against torch's rms_norm, hand-computed values and finite differences; its cuts, seams and bad input."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import ops
from gankern.ops.pixel_norm import backends, configs
from gankern.ops.pixel_norm.reference import pixel_norm_reference
from gankern.testing import assert_close, compare

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def rms_norm(x: Tensor, dim: int, eps: float) -> Tensor:
    """By PyTorch's own, which normalises the last dimensions."""
    return F.rms_norm(x.movedim(dim, -1), (x.shape[dim],), eps=eps).movedim(-1, dim)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape, dim", [((2, 5, 3, 7), 1), ((2, 5, 3, 7), -1), ((2, 5, 3, 7), 0), ((4, 19), 1), ((2, 3, 4, 2, 3), 2)]
)
def test_derivatives_against_rms_norm(shape: tuple[int, ...], dim: int, channels_last: bool, backend: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if channels_last and x.dim() != 4:
        pytest.skip("channels_last has 4 dimensions")
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    results = []
    with gankern.use_backend(backend):
        for function in (ops.pixel_norm, rms_norm):
            leaf = x.clone().requires_grad_()
            y = function(leaf, dim, 1e-3)
            (first,) = torch.autograd.grad(y.pow(3).sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(first.pow(3).sum(), leaf, create_graph=True)
            (third,) = torch.autograd.grad(second.pow(2).sum(), leaf)
            results.append((y, first, second, third))
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    with gankern.use_backend(backend):
        y = ops.pixel_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 2.0]]))
        root = math.sqrt(12.5)
        torch.testing.assert_close(y, torch.tensor([[3 / root, 4 / root], [0, 0], [-1, 1]]))
        big = torch.full((1, 4, 2, 2), 3.0)
        torch.testing.assert_close(ops.pixel_norm(big, eps=16.0), torch.full_like(big, 0.6))


def test_finite_differences() -> None:
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: ops.pixel_norm(v, 1, 1e-2), x)
    assert torch.autograd.gradgradcheck(lambda v: ops.pixel_norm(v, 1, 1e-2), x)


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_of_rows_and_tiles(dtype: torch.dtype) -> None:
    """Around the vectors of every instruction set and the channels that are summed together."""
    generator = torch.Generator().manual_seed(0)
    for c in (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129):
        for pixels in (1, 2, 7, 16, 19, 33):
            x = torch.randn(2, c, 1, pixels, generator=generator, dtype=torch.float64).to(dtype)
            for laid in (x, x.contiguous(memory_format=torch.channels_last)):
                truth = pixel_norm_reference(x.double(), eps=0.5)
                eager = pixel_norm_reference(x, eps=0.5)
                with gankern.use_backend("cpu"):
                    assert_close(ops.pixel_norm(laid, eps=0.5), truth, eager, what=f"{c} channels, {pixels} pixels")


@NATIVE
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 1, 32), (300, 256, 64)])
def test_how_the_work_is_cut_does_not_change_a_bit(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 11, 9, 31, generator=torch.Generator().manual_seed(0))
    expected = [ops.pixel_norm(x), ops.pixel_norm(x.contiguous(memory_format=torch.channels_last))]
    monkeypatch.setattr(configs, "CPU", configs.Cpu(*sizes))
    assert torch.equal(ops.pixel_norm(x), expected[0])
    assert torch.equal(ops.pixel_norm(x.contiguous(memory_format=torch.channels_last)), expected[1])


@NATIVE
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_channels(channels_last: bool) -> None:
    """The error of a long sum stays within the tolerance of short ones."""
    x = torch.randn(2, 4099, 4, 9, generator=torch.Generator().manual_seed(0)) + 3
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    with gankern.use_backend("cpu"):
        found = compare(ops.pixel_norm(x), pixel_norm_reference(x.double()))
    assert found.ok, str(found)


def test_pieces_cover_an_image() -> None:
    for channels in (1, 3, 64, 512, 5000, 100_000):
        for inner in (1, 2, 16, 17, 1000, 65536):
            chunk = configs.chunk(4, channels, inner)
            assert chunk >= 1 and (inner == 1 or chunk <= max(inner, 16))
            if inner > 1024:
                assert chunk <= configs.CPU.pixels and chunk % 16 == 0
            for order in (0, 1, 2):
                pixels, deep = configs.tile(4, channels, inner, 4, order)
                assert pixels * deep <= max(configs.GPU.elements >> order, pixels)
                assert pixels & (pixels - 1) == 0 and deep & (deep - 1) == 0


def test_geometry_is_that_of_memory() -> None:
    x = torch.empty(2, 3, 5, 7)
    assert [backends.geometry(x, d) for d in range(4)] == [(1, 2, 105), (2, 3, 35), (6, 5, 7), (30, 7, 1)]
    last = x.contiguous(memory_format=torch.channels_last)
    assert [backends.geometry(last, d) for d in range(4)] == [(1, 2, 105), (70, 3, 1), (2, 5, 21), (10, 7, 3)]


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "gankern":
            self.names[func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


def test_a_penalty_on_a_linear_head_needs_backward_twice_and_no_more() -> None:
    """R1 on weights behind the layer asks for d/d dy alone: the Jacobian is symmetric, and backward's kernel does it."""
    x = torch.randn(3, 4, 2, 2)
    weight = torch.randn(3, 4, 2, 2, requires_grad=True)
    with Counting() as count:
        leaf = x.clone().requires_grad_()
        y = ops.pixel_norm(leaf * 1)
        (g,) = torch.autograd.grad((y * weight).sum(), leaf, create_graph=True)
        torch.autograd.grad(g.square().sum(), weight)
    assert count.names == {"pixel_norm": 1, "pixel_norm_backward": 2}


@pytest.mark.parametrize(
    "args, error, words",
    [
        (([1.0],), TypeError, "x must be a torch.Tensor, got list"),
        ((torch.ones(2, 3, dtype=torch.int64),), TypeError, "x must be float32.*got int64"),
        ((torch.tensor(1.0),), ValueError, "x must have at least one dimension"),
        ((torch.ones(3),), ValueError, r"dim must be in \[-1, 0\].*got 1"),
        ((torch.ones(2, 3), 2), ValueError, r"dim must be in \[-2, 1\]"),
        ((torch.ones(2, 3), 1.0), TypeError, "dim must be an int"),
        ((torch.ones(2, 3), True), TypeError, "dim must be an int"),
        ((torch.ones(2, 3), 1, 0.0), ValueError, "eps must be positive, got 0.0"),
        ((torch.ones(2, 3), 1, -1e-8), ValueError, "eps must be positive"),
        ((torch.ones(2, 3), 1, math.nan), ValueError, "eps must be finite"),
        ((torch.ones(2, 3), 1, "1"), TypeError, "eps must be a real number"),
    ],
)
def test_bad_input_is_named(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match="pixel_norm: " + words):
        ops.pixel_norm(*args)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 4, 2, 2), (2, 4, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    y = ops.pixel_norm(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert y.shape == x.shape == g.shape
