"""grad_norm_penalty against outside oracles (torch's vector_norm, hand-computed values, finite differences), at norms of 0 and
NaN, its accuracy, its seams and bad input."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from machine import HAS_GPU, INTERPRETED
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import ops
from gankern.ops.grad_norm_penalty import configs
from gankern.ops.grad_norm_penalty.reference import grad_norm_penalty_reference
from gankern.testing import assert_close

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_vector_norm(grad: Tensor, center: float, weight: float) -> Tensor:
    """By PyTorch's own."""
    return weight * (torch.linalg.vector_norm(grad, dim=tuple(range(1, grad.dim()))) - center) ** 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (4, 19), (2, 3, 4, 2, 3)])
@pytest.mark.parametrize("center, weight", [(0.0, 5.0), (1.0, 10.0), (7.5, 0.5), (-2.0, 1.0)])
def test_derivatives_against_vector_norm(
    center: float, weight: float, shape: tuple[int, ...], channels_last: bool, backend: str
) -> None:
    """To third order."""
    if channels_last and len(shape) != 4:
        pytest.skip("channels_last has 4 dimensions")
    grad = normal(shape, torch.float64)
    grad = grad.contiguous(memory_format=torch.channels_last) if channels_last else grad
    results = []
    with gankern.use_backend(backend):
        for function in (ops.grad_norm_penalty, by_vector_norm):
            leaf = grad.clone().requires_grad_()
            p = function(leaf, center, weight)
            (first,) = torch.autograd.grad(p.square().sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(first.pow(3).sum(), leaf, create_graph=True)
            (third,) = torch.autograd.grad(second.square().sum(), leaf)
            results.append((p, first, second, third))
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9 * float(right.detach().abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype: torch.dtype, backend: str) -> None:
    grad = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -0.5]], dtype=dtype, requires_grad=True)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with gankern.use_backend(backend):
        p = ops.grad_norm_penalty(grad)
        assert torch.equal(p, torch.tensor([25.0, 0.0, 0.25], dtype=wide))
        (gradient,) = torch.autograd.grad(p.sum(), grad)
        assert torch.equal(gradient, 2 * grad)
        p = ops.grad_norm_penalty(grad, 1.0, 10.0)
        assert torch.equal(p, torch.tensor([160.0, 10.0, 2.5], dtype=wide))
        (gradient,) = torch.autograd.grad(p, grad, torch.tensor([1.0, 1.0, 3.0], dtype=wide))
        torch.testing.assert_close(gradient, torch.tensor([[48.0, 64.0], [0.0, 0.0], [0.0, 30.0]], dtype=dtype))


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_finite_differences(center: float) -> None:
    grad = normal((2, 3, 2, 3), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: ops.grad_norm_penalty(g, center, 3.0), grad)
    assert torch.autograd.gradgradcheck(lambda g: ops.grad_norm_penalty(g, center, 3.0), grad)


