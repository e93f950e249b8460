"""Unrolled steps are the optimizer's own, leave the discriminator alone, and have the right gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankern import losses
from gankern import nn as gk
from gankern.train.unrolled import unroll, unrolled_loss

LOSS = losses.adversarial("minimax")
Made = tuple[nn.Module, Tensor, Tensor]


def made(seed: int = 0) -> Made:
    torch.manual_seed(seed)
    critic = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    return critic, torch.randn(6, 3).double(), torch.randn(6, 3).double()


def stepped(critic: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, steps: int) -> list[float]:
    """What torch's optimizer makes of the critic, in place."""
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = LOSS.discriminator(critic(real), critic(fake))
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    return found


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.99)),
    "adam with decay": lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.9), weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_optimizer(name: str, before: int) -> None:
    critic, real, fake = made()
    optimizer = OPTIMIZERS[name](critic.parameters())
    stepped(critic, optimizer, real, fake, before)
    state = copy.deepcopy(optimizer.state_dict())
    ahead = unroll(critic, LOSS.discriminator, real, fake, 4, optimizer)
    for key, group in enumerate(optimizer.state_dict()["state"].values()):
        torch.testing.assert_close(group, state["state"][key], rtol=0, atol=0)
    values = stepped(critic, optimizer, real, fake, 4)
    torch.testing.assert_close(ahead.losses.tolist(), values)
    for p, q in zip(critic.parameters(), ahead.parameters.values(), strict=True):
        torch.testing.assert_close(p, q)
    torch.testing.assert_close(ahead(real), critic(real))


