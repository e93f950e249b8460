"""The adversarial losses against their closed forms: best discriminators, values at the optimum, divergences, gradients."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import losses
from gankern.losses.adversarial import softplus

P, Q = torch.tensor([1, 4, 3, 2, 0]), torch.tensor([2, 1, 3, 0, 4])
"""Counts of a real and a generated distribution on five points; both sum to 10."""
NAMES = list(losses.LOSSES)


def solved(loss: losses.AdversarialLoss, p: Tensor = P, q: Tensor = Q) -> tuple[Tensor, float]:
    """The best logit of each point and the loss there: Newton's method, one logit a point."""
    table = torch.zeros(len(p), dtype=torch.float64)
    real, fake = (torch.arange(len(c)).repeat_interleave(c) for c in (p, q))
    for _ in range(25):
        slope = torch.func.grad(lambda t: loss.discriminator(t[real], t[fake]))
        table = table - torch.linalg.lstsq(torch.func.jacrev(slope)(table), slope(table)[:, None]).solution[:, 0]
    return table, float(loss.discriminator(table[real], table[fake]))


BOTH = (P > 0) & (Q > 0)
SHARE = P.double() / (P + Q)
"""p / (p + q)."""


@pytest.mark.parametrize("name", ["minimax", "nonsaturating"])
def test_the_best_discriminator_is_p_over_p_plus_q(name: str) -> None:
    loss = losses.adversarial(name)
    p, q = P[BOTH], Q[BOTH]
    logits, _ = solved(loss)
    torch.testing.assert_close(logits[BOTH].sigmoid(), p.double() / (p + q), rtol=0, atol=1e-7)
    sure = logits[~BOTH].sigmoid()  # a point of one side only: the infimum is at infinity
    assert sure[0] > 0.999 and sure[1] < 0.001
    smooth, _ = solved(losses.adversarial(name, smoothing=0.1))
    reached = P > 0
    torch.testing.assert_close(smooth[reached].sigmoid(), (0.9 * SHARE)[reached], rtol=0, atol=1e-7)


def test_the_value_at_the_best_discriminator_is_the_jensen_shannon_divergence() -> None:
    p, q = torch.tensor([1, 4, 3, 2]), torch.tensor([2, 3, 4, 1])
    _, value = solved(losses.adversarial("minimax"), p, q)
    a, b = p.double() / 10, q.double() / 10
    m = (a + b) / 2
    js = float((a * (a / m).log() + b * (b / m).log()).sum()) / 2
    assert -value == pytest.approx(2 * js - 2 * math.log(2), abs=1e-10)
    _, value = solved(losses.adversarial("minimax"), p, p)
    assert -value == pytest.approx(-2 * math.log(2), abs=1e-12), "p = q"
    assert solved(losses.adversarial("relativistic"), p, p)[1] == pytest.approx(math.log(2), abs=1e-12)


def test_jensen_shannon_of_two_gaussians() -> None:
    """The best logit is log p - log q; the loss on samples at the quantiles' midpoints gives the integral."""
    integrate = pytest.importorskip("scipy.integrate")
    count, (m1, s1), (m2, s2) = 200_000, (0.0, 1.0), (1.5, 0.7)
    normal = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    loss = losses.adversarial("minimax")

    def log_density(x: Any, m: float, s: float) -> Any:
        return -((x - m) ** 2) / (2 * s * s) - math.log(s * math.sqrt(2 * math.pi))

    def integrand(x: float) -> float:
        a, b = math.exp(log_density(x, m1, s1)), math.exp(log_density(x, m2, s2))
        return (a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b))) / 2

    exact = integrate.quad(integrand, -9, 9, epsabs=1e-12)[0]
    real, fake = (log_density(x, m1, s1) - log_density(x, m2, s2) for x in (m1 + s1 * normal, m2 + s2 * normal))
    found = math.log(2) - float(loss.discriminator(real, fake)) / 2
    assert 0.2 < exact < 0.4
    assert found == pytest.approx(exact, abs=2e-5)


