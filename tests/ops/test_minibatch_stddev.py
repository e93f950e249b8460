"""minibatch_stddev against a loop over groups, hand-computed values and finite differences; layouts, copies and bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import ops

ROWS = ["aten", "reference"]


def by_loops(x: Tensor, group_size: int, num_channels: int) -> Tensor:
    """Sample by sample, from the words of the docstring."""
    n, c, h, w = x.shape
    group = max(g for g in range(1, group_size + 1) if n % g == 0)
    groups = n // group
    extra = []
    for i in range(n):
        members = x[i % groups :: groups]
        assert len(members) == group
        s = (members.var(0, unbiased=False) + 1e-8).sqrt()
        values = [part.mean() for part in s.split(c // num_channels)]
        extra.append(torch.stack([v.expand(h, w) for v in values]))
    return torch.cat([x, torch.stack(extra)], 1)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape, group_size, num_channels",
    [
        ((8, 6, 3, 4), 4, 1),
        ((8, 6, 3, 4), 4, 3),
        ((6, 4, 2, 3), 4, 2),
        ((7, 3, 2, 2), 4, 1),
        ((4, 4, 3, 3), 2, 2),
        ((9, 2, 1, 1), 9, 1),
    ],
)
def test_against_loops(shape: Any, group_size: int, num_channels: int, channels_last: bool, row: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    results = []
    with gankern.use_backend(row):
        for function in (ops.minibatch_stddev, by_loops):
            leaf = x.clone().requires_grad_()
            y = function(leaf, group_size, num_channels)
            (first,) = torch.autograd.grad(y.pow(3).sum(), leaf, create_graph=True)
            # Of a pair the second derivative of sqrt(d^2 + eps) is all rounding.
            second = torch.autograd.grad(first.pow(3).sum(), leaf) if group_size > 2 else ()
            results.append((y, first, *second))
    assert results[0][0].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9)


def test_by_hand() -> None:
    x = torch.tensor([1.0, 10.0, 3.0, 10.0]).reshape(4, 1, 1, 1)  # groups (0, 2) and (1, 3) of two
    y = ops.minibatch_stddev(x, 2)
    torch.testing.assert_close(y[:, 1].flatten(), torch.tensor([1.0, 1e-4, 1.0, 1e-4]))
    assert torch.equal(y[:, :1], x)
    alone = ops.minibatch_stddev(torch.randn(1, 4, 2, 2))
    torch.testing.assert_close(alone[:, 4:], torch.full((1, 1, 2, 2), 1e-4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    """In float16 the 1e-8 would be 0, and the gradient of equal samples not a number."""
    x = torch.ones(4, 2, 2, 2, dtype=dtype, requires_grad=True)
    y = ops.minibatch_stddev(x)
    torch.testing.assert_close(y[:, 2:], torch.full((4, 1, 2, 2), 1e-4, dtype=dtype))
    (g,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == g.dtype == dtype and torch.equal(g, torch.ones_like(x))


def test_finite_differences() -> None:
    x = torch.randn(6, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: ops.minibatch_stddev(v, 3, 2), x)
    assert torch.autograd.gradgradcheck(lambda v: ops.minibatch_stddev(v, 3, 2), x)


def test_third_derivative() -> None:
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for function in (ops.minibatch_stddev, by_loops):
        leaf = x.clone().requires_grad_()
        value = function(leaf, 4, 1).pow(3).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = g.pow(2).sum()
        found.append(g)
    torch.testing.assert_close(*found)


def test_x_is_copied_once() -> None:
    """Into the output; there is no concatenation."""

    class Large(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.numel() >= 8 * 6 * 16 and not func.is_view and func.namespace == "aten":
                self.names.append(func._schema.name)
            return out

    x = torch.randn(8, 6, 4, 4)
    from gankern.ops.minibatch_stddev import backends

    with Large() as large:
        backends.FORWARD.row("aten").run(x, 4, 1)  # type: ignore[union-attr]
    assert large.names.count("aten::copy_") == 1 and large.names[0] == "aten::empty"
    assert not {"aten::cat", "aten::clone", "aten::repeat"} & set(large.names)


def test_empty_batch() -> None:
    x = torch.empty(0, 4, 3, 2, requires_grad=True)
    y = ops.minibatch_stddev(x)
    assert y.shape == (0, 5, 3, 2)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize(
    "args, error, words",
    [
        (("x",), TypeError, "x must be a torch.Tensor"),
        ((torch.ones(2, 3),), ValueError, "x must have 4 dimensions"),
        ((torch.ones(2, 3, 4, 4, dtype=torch.int32),), TypeError, "x must be float32.*got int32"),
        ((torch.ones(2, 3, 4, 4), 0), ValueError, "group_size must be at least 1, got 0"),
        ((torch.ones(2, 3, 4, 4), -4), ValueError, "group_size must be at least 1"),
        ((torch.ones(2, 3, 4, 4), 2.0), TypeError, "group_size must be an int"),
        ((torch.ones(2, 3, 4, 4), math.inf), TypeError, "group_size must be an int"),
        ((torch.ones(2, 3, 4, 4), 4, 0), ValueError, "num_channels must be at least 1"),
        ((torch.ones(2, 3, 4, 4), 4, 2), ValueError, "num_channels must divide the channels of x, got 2 for 3 channels"),
        ((torch.ones(2, 3, 0, 4),), ValueError, "x must have at least one pixel"),
    ],
)
def test_bad_input_is_named(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match="minibatch_stddev: " + words):
        ops.minibatch_stddev(*args)
