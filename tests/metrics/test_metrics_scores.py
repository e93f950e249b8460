"""Kernel distance, inception score and mode coverage, held to closed forms and to sums over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gankern.metrics import class_coverage, inception_score, kernel, kernel_distance, mode_coverage


def features(n: int, d: int = 5, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + offset


# ---- kernel distance -------------------------------------------------------------------------------------------------------
def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    """Gretton et al. 2012, equation 3, pair by pair."""
    x, y = x.double().numpy(), y.double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within += sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [4096, 7])
def test_all_pairs_are_the_definition(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_BLOCK", block)
    x, y = features(20), features(23, seed=1, offset=0.3)
    found = kernel_distance(x, y, subsets=0)
    assert found.mean == pytest.approx(by_definition(x, y), rel=1e-12)
    assert math.isnan(found.std) and found.subsets == 0


def test_a_subset_of_all_images_is_all_pairs() -> None:
    x, y = features(40), features(40, seed=1)
    found = kernel_distance(x, y, subsets=3)
    assert found.subset_size == 40
    assert found.mean == pytest.approx(kernel_distance(x, y, subsets=0).mean, rel=1e-10)
    assert found.std < 1e-12


def test_one_dimension_in_closed_form() -> None:
    """For D = 1 the kernel is sum binom(3, i) x^i y^i: MMD^2 = sum binom(3, i) (mu_i - nu_i)^2, of moments mu_i and nu_i."""
    n, offset = 50_000, 0.5
    moments = [(1.0, 1.0), (0.0, offset), (1.0, 1 + offset**2), (0.0, offset**3 + 3 * offset)]
    expected = sum(math.comb(3, i) * (a - b) ** 2 for i, (a, b) in enumerate(moments))
    x, y = features(n, 1), features(n, 1, seed=1, offset=offset)
    found = kernel_distance(x, y, subsets=200, subset_size=400)
    error = found.std / 200**0.5  # of the mean; another 2 for the images, which the subsets share
    assert found.mean == pytest.approx(expected, abs=6 * error)


def test_unbiased_at_any_size_and_seeded() -> None:
    x, y = features(400), features(600, seed=1)
    small = kernel_distance(x, y, 300, 20)
    assert abs(small.mean) < 4 * small.std / 300**0.5 + 0.01
    assert kernel_distance(x, y, 5, 50, seed=3) == kernel_distance(x, y, 5, 50, seed=3)
    assert kernel_distance(x, y, 5, 50, seed=3) != kernel_distance(x, y, 5, 50, seed=4)


# ---- inception score -------------------------------------------------------------------------------------------------------
def test_inception_score_in_closed_form() -> None:
    """Sure of K equally frequent classes: K. Unsure: 1. Sure of one class: 1. Two values of p(y|x): by hand."""
    sure = 1000 * torch.eye(7).repeat(10, 1)
    assert inception_score(sure, 1).mean == pytest.approx(7, rel=1e-12)
    assert inception_score(torch.zeros(30, 7), 3).mean == pytest.approx(1, rel=1e-12)
    assert inception_score(sure[:1].expand(30, -1), 2).mean == pytest.approx(1, rel=1e-12)
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    q = p.mean(0)
    expected = (p * (p / q).log()).sum(1).mean().exp()
    assert inception_score(p.log().repeat(50, 1), 1).mean == pytest.approx(float(expected), rel=1e-12)


def test_parts_of_the_inception_score() -> None:
    """Images sorted by class: parts in their order know one class each, and shuffled parts know them all."""
    classes = 1000 * torch.eye(4).repeat_interleave(250, 0)
    assert inception_score(classes, 4, seed=None).mean == pytest.approx(1)
    shuffled = inception_score(classes, 4)
    assert shuffled.mean > 3.9 and shuffled == inception_score(classes, 4)
    logits = torch.cat([torch.zeros(10, 2), 1000 * torch.eye(2).repeat(5, 1)])
    halves = inception_score(logits, 2, seed=None)
    assert halves.mean == pytest.approx(1.5) and halves.std == pytest.approx(0.5)  # of 1 and 2
    with pytest.raises(ValueError, match="splits must be an int from 1 to the number of images, 5, got 6"):
        inception_score(torch.zeros(5, 2), 6)
    with pytest.raises(TypeError, match="logits must have a floating-point dtype"):
        inception_score(torch.zeros(5, 2, dtype=torch.int64))


# ---- modes -----------------------------------------------------------------------------------------------------------------
def ring(k: int = 8) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(k) / k
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_modes_of_a_ring() -> None:
    centres, std = ring(), 0.02
    samples = centres.repeat_interleave(100, 0) + std * torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    whole = mode_coverage(samples, centres, std)
    assert whole.modes == whole.total == 8 and whole.kl < 0.01
    assert whole.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.015)  # a 2-D normal within 3 standard deviations
    half = mode_coverage(samples[:400], centres, std)
    assert half.modes == 4 and half.kl == pytest.approx(math.log(2), abs=0.01)
    collapsed = mode_coverage(centres[:1].expand(50, -1), centres, std)
    assert collapsed.modes == 1 and collapsed.kl == pytest.approx(math.log(8)) and collapsed.counts == (50, *[0] * 7)
    lost = mode_coverage(torch.zeros(10, 2), centres, std)
    assert lost.modes == 0 and lost.high_quality == 0 and lost.kl == math.inf
    edge = mode_coverage(torch.tensor([[3.0], [3.1]]), torch.zeros(1, 1), 1.0)
    assert edge.counts == (1,) and edge.high_quality == 0.5


def test_modes_by_classes() -> None:
    logits = torch.eye(4)[[0, 0, 1, 1, 2, 2, 2, 2]]
    found = class_coverage(logits)
    assert found.modes == 3 and found.total == 4 and found.counts == (2, 2, 4, 0) and found.high_quality == 1
    p = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    assert found.kl == pytest.approx(float((p * (p * 4).log()).sum()))
    assert class_coverage(logits, logits.flip(0)).kl == 0
    assert class_coverage(logits, torch.eye(4)[[0, 1]]).kl == math.inf, "fakes of a class that is not among the real ones"
    with pytest.raises(ValueError, match=r"real_logits must be \[M, 4\], as fake_logits, got \[2, 3\]"):
        class_coverage(logits, torch.zeros(2, 3))


def test_bad_input_is_named() -> None:
    x = features(10)
    with pytest.raises(ValueError, match="real must have at least 2 rows, got 1"):
        kernel_distance(x[:1], x)
    with pytest.raises(ValueError, match="subsets must be an int, at least 0, got -1"):
        kernel_distance(x, x, -1)
    with pytest.raises(ValueError, match="fake must have as many features as real, 5, got 2"):
        kernel_distance(x, features(10, 2))
    with pytest.raises(ValueError, match="std must be positive and finite, got 0"):
        mode_coverage(x, x, 0.0)
    with pytest.raises(ValueError, match=r"centres must be \[K, 5\], as samples, got \[3, 2\]"):
        mode_coverage(x, features(3, 2), 1.0)
