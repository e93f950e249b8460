"""Metrics of whole sets: every kind of input gives the same numbers, and those of the single functions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gankern import metrics, models
from gankern.metrics import METRICS, Evaluator, Features, Settings, _compare, compare, is_better, metric_names


def pictures(n: int, c: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    """uint8 images with something to see: a bright square each, somewhere."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 60, (n, c, size, size), generator=g, dtype=torch.uint8)
    for i in range(n):
        top, left = torch.randint(0, size - 3, (2,), generator=g).tolist()
        x[i, :, top : top + 3, left : left + 3] += 150
    return x


def project(images: Tensor) -> tuple[Tensor, Tensor]:
    """A small extractor with classes."""
    g = torch.Generator().manual_seed(7)
    x = images.flatten(1)
    return x @ torch.randn(x.shape[1], 6, generator=g), x @ torch.randn(x.shape[1], 3, generator=g)


REAL, FAKE = pictures(60), pictures(50, seed=1)
EVERY = "all"


def test_numbers_are_those_of_the_functions() -> None:
    found = compare(REAL, FAKE, EVERY, project, splits=4, subsets=5, subset_size=20, neighbours=2, density_neighbours=4, seed=9)
    (x, a), (y, b) = (project(s.float() / 127.5 - 1) for s in (REAL, FAKE))
    kernel, manifold = metrics.kernel_distance(x, y, 5, 20, 9), metrics.manifold_metrics(x, y, 2, 4)
    score, modes = metrics.inception_score(b, 4, 9), metrics.class_coverage(b, a)
    expected = {
        "frechet": metrics.frechet_distance(x, y),
        "kernel": kernel.mean,
        "kernel_std": kernel.std,
        "precision": manifold.precision,
        "recall": manifold.recall,
        "density": manifold.density,
        "coverage": manifold.coverage,
        "inception_score": score.mean,
        "inception_score_std": score.std,
        "modes": modes.modes,
        "modes_kl": modes.kl,
    }
    assert found == pytest.approx(expected, rel=1e-5) and list(found) == list(expected)
    assert all(type(v) is float for v in found.values())


def test_every_kind_of_input_gives_the_same(tmp_path: Path) -> None:
    expected = compare(REAL, FAKE, EVERY, project)
    floats = FAKE.float() / 127.5 - 1
    np.savez(tmp_path / "fake.npz", images=FAKE.numpy())
    kinds: list[Any] = [floats, iter(floats.split(7)), [FAKE[:1], FAKE[1:]], tmp_path / "fake.npz", str(tmp_path / "fake.npz")]
    for fake in kinds:
        assert compare(REAL, fake, EVERY, project, batch=11) == pytest.approx(expected, rel=1e-4)
    values, logits = project(floats)
    features = Features(values, logits)
    assert compare(REAL, features, EVERY, project) == pytest.approx(expected, rel=1e-4)
    torch.save({"features": values, "logits": logits}, tmp_path / "features.pt")
    assert compare(REAL, tmp_path / "features.pt", EVERY, project) == pytest.approx(expected, rel=1e-4)
    plain = compare(project(REAL.float() / 127.5 - 1)[0], values)
    assert plain == pytest.approx({k: v for k, v in expected.items() if k in plain}, rel=1e-4) and len(plain) == 7


def test_an_evaluator_reads_the_real_images_once() -> None:
    seen = []

    def counting(images: Tensor) -> Tensor:
        seen.append(len(images))
        return project(images)[0]

    evaluator = Evaluator(REAL, "fid,prdc", counting, batch=60)
    assert seen == [60] and evaluator.real_count == 60
    first = evaluator.evaluate(FAKE)
    assert evaluator.evaluate(REAL)["frechet"] < 1e-6 < first["frechet"]
    assert seen == [60, 50, 60] and evaluator.evaluate(FAKE) == first
    values, about = evaluator.measured(FAKE)
    assert values == first and about["real"] == {"name": "real", "images": 60} and about["fake"]["images"] == 50
    assert about["settings"]["neighbours"] == 3 and about["extractor"]["name"].endswith("counting")


def test_frechet_alone_keeps_no_features() -> None:
    side = Evaluator(REAL, "frechet", project)._side(iter([FAKE]), "fake")
    assert side.features is None and side.statistics is not None and side.statistics.count == 50
    assert Evaluator(REAL, "frechet,kid", project)._side(iter([FAKE]), "fake").features is not None


