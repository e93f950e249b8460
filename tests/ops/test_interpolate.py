"""interpolate against outside oracles (torch's lerp, hand-computed values, finite differences), its seams and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from machine import HAS_GPU, INTERPRETED
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import ops
from gankern.ops.interpolate import configs
from gankern.ops.interpolate.reference import interpolate_reference
from gankern.testing import assert_close, compare

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(real, fake, eps)."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return real, fake, torch.rand(shape[0], generator=generator, dtype=torch.float64).to(wide)


def lerp(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """By PyTorch's own."""
    return torch.lerp(fake, real, eps.reshape(-1, *(1,) * (real.dim() - 1)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (4, 19), (5,), (2, 3, 4, 2, 3)])
def test_derivatives_against_lerp(shape: tuple[int, ...], channels_last: bool, backend: str) -> None:
    """To third order, in all arguments at once."""
    if channels_last and len(shape) != 4:
        pytest.skip("channels_last has 4 dimensions")
    given = images(shape, torch.float64)
    if channels_last:
        given = (*(t.contiguous(memory_format=torch.channels_last) for t in given[:2]), given[2])
    results = []
    with gankern.use_backend(backend):
        for function in (ops.interpolate, lerp):
            leaves = [t.clone().requires_grad_() for t in given]
            y = function(*leaves)
            first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(3).sum() for g in first), leaves, create_graph=True)
            third = torch.autograd.grad(sum(g.square().sum() for g in second), leaves)
            results.append((y, *first, *second, *third))
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_hand(dtype: torch.dtype, backend: str) -> None:
    real, fake = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype), torch.tensor([[5.0, 10.0], [-1.0, 0.5]], dtype=dtype)
    with gankern.use_backend(backend):
        y = ops.interpolate(real, fake, torch.tensor([0.25, 0.75]))
        assert torch.equal(y, torch.tensor([[4.0, 8.0], [2.0, 3.125]], dtype=dtype))
        # The ends are hit to the bit.
        real, fake, _ = images((2, 3, 5, 7), dtype)
        y = ops.interpolate(real, fake, torch.tensor([0.0, 1.0]))
        assert torch.equal(y[0], fake[0]) and torch.equal(y[1], real[1])


def test_finite_differences() -> None:
    leaves = [t.requires_grad_() for t in images((2, 3, 2, 3), torch.float64)]
    assert torch.autograd.gradcheck(ops.interpolate, leaves)
    assert torch.autograd.gradgradcheck(ops.interpolate, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_of_eps(backend: str) -> None:
    real, fake, eps = images((3, 2, 4, 5))
    with gankern.use_backend(backend):
        expected = ops.interpolate(real, fake, eps)
        assert torch.equal(ops.interpolate(real, fake, eps.view(3, 1, 1, 1)), expected)
        assert torch.equal(ops.interpolate(real, fake, torch.stack([eps, eps], 1)[:, 0]), expected)
        torch.testing.assert_close(ops.interpolate(real, fake, eps.double()), expected)
        for form in ((), (1,), (1, 1, 1, 1)):
            one = torch.full(form, 0.25, requires_grad=True)
            y = ops.interpolate(real, fake, one)
            torch.testing.assert_close(y, 0.25 * real + 0.75 * fake)
            (gradient,) = torch.autograd.grad(y.sum(), one)
            assert gradient.shape == one.shape
            torch.testing.assert_close(gradient.sum(), (real - fake).sum(), rtol=1e-5, atol=1e-5)


@NATIVE
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length(dtype: torch.dtype) -> None:
    """Around the vectors of every instruction set, the blocks of the sum and the pieces."""
    piece = configs.CPU.elements
    for inner in (
        1,
        2,
        3,
        7,
        8,
        9,
        15,
        16,
        17,
        31,
        33,
        63,
        65,
        1023,
        1024,
        1025,
        2047,
        piece - 1,
        piece,
        piece + 1,
        2 * piece + 5,
    ):
        given = images((2, inner), dtype, seed=inner)
        dy = torch.randn(2, inner, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        found = []
        for function, chosen in ((ops.interpolate, given), (interpolate_reference, given), (interpolate_reference, None)):
            leaves = [t.clone().requires_grad_() for t in chosen or [t.double() for t in given]]
            with gankern.use_backend("cpu"):
                y = function(*leaves)
            found.append((y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))))
        for what, mine, eager, truth in zip(("y", "d_real", "d_fake", "d_eps"), *found, strict=True):
            assert_close(mine, truth, eager, inner**0.5 if what == "d_eps" else 1.0, f"{what} of {inner}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_and_layouts(backend: str) -> None:
    """Images of different strides; the result has the layout of the real ones, the gradients have the right values."""
    real, fake, eps = images((3, 4, 6, 10))
    views = {
        "channels_last": real.contiguous(memory_format=torch.channels_last),
        "transposed": real.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": torch.stack([real, fake], -1)[..., 0],
        "batch innermost": real.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    }
    with gankern.use_backend(backend):
        expected = ops.interpolate(real, fake, eps)
        for name, view in views.items():
            leaf = view.detach().requires_grad_()
            y = ops.interpolate(leaf, fake, eps)
            assert torch.equal(y, expected), name
            fmt = torch.channels_last if name == "channels_last" else torch.contiguous_format
            assert y.is_contiguous(memory_format=fmt), name
            (gradient,) = torch.autograd.grad(y.sum(), leaf)  # an expanded cotangent
            assert torch.equal(gradient, eps.view(3, 1, 1, 1).expand(3, 4, 6, 10)), name
            assert torch.equal(ops.interpolate(fake, view, eps), ops.interpolate(fake, real, eps)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 3), (0,)])
