"""The benchmark rows of metrics: ours and the formula agree, and the others compute the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gankern.bench import case, metrics
from gankern.bench.rows import Row


def smallest(name: str) -> tuple[Row, dict[str, Any]]:
    spec = metrics.METRICS[name]
    sample = spec.samples[0]
    assert "quick" in sample.tags
    return Row(name, sample.name, "float32", "nchw", "forward"), sample.inputs()


@pytest.mark.parametrize("name", metrics.METRICS)
def test_ours_is_the_formula(name: str) -> None:
    _, kwargs = smallest(name)
    mine, theirs = (f(**kwargs) for f in (metrics.METRICS[name].public, metrics.METRICS[name].reference))
    pairs = [v if isinstance(v, tuple) else (v,) for v in (mine, theirs)]
    assert case.distance(*pairs) < 1e-6
    assert all(torch.isfinite(v).all() and v.any() for v in pairs[0])


def test_scikit_learn_computes_the_same() -> None:
    pytest.importorskip("sklearn")
    row, kwargs = smallest("nearest_neighbours")
    distances, _ = metrics.CONTENDERS[row.op](row, kwargs)["sklearn"]()
    torch.testing.assert_close(torch.from_numpy(distances).double(), metrics._nearest(**kwargs), rtol=1e-5, atol=0)
    row, kwargs = smallest("gaussian_statistics")
    fitted = metrics.CONTENDERS[row.op](row, kwargs)["sklearn"]()
    n = len(kwargs["x"])
    ours = metrics._statistics(**kwargs)[1] * (n - 1) / n  # scikit-learn divides by n
    torch.testing.assert_close(torch.from_numpy(fitted.covariance_), ours, rtol=1e-8, atol=1e-12)


def test_torch_fidelity_computes_the_same() -> None:
    if not metrics._modules():
        pytest.skip("torch-fidelity cannot be imported")
    row, kwargs = smallest("precision_recall")
    found = metrics.CONTENDERS[row.op](row, kwargs)["torch_fidelity"]()
    ours = metrics._precision_recall(**kwargs)
    assert (found["precision"], found["recall"]) == pytest.approx(tuple(ours.tolist()), abs=2 / 3000)
    row, kwargs = smallest("frechet_distance")
    found = metrics.CONTENDERS[row.op](row, kwargs)["torch_fidelity"]()
    assert found["frechet_inception_distance"] == pytest.approx(float(metrics._frechet(**kwargs)), rel=1e-6)