def test_the_saturating_gradient_vanishes_and_the_cure_does_not() -> None:
    logits = torch.linspace(-200, 20, 45, dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(losses.adversarial("minimax").generator(logits), logits)
    (cured,) = torch.autograd.grad(losses.adversarial("nonsaturating").generator(logits), logits)
    d = logits.detach().sigmoid()
    torch.testing.assert_close(saturating * 45, -d, rtol=1e-12, atol=0)
    torch.testing.assert_close(cured * 45, -torch.sigmoid(-logits.detach()), rtol=1e-12, atol=0)
    sure = logits.detach() < -30
    assert saturating[sure].abs().max() * 45 < 1e-13 and cured[sure].abs().min() * 45 > 1 - 1e-13


def test_least_squares_answers() -> None:
    logits, value = solved(losses.adversarial("lsgan"))
    torch.testing.assert_close(logits, SHARE, rtol=0, atol=1e-9)
    p, q = P.double() / 10, Q.double() / 10
    assert value == pytest.approx(float((p * q / (p + q)).sum()) / 2, abs=1e-8)
    chi = losses.adversarial("lsgan", fake_label=-1.0, generator_label=0.0)
    best = solved(chi)[0]
    torch.testing.assert_close(best, (P - Q).double() / (P + Q), rtol=0, atol=1e-9)
    # Section 3.2: with b - c = 1 and b - a = 2 the generator's objective at the best D, with real images in it, is half
    # Pearson's chi-squared of p + q and 2 q.
    real, fake = (best.repeat_interleave(c) for c in (P, Q))
    pearson = ((2 * q - (p + q)) ** 2 / (p + q)).sum()
    assert float(chi.generator(real) + chi.generator(fake)) == pytest.approx(float(pearson) / 2, abs=1e-9)
    assert float(chi.generator(torch.tensor([3.0, 1.0]))) == 0.5 * 5
    assert float(losses.adversarial("lsgan", generator_weight=1).generator(torch.tensor([3.0, 1.0]))) == 2


def test_hinge_answer_is_the_sign_and_its_loss_twice_the_common_mass() -> None:
    loss = losses.adversarial("hinge")
    table = torch.where(P >= Q, 1.0, -1.0)
    real, fake = (torch.arange(5).repeat_interleave(c) for c in (P, Q))
    best = float(loss.discriminator(table[real], table[fake]))
    assert best == pytest.approx(2 * float(torch.minimum(P, Q).sum()) / 10)
    random = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.3, 2.0):
        other = table + scale * torch.randn(50, 5, generator=random)
        assert all(float(loss.discriminator(t[real], t[fake])) > best - 1e-6 for t in other)
    assert float(loss.generator(torch.tensor([1.0, 3.0]))) == -2


def test_wasserstein_by_its_formula() -> None:
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 1.5, 4.0])
    loss = losses.adversarial("wasserstein")
    assert float(loss.discriminator(real, fake)) == 0 and float(loss.generator(fake)) == -2
    assert float(losses.adversarial("wasserstein", drift=0.1).discriminator(real, fake)) == pytest.approx(0.1 * 5)


def test_relativistic_answer_on_two_points() -> None:
    """Pairs of independent samples: the best difference of the two logits is the log of the ratio of mixed pairs."""
    real, fake = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 0])
    pairs = torch.cartesian_prod(real, fake)
    loss = losses.adversarial("relativistic")
    points = torch.arange(2, dtype=torch.float64)

    def value(difference: Tensor) -> Tensor:
        return loss.discriminator(difference * points[pairs[:, 0]], difference * points[pairs[:, 1]])

    difference = torch.zeros((), dtype=torch.float64)
    for _ in range(10):
        slope = torch.func.grad(value)
        difference = difference - slope(difference) / torch.func.grad(slope)(difference)
    assert float(difference) == pytest.approx(math.log((3 * 3) / (1 * 1)), abs=1e-12)
    a, b = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [5.0]])
    torch.testing.assert_close(loss.generator(a, b), F.softplus(b - a).mean())
    torch.testing.assert_close(loss.discriminator(b, a), F.softplus(a - b).mean())