# ---- norms that are 0, NaN, very small, very large -------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("center, slope", [(0.0, 6.0), (1.0, 0.0)])
def test_a_norm_of_zero(center: float, slope: float, backend: str) -> None:
    """Its subgradient is 0 in every order; without a center the penalty is a square, which has a second derivative."""
    grad = normal((3, 2, 3, 3), torch.float64)
    grad[1] = 0
    grad.requires_grad_()
    u = normal((3, 2, 3, 3), torch.float64, seed=1)
    with gankern.use_backend(backend):
        dp = torch.ones(3, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(ops.grad_norm_penalty(grad, center, 3.0), grad, dp, create_graph=True)
        second, of_dp = torch.autograd.grad(first, [grad, dp], u, create_graph=True)
        (third,) = torch.autograd.grad(second.square().sum() + of_dp.square().sum(), grad)
    assert torch.equal(first[1], torch.zeros_like(u[1])) and of_dp[1] == 0
    assert torch.equal(second[1], slope * u[1])
    assert torch.equal(third[1], torch.zeros_like(u[1]))
    assert (
        all(bool(t.isfinite().all()) for t in (first, second, of_dp, third)) and bool(first[0].any()) and bool(second[2].any())
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_nan_is_seen(center: float, backend: str) -> None:
    grad = normal((3, 2, 5, 5))
    grad[1, 0, 2, 2] = math.nan
    grad.requires_grad_()
    with gankern.use_backend(backend):
        p = ops.grad_norm_penalty(grad, center, 3.0)
        (gradient,) = torch.autograd.grad(p.sum(), grad)
    assert p.isnan().tolist() == [False, True, False]
    assert gradient.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert center == 0 or bool(gradient[1].isnan().all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [2.0**-52, 2.0**-30, 2.0**30, 2.0**52])
def test_small_and_large_norms(scale: float, backend: str) -> None:
    """As far as the squares are numbers of float32, so are the derivatives: nothing in between underflows."""
    given = normal((2, 3, 4, 4)) * scale
    results = []
    with gankern.use_backend(backend):
        for dtype in (torch.float32, torch.float64):
            function = ops.grad_norm_penalty if dtype == torch.float32 else by_vector_norm
            leaf = given.to(dtype).requires_grad_()
            p = function(leaf, 1.0, 10.0)
            (first,) = torch.autograd.grad(p.sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(first, leaf, normal(leaf.shape, seed=1).to(dtype))
            results.append((p, first, second))
    for what, mine, right in zip(("p", "first", "second"), *results, strict=True):
        assert_close(mine, right, factor=2.0, what=what)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_types_are_summed_in_float32(backend: str) -> None:
    with gankern.use_backend(backend):
        p = ops.grad_norm_penalty(torch.full((1, 3, 8, 8), 60000.0, dtype=torch.float16))
        torch.testing.assert_close(p, torch.tensor([192 * float(torch.tensor(60000.0).half()) ** 2]))
        p = ops.grad_norm_penalty(torch.full((1, 3, 8, 8), 1e30, dtype=torch.bfloat16), 1.0)
        assert p.tolist() == [math.inf]


# ---- sums ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["random", "constant", "offset"])
def test_an_image_of_1024(kind: str, backend: str) -> None:
    """3 million squares in float32, also where all roundings go one way."""
    grad = normal((1, 3, 1024, 1024))
    grad = torch.full_like(grad, 0.1) if kind == "constant" else grad + 3 if kind == "offset" else grad
    with gankern.use_backend(backend):
        found = ops.grad_norm_penalty(grad)
    truth = float(grad.double().square().sum())
    assert abs(float(found) - truth) <= 1e-6 * truth


@NATIVE
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_the_same_bits_for_any_number_of_threads(center: float) -> None:
    grad, u = normal((2, 3, 256, 300)), normal((2, 3, 256, 300), seed=1)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf, dp = grad.clone().requires_grad_(), torch.ones(2, requires_grad=True)
            with gankern.use_backend("cpu"):
                p = ops.grad_norm_penalty(leaf, center)
                (first,) = torch.autograd.grad(p, leaf, dp, create_graph=True)
                found.append((p, first, *torch.autograd.grad(first, [leaf, dp], u)))
    finally:
        torch.set_num_threads(threads)
    for run in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, found[0], strict=True))


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length(dtype: torch.dtype) -> None:
    """Around the vectors of every instruction set, the chains and blocks of the sum, and the pieces."""
    piece = configs.CPU.elements
    for inner in (1, 2, 3, 7, 9, 15, 16, 17, 31, 33, 63, 64, 65, 1023, 1025, 4097, piece - 1, piece, piece + 1, 2 * piece + 70):
        given, u = normal((2, inner), dtype, inner), normal((2, inner), dtype, 1)
        for center in (0.0, 1.5):
            found = []
            for function, exact in ((ops.grad_norm_penalty, False), (grad_norm_penalty_reference, False),
                                    (grad_norm_penalty_reference, True)):  # fmt: skip
                leaf = given.double() if exact else given.clone()
                leaf.requires_grad_()
                with gankern.use_backend("cpu"):
                    p = function(leaf, center, 2.0)
                    dp = torch.tensor([0.5, -2.0], dtype=p.dtype, requires_grad=True)
                    (first,) = torch.autograd.grad(p, leaf, dp, create_graph=True)
                    found.append((p, first, *torch.autograd.grad(first, [leaf, dp], u.to(leaf.dtype))))
            for what, mine, eager, truth in zip(("p", "dgrad", "d_grad", "d_dp"), *found, strict=True):
                assert_close(mine, truth, eager, inner**0.5 if what == "d_dp" else 2.0, f"{what} of {inner}, center {center}")


@pytest.mark.skipif(INTERPRETED or HAS_GPU, reason="only the emulation can choose the order of threads")
@pytest.mark.parametrize("inner", [5, 2047, 2048, 12296])
def test_cuda_gives_the_same_bits_in_any_order_of_threads(inner: int) -> None:
    """One piece and several, of whole vectors and not."""
    from cuda_emulation import harness

    if missing := harness.missing():
        pytest.skip(f"CUDA emulation: {missing}")
    harness.load()

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        grad, dp = normal((3, inner)).to(dtype).requires_grad_(), torch.ones(3, dtype=dtype, requires_grad=True)
        p = ops.grad_norm_penalty(grad, 2.0, 0.5)
        (first,) = torch.autograd.grad(p, grad, dp, create_graph=True)
        return p, first, *torch.autograd.grad(first, [grad, dp], normal((3, inner), seed=1).to(dtype))

    found = []
    try:
        with harness.install_rows(), gankern.use_backend("cuda"):
            for seed, threads in ((0, 1), (1, 1), (7, 2)):
                harness.set_order(seed, threads)
                found.append(run(torch.float32))
    finally:
        harness.set_order()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))
    with gankern.use_backend("reference"):
        truth = run(torch.float64)
    for what, mine, right in zip(("p", "dgrad", "d_grad", "d_dp"), found[0], truth, strict=True):
        assert_close(mine, right, factor=inner**0.5 if what == "d_dp" else 2.0, what=what)


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    grad = torch.zeros(2, (1 << 30) + 16, dtype=torch.bfloat16)
    assert grad.numel() > 2**31
    grad[0, 0], grad[1, 0], grad[1, -1] = 2, 3, 4
    p = ops.grad_norm_penalty(grad.requires_grad_(), 1.0)
    assert p.tolist() == [1, 16]
    (gradient,) = torch.autograd.grad(p.sum(), grad)
    found = [float(gradient[n, i]) for n in (0, 1) for i in (0, 1, -1)]
    assert found == [2, 0, 0, pytest.approx(4.8, rel=0.01), 0, pytest.approx(6.4, rel=0.01)]


