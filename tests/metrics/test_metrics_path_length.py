"""Perceptual path length: a linear generator has one in closed form; noise, percentiles and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankern import models
from gankern.metrics import make_extractor, path_length, perceptual_path_length
from gankern.metrics.path_length import slerp
from gankern.models import LatentGenerator, ModelConfig

ALL = {"percentiles": (0.0, 100.0), "epsilon": 1e-3}


class Linear(LatentGenerator):
    """Images A z, in float64."""

    def __init__(self, z_dim: int = 6, noisy: bool = False) -> None:
        super().__init__(ModelConfig(resolution=4, channels=1))
        self.z_dim, self.noisy = z_dim, noisy
        self.a = nn.Parameter(torch.randn(16, z_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64))

    def sample_z(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, self.z_dim, generator=generator, dtype=torch.float64)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        y = (z @ self.a.t()).view(-1, 1, 4, 4)
        return y + torch.randn_like(y) if self.noisy else y


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum((1, 2, 3))


def test_slerp_turns_at_a_constant_rate() -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    angle = (a * b).sum(1).acos()
    for t in (0.0, 0.25, 1.0):
        at = slerp(3 * a, b / 2, torch.full((5,), t, dtype=torch.float64))
        torch.testing.assert_close((a * at).sum(1).clamp(-1, 1).acos(), t * angle, atol=1e-7, rtol=0)
        torch.testing.assert_close(at.norm(dim=1), torch.ones(5, dtype=torch.float64))
    same = slerp(a, a, torch.full((5,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(same, a)


@pytest.mark.parametrize("sampling", ["end", "full"])
def test_a_linear_generator_in_closed_form(sampling: str) -> None:
    """On a circle of radius r(t) the speed is (angle r)^2 + r'^2 of the latent; with A orthogonal also of the image."""
    generator = Linear()
    with torch.no_grad():
        generator.a.copy_(torch.linalg.qr(generator.a)[0])
    found = perceptual_path_length(generator, squared, 600, sampling=sampling, batch=600, seed=5, **ALL)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(5)
    z1, z2 = (generator.sample_z(600, random) for _ in range(2))
    t = torch.rand(600, generator=random, dtype=torch.float64) if sampling == "full" else torch.zeros(600)
    angle = nn.functional.cosine_similarity(z1, z2).acos()
    r1, r2 = z1.norm(dim=1), z2.norm(dim=1)
    expected = ((angle * torch.lerp(r1, r2, t.double())).square() + (r2 - r1).square()).mean()
    assert found.mean == pytest.approx(float(expected), rel=5e-3)  # of first order in epsilon
    assert found.samples == found.kept == 600


def test_noise_is_the_same_on_both_ends() -> None:
    quiet = perceptual_path_length(Linear(), squared, 50, **ALL)  # type: ignore[arg-type]
    noisy = perceptual_path_length(Linear(noisy=True), squared, 50, **ALL)  # type: ignore[arg-type]
    assert noisy.mean == pytest.approx(quiet.mean, rel=0.2), "noise on one end would give 32 / 1e-6"
    assert perceptual_path_length(Linear(noisy=True), squared, 50, **ALL) == noisy  # type: ignore[arg-type]


def test_outliers_are_left_out() -> None:
    calls: list[Tensor] = []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        calls.append(a)
        return torch.arange(float(len(a)))

    found = perceptual_path_length(Linear(), distance, 101, batch=101, epsilon=0.5, percentiles=(10, 90))
    assert found.kept == 81 and found.mean == pytest.approx(50 / 0.25)
    assert perceptual_path_length(Linear(), distance, 10, batch=4).samples == 10 and [len(c) for c in calls[1:]] == [4, 4, 2]


@pytest.mark.parametrize("space", ["w", "z"])
def test_style_based_generators(space: str) -> None:
    torch.manual_seed(0)
    generator = models.from_config(models.FAMILIES["stylegan2"].tiny).generator.double()
    generator.train()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return squared(a.double(), b.double())

    sizes = [perceptual_path_length(generator, distance, 8, space=space, epsilon=e).mean for e in (1e-3, 1e-4)]
    assert sizes[0] > 0 and sizes[1] == pytest.approx(sizes[0], rel=0.05), "a derivative: it does not depend on the step"
    assert generator.training
    near = perceptual_path_length(generator, distance, 8, space=space, truncation=0.0, epsilon=1e-3).mean
    assert near < 1e-3 * sizes[0]
    features = perceptual_path_length(generator.float(), make_extractor("digits"), 4, space=space, epsilon=1e-2)
    assert features.mean > 0


def test_large_images_are_reduced() -> None:
    assert path_length._reduced(torch.zeros(1, 3, 1024, 1024)).shape == (1, 3, 256, 256)
    x = torch.randn(1, 1, 512, 512)
    torch.testing.assert_close(path_length._reduced(x)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert path_length._reduced(torch.zeros(1, 3, 300, 300)).shape == (1, 3, 300, 300)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"space": "w"}, "space must be 'z' for Linear, which has no mapping to w"),
        ({"truncation": 0.5}, "truncation must be None for Linear"),
        ({"space": "x"}, "space must be 'w', 'z' or None, got 'x'"),
        ({"sampling": "start"}, "sampling must be 'end' or 'full', got 'start'"),
        ({"samples": 0}, "samples must be an int, at least 1, got 0"),
        ({"epsilon": 0.0}, "epsilon must be between 0 and 1"),
        ({"percentiles": (90, 10)}, "percentiles must be two numbers"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perceptual_path_length(Linear(), squared, **{"samples": 4, **changes})
    with pytest.raises(TypeError, match="generator must have sample_z"):
        perceptual_path_length(nn.Linear(2, 2), squared, 4)
