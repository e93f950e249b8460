"""Frechet distance and its statistics, held to closed forms, numpy and scipy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gankern.metrics import GaussianStatistics, frechet_distance, gaussian_frechet_distance

D = 6


def features(n: int, d: int = D, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64) + offset


# ---- closed forms ----------------------------------------------------------------------------------------------------------
def test_gaussians_whose_covariances_commute() -> None:
    """C1 = Q diag(a) Q^T and C2 = Q diag(b) Q^T: |m|^2 + sum (sqrt a - sqrt b)^2."""
    q = torch.linalg.qr(features(D))[0]
    a, b = torch.tensor([4.0, 1, 9, 0, 2, 1e-6]).double(), torch.tensor([1.0, 1, 4, 3, 0, 1e-8]).double()
    m1, m2 = features(1)[0], features(1, seed=1)[0]
    expected = (m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    found = gaussian_frechet_distance(m1, q @ a.diag() @ q.t(), m2, q @ b.diag() @ q.t())
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_one_dimension() -> None:
    """Two normal distributions on the line: (m1 - m2)^2 + (s1 - s2)^2."""
    one = torch.ones(1)
    assert gaussian_frechet_distance(3 * one, 4 * one[None], one, 25 * one[None]) == pytest.approx(4 + 9, rel=1e-14)


def test_two_dimensions_by_the_determinant() -> None:
    """tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for 2 x 2 with M = C1 C2."""
    c1, c2 = (features(50, 2, seed=s).t().cov() for s in (1, 2))
    product = c1 @ c2
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    zero = torch.zeros(2, dtype=torch.float64)
    expected = c1.trace() + c2.trace() - 2 * root
    assert gaussian_frechet_distance(zero, c1, zero, c2) == pytest.approx(float(expected), rel=1e-12)


def test_against_scipy_sqrtm() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(300), features(200, seed=1, offset=1.0)
    c1, c2 = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    gap = x.mean(0).numpy() - y.mean(0).numpy()
    expected = gap @ gap + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances_keep_their_digits() -> None:
    """Fewer images than features: exact by the singular values of the data, where the root of a product loses 6 digits."""
    a, b = features(10, 40), features(12, 40, seed=1)
    left, right = (a - a.mean(0)) / 9**0.5, (b - b.mean(0)) / 11**0.5
    root = torch.linalg.svdvals(left @ right.t()).sum()
    exact = (a.mean(0) - b.mean(0)).square().sum() + left.square().sum() + right.square().sum() - 2 * root
    with pytest.warns(UserWarning) as told:
        found = frechet_distance(a, b)
    assert ["real has 10 images for 40 features" in str(w.message) for w in told] == [True, False]
    assert "fake has 12 images" in str(told[1].message) and "rank of at most 11" in str(told[1].message)
    assert found == pytest.approx(float(exact), rel=1e-12)


def test_equal_and_constant_features() -> None:
    x = features(100)
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(x, x + 2) == pytest.approx(4 * D, rel=1e-9)
    constant = torch.ones(20, D)
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, 3 * constant) == pytest.approx(4 * D)


# ---- statistics ------------------------------------------------------------------------------------------------------------
def test_batches_and_merges_give_numpys_covariance() -> None:
    x = features(3000, offset=1e4)  # a large mean, where sums of squares would lose 8 digits
    whole = GaussianStatistics.of(x)
    parts = [GaussianStatistics(D) for _ in range(3)]
    for i, row in enumerate(x.split(37)):
        parts[i % 3].update(row)
    empty = GaussianStatistics(D)
    for part in parts:
        empty.merge(part)
    empty.update(x[:0])
    for found in (whole, empty):
        assert found.count == 3000
        np.testing.assert_allclose(found.mean.numpy(), x.mean(0).numpy(), rtol=1e-13)
        np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_accumulates_in_float64(dtype: torch.dtype) -> None:
    x = features(500, offset=30.0).to(dtype)
    found = GaussianStatistics.of(x)
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10, atol=1e-10)


def test_many_features_are_multiplied_in_blocks() -> None:
    x = features(30, 1100)
    found = GaussianStatistics.of(x).covariance
    np.testing.assert_allclose(found.numpy(), np.cov(x.numpy(), rowvar=False), rtol=0, atol=1e-10)
    assert torch.equal(found, found.t())


def test_does_not_keep_a_callers_buffer() -> None:
    buffer = features(4)
    expected = buffer.mean(0).clone()
    statistics = GaussianStatistics(D)
    statistics.update(buffer)
    buffer.zero_()
    torch.testing.assert_close(statistics.mean, expected)


def test_save_and_load(tmp_path: Path) -> None:
    statistics = GaussianStatistics.of(features(20))
    statistics.save(tmp_path / "real.npz")
    again = GaussianStatistics.load(tmp_path / "real.npz")
    assert (
        again.count == 20 and torch.equal(again.mean, statistics.mean) and torch.equal(again.covariance, statistics.covariance)
    )
    whole = (tmp_path / "real.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.npz' is truncated"):
        GaussianStatistics.load(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError):
        GaussianStatistics.load(tmp_path / "none.npz")


def test_bad_input_is_named() -> None:
    statistics = GaussianStatistics(D)
    with pytest.raises(ValueError, match=r"features must be \[N, 6\], got \[2, 5\]"):
        statistics.update(torch.zeros(2, 5))
    bad = torch.zeros(4, D)
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity in row 2"):
        statistics.update(bad)
    assert statistics.count == 0
    with pytest.raises(ValueError, match="no mean of no images"):
        _ = statistics.mean
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = GaussianStatistics.of(torch.zeros(1, D)).covariance
    with pytest.raises(ValueError, match="fake must have as many features as real, 6, got 3"):
        frechet_distance(torch.zeros(9, 6), torch.zeros(9, 3))
    with pytest.raises(TypeError, match=r"real must be a torch\.Tensor"):
        frechet_distance(np.zeros((4, 2)), torch.zeros(4, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"covariance2 must be \[2, 2\], got \[2, 3\]"):
        gaussian_frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="other must have 6 features, got 2"):
        statistics.merge(GaussianStatistics(2))


def test_no_warning_with_enough_images() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(features(D + 1), features(D + 1, seed=1))