def test_optimizers_by_name() -> None:
    for name, settings, right in (
        ("sgd", {"lr": 0.1}, lambda p: torch.optim.SGD(p, 0.1)),
        ("adam", {"lr": 0.02, "betas": (0.3, 0.9), "eps": 1e-4}, lambda p: torch.optim.Adam(p, 0.02, (0.3, 0.9), 1e-4)),
    ):
        critic, real, fake = made()
        ahead = unroll(critic, LOSS.discriminator, real, fake, 3, name, **settings)  # type: ignore[arg-type]
        stepped(critic, right(critic.parameters()), real, fake, 3)
        torch.testing.assert_close(list(ahead.parameters.values()), list(critic.parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradient_is_that_of_finite_differences(optimizer: str) -> None:
    critic, real, fake = made()
    fake = fake[:3].requires_grad_()
    settings: dict[str, Any] = {"steps": 3, "optimizer": optimizer, "lr": 0.05, "eps": 1e-4}
    assert torch.autograd.gradcheck(lambda f: unrolled_loss(critic, LOSS, real, f, **settings), fake)
    whole, first = (
        torch.autograd.grad(unrolled_loss(critic, LOSS, real, fake, differentiable=d, **settings), fake)[0]
        for d in (True, False)
    )
    # The first term alone: the discriminator of the last step, held still.
    ahead = unroll(critic, LOSS, real, fake, **settings)
    still = {k: p.detach() for k, p in ahead.parameters.items()}
    value = -LOSS(torch.func.functional_call(critic, still, real), torch.func.functional_call(critic, still, fake))
    torch.testing.assert_close(first, torch.autograd.grad(value, fake)[0])
    assert float((whole - first).norm() / first.norm()) > 0.01, "the second term is there"


def test_no_steps_are_the_plain_loss() -> None:
    critic, real, fake = made()
    fake.requires_grad_()
    found = torch.autograd.grad(unrolled_loss(critic, LOSS, real, fake, steps=0), fake)
    right = torch.autograd.grad(LOSS.generator(critic(fake)), fake)
    torch.testing.assert_close(found, right)


class Classed(nn.Module):
    """Batch norm, spectral norm, gankern's layers and labels: all that has a state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = gk.SpectralNorm.on(gk.Conv2d(2, 4, 3, act="lrelu", equalized=False))
        self.plain = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
        self.norm = nn.BatchNorm2d(4)
        self.embed = nn.Embedding(3, 4)
        self.frozen = nn.Linear(4, 1).requires_grad_(False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.norm(torch.tanh(self.plain(self.conv(x)))).mean((2, 3))
        return self.frozen(y) + (y * self.embed(labels)).sum(1, keepdim=True)


@pytest.mark.parametrize("training", [True, False])
def test_the_discriminator_is_left_as_it_was(training: bool) -> None:
    torch.manual_seed(0)
    critic = Classed().train(training)
    x = torch.randn(4, 2, 5, 5)
    critic(x, torch.zeros(4, dtype=torch.int64)).sum().backward()
    before = copy.deepcopy(critic.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in critic.parameters()]
    labels = torch.tensor([0, 2, 1, 1])
    source = torch.randn(4, 2, 5, 5, requires_grad=True)
    value = unrolled_loss(critic, LOSS, (x, labels), (source * 0.5, labels), steps=3, lr=0.01)
    twin = copy.deepcopy(critic)
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], 0.01, (0.5, 0.999))
    for _ in range(3):
        optimizer.zero_grad()
        LOSS(twin(x, labels), twin(source.detach() * 0.5, labels)).backward()
        optimizer.step()
    right = -LOSS(twin(x, labels), twin(source.detach() * 0.5, labels))
    torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-5)
    torch.optim.SGD(critic.parameters(), 0.0).step()  # an in-place step of the critic does not disturb the graph
    value.backward()
    assert source.grad is not None and bool(source.grad.isfinite().all()) and bool(source.grad.any())
    for name, tensor in critic.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for p, g in zip(critic.parameters(), gradients, strict=True):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)


def test_a_parallel_wrapper_is_taken_off() -> None:
    critic, real, fake = made()
    found = unrolled_loss(nn.DataParallel(critic), LOSS, real, fake, steps=2)
    torch.testing.assert_close(found, unrolled_loss(critic, LOSS, real, fake, steps=2))


def test_dead_units_give_no_nan() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        critic[0].bias[:2] = -100  # type: ignore[index]
    fake = torch.randn(5, 2, requires_grad=True)
    (g,) = torch.autograd.grad(unrolled_loss(critic, LOSS, torch.randn(5, 2), fake, steps=3), fake)
    assert bool(g.isfinite().all()) and bool(g.any())


def test_a_later_discriminator_is_a_better_one() -> None:
    critic, real, fake = made()
    ahead = unroll(critic, LOSS, real, fake, steps=30, lr=0.05, differentiable=False)
    assert float(ahead.losses[-1]) < 0.5 * float(ahead.losses[0])
    assert not any(p.requires_grad for p in ahead.parameters.values())
    with torch.no_grad():
        same = unroll(critic, LOSS, real, fake, steps=30, lr=0.05)
    torch.testing.assert_close(same.losses, ahead.losses)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"discriminator": torch.ones(1)}, TypeError, "discriminator must be a torch.nn.Module, got Tensor"),
        ({"discriminator": nn.ReLU()}, ValueError, "discriminator has no parameter that requires gradients"),
        ({"loss": None}, TypeError, "loss must be a function"),
        ({"loss": lambda r, f: r}, ValueError, r"loss must give a scalar tensor.*got shape \[6, 1\]"),
        ({"loss": lambda r, f: 1.0}, ValueError, "loss must give a scalar tensor"),
        ({"real": [1]}, TypeError, "real must be images .*got list"),
        ({"fake": ()}, TypeError, "fake must be images .*got an empty tuple"),
        ({"steps": -1}, ValueError, "steps must be an int of 0 or more, got -1"),
        ({"optimizer": "rms"}, ValueError, "optimizer must be 'sgd', 'adam', .*got 'rms'"),
        ({"lr": 0.0}, ValueError, "lr must be positive, got 0.0"),
        ({"betas": (0.5, 1.0)}, ValueError, "betas must each be 0 to below 1"),
        ({"betas": 0.5}, TypeError, "betas must be two numbers, got 0.5"),
        ({"optimizer": torch.optim.RMSprop([torch.ones(1)])}, TypeError, "must be torch.optim.SGD, Adam or AdamW, got RMSprop"),
        (
            {"optimizer": torch.optim.SGD([torch.ones(1)], 0.1)},
            ValueError,
            "does not have the discriminator's parameter '0.weight'",
        ),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    critic, real, fake = made()
    given: dict[str, Any] = {"discriminator": critic, "loss": LOSS, "real": real, "fake": fake, **change}
    with pytest.raises(error, match=words):
        unroll(**given)


def test_an_optimizer_with_amsgrad_is_refused() -> None:
    critic, real, fake = made()
    with pytest.raises(ValueError, match="optimizer must not have amsgrad"):
        unroll(critic, LOSS, real, fake, optimizer=torch.optim.Adam(critic.parameters(), amsgrad=True))
