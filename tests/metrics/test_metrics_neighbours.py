"""Nearest neighbours, precision, recall, density and coverage, held to brute force in float64 and to scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gankern.metrics import manifold_metrics, nearest_neighbours, neighbours


def points(n: int, d: int = 8, seed: int = 0, offset: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + offset


def distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - y.double()[None]).square().sum(2).sqrt()


def by_definition(real: torch.Tensor, fake: torch.Tensor, k: int, k_density: int) -> tuple[float, float, float, float]:
    """The papers' formulas, one matrix each; a point at the edge of a ball, up to rounding, is inside."""

    def radii(x: torch.Tensor, k: int) -> torch.Tensor:
        d = distances(x, x)
        d.fill_diagonal_(float("inf"))
        return d.kthvalue(k, 1).values * (1 + 1e-12)

    d = distances(real, fake)
    in_real = d <= radii(real, k)[:, None]
    in_fake = d <= radii(fake, k)[None]
    dense = d <= radii(real, k_density)[:, None]
    precision, recall = in_real.any(0).double().mean(), in_fake.any(1).double().mean()
    density, coverage = dense.double().sum() / (k_density * len(fake)), dense.any(1).double().mean()
    return float(precision), float(recall), float(density), float(coverage)


def found(real: torch.Tensor, fake: torch.Tensor, k: int = 3, k_density: int = 5) -> tuple[float, float, float, float]:
    m = manifold_metrics(real, fake, k, k_density)
    return m.precision, m.recall, m.density, m.coverage


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many blocks":
        monkeypatch.setattr(neighbours, "_ELEMENTS", 1000)
        monkeypatch.setattr(neighbours, "_COLUMNS", 37)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_neighbours_are_those_of_float64(offset: float, dtype: torch.dtype) -> None:
    """Also far from the origin, where a float32 product without centring would have no digit left."""
    x, y = points(150, offset=offset).to(dtype), points(200, seed=1, offset=offset).to(dtype)
    d, i = nearest_neighbours(x, y, 5)
    exact = distances(x, y).topk(5, largest=False)
    torch.testing.assert_close(d, exact.values, rtol=1e-12, atol=0)
    assert torch.equal(i, exact.indices) and d.dtype == torch.float64
    own, j = nearest_neighbours(x, k=4)
    among = distances(x, x).fill_diagonal_(float("inf")).topk(4, largest=False)
    torch.testing.assert_close(own, among.values, rtol=1e-12, atol=0)
    assert torch.equal(j, among.indices)


def test_nearest_neighbours_against_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.neighbors")
    x, y = points(400, 64), points(3000, 64, seed=1)
    d, i = nearest_neighbours(x, y, 6)
    theirs, j = sklearn.NearestNeighbors(n_neighbors=6, algorithm="brute").fit(y.numpy()).kneighbors(x.numpy())
    np.testing.assert_allclose(d.numpy(), theirs, rtol=1e-6)  # its distances are float32
    np.testing.assert_array_equal(i.numpy(), j)


@pytest.mark.usefixtures("blocks")
def test_heaps_far_from_the_centre_are_told_apart() -> None:
    """Points of a heap that are nearer to each other than the rounding of their products."""
    heap = torch.cat([points(40, offset=50.0, scale=1e-4), points(40, seed=1, offset=-50.0, scale=1e-4)])
    d, _ = nearest_neighbours(heap, k=3)
    exact = distances(heap, heap).fill_diagonal_(float("inf")).topk(3, largest=False)
    torch.testing.assert_close(d, exact.values, rtol=1e-6, atol=0)
    fake = torch.cat([points(30, seed=2, offset=50.0, scale=1e-4), points(30, seed=3, offset=50.0, scale=3e-4)])
    assert found(heap, fake) == pytest.approx(by_definition(heap, fake, 3, 5), rel=1e-12)