def test_label_noise_moves_the_best_answer_and_is_seeded() -> None:
    real, fake = torch.full((4000,), 2.0), torch.full((4000,), -1.0)
    noisy = losses.adversarial("minimax", label_noise=0.25, seed=3)
    drawn = [float(noisy(real, fake)) for _ in range(3)]
    expected = 0.75 * F.softplus(torch.tensor(-2.0)) + 0.25 * F.softplus(torch.tensor(2.0))
    expected += 0.75 * F.softplus(torch.tensor(-1.0)) + 0.25 * F.softplus(torch.tensor(1.0))
    deviation = math.sqrt(0.25 * 0.75 / 4000) * math.hypot(2, 1)
    assert all(abs(d - float(expected)) < 5 * deviation for d in drawn) and len(set(drawn)) == 3
    again = losses.adversarial("minimax", label_noise=0.25, seed=3)
    first = float(again(real, fake))
    state = again.state_dict()
    assert [first, float(again(real, fake)), float(again(real, fake))] == drawn
    resumed = losses.adversarial("minimax", label_noise=0.25, seed=99)
    resumed.load_state_dict(state)
    assert [float(resumed(real, fake)), float(resumed(real, fake))] == drawn[1:]
    torch.testing.assert_close(
        losses.adversarial("minimax", label_noise=1.0)(real, fake), losses.adversarial("minimax")(fake, real)
    )
    torch.testing.assert_close(
        losses.adversarial("lsgan", label_noise=1.0)(real, fake), losses.adversarial("lsgan")(fake, real)
    )


