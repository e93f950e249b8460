"""How good generated images are: Frechet and kernel distance, inception score, precision and recall, coverage, path length.

:func:`compare` does it for two sets of images or features; :class:`Evaluator` does it again and again against the same real
images, also under torch.distributed. The definitions are in ``gankern/metrics/README.md``.
"""

from gankern.metrics._compare import Evaluator, compare
from gankern.metrics._features import Features
from gankern.metrics._table import METRICS, Metric, Settings, is_better, metric_names
from gankern.metrics.classes import InceptionScore, ModeCoverage, class_coverage, inception_score, mode_coverage
from gankern.metrics.extractors import Extractor, make_extractor
from gankern.metrics.gaussian import GaussianStatistics, frechet_distance, gaussian_frechet_distance
from gankern.metrics.kernel import KernelDistance, kernel_distance
from gankern.metrics.neighbours import Manifolds, manifold_metrics, nearest_neighbours
from gankern.metrics.path_length import PathLength, perceptual_path_length
from gankern.metrics.perceptual import lpips_distance
from gankern.metrics.sources import Source, generated, open_pair, open_source

__all__ = [
    "METRICS",
    "Evaluator",
    "Extractor",
    "Features",
    "GaussianStatistics",
    "InceptionScore",
    "KernelDistance",
    "Manifolds",
    "Metric",
    "ModeCoverage",
    "PathLength",
    "Settings",
    "Source",
    "class_coverage",
    "compare",
    "frechet_distance",
    "gaussian_frechet_distance",
    "generated",
    "inception_score",
    "is_better",
    "kernel_distance",
    "lpips_distance",
    "make_extractor",
    "manifold_metrics",
    "metric_names",
    "mode_coverage",
    "nearest_neighbours",
    "open_pair",
    "open_source",
    "perceptual_path_length",
]