def test_metrics_of_the_fakes_alone_need_no_real_images() -> None:
    assert compare(None, FAKE, "is,modes", project)["modes"] > 0
    with pytest.raises(ValueError, match="real must be given for frechet, got None"):
        compare(None, FAKE, "fid", project)
    assert Evaluator(None, "is", project).real_count == 0


def test_quality_and_diversity_of_digits() -> None:
    """The extractor that comes along: noise, a single digit and missing classes are all told from digits."""
    pytest.importorskip("sklearn")
    from gankern.metrics.train_digits import digits_images

    x, y = digits_images()
    real, good = x[::2], x[1::2]
    evaluator = Evaluator(real, "all", subsets=10)
    best = evaluator.evaluate(good)
    noise = evaluator.evaluate((good + 0.7 * torch.randn(good.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1))
    few = evaluator.evaluate(good[y[1::2] < 3])
    one = evaluator.evaluate(good[:1].expand(300, -1, -1, -1))
    for worse in (noise, few, one):
        assert worse["frechet"] > 5 * best["frechet"] and worse["kernel"] > best["kernel"] + 0.05
        assert worse["coverage"] < best["coverage"] - 0.3
    assert best["precision"] > 0.7 and best["recall"] > 0.7 and noise["precision"] < 0.5
    assert best["inception_score"] > 8 and few["inception_score"] < 3.5 and one["inception_score"] == pytest.approx(1)
    assert (best["modes"], few["modes"], one["modes"]) == (10, 3, 1) and best["modes_kl"] < 0.01 < 1 < few["modes_kl"]


def test_a_checkpoint_and_its_path_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gan = models.from_config(models.FAMILIES["stylegan2"].tiny)
    models.save_checkpoint(tmp_path / "gan.pt", gan)
    real = pictures(20, 3, 16)
    fake = metrics.open_source(tmp_path / "gan.pt", "fake", count=12)
    found = compare(real, fake, "kid,ppl", "pixels", path_samples=6, path_epsilon=1e-2)
    assert found["path_length"] > 0
    assert found == compare(real, metrics.generated(gan.generator, 12), "kid,ppl", "pixels", path_samples=6, path_epsilon=1e-2)
    with pytest.raises(ValueError, match="path_length needs a generator"):
        compare(real, real, "ppl", "pixels", path_samples=6)
    assert "path_length" in compare(None, real, "ppl", "pixels", generator=gan.generator, path_samples=4, path_epsilon=1e-2)


# ---- lpips -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean squared difference in the place of LPIPS: what is paired with what is tested here, not the network."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3))

    monkeypatch.setattr(_compare, "lpips_distance", lambda net, device: distance)
    return distance


def test_lpips_pairs_images_in_order(squares: Callable[[Tensor, Tensor], Tensor]) -> None:
    other = FAKE[torch.arange(49, -1, -1)]
    expected = float(squares(FAKE.float() / 127.5, other.float() / 127.5).mean())
    for fake in (other, iter(other.split(9))):
        assert compare(FAKE, fake, "lpips", batch=8) == {"lpips": pytest.approx(expected, rel=1e-5)}
    with pytest.raises(ValueError, match="lpips: real and fake must be as many images, in pairs, got 60 and 50"):
        compare(REAL, FAKE, "lpips")
    with pytest.raises(ValueError, match="fake: lpips needs images, got features"):
        compare(FAKE, torch.zeros(50, 3), "lpips")
    wide = pictures(50, size=10)
    with pytest.raises(ValueError, match="lpips: real and fake must be images of one number and size"):
        compare(FAKE, wide, "lpips")


@pytest.mark.usefixtures("squares")
def test_lpips_diversity_is_of_different_fakes() -> None:
    two = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert compare(None, two, "lpips_diversity", pairs=20) == {"lpips_diversity": 4.0}, "never an image with itself"
    assert compare(None, two[:1].expand(5, -1, -1, -1), "lpips_diversity", pairs=20) == {"lpips_diversity": 0.0}
    with pytest.raises(ValueError, match="lpips_diversity: there must be at least 2 images, got 1"):
        compare(None, two[:1], "lpips_diversity")


def test_lpips_is_that_of_its_package() -> None:
    try:
        import lpips
    except Exception as reason:  # a torchvision that does not fit this torch raises a RuntimeError
        pytest.skip(f"lpips cannot be imported: {reason}")
    torch.manual_seed(0)
    distance = metrics.lpips_distance("squeeze", pnet_rand=True)  # random weights: nothing is fetched
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    a, b = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    torch.testing.assert_close(distance(a, b), theirs(a, b).flatten().detach())
    assert distance(a, b).shape == (2,) and not distance(a, a).any() and bool((distance(a, b) > 0).all())
    torch.testing.assert_close(distance(a[:, :1], b), theirs(a[:, :1].expand(-1, 3, -1, -1), b).flatten().detach())


def test_lpips_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips"):
        compare(FAKE, FAKE, "lpips")
    with pytest.raises(ValueError, match="net must be one of alex, vgg, squeeze, got 'resnet'"):
        compare(FAKE, FAKE, "lpips", lpips_net="resnet")


# ---- names, settings, bad input --------------------------------------------------------------------------------------------
def test_names_and_aliases() -> None:
    assert metric_names("fid") == ("frechet",) and metric_names(("kid", "fid", "kernel")) == ("kernel", "frechet")
    assert metric_names("fid prdc,is") == ("frechet", "precision", "recall", "density", "coverage", "inception_score")
    assert set(metric_names("all")) == {n for n, m in METRICS.items() if m.needs in ("features", "logits")}
    with pytest.raises(ValueError, match="no metric 'fidd'; there are frechet"):
        metric_names("fidd")
    with pytest.raises(ValueError, match="must name at least one"):
        metric_names("")


def test_which_way_is_better() -> None:
    assert is_better("fid", 1.0, 2.0) and not is_better("frechet", 2.0, 1.0) and is_better("fid", 5.0, None)
    assert is_better("precision", 0.9, 0.5) and not is_better("precision", 0.5, 0.5)
    assert not is_better("fid", math.nan, 3.0) and not is_better("fid", math.nan, None) and is_better("fid", 3.0, math.nan)


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        ({"neighbours": 0}, ValueError, "neighbours must be an int, at least 1, got 0"),
        ({"subset_size": 1}, ValueError, "subset_size must be an int, at least 2, got 1"),
        ({"seed": -1}, ValueError, "seed must be an int from 0"),
        ({"path_space": "v"}, ValueError, "path_space must be"),
        ({"path_distance": "x"}, ValueError, "path_distance must be"),
        ({"path_epsilon": 2.0}, ValueError, "path_epsilon must be between 0 and 1"),
        ({"neighbors": 3}, TypeError, "there is no setting 'neighbors'; there are neighbours"),
        ({"batch": 0}, ValueError, "batch must be an int, at least 1, got 0"),
        ({"settings": Settings(), "splits": 3}, ValueError, "got both: splits"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        compare(REAL, FAKE, "fid", project, **changes)


def test_bad_images_and_features() -> None:
    with pytest.raises(ValueError, match="fake must have as many features as real, 6, got 3"):
        compare(REAL, torch.zeros(20, 3), "kid", project)
    nan = torch.zeros(20, 6)
    nan[4] = math.nan
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity in row 4"):
        compare(REAL, nan, "kid", project)
    with pytest.raises(ValueError, match="fake: there are no images in fake"):
        compare(REAL, iter([]), "kid", project)
    with pytest.raises(ValueError, match="fake, batch 1: images must be finite"):
        compare(REAL, [FAKE, torch.full((1, 1, 8, 8), math.nan)], "kid", project)
    with pytest.raises(ValueError, match="real must have at least 6 rows, got 5"):
        compare(REAL[:5], FAKE, "prdc", project)
    with pytest.raises(ValueError, match="fake: inception_score and modes need logits"):
        compare(REAL, FAKE, "is", "pixels")
    with pytest.warns(UserWarning, match="real has 60 images for 64 features"):
        compare(REAL, REAL, "fid", "pixels")


def test_images_of_two_sizes() -> None:
    small = pictures(50, 3, 16)
    with pytest.raises(
        ValueError, match="'pixels': all images must have one size, got real ones of 8x8 with 1 channel, fakes of"
    ):
        compare(REAL, small, "kid", "pixels")
    with pytest.warns(
        UserWarning, match="real images are 8x8 with 1 channel, fakes 16x16 with 3 channels: the extractor digits"
    ):
        compare(REAL, small, "kid")
