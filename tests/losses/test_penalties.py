"""Gradient penalties against closed forms, finite differences and plain double backward; what they cost and refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gankern
from gankern import losses, ops
from gankern import nn as gk

NATIVE = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


# ---- closed forms -----------------------------------------------------------------------------------------------------------
def test_a_linear_critic() -> None:
    """D(x) = <w, x>: the gradient is w everywhere."""
    w = leaf(random(3, 4, 5, seed=1))
    for name in ("r1_penalty", "r2_penalty"):
        x = leaf(random(6, 3, 4, 5))
        penalty = getattr(losses, name)((x * w).sum((1, 2, 3)), x, gamma=3.0)
        torch.testing.assert_close(penalty, 1.5 * w.square().sum())
        (dw,) = torch.autograd.grad(penalty, w)
        torch.testing.assert_close(dw, 3 * w.detach())
    real, fake = random(6, 3, 4, 5), random(6, 3, 4, 5, seed=2)
    norm = w.detach().square().sum().sqrt()
    for center in (0.0, 1.0, 0.3):
        penalty = losses.wgan_gp(lambda x: (x * w).sum((1, 2, 3)), real, fake, weight=7.0, center=center)
        torch.testing.assert_close(penalty.detach(), 7 * (norm - center).square())
        (dw,) = torch.autograd.grad(penalty, w)
        torch.testing.assert_close(dw, 14 * (norm - center) * w.detach() / norm)


def test_a_quadratic_critic() -> None:
    """D(x) = x A x / 2 with a symmetric A: the gradient is A x."""
    a = random(5, 5, seed=1)
    a = leaf(a + a.t())
    x = leaf(random(4, 5))
    penalty = losses.r1_penalty((x @ a * x).sum(1) / 2, x, gamma=2.0)
    torch.testing.assert_close(penalty, (x @ a).square().sum(1).mean())
    real, fake, eps = random(4, 5), random(4, 5, seed=2), torch.rand(4, dtype=torch.float64)
    between = eps[:, None] * real + (1 - eps)[:, None] * fake
    penalty = losses.wgan_gp(lambda x: (x @ a * x).sum(1) / 2, real, fake, 3.0, 1.0, eps)
    torch.testing.assert_close(penalty, 3 * ((between @ a).norm(dim=1) - 1).square().mean())
    torch.testing.assert_close(
        losses.zero_centered(lambda x: (x @ a * x).sum(1) / 2, real, fake, 3.0, eps), 3 * (between @ a).square().sum(1).mean()
    )


def test_a_relu_net_by_hand() -> None:
    """D(x) = v relu(W x + b): the gradient is W^T (v * mask)."""
    w, b, v = leaf(random(7, 5, seed=1)), leaf(random(7, seed=2)), leaf(random(7, seed=3))
    x = leaf(random(4, 5))
    gradient = ((x @ w.t() + b > 0).to(torch.float64) * v) @ w
    expected = 0.5 * gradient.square().sum(1).mean()
    penalty = losses.r1_penalty((x @ w.t() + b).relu() @ v, x, gamma=1.0)
    torch.testing.assert_close(penalty, expected)
    mine = torch.autograd.grad(penalty, (w, b, v), allow_unused=True)
    right = torch.autograd.grad(expected, (w, v))
    torch.testing.assert_close((mine[0], mine[2]), right)
    assert mine[1] is None or not mine[1].any(), "a bias moves nothing"


def test_two_gaussians() -> None:
    """The optimal linear critic between two shifted Gaussians has slope 1: WGAN-GP must find it."""
    torch.manual_seed(0)
    real, fake = torch.randn(512, 2) + torch.tensor([3.0, 0.0]), torch.randn(512, 2)
    critic = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (critic(fake).mean() - critic(real).mean() + losses.wgan_gp(critic, real, fake)).backward()
        optimizer.step()
    w = critic.weight.detach()[0]
    # argmin of -<w, shift> + 10 (|w| - 1)^2 has the direction of the shift and the length 1 + |shift| / 20.
    shift = real.mean(0) - fake.mean(0)
    torch.testing.assert_close(w, shift / shift.norm() * (1 + shift.norm() / 20), rtol=0, atol=0.02)


# ---- gradients --------------------------------------------------------------------------------------------------------------
def small_critic() -> nn.Module:
    torch.manual_seed(0)
    layers = [gk.Conv2d(3, 6, 3, act="lrelu"), gk.Conv2d(6, 8, 3, down=2, act="lrelu"), nn.Flatten(), gk.Linear(8 * 16, 1)]
    return nn.Sequential(*layers).double()


def by_hand(critic: nn.Module, x: Tensor, gamma: float) -> Tensor:
    x = leaf(x)
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gamma / 2 * g.square().sum((1, 2, 3)).mean()


def test_gradients_are_those_of_plain_double_backward() -> None:
    critic, x = small_critic(), random(4, 3, 8, 8)
    parameters = list(critic.parameters())
    right = torch.autograd.grad(by_hand(critic, x, 5.0), parameters, allow_unused=True)
    real = leaf(x)
    mine = torch.autograd.grad(losses.r1_penalty(critic(real), real, 5.0), parameters, allow_unused=True)
    for a, b in zip(mine, right, strict=True):
        if a is not None or b is not None:
            zero = torch.zeros_like(a if a is not None else b)  # type: ignore[arg-type]
            torch.testing.assert_close(zero if a is None else a, zero if b is None else b)


def test_finite_differences() -> None:
    """The penalty's gradient in a weight, and in the images."""
    w, real, fake = random(4, 3, seed=1), random(3, 3), random(3, 3, seed=2)
    eps = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def penalty(w: Tensor) -> Tensor:
        return losses.wgan_gp(lambda x: (x @ w.t()).tanh().sum(1), real, fake, eps=eps)

    def of_images(x: Tensor) -> Tensor:
        x = x * 1.0
        return losses.r1_penalty((x @ w.t()).tanh().sum(1), x)

    assert torch.autograd.gradcheck(penalty, leaf(w)) and torch.autograd.gradgradcheck(penalty, leaf(w))
    assert torch.autograd.gradcheck(of_images, leaf(real))


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=NATIVE)])
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_one_sided(center: float, backend: str) -> None:
    """Samples with gradients shorter and longer than ``center``: the formula by PyTorch's own, to second order."""
    w, real, fake = leaf(random(4, 3, seed=1)), random(6, 3), random(6, 3, seed=2)
    eps = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)

    def critic(x: Tensor, w: Tensor) -> Tensor:
        return (x @ w.t()).tanh().sum(1)

    def mine(w: Tensor) -> Tensor:
        return losses.wgan_gp(lambda x: critic(x, w), real, fake, 3.0, center, eps, one_sided=True)

    def norms(w: Tensor) -> Tensor:
        x = leaf(torch.lerp(fake, real, eps[:, None]))
        return torch.autograd.grad(critic(x, w).sum(), x, create_graph=True)[0].norm(dim=1)

    def right(w: Tensor) -> Tensor:
        return 3 * (norms(w) - center).clamp(min=0).square().mean()

    if center:
        assert 0 < int((norms(w) > center).sum()) < 6, "on both sides"
    found = []
    with gankern.use_backend(backend):
        for penalty in (mine, right):
            value = penalty(w)
            (first,) = torch.autograd.grad(value, w, create_graph=True)
            (second,) = torch.autograd.grad(first, w, random(4, 3, seed=3))
            found.append((value, first, second))
        torch.testing.assert_close(*found)
        assert torch.autograd.gradcheck(mine, leaf(w)) and torch.autograd.gradgradcheck(mine, leaf(w))