def test_duplicates() -> None:
    x = points(20).repeat(5, 1)
    d, _ = nearest_neighbours(x, k=4)
    assert not d.any()
    # With k = 4 a ball has its centre's five copies in it and nothing else; the fifth neighbour is one of another five.
    assert found(x, x, 3, 4) == by_definition(x, x, 3, 4) == (1.0, 1.0, 5 / 4, 1.0)
    assert found(x, x, 3, 5) == by_definition(x, x, 3, 5) == (1.0, 1.0, 10 / 5, 1.0)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_manifold_metrics_are_their_definitions(shift: float) -> None:
    real, fake = points(300), points(250, seed=1, offset=shift, scale=0.8)
    assert found(real, fake) == pytest.approx(by_definition(real, fake, 3, 5), rel=1e-12)
    assert found(real, fake, 1, 2) == pytest.approx(by_definition(real, fake, 1, 2), rel=1e-12)


def test_points_at_the_edge_are_inside() -> None:
    """A lattice: every neighbour is at the same distance, and every radius is one that occurs."""
    lattice = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    moved = lattice + torch.tensor([1.0, 0.0])
    assert found(lattice, moved) == pytest.approx(by_definition(lattice, moved, 3, 5), rel=1e-12)


def test_what_the_metrics_are_for() -> None:
    """Few fakes of good quality: precision without recall. Real images and noise: recall without precision."""
    real = points(400)
    collapsed = real[:1].expand(200, -1) + points(200, seed=1, scale=1e-3)
    few = manifold_metrics(real, collapsed)
    assert few.precision == 1 and few.recall < 0.05 and few.coverage < 0.1
    wide = manifold_metrics(real, torch.cat([points(200, seed=2), points(200, seed=3, scale=10.0)]))
    assert wide.recall > 0.9 and wide.precision < 0.7
    same = manifold_metrics(real, points(400, seed=4))
    assert same.density == pytest.approx(1.0, abs=0.15) and same.coverage > 0.9
    apart = manifold_metrics(real, points(300, offset=100.0))
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)


def test_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block that is made stays below the limit, whatever the number of points."""
    sizes = []
    product = neighbours._product

    def seen(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        result = product(*args)  # type: ignore[arg-type]
        sizes.append(result[0].numel())
        return result

    monkeypatch.setattr(neighbours, "_product", seen)
    monkeypatch.setattr(neighbours, "_ELEMENTS", 2**14)
    monkeypatch.setattr(neighbours, "_COLUMNS", 2**9)
    manifold_metrics(points(1500), points(1400, seed=1))
    assert max(sizes) <= 2**14 and sum(sizes) >= 1500 * 1400 + 1500**2 + 1400**2


def test_a_users_matmul_precision_is_overruled_and_kept() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        x, y = points(100, 64), points(90, 64, seed=1)
        torch.testing.assert_close(
            nearest_neighbours(x, y, 3)[0], distances(x, y).topk(3, largest=False).values, rtol=1e-12, atol=0
        )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bad_input_is_named() -> None:
    x = points(10)
    with pytest.raises(ValueError, match="k must be an int from 1 to 9, got 10"):
        nearest_neighbours(x, k=10)
    with pytest.raises(ValueError, match=r"y must be \[M, 8\]"):
        nearest_neighbours(x, points(10, 4))
    with pytest.raises(ValueError, match="real must have at least 6 rows, got 5"):
        manifold_metrics(x[:5], x)
    with pytest.raises(ValueError, match="fake must have at least 4 rows, got 3"):
        manifold_metrics(x, x[:3])
    with pytest.raises(ValueError, match="neighbours must be an int, at least 1, got 0"):
        manifold_metrics(x, x, 0)
    bad = x.clone()
    bad[[3, 7], 0] = float("inf")
    with pytest.raises(ValueError, match="fake must be finite, got NaN or infinity in row 3 and 1 more rows"):
        manifold_metrics(x, bad)
    assert len(nearest_neighbours(x[:0], x, 2)[0]) == 0
