"""spectral_norm against torch's parametrization, the singular value decomposition and finite differences; and its bad input."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import nn, ops
from gankern.ops.spectral_norm import backends
from gankern.ops.spectral_norm.arguments import matrix, order, permuted, restored
from gankern.ops.spectral_norm.reference import spectral_norm_reference

ROWS = ["aten", "reference"]


def layers() -> list[tuple[str, torch.nn.Module]]:
    torch.manual_seed(0)
    return [
        ("linear", torch.nn.Linear(5, 7)),
        ("conv", torch.nn.Conv2d(4, 6, 3)),
        ("channels_last", torch.nn.Conv2d(4, 6, (3, 2)).to(memory_format=torch.channels_last)),
        ("transposed", torch.nn.ConvTranspose2d(4, 6, (3, 2))),
        ("volume", torch.nn.Conv3d(2, 3, 2)),
        ("embedding", torch.nn.Embedding(9, 4)),
    ]


def ours(layer: torch.nn.Module, reference: bool, **settings: Any) -> torch.nn.Module:
    return nn.SpectralNorm.on(layer, reference=reference, **settings)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("name, layer", layers(), ids=lambda v: v if isinstance(v, str) else "")
def test_equals_torch_from_call_to_call(name: str, layer: torch.nn.Module, iterations: int, row: str) -> None:
    """Buffers, weights and derivatives, in training, evaluation and training again."""
    layer = layer.double()
    settings = {"n_power_iterations": iterations}
    right = torch_spectral_norm(copy.deepcopy(layer), **settings)
    mine = ours(copy.deepcopy(layer), row == "reference", **settings)
    mine.load_state_dict(right.state_dict())
    with gankern.use_backend(row):
        for training in (True, True, False, False, True):
            results = []
            for module in (mine, right):
                module.train(training)
                leaf = module.parametrizations.weight.original  # type: ignore[union-attr]
                y = module.weight
                (first,) = torch.autograd.grad(y.pow(3).sum(), leaf, create_graph=True)
                (second,) = torch.autograd.grad(first.pow(3).sum(), leaf)
                p = module.parametrizations.weight[0]  # type: ignore[index]
                results.append((y, first, second, p._u.clone(), p._v.clone()))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", ROWS)
def test_eps_bounds_the_lengths(row: str) -> None:
    """Vectors shorter than eps are divided by eps, and sigma is not the length of W^T u then."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 7).double()
    right = torch_spectral_norm(copy.deepcopy(layer))
    mine = ours(copy.deepcopy(layer), row == "reference")
    mine.load_state_dict(right.state_dict())
    parametrizations: Any = [m.parametrizations.weight[0] for m in (mine, right)]  # type: ignore[index,union-attr]
    for p in parametrizations:
        p.eps = 3.0
    with gankern.use_backend(row):
        torch.testing.assert_close(mine.weight, right.weight)
    torch.testing.assert_close(parametrizations[0]._v, parametrizations[1]._v)
    assert parametrizations[0]._v.norm() < 0.5


