from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gankern import losses

WEIGHTS = {"l1_loss": 100.0, "cycle_loss": 10.0, "identity_loss": 5.0}


@pytest.mark.parametrize("name", WEIGHTS)
def test_is_torchs_l1_times_the_papers_weight(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 5, 4, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = getattr(losses, name)
    torch.testing.assert_close(loss(a, b), WEIGHTS[name] * F.l1_loss(a, b))
    torch.testing.assert_close(loss(a, b, 0.5), 0.5 * F.l1_loss(a, b))
    assert float(loss(a.detach(), b, 0).detach()) == 0
    assert torch.autograd.gradcheck(loss, (a, b))
    (g,) = torch.autograd.grad(loss(a, a.detach()), a)
    assert not g.any(), "a subgradient of 0 where both are equal"
    low = loss(a.detach().bfloat16(), b.detach().bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(a.detach().bfloat16().float(), b.detach().bfloat16().float()))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: losses.l1_loss([1], torch.ones(1)), TypeError, "l1_loss: output must be .*got list"),
        (lambda: losses.l1_loss(torch.ones(1), torch.ones(1).int()), TypeError, "l1_loss: target must be .*got int32"),
        (
            lambda: losses.cycle_loss(torch.ones(2, 1, 4, 4), torch.ones(1, 4, 4)),
            ValueError,
            r"cycle_loss: images must have the shape of cycled, \[2, 1, 4, 4\], got \[1, 4, 4\]",
        ),
        (
            lambda: losses.identity_loss(torch.ones(2), torch.ones(2).double()),
            ValueError,
            "identity_loss: images must have the dtype of mapped, float32, got float64",
        ),
        (lambda: losses.l1_loss(torch.ones(0, 3), torch.ones(0, 3)), ValueError, r"output must not be empty, got \[0, 3\]"),
        (lambda: losses.l1_loss(torch.ones(2), torch.ones(2), -1), ValueError, "weight must not be negative, got -1"),
        (lambda: losses.l1_loss(torch.ones(2), torch.ones(2), "a"), TypeError, "weight must be a real number"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