def test_one_sided_forgives_short_gradients() -> None:
    """Not those of NaN; and a norm of 0 has the subgradient 0."""
    for size in (0.0, 0.1):
        w = torch.full((3,), size, dtype=torch.float64, requires_grad=True)
        penalty = losses.wgan_gp(lambda x, w=w: x @ w, random(4, 3), random(4, 3, seed=1), one_sided=True)
        assert penalty.item() == 0 and torch.equal(torch.autograd.grad(penalty, w)[0], torch.zeros(3, dtype=torch.float64))
    w = leaf(random(3) + 2)
    pair = random(4, 3), random(4, 3, seed=1)
    torch.testing.assert_close(losses.wgan_gp(lambda x: x @ w, *pair, one_sided=True), losses.wgan_gp(lambda x: x @ w, *pair))
    penalty = losses.wgan_gp(lambda x: x @ w * math.nan, *pair, one_sided=True)
    assert penalty.isnan() and torch.autograd.grad(penalty, w)[0].isnan().all()


def test_a_zero_gradient_has_the_subgradient_zero() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    penalty = losses.wgan_gp(lambda x: x @ w, random(4, 3), random(4, 3, seed=1))
    assert penalty.item() == 10
    assert torch.equal(torch.autograd.grad(penalty, w)[0], torch.zeros(3, dtype=torch.float64))