def test_empty(shape: tuple[int, ...], backend: str) -> None:
    leaves = [t.requires_grad_() for t in images(shape)]
    with gankern.use_backend(backend):
        y = ops.interpolate(*leaves)
        gradients = torch.autograd.grad(y.sum(), leaves)
    assert y.shape == shape and [g.shape for g in gradients] == [t.shape for t in leaves]
    assert torch.equal(gradients[2], torch.zeros(shape[0]))


@NATIVE
def test_long_sums_are_accurate_and_do_not_depend_on_threads() -> None:
    real, fake, eps = images((2, 3, 512, 600))
    truth = (real.double() - fake.double() + 1).flatten(1).sum(1)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = eps.clone().requires_grad_()
            with gankern.use_backend("cpu"):
                (gradient,) = torch.autograd.grad(ops.interpolate(real + 1, fake, leaf).sum(), leaf)
            found.append(gradient)
    finally:
        torch.set_num_threads(threads)
    assert compare(found[0], truth).ok, str(compare(found[0], truth))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.skipif(INTERPRETED or HAS_GPU, reason="only the emulation can choose the order of threads")
@pytest.mark.parametrize("inner", [5, 2047, 2048, 12296])
def test_cuda_gives_the_same_bits_in_any_order_of_threads(inner: int) -> None:
    """One piece and several, of whole vectors and not."""
    from cuda_emulation import harness

    if missing := harness.missing():
        pytest.skip(f"CUDA emulation: {missing}")
    harness.load()
    given, found = images((3, inner)), []
    try:
        with harness.install_rows(), gankern.use_backend("cuda"):
            for seed, threads in ((0, 1), (1, 1), (7, 2)):
                harness.set_order(seed, threads)
                leaves = [t.clone().requires_grad_() for t in given]
                y = ops.interpolate(*leaves)
                found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    finally:
        harness.set_order()
    leaves = [t.double().requires_grad_() for t in given]
    y = interpolate_reference(*leaves)
    truth = (y, *torch.autograd.grad(y.square().sum(), leaves))
    for run in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, found[0], strict=True))
    for mine, right in zip(found[0], truth, strict=True):
        assert_close(mine, right, factor=max(1, (right.shape[0] * inner / right.numel()) ** 0.5))


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    real = torch.zeros(2, (1 << 30) + 16, dtype=torch.bfloat16)
    fake = torch.zeros(1, 1, dtype=torch.bfloat16).expand_as(real).contiguous()
    assert real.numel() > 2**31
    real[0, 0], real[1, -1], fake[1, 0], fake[1, -1] = 4, 8, 2, 1
    eps = torch.tensor([0.25, 0.5], requires_grad=True)
    y = ops.interpolate(real, fake, eps)
    assert [y[n, i].item() for n in (0, 1) for i in (0, -1)] == [1, 0, 1, 4.5]
    (gradient,) = torch.autograd.grad(y, eps, real)
    assert gradient.tolist() == [16, 56]


