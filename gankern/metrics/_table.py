"""Which metrics there are, what each needs, which way is better, and the settings that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gankern._validate import number


@dataclass(frozen=True)
class Metric:
    """One metric of :func:`gankern.metrics.compare`.

    Attributes:
        title: what it is, in a line.
        lower: whether lower is better.
        needs: what it is computed from: 'features', 'logits', 'pairs' (images that belong together), 'fakes' (images of the
            second set alone) or 'generator'.
        least: fewest images on each side.
    """

    title: str
    lower: bool
    needs: str = "features"
    least: int = 2


METRICS: dict[str, Metric] = {
    "frechet": Metric("Frechet distance (FID with Inception's features)", lower=True),
    "kernel": Metric("kernel distance (KID with Inception's features)", lower=True),
    "precision": Metric("precision: share of fakes that lie on the real manifold", lower=False),
    "recall": Metric("recall: share of real images that lie on the fake manifold", lower=False),
    "density": Metric("density: how many real neighbourhoods a fake lies in, about 1 for real images", lower=False),
    "coverage": Metric("coverage: share of real neighbourhoods with a fake in them", lower=False),
    "inception_score": Metric("inception score, of the extractor's classes", lower=False, needs="logits", least=1),
    "modes": Metric("classes of the extractor's that the fakes show", lower=False, needs="logits", least=1),
    "modes_kl": Metric("divergence of the fakes' classes from the real ones", lower=True, needs="logits", least=1),
    "lpips": Metric("LPIPS between real and fake images that belong together", lower=True, needs="pairs", least=1),
    "lpips_diversity": Metric("mean LPIPS between two fakes", lower=False, needs="fakes"),
    "path_length": Metric("perceptual path length of a generator", lower=True, needs="generator", least=1),
}
"""The metrics by name."""

ALIASES = {"fid": ("frechet",), "kid": ("kernel",), "is": ("inception_score",), "ppl": ("path_length",),
           "prdc": ("precision", "recall", "density", "coverage")}  # fmt: skip
"""Other names that users know."""

DEFAULT = ("frechet", "kernel", "precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Settings:
    """Numbers that decide what a metric is; results with others are not comparable.

    Attributes:
        neighbours: k of precision and recall. Default 3 (Kynkaanniemi et al. 2019).
        density_neighbours: k of density and coverage. Default 5 (Naeem et al. 2020).
        splits: parts of the inception score. Default 10 (Salimans et al. 2016).
        subsets: subsets of the kernel distance; 0 for all pairs at once, without a standard deviation. Default 100.
        subset_size: images in each, at most as many as there are. Default 1000.
        seed: of subsets, splits, pairs and paths. Default 0.
        path_samples: samples of the path length. Default 10000.
        path_epsilon: step on the path. Default 1e-4 (Karras et al. 2019).
        path_space: 'w' or 'z'. Default 'w' for style-based generators, else 'z'.
        path_sampling: 'end' or 'full'. Default 'end' (Karras et al. 2020).
        path_distance: 'extractor' (squared distance of its features) or 'lpips' (LPIPS with VGG, as published; needs the
            package lpips). Default 'extractor'.
        lpips_net: network of 'lpips' and 'lpips_diversity'. Default 'alex'.
        pairs: pairs of fakes of 'lpips_diversity', on each rank. Default 1000.

    Raises:
        ValueError: a setting out of its range.
    """

    neighbours: int = 3
    density_neighbours: int = 5
    splits: int = 10
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 0
    path_samples: int = 10_000
    path_epsilon: float = 1e-4
    path_space: str | None = None
    path_sampling: str = "end"
    path_distance: str = "extractor"
    lpips_net: str = "alex"
    pairs: int = 1000

    def __post_init__(self) -> None:
        least = {
            "neighbours": 1,
            "density_neighbours": 1,
            "splits": 1,
            "subsets": 0,
            "subset_size": 2,
            "path_samples": 1,
            "pairs": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an int, at least {low}, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be an int from 0 to 2^63 - 1, got {self.seed!r}")
        if not 0 < number("metrics", "path_epsilon", self.path_epsilon) < 1:
            raise ValueError(f"path_epsilon must be between 0 and 1, got {self.path_epsilon!r}")
        if self.path_space not in (None, "w", "z"):
            raise ValueError(f"path_space must be 'w', 'z' or None, got {self.path_space!r}")
        if self.path_sampling not in ("end", "full"):
            raise ValueError(f"path_sampling must be 'end' or 'full', got {self.path_sampling!r}")
        if self.path_distance not in ("extractor", "lpips"):
            raise ValueError(f"path_distance must be 'extractor' or 'lpips', got {self.path_distance!r}")


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The full names of metrics that a user asked for: a sequence of names and aliases, or a string with commas or spaces.

    Args:
        metrics: ('fid', 'prdc') or 'fid,prdc' or 'all' (all that need features and logits only).

    Raises:
        ValueError: a name that is none, with those that are; or nothing at all.
    """
    given = metrics.replace(",", " ").split() if isinstance(metrics, str) else list(metrics)
    found: dict[str, None] = {}
    for name in given:
        if name == "all":
            names: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.needs in ("features", "logits"))
        else:
            names = ALIASES.get(name, (name,))
        for each in names:
            if each not in METRICS:
                known = ", ".join([*METRICS, *ALIASES, "all"])
                raise ValueError(f"metrics: there is no metric {each!r}; there are {known}")
            found[each] = None
    if not found:
        raise ValueError(f"metrics must name at least one of {', '.join(METRICS)}, got none")
    return tuple(found)


def is_better(name: str, new: float, old: float | None) -> bool:
    """Whether ``new`` beats ``old`` (None: there is none yet) in the metric ``name``; a NaN never does."""
    (name,) = metric_names([name])
    if math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if METRICS[name].lower else new > old
