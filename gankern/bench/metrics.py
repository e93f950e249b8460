"""Metrics as rows: nearest neighbours, precision and recall, mean and covariance, Frechet distance.

"Eager" is the formula in plain PyTorch, with all its matrices; beside it stand scikit-learn (``sklearn``) and torch-fidelity
(``torch_fidelity``) where they are installed. Features are normal with a common mean, as Inception's about are.

- ``nearest_neighbours``: distances to the 3 nearest rows of the same set;
- ``precision_recall``: both, with k = 3;
- ``gaussian_statistics``: mean and covariance in float64 of features that come 64 at a time;
- ``frechet_distance``: of two such Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gankern import metrics
from gankern._dispatch import OpSpec
from gankern._samples import Sample, randn

if TYPE_CHECKING:
    from gankern.bench.rows import Row

K = 3
BATCH = 64

_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})


# ---- ours ------------------------------------------------------------------------------------------------------------------
def _nearest(x: Tensor) -> Tensor:
    return metrics.nearest_neighbours(x, k=K)[0]


def _precision_recall(x: Tensor, fake: Tensor) -> Tensor:
    found = metrics.manifold_metrics(x, fake, K, K)
    return torch.tensor([found.precision, found.recall], dtype=torch.float64)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    statistics = metrics.GaussianStatistics(x.shape[1], x.device)
    for batch in x.split(BATCH):
        statistics.update(batch)
    return statistics.mean, statistics.covariance


def _frechet(x: Tensor, mean: Tensor, covariance: Tensor, other: Tensor) -> Tensor:
    return torch.tensor(metrics.gaussian_frechet_distance(x, covariance, mean, other), dtype=torch.float64)


# ---- the formulas ----------------------------------------------------------------------------------------------------------
def _nearest_reference(x: Tensor) -> Tensor:
    # The first is the row itself.
    return torch.cdist(x, x).topk(K + 1, largest=False).values[:, 1:]


def _precision_recall_reference(x: Tensor, fake: Tensor) -> Tensor:
    radii = [_nearest_reference(s)[:, -1] for s in (x, fake)]
    d = torch.cdist(x, fake)
    return torch.stack([(d <= radii[0][:, None]).any(0).double().mean(), (d <= radii[1][None]).any(1).double().mean()])


def _statistics_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.cat([batch.double() for batch in x.split(BATCH)])
    return rows.mean(0), torch.cov(rows.t())


def _frechet_reference(x: Tensor, mean: Tensor, covariance: Tensor, other: Tensor) -> Tensor:
    values = torch.linalg.eigvals(covariance.double() @ other.double())
    root = values.real.clamp_min(0).sqrt().sum()
    return (x - mean).double().square().sum() + covariance.double().trace() + other.double().trace() - 2 * root


# ---- samples ---------------------------------------------------------------------------------------------------------------
def _features(n: int, d: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    return (0.4 + 0.3 * randn((n, d), torch.float64, device, generator)).to(dtype)


def _one_set(n: int, d: int, tags: frozenset[str], macs: int) -> Sample:
    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        return {"x": _features(n, d, dtype, device, generator)}

    return _sample(f"{n}x{d}", make, tags, macs, f"{n} images, {d} features")


def _two_sets(n: int, d: int, tags: frozenset[str]) -> Sample:
    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        # Nearer together: half of the fakes lie on the real manifold, so that both answers are there.
        return {"x": _features(n, d, dtype, device, generator), "fake": _features(n, d, dtype, device, generator)}

    return _sample(f"{n}x{d}", make, tags, 3 * n * n * d, f"{n} real and {n} generated images, {d} features")


def _gaussians(d: int, tags: frozenset[str]) -> Sample:
    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        roots = [randn((d, d), torch.float64, device, generator) / d**0.5 for _ in range(2)]
        one, two = ((r @ r.t()).to(dtype) for r in roots)
        means = [randn((d,), dtype, device, generator) for _ in range(2)]
        return {"x": means[0], "mean": means[1], "covariance": one, "other": two}

    return _sample(f"{d}", make, tags, 0, f"{d} features")


def _sample(name: str, make: Callable[..., Any], tags: frozenset[str], macs: int, description: str) -> Sample:
    # Features are computed in float32, whatever the networks do.
    return Sample(name, make, (), tags, macs=macs, layouts=("nchw",), dtypes=(torch.float32,), description=description)


def _spec(name: str, public: Callable[..., Any], reference: Callable[..., Any], samples: list[Sample]) -> OpSpec:
    return OpSpec(name, public, reference, prepare=lambda **_: (), table=None, samples=samples, derivative_order=0)


METRICS = {
    spec.name: spec
    for spec in (
        _spec("nearest_neighbours", _nearest, _nearest_reference,
              [_one_set(4000, 64, _QUICK, 4000**2 * 64), _one_set(2000, 2048, _QUICK, 2000**2 * 2048),
               _one_set(20_000, 2048, _FULL, 20_000**2 * 2048)]),
        _spec("precision_recall", _precision_recall, _precision_recall_reference,
              [_two_sets(3000, 64, _QUICK), _two_sets(1500, 2048, _QUICK), _two_sets(10_000, 2048, _FULL)]),
        _spec("gaussian_statistics", _statistics, _statistics_reference,
              [_one_set(5000, 64, _QUICK, 5000 * 64**2), _one_set(2500, 1024, _QUICK, 2500 * 1024**2),
               _one_set(20_000, 2048, _FULL, 20_000 * 2048**2)]),
        _spec("frechet_distance", _frechet, _frechet_reference, [_gaussians(256, _QUICK), _gaussians(2048, _FULL)]),
    )
}  # fmt: skip
"""The rows by name."""


# ---- the others ------------------------------------------------------------------------------------------------------------
def _modules() -> dict[str, Any]:
    """torch-fidelity's modules of metrics, if it is there and its torchvision fits this torch."""
    try:
        from torch_fidelity import metric_fid, metric_prc
    except Exception:
        return {}
    return {"fid": metric_fid, "prc": metric_prc}


def _contenders(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """scikit-learn and torch-fidelity on the same features, on the CPU."""
    x: Tensor = kwargs["x"]
    if x.device.type != "cpu":
        return {}
    found: dict[str, Callable[[], Any]] = {}
    fidelity = _modules()
    array = x.numpy()
    try:
        from sklearn.covariance import EmpiricalCovariance
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        pass
    else:
        if row.op == "nearest_neighbours":
            found["sklearn"] = lambda: NearestNeighbors(n_neighbors=K, algorithm="brute").fit(array).kneighbors()
        if row.op == "gaussian_statistics":
            found["sklearn"] = lambda: EmpiricalCovariance(store_precision=False).fit(array.astype("float64"))
    if fidelity and row.op == "precision_recall":
        fake = kwargs["fake"]
        found["torch_fidelity"] = lambda: fidelity["prc"].prc_features_to_metric(
            fake, x, prc_neighborhood=K, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
        )
    if fidelity and row.op == "gaussian_statistics":
        found["torch_fidelity"] = lambda: fidelity["fid"].fid_features_to_statistics(x.double())
    if fidelity and row.op == "frechet_distance":
        sides = [{"mu": kwargs[m].double().numpy(), "sigma": kwargs[s].double().numpy()}
                 for m, s in (("x", "covariance"), ("mean", "other"))]  # fmt: skip
        found["torch_fidelity"] = lambda: fidelity["fid"].fid_statistics_to_metric(*sides, False)
    return found


CONTENDERS = dict.fromkeys(METRICS, _contenders)
"""What stands beside ours and eager, for ``gankern.bench.extras.EXTRAS``."""