def test_pieces() -> None:
    """Few enough for one sum in a fixed order, whole vectors, no more programs than are of use."""
    for backend in ("cpu", "cuda", "triton"):
        for samples in (1, 16, 1000):
            for inner in (1, 1000, 3 * 1024**2, 2**33 + 1):
                chunk = configs.chunk(backend, samples, inner)
                assert -(-inner // chunk) <= configs.MOST_PIECES and chunk % 16 == 0
                assert chunk < 2**30 and chunk >= (configs.CPU.elements if backend == "cpu" else configs.GPU.least)


# ---- what is not asked for is not computed ---------------------------------------------------------------------------------
class Masks(TorchDispatchMode):
    """The masks of all backward calls, and how many images each was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[bool], int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.gankern.interpolate_backward.default:
            self.calls.append((list(args[4]), sum(t is not None for t in args[1:3])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("which", range(3))
def test_one_gradient_alone(which: int) -> None:
    leaves = [t.requires_grad_() for t in images((2, 3, 4, 5))]
    with Masks() as masks:
        torch.autograd.grad(ops.interpolate(*leaves).sum(), leaves[which])
    assert masks.calls == [([i == which for i in range(3)], 2 if which == 2 else 0)]


def test_images_are_kept_for_eps_alone() -> None:
    real, fake, eps = images((2, 3, 4, 5))
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        y = ops.interpolate(real.requires_grad_(), fake, eps)
    assert sizes == [2]
    sizes.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        y = ops.interpolate(real, fake, eps.requires_grad_())
    assert sorted(sizes) == [2, y.numel(), y.numel()]


X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "args, error, words",
    [
        (([1.0], X, torch.rand(2)), TypeError, "real must be a torch.Tensor"),
        ((X, None, torch.rand(2)), TypeError, "fake must be a torch.Tensor"),
        ((X.int(), X.int(), torch.rand(2)), TypeError, "real must be float32"),
        ((X, X.double(), torch.rand(2)), TypeError, r"dtype of real \(float32\), got float64"),
        ((torch.tensor(1.0), torch.tensor(1.0), torch.rand(1)), ValueError, "real must be"),
        ((X, X[:1], torch.rand(2)), ValueError, r"shape of real \[2, 3, 4, 4\], got \[1, 3, 4, 4\]"),
        ((X, X, 0.5), TypeError, "eps must be a floating-point torch.Tensor, got float"),
        ((X, X, torch.ones(2, dtype=torch.int64)), TypeError, "eps must be a floating-point torch.Tensor, got dtype int64"),
        ((X, X, torch.rand(3)), ValueError, r"eps must be \[N\] = \[2\].*got \[3\]"),
        ((X, X, torch.rand(2, 1)), ValueError, r"got \[2, 1\]"),
        ((X, X, torch.rand(2, 3, 1, 1)), ValueError, r"got \[2, 3, 1, 1\]"),
        ((X, X, torch.rand(1, 1, 1, 1, 1)), ValueError, r"got \[1, 1, 1, 1, 1\]"),
        ((X, X.to("meta"), torch.rand(2)), ValueError, r"device of real \(cpu\), got meta"),
        ((X, X, torch.rand(2, device="meta")), ValueError, r"device of real \(cpu\), got meta"),
    ],
)
def test_bad_input(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ops.interpolate(*args)
    with pytest.raises(error, match=words):
        interpolate_reference(*args)