def test_nan_is_not_hidden() -> None:
    x = leaf(random(2, 3))
    assert losses.r1_penalty((x * math.nan).sum(1), x).isnan()
    assert losses.wgan_gp(lambda x: (x * math.nan).sum(1), random(2, 3), random(2, 3)).isnan()


def test_accumulated_over_microbatches() -> None:
    critic, x = small_critic(), random(6, 3, 8, 8)
    sums = []
    for parts in (1, 3):
        critic.zero_grad()
        for part in x.chunk(parts):
            real = leaf(part)
            (losses.r1_penalty(critic(real), real) / parts).backward()
        sums.append([p.grad.clone() for p in critic.parameters() if p.grad is not None])
    torch.testing.assert_close(sums[0], sums[1])


def test_autocast() -> None:
    """A critic in bfloat16: a finite float32 penalty near that of float32, and gradients in the parameters' dtype."""
    critic = small_critic().float()
    x = random(4, 3, 8, 8).float()
    found = []
    for enabled in (False, True):
        real = leaf(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            penalty = losses.r1_penalty(critic(real), real)
        assert penalty.dtype == torch.float32
        found.append((penalty.detach(), torch.autograd.grad(penalty, critic[0].weight)[0]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.05, atol=0)
    assert found[1][1].dtype == torch.float32
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0.1, atol=0.05 * float(found[0][1].abs().max()))


# ---- what it costs ----------------------------------------------------------------------------------------------------------
class Convolutions(TorchDispatchMode):
    """How many of gankern's three convolution operators were run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("gankern::").removesuffix(".default")
        if name in ("conv2d", "conv_transpose2d", "conv2d_weight_gradient"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ("r1", "wgan_gp"))
def test_four_units_a_layer_and_no_weight_gradient_in_the_first_backward(kind: str) -> None:
    weights = [leaf(random(4, 3, 3, 3)), leaf(random(4, 4, 3, 3)), leaf(random(4, 4, 3, 3))]

    def critic(x: Tensor) -> Tensor:
        for w in weights:
            x = ops.bias_act(ops.conv2d(x, w, padding=1), act="lrelu")
        return x.sum((1, 2, 3))

    with Convolutions() as seen:
        if kind == "r1":
            real = leaf(random(2, 3, 6, 6))
            penalty = losses.r1_penalty(critic(real), real)
        else:
            penalty = losses.wgan_gp(critic, random(2, 3, 6, 6), random(2, 3, 6, 6, seed=1))
        assert sorted(seen.names) == ["conv2d"] * 3 + ["conv_transpose2d"] * 3
        torch.autograd.grad(penalty, weights)
    assert len(seen.names) == 4 * len(weights)
    assert seen.names.count("conv2d_weight_gradient") == len(weights)


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch cannot trace autograd.grad")
def test_inside_one_compiled_graph() -> None:
    critic, x = small_critic(), random(4, 3, 8, 8)

    def penalty(real: Tensor) -> Tensor:
        return losses.r1_penalty(critic(real), real)

    plain = torch.autograd.grad(penalty(leaf(x)), critic[0].weight)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")(leaf(x))
        result = torch.autograd.grad(compiled, critic[0].weight)
    torch.testing.assert_close(result, plain)


# ---- path length ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers", (None, 3))
def test_path_length_of_a_linear_generator(layers: int | None) -> None:
    """image = M w, summed over layers: the gradient of <image, noise> in each layer's w is M^T noise."""
    n, d, size = 4, 5, (2, 3, 3)
    m = leaf(random(d, *size, seed=1))
    ws = leaf(random(n, layers, d) if layers else random(n, d))
    noise = random(n, *size, seed=2)
    images = torch.einsum("nd,dchw->nchw", ws.sum(1) if layers else ws, m)
    penalty, lengths, new_mean = losses.path_length_penalty(images, ws, 0.7, decay=0.1, weight=3.0, noise=noise)
    expected = torch.einsum("nchw,dchw->nd", noise, m).norm(dim=1)
    mean = 0.7 + 0.1 * (expected.mean() - 0.7)
    right = 3 * (expected - mean).square().mean()
    torch.testing.assert_close((penalty, lengths, new_mean), (right, expected.detach(), mean.detach()))
    assert not lengths.requires_grad and not new_mean.requires_grad
    torch.testing.assert_close(torch.autograd.grad(penalty, m), torch.autograd.grad(right, m))


def test_path_length_noise_is_scaled_by_the_image() -> None:
    """<image, noise> has the variance of the mean over pixels: an identity generator of 64 x 64 has lengths near sqrt(C)."""
    torch.manual_seed(0)
    ws = leaf(torch.randn(8, 3 * 64 * 64))
    _, lengths, _ = losses.path_length_penalty(ws.reshape(8, 3, 64, 64), ws, 0.0)
    torch.testing.assert_close(lengths, torch.full((8,), 3**0.5), rtol=0.05, atol=0)


def test_path_length_zero() -> None:
    ws = leaf(random(2, 4))
    m = torch.zeros(4, 3 * 2 * 2, dtype=torch.float64, requires_grad=True)
    penalty, lengths, _ = losses.path_length_penalty((ws @ m).reshape(2, 3, 2, 2), ws, 1.0)
    assert not lengths.any() and torch.autograd.grad(penalty, m)[0].isfinite().all()


# ---- modules ----------------------------------------------------------------------------------------------------------------
def test_modules() -> None:
    x = leaf(random(4, 5))
    logits = x.square().sum(1)
    torch.testing.assert_close(gk.GradientPenalty("r1", 2.0)(logits, x), losses.r1_penalty(logits, x, 2.0))
    torch.testing.assert_close(gk.GradientPenalty("r2", 2.0, every=8)(logits, x), losses.r2_penalty(logits, x, 16.0))
    real, fake, eps = random(4, 5), random(4, 5, seed=1), torch.rand(4)
    module = gk.GradientPenalty("wgan_gp", 3.0, center=0.5)
    critic: Callable[[Tensor], Tensor] = lambda x: x.square().sum(1)  # noqa: E731
    torch.testing.assert_close(module(critic, real, fake, eps=eps), losses.wgan_gp(critic, real, fake, 3.0, 0.5, eps))
    one_sided = gk.GradientPenalty("wgan_gp", 3.0, center=4.0, one_sided=True)
    expected = losses.wgan_gp(critic, real, fake, 3.0, 4.0, eps, one_sided=True)
    torch.testing.assert_close(one_sided(critic, real, fake, eps=eps), expected)
    assert "one_sided=True" in repr(one_sided)
    assert [gk.GradientPenalty(every=3).due(step) for step in range(4)] == [True, False, False, True]
    assert "every=8" in repr(gk.GradientPenalty("r2", every=8)) and "center=0.5" in repr(module)


def test_path_length_module_keeps_its_mean() -> None:
    module = gk.PathLengthPenalty(decay=0.5).double()
    ws = leaf(random(4, 12))
    module(ws.reshape(4, 3, 2, 2), ws)
    mean = module.pl_mean.clone()
    assert mean > 0 and mean.dtype == torch.float64
    module.eval()
    module(ws.reshape(4, 3, 2, 2), ws)
    assert torch.equal(module.pl_mean, mean) and list(module.state_dict()) == ["pl_mean"]


# ---- bad input --------------------------------------------------------------------------------------------------------------
X = torch.randn(4, 3)
IMAGE = torch.randn(4, 3, 2, 2)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no requires_grad": (lambda: losses.r1_penalty(X.sum(1), X), ValueError, "real must require gradients: call real.req"),
    "integers": (lambda: losses.r2_penalty(X.sum(1), X.long()), TypeError, "fake must be float32, float64, .* got int64"),
    "independent": (lambda: losses.r1_penalty(leaf(X).sum(1), leaf(X)), ValueError, "logits do not depend on real"),
    "detached": (lambda: losses.r1_penalty(X.sum(1), leaf(X)), ValueError, "logits do not depend on real"),
    "critic detaches": (lambda: losses.wgan_gp(lambda x: x.detach().sum(1), X, X), ValueError, "depend on the critic's input"),
    "reduced logits": (lambda: losses.r1_penalty(leaf(X).sum(), leaf(X)), ValueError, r"N = 4, not reduced, got \[\]"),
    "integer logits": (lambda: losses.wgan_gp(lambda x: x.sum(1).long(), X, X), TypeError, "logits must be a floating"),
    "negative gamma": (lambda: losses.r1_penalty(X.sum(1), leaf(X), -1), ValueError, "gamma must not be negative, got -1"),
    "gamma": (lambda: losses.r1_penalty(X.sum(1), leaf(X), "ten"), TypeError, "gamma must be a real number, got 'ten'"),
    "shapes": (lambda: losses.wgan_gp(torch.sum, X, X[:2]), ValueError, r"shape of real \(\[4, 3\]\), got \[2, 3\]"),
    "dtypes": (lambda: losses.wgan_gp(torch.sum, X, X.double()), ValueError, r"dtype of real \(float32\), got float64"),
    "eps": (lambda: losses.wgan_gp(torch.sum, X, X, eps=torch.rand(3)), ValueError, r"eps must be .* \[4\], .* got \[3\]"),
    "negative center": (lambda: losses.wgan_gp(torch.sum, X, X, center=-1), ValueError, "center must not be negative"),
    "one_sided": (lambda: losses.wgan_gp(torch.sum, X, X, one_sided=1), TypeError, "one_sided must be True or False, got 1"),
    "empty": (lambda: losses.wgan_gp(torch.sum, X[:0], X[:0]), ValueError, "at least one sample"),
    "images": (lambda: losses.path_length_penalty(X, leaf(X), 0), ValueError, r"images must have 4 dimensions"),
    "ws": (lambda: losses.path_length_penalty(IMAGE, leaf(X)[:, 0, None][:3], 0), ValueError, r"with N = 4, got \[3, 1\]"),
    "ws unused": (lambda: losses.path_length_penalty(leaf(IMAGE), leaf(X), 0), ValueError, "images do not depend on ws"),
    "decay": (lambda: losses.path_length_penalty(IMAGE, leaf(X), 0, decay=2), ValueError, "decay must be 0 to 1, got 2"),
    "noise": (lambda: losses.path_length_penalty(IMAGE, leaf(X), 0, noise=X), ValueError, "noise must have the shape of im"),
    "kind": (lambda: gk.GradientPenalty("r3"), ValueError, "kind must be one of r1, r2, wgan_gp, got 'r3'"),
    "one_sided r1": (
        lambda: gk.GradientPenalty("r1", one_sided=True),
        ValueError,
        "one_sided is for 'wgan_gp' alone, got kind 'r1'",
    ),
    "every": (lambda: gk.GradientPenalty(every=0), ValueError, "every must be an int of at least 1, got 0"),
    "arguments": (lambda: gk.GradientPenalty("r1")(X, X, X), TypeError, "r1 takes logits and real, got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


def test_batch_of_one_and_plain_torch_modules() -> None:
    critic = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 1))
    real = leaf(torch.randn(1, 1, 8, 8))
    penalty = losses.r1_penalty(critic(real), real)
    penalty.backward()
    assert critic[0].weight.grad is not None and re.match(r"\d", f"{penalty.item():.3f}")
    assert F.mse_loss(penalty, by_hand(critic, real, 10.0)) < 1e-10
