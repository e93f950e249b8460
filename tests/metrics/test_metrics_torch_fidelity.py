"""The same features through torch-fidelity, where it is installed (it needs torchvision, and is no dependency)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gankern import metrics

try:
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
except Exception as reason:  # a torchvision that does not fit this torch raises a RuntimeError
    pytest.skip(f"torch-fidelity cannot be imported: {reason}", allow_module_level=True)

D = 32


def features(n: int, seed: int, offset: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=g) @ torch.randn(D, D, generator=g) / 6 + offset


REAL, FAKE = features(900, 0), features(700, 1, 0.2)


def test_frechet_distance() -> None:
    """In float64 to 10 digits; given float32, as it is by its own extractor, it rounds the mean: to 6."""
    statistics = [metric_fid.fid_features_to_statistics(x.double()) for x in (REAL, FAKE)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert metrics.frechet_distance(REAL, FAKE) == pytest.approx(theirs, rel=1e-10)
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (REAL, FAKE)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert metrics.frechet_distance(REAL, FAKE) == pytest.approx(theirs, rel=1e-6)


def test_kernel_distance() -> None:
    """All images in one subset, where chance has no part: to 10 digits. With subsets: to their standard error."""
    options: dict[str, Any] = {
        "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1,
        "rng_seed": 0, "verbose": False,
    }  # fmt: skip
    x, y = REAL[:700].double(), FAKE.double()
    theirs = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=700, **options)
    assert metrics.kernel_distance(x, y, 1, 700).mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    theirs = metric_kid.kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=200, **options)
    ours = metrics.kernel_distance(x, y, 100, 200)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=4 * ours.std / 10)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.4)


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score(splits: int) -> None:
    logits = 2 * features(500, 2)
    theirs = metric_isc.isc_features_to_metric(logits.double(), splits=splits, shuffle=False)
    ours = metrics.inception_score(logits, splits, seed=None)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall(k: int) -> None:
    """Equal but for pairs that float32 puts on the other side of a radius: at most one image in 700."""
    theirs = metric_prc.prc_features_to_metric(
        FAKE, REAL, prc_neighborhood=k, prc_batch_size=10000, save_cpu_ram=False, verbose=False
    )  # fmt: skip
    ours = metrics.manifold_metrics(REAL, FAKE, k)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1.5 / 700)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1.5 / 700)
    exact = metric_prc.prc_features_to_metric(
        FAKE.double(), REAL.double(), prc_neighborhood=k, prc_batch_size=10000, save_cpu_ram=True, verbose=False
    )  # fmt: skip
    assert (ours.precision, ours.recall) == pytest.approx((exact["precision"], exact["recall"]), abs=1e-6)


@pytest.mark.slow
def test_inception_from_a_local_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of the real ones: the network is built, runs and gives its own features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *a, **k: {})
        made = Network("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    extractor = metrics.make_extractor(f"inception:{tmp_path / 'weights.pth'}")
    x = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    found = extractor(x.float() / 127.5 - 1)
    expected = made(x.expand(-1, 3, -1, -1).contiguous())
    torch.testing.assert_close(found.values, expected[0])
    assert found.logits is not None
    torch.testing.assert_close(found.logits, expected[1])