def test_a_flip_is_that_of_the_whole_map() -> None:
    real, fake = torch.full((64, 1, 3, 3), 2.0, requires_grad=True), torch.zeros(64, 1, 3, 3)
    (gradient,) = torch.autograd.grad(losses.adversarial("minimax", label_noise=0.5)(real, fake), real)
    signs = gradient.sign().flatten(1)
    assert bool((signs == signs[:, :1]).all()) and set(signs[:, 0].tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_stable_at_large_logits(name: str) -> None:
    loss = losses.adversarial(name)
    values = torch.tensor([-1e4, -89.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 89.0, 1e4])
    runs = (loss.discriminator, lambda real, fake: loss.generator(fake, real))
    for pair in torch.cartesian_prod(values, values):  # one by one: a mean hides the small among the large
        for run in runs:
            results = []
            for dtype in (torch.float32, torch.float64):
                x = pair.to(dtype).requires_grad_()
                value = run(x[:1], x[1:])
                (g,) = torch.autograd.grad(value, x, create_graph=True)
                h = torch.autograd.grad(g.square().sum(), x)[0] if g.requires_grad else torch.zeros(2)
                results.append((value, g, h))
            (value, g, h), right = results
            torch.testing.assert_close(value.double(), right[0], rtol=2e-6, atol=1e-30)
            torch.testing.assert_close(g.double(), right[1], rtol=2e-6, atol=1e-30)
            assert bool(h.isfinite().all())


def test_softplus_keeps_its_digits() -> None:
    x = torch.tensor([-700.0, -40.0, -20.5, -1.0, 0.0, 19.5, 20.5, 36.0, 700.0], dtype=torch.float64)
    expected = torch.tensor([max(v, 0) + math.log1p(math.exp(-abs(v))) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(softplus(x), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("options", [{"name": n} for n in NAMES] + [
    {"name": "minimax", "smoothing": 0.1}, {"name": "wasserstein", "drift": 0.01},
], ids=str)  # fmt: skip
def test_derivatives(options: dict[str, Any]) -> None:
    loss = losses.adversarial(**options)
    random = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(3, 1, 2, 2, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for run in (loss.discriminator, lambda r, f: loss.generator(f, r) + 0 * r.sum()):
        assert torch.autograd.gradcheck(run, (real, fake))
        assert torch.autograd.gradgradcheck(run, (real, fake))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = losses.adversarial(name)
    random = torch.Generator().manual_seed(0)
    real, fake = (3 * torch.randn(64, 1, generator=random).to(dtype) for _ in range(2))
    for found, right in (
        (loss.discriminator(real, fake), loss.discriminator(real.float(), fake.float())),
        (loss.generator(fake, real), loss.generator(fake.float(), real.float())),
    ):
        assert found.dtype == torch.float32 and torch.equal(found, right)
    assert loss(real.double(), fake.double()).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_shapes_do_not_matter(name: str) -> None:
    loss = losses.adversarial(name)
    real, fake = torch.randn(6), torch.randn(6)
    for shape in ((6, 1), (3, 1, 1, 2), (1, 6)):
        assert torch.equal(loss(real.reshape(shape), fake.reshape(shape)), loss(real, fake))
        assert torch.equal(loss.generator(fake.reshape(shape), real.reshape(shape)), loss.generator(fake, real))


@pytest.mark.parametrize("name", NAMES)
def test_as_the_loss_of_a_penalized_step(name: str) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 4, 1)).double()
    real, fake = torch.randn(4, 1, 4, 4).double(), torch.randn(4, 1, 4, 4).double()
    loss = losses.adversarial(name)
    for given in (loss, loss.discriminator):
        critic.zero_grad()
        found = losses.PenalizedStep(critic, given, r1=3.0, fallback=False).backward(real, fake)
        x = real.clone().requires_grad_()
        logits = critic(x)
        value = loss(logits, critic(fake))
        right = torch.autograd.grad(value + losses.r1_penalty(logits, x, 3.0), list(critic.parameters()))
        torch.testing.assert_close(found.loss, value.detach())
        for p, g in zip(critic.parameters(), right, strict=True):
            torch.testing.assert_close(p.grad, g)


def test_names_are_those_of_the_models() -> None:
    from gankern import models

    assert {family.loss for family in models.FAMILIES.values()} <= set(NAMES)


def test_options_are_those_of_the_docstrings() -> None:
    for kind in losses.LOSSES.values():
        if kind.__init__ is not object.__init__:
            for name, parameter in inspect.signature(kind).parameters.items():
                assert f"        {name}: " in (kind.__doc__ or "") and parameter.default is not inspect.Parameter.empty
    assert repr(losses.adversarial("wasserstein", drift=0.5)) == "Wasserstein(drift=0.5)"
    assert losses.adversarial("relativistic").needs_real and not losses.adversarial("hinge").needs_real


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: losses.adversarial("wgan"), ValueError, "name must be one of minimax, .*got 'wgan'"),
        (lambda: losses.adversarial("hinge", margin=1), ValueError, "hinge has no option 'margin'; it has none"),
        (lambda: losses.adversarial("minimax", drift=1), ValueError, "no option 'drift'; it has smoothing, label_noise, seed"),
        (lambda: losses.adversarial("minimax", smoothing=1.0), ValueError, "minimax: smoothing must be 0 to below 1, got 1.0"),
        (lambda: losses.adversarial("lsgan", label_noise=1.5), ValueError, "lsgan: label_noise must be 0 to 1, got 1.5"),
        (lambda: losses.adversarial("minimax", smoothing="a"), TypeError, "smoothing must be a real number"),
        (lambda: losses.adversarial("nonsaturating", seed=-1), ValueError, "nonsaturating: seed must be an int"),
        (lambda: losses.adversarial("wasserstein", drift=-1), ValueError, "wasserstein: drift must not be negative"),
        (lambda: losses.adversarial("wasserstein", drift=math.inf), ValueError, "drift must be finite"),
        (lambda: losses.adversarial("hinge")([1.0], torch.ones(1)), TypeError, "hinge: real_logits must be .*got list"),
        (lambda: losses.adversarial("hinge")(torch.ones(1), torch.ones(1).int()), TypeError, "fake_logits must be .*got int32"),
        (
            lambda: losses.adversarial("hinge")(torch.ones(1), torch.ones(())),
            ValueError,
            r"fake_logits must be \[N\].*got \[\]",
        ),
        (lambda: losses.adversarial("hinge")(torch.ones(0, 1), torch.ones(1)), ValueError, r"not empty, got \[0, 1\]"),
        (lambda: losses.adversarial("relativistic").generator(torch.ones(2)), ValueError, "real_logits must be given"),
        (
            lambda: losses.adversarial("relativistic")(torch.ones(2, 1), torch.ones(2)),
            ValueError,
            r"fake_logits must have the shape of real_logits, \[2, 1\], got \[2\]",
        ),
        (lambda: losses.adversarial("hinge").load_state_dict({"random": 1}), ValueError, r"state must have \[\], got"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
