from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gankern.train.mixtures import Mixture, grid, ring


def test_where_the_modes_are() -> None:
    eight, five = ring(), grid()
    assert len(eight) == 8 and len(five) == 25
    torch.testing.assert_close(eight.centers.norm(dim=1), torch.full((8,), 2.0))
    torch.testing.assert_close(eight.centers[:3], torch.tensor([[2.0, 0.0], [math.sqrt(2)] * 2, [0.0, 2.0]]))
    assert sorted(map(tuple, five.centers.tolist())) == [(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]
    assert repr(eight) == "Mixture('ring of 8', 8 modes, std=0.02)"


@pytest.mark.parametrize("mixture", [ring(), grid(), grid(3, 1.0, 0.3)], ids=repr)
def test_samples_have_the_mixtures_moments_and_quality(mixture: Mixture) -> None:
    x = mixture.sample(40_000, torch.Generator().manual_seed(0))
    assert x.shape == (40_000, 2) and x.dtype == torch.float32
    assert torch.equal(x, mixture.sample(40_000, torch.Generator().manual_seed(0)))
    spread = mixture.centers.var(0, unbiased=False) + mixture.std**2
    torch.testing.assert_close(x.mean(0), mixture.centers.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(x.var(0), spread, rtol=0.03, atol=0)
    found = mixture.coverage(x)
    assert found.modes == len(mixture) == len(found.counts)
    share = 1 - math.exp(-4.5)  # chi-squared with two degrees of freedom within 3 deviations
    if mixture.std < 0.1:  # far enough apart not to reach into each other
        assert abs(found.high_quality - share) < 5 * math.sqrt(share * (1 - share) / 40_000)
        assert sum(found.counts) == round(found.high_quality * 40_000)
    else:
        assert found.high_quality > share
    assert 0 <= found.divergence < 1e-3


def test_density_integrates_to_one() -> None:
    mixture = grid(2, 1.0, 0.2)
    along = torch.arange(-2, 2, 0.02, dtype=torch.float64) + 0.01
    points = torch.cartesian_prod(along, along)
    assert float(mixture.log_prob(points).exp().sum() * 0.02**2) == pytest.approx(1, abs=1e-10)
    x = points[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(mixture.log_prob, x)


def test_coverage_by_hand() -> None:
    mixture = Mixture(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), 1.0)
    x = torch.tensor([[0.0, 2.9], [0.0, 3.1], [1.0, 1.0], [10.0, 0.5], [math.nan, 0.0], [0.0, math.inf]])
    found = mixture.coverage(x)
    assert (found.modes, found.counts) == (2, (2, 1, 0)) and found.high_quality == 3 / 6
    assert found.divergence == pytest.approx(2 / 3 * math.log(2) + 1 / 3 * math.log(1))
    assert mixture.coverage(x, least=2).modes == 1
    wide = mixture.coverage(x, within=3.2)
    assert wide.counts == (3, 1, 0) and wide.high_quality == 4 / 6
    nothing = mixture.coverage(x[1:2])
    assert (nothing.modes, nothing.high_quality) == (0, 0.0) and math.isnan(nothing.divergence)
    collapsed = mixture.coverage(x[:1].expand(9, 2))
    assert collapsed.modes == 1 and collapsed.divergence == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Mixture([[0.0]], 1.0), TypeError, "centers must be a floating-point torch.Tensor.*got list"),  # type: ignore
        (lambda: Mixture(torch.ones(3), 1.0), ValueError, r"centers must be finite \[K, D\].*got \[3\]"),
        (lambda: Mixture(torch.full((1, 2), math.nan), 1.0), ValueError, "centers must be finite"),
        (lambda: Mixture(torch.ones(1, 2), 0.0), ValueError, "std must be positive, got 0.0"),
        (lambda: ring(0), ValueError, "ring: modes must be an int of at least 1, got 0"),
        (lambda: ring(radius=-1.0), ValueError, "ring: radius must not be negative"),
        (lambda: grid(2.5), ValueError, "grid: side must be an int of at least 1, got 2.5"),  # type: ignore
        (lambda: grid(spacing=0.0), ValueError, "grid: spacing must be positive"),
        (lambda: ring().sample(-1), ValueError, "count must be an int of 0 or more, got -1"),
        (lambda: ring().coverage(torch.ones(3, 3)), ValueError, r"coverage: x must be \[N, 2\], got \[3, 3\]"),
        (lambda: ring().coverage(torch.ones(0, 2)), ValueError, "x must have at least one sample"),
        (lambda: ring().coverage(torch.ones(1, 2), within=0), ValueError, "within must be positive"),
        (lambda: ring().coverage(torch.ones(1, 2), least=0), ValueError, "least must be an int of at least 1"),
        (lambda: ring().log_prob(torch.ones(1, 2).int()), TypeError, "log_prob: x must be a floating-point.*int32"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
