from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch

from gankern import losses, nn


def test_by_its_formula() -> None:
    torch.manual_seed(0)
    module = nn.MinibatchDiscrimination(4, kernels=3, kernel_dim=2).double()
    x = torch.randn(5, 4).double()
    y = module(x).detach()
    assert y.shape == (5, 7) and torch.equal(y[:, :4], x)
    m = (x @ module.project.weight.T).tolist()
    for i in range(5):
        for b in range(3):
            near = [math.exp(-sum(abs(m[i][2 * b + c] - m[j][2 * b + c]) for c in range(2))) for j in range(5) if j != i]
            assert float(y[i, 4 + b]) == pytest.approx(sum(near), abs=1e-12)
    module.itself = True
    torch.testing.assert_close(module(x)[:, 4:], y[:, 4:] + 1)
    assert not module(x[:1])[:, 4:].sub(1).any()


def test_alike_samples_are_seen() -> None:
    torch.manual_seed(0)
    module = nn.MinibatchDiscrimination(4)
    x = torch.randn(1, 4)
    collapsed, spread = module(x.expand(8, 4)), module(100 * torch.randn(8, 4))
    torch.testing.assert_close(collapsed[:, 4:], torch.full((8, 100), 7.0))
    assert float(spread[:, 4:].detach().mean()) < 0.1


def test_derivatives_also_among_equal_samples() -> None:
    torch.manual_seed(0)
    module = nn.MinibatchDiscrimination(3, kernels=2, kernel_dim=2).double()
    x = torch.randn(4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(module, x)
    assert torch.autograd.gradgradcheck(module, x)
    same = x.detach()[:1].repeat(4, 1).requires_grad_()
    (g,) = torch.autograd.grad(module(same).sum(), same, create_graph=True)
    torch.testing.assert_close(g.detach(), torch.ones_like(g))


def test_reference_dtypes_pickle_and_words() -> None:
    torch.manual_seed(0)
    module = nn.MinibatchDiscrimination(6, kernels=4)
    x = torch.randn(5, 6)
    y = module(x)
    reference = copy.deepcopy(module)
    for part in reference.modules():
        if hasattr(part, "reference"):
            part.reference = True
    torch.testing.assert_close(reference(x), y)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(x), y)
    low = copy.deepcopy(module).bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), y, rtol=0.05, atol=0.05)
    assert "6, kernels=4, kernel_dim=5" in repr(module) and "reference=True" in repr(reference)


def test_a_critic_with_it_takes_double_backward() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Linear(3, 4), nn.MinibatchDiscrimination(4, 5), torch.nn.Linear(9, 1))
    step = losses.PenalizedStep(critic, losses.adversarial("nonsaturating"), r1=1.0)
    step.backward(torch.randn(4, 3), torch.randn(4, 3))
    assert step.explain().startswith("plain double backward")
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in critic.parameters())


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: nn.MinibatchDiscrimination(0), ValueError, "features must be an int of at least 1, got 0"),
        (lambda: nn.MinibatchDiscrimination(3, kernel_dim=1.5), ValueError, "kernel_dim must be an int"),  # type: ignore
        (lambda: nn.MinibatchDiscrimination(3)(torch.ones(2, 4)), ValueError, r"x must be \[N, 3\], got \[2, 4\]"),
        (lambda: nn.MinibatchDiscrimination(3)(torch.ones(2, 3).int()), TypeError, "x must be float32, .*got int32"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