def test_finds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    weight, u, v = torch.randn(6, 9).double(), torch.randn(6).double(), torch.randn(9).double()
    y = ops.spectral_norm(weight, u, v, n_power_iterations=500)
    torch.testing.assert_close(torch.linalg.matrix_norm(y, 2), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(weight / y, torch.linalg.matrix_norm(weight, 2).expand(6, 9))
    torch.testing.assert_close(u.norm(), torch.tensor(1.0, dtype=torch.float64))


def started(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, dim: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = shape[dim]
    sizes = (shape, (rows,), (math.prod(shape) // rows,))
    weight, u, v = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)
    spectral_norm_reference(weight, u, v, dim, 5)
    return weight, u, v


def test_finite_differences() -> None:
    weight, u, v = started((3, 2, 2, 2))

    def function(w: Tensor) -> Tensor:
        return ops.spectral_norm(w, u, v, n_power_iterations=0)

    weight.requires_grad_()
    assert torch.autograd.gradcheck(function, weight)
    assert torch.autograd.gradgradcheck(function, weight)


def test_third_derivative() -> None:
    weight, u, v = started((3, 4))
    found = []
    for function in (ops.spectral_norm, spectral_norm_reference):
        leaf = weight.clone().requires_grad_()
        value = function(leaf, u, v, 0, 0).pow(3).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = g.pow(2).sum()
        found.append(g)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_weights_iterate_in_float32(dtype: torch.dtype) -> None:
    weight, u, v = started((6, 4, 3, 3), dtype)
    others = u.clone(), v.clone()
    y = ops.spectral_norm(weight, u, v)
    assert y.dtype == u.dtype == v.dtype == dtype
    right = spectral_norm_reference(weight, *others)
    for a, b in ((y, right), (u, others[0]), (v, others[1])):
        # A rounding of u that falls the other way moves all of v.
        torch.testing.assert_close(a, b, rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_two_calls_before_one_backward() -> None:
    """The second moves u and v, of which the first keeps its own: D(real) - D(fake)."""
    layer = ours(torch.nn.Conv2d(3, 4, 3), False)
    for training in (True, False):
        layer.train(training)
        x = torch.randn(2, 3, 5, 5)
        first = layer(x).sum()
        layer.train()
        (first - layer(2 * x).sum()).backward()


def test_autocast_leaves_it_alone() -> None:
    weight, u, v = started((6, 4, 3, 3), torch.float32)
    weight.requires_grad_()
    results = []
    for enabled in (False, True):
        a, b = u.clone(), v.clone()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = ops.spectral_norm(weight, a, b)
            (g,) = torch.autograd.grad(y.pow(2).sum(), weight)
        results.append((y, g, a, b))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_compiles_with_its_iteration() -> None:
    weight, u, v = started((6, 4, 3, 3))
    weight.requires_grad_()
    results = []
    for function in (ops.spectral_norm, torch.compile(ops.spectral_norm, fullgraph=True, backend="aot_eager")):
        a, b = u.clone(), v.clone()
        y = function(weight, a, b)
        (g,) = torch.autograd.grad(y.pow(2).sum(), weight)
        results.append((y, g, a, b))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_opcheck_of_its_operators() -> None:
    weight, u, v = started((6, 4, 3, 3), torch.float32)
    weight.requires_grad_()
    arguments = (weight, *backends.iterate(weight, u, v, 0, 1, 1e-12), 0)
    torch.library.opcheck(torch.ops.gankern.spectral_norm.default, arguments)
    dy = torch.randn_like(weight, requires_grad=True)
    torch.library.opcheck(torch.ops.gankern.spectral_norm_backward.default, (dy, *arguments, [True]))


class Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_two_products_a_step_and_no_copy_of_the_weight(memory_format: torch.memory_format) -> None:
    weight, u, v = started((6, 4, 3, 3), torch.float32)
    weight = weight.contiguous(memory_format=memory_format)
    with Products() as seen:
        ops.spectral_norm(weight, u, v)
    assert seen.names.count("mv") == 2
    axes = order(weight, 0)
    assert matrix(weight, axes).data_ptr() == weight.data_ptr()
    assert torch.equal(restored(permuted(v, weight.shape, axes), weight.shape, axes), v)
    torch.testing.assert_close(
        matrix(weight, axes) @ permuted(v, weight.shape, axes), weight.reshape(6, -1) @ v, rtol=1e-5, atol=1e-5
    )


W, U, V = torch.ones(3, 4), torch.ones(3), torch.ones(4)


@pytest.mark.parametrize(
    "args, error, words",
    [
        (([1.0], U, V), TypeError, "weight must be a torch.Tensor"),
        ((W.int(), U, V), TypeError, "weight must be float32.*got int32"),
        ((U, U, V), ValueError, "weight must have at least 2 dimensions"),
        ((W, V, V), ValueError, r"u must have shape \[3\].*got \[4\]"),
        ((W, U, U), ValueError, r"v must have shape \[4\].*got \[3\]"),
        ((W, U.int(), V), TypeError, "u must be a floating-point"),
        ((W, None, V), TypeError, "u must be a floating-point.*NoneType"),
        ((W, U, V, 2), ValueError, r"dim must be in \[-2, 1\]"),
        ((W, U, V, 0.0), TypeError, "dim must be an int"),
        ((W, U, V, 0, -1), ValueError, "n_power_iterations must not be negative"),
        ((W, U, V, 0, 1.0), TypeError, "n_power_iterations must be an int"),
        ((W, U, V, 0, 1, 0.0), ValueError, "eps must be positive"),
    ],
)
def test_bad_input_is_named(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match="spectral_norm: " + words):
        ops.spectral_norm(*args)
