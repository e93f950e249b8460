"""Comparison with argued tolerances, derivative checks and poisoned memory, for tests, benchmarks and ``gankern check``."""

from gankern.testing.checks import Outcome, Values, check_sample, derivatives, in_float64
from gankern.testing.compare import Comparison, assert_close, compare
from gankern.testing.poison import poisoned_memory

__all__ = [
    "Comparison",
    "Outcome",
    "Values",
    "assert_close",
    "check_sample",
    "compare",
    "derivatives",
    "in_float64",
    "poisoned_memory",
]