def test_pieces() -> None:
    for backend in ("cpu", "cuda", "triton"):
        for samples in (1, 16, 1000):
            for inner in (1, 1000, 3 * 1024**2, 2**33 + 1):
                chunk = configs.chunk(backend, samples, inner)
                assert -(-inner // chunk) <= configs.MOST_PIECES and chunk % 16 == 0 and chunk < 2**30


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 3)])
def test_empty(shape: tuple[int, ...], backend: str) -> None:
    """A sample without numbers has the norm 0."""
    grad = torch.zeros(shape, requires_grad=True)
    with gankern.use_backend(backend):
        p = ops.grad_norm_penalty(grad, 2.0, 3.0)
        (gradient,) = torch.autograd.grad(p.sum(), grad)
    assert torch.equal(p, torch.full(shape[:1], 12.0)) and gradient.shape == shape


# ---- as penalties use it ---------------------------------------------------------------------------------------------------
class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "gankern":
            self.names[func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_a_penalty_trains_a_critic(center: float) -> None:
    """One forward and one backward, and the weights' gradients are those of plain PyTorch."""
    x, w = normal((3, 4, 6), torch.float64), normal((5, 24), torch.float64, seed=1)
    results = []
    for function in (ops.grad_norm_penalty, by_vector_norm):
        image, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        with Counting() as count:
            logits = (image.flatten(1) @ weight.t()).tanh().sum(1)
            (grad,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
            function(grad, center, 10.0).mean().backward()
        results.append((weight.grad, image.grad))
        if function is ops.grad_norm_penalty:
            assert count.names == {"grad_norm_penalty": 1, "grad_norm_penalty_backward": 1}
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)


def test_around_zero_the_second_derivative_is_backward_again() -> None:
    grad = normal((2, 3, 4, 4)).requires_grad_()
    with Counting() as count:
        (first,) = torch.autograd.grad(ops.grad_norm_penalty(grad).sum(), grad, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), grad)
    assert count.names == {"grad_norm_penalty": 1, "grad_norm_penalty_backward": 2}
    assert torch.equal(second, torch.full_like(second, 2.0))


@pytest.mark.parametrize(
    "args, error, words",
    [
        ((None,), TypeError, "grad must be a torch.Tensor"),
        ((torch.zeros(2, 3, dtype=torch.int64),), TypeError, "grad must be float32.*got int64"),
        ((torch.zeros(3),), ValueError, r"at least 2 dimensions, got 1: \[3\]"),
        ((torch.zeros(2, 3), "1"), TypeError, "center must be a real number, got '1'"),
        ((torch.zeros(2, 3), math.inf), ValueError, "center must be finite"),
        ((torch.zeros(2, 3), 1.0, True), TypeError, "weight must be a real number, got True"),
        ((torch.zeros(2, 3), 1.0, math.nan), ValueError, "weight must be finite"),
    ],
)
def test_bad_input(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ops.grad_norm_penalty(*args)
    with pytest.raises(error, match=words):
        grad_norm_penalty_reference(*args)
