"""The benchmark system: rows from every op's samples, measured against eager PyTorch, torch.compile and a copy.

``pytest benchmarks/`` and ``gankern bench`` drive the same rows; benchmarks/README.md says what the numbers mean.

- ``rows``: which rows there are (op, sample, dtype, layout, direction, backend);
- ``case``: the commands of a row; ``extras``: more contenders for some ops;
- ``steps``, ``models``, ``networks``, ``inference``, ``metrics``: rows of more than one op; ``convolutions``: their ceiling;
- ``timing``, ``memory``: how time and peak memory are measured; ``scaling``: how both grow;
- ``goals``: what the numbers should be, as data;
- ``session``: measures rows and keeps the result file (``results``, ``machine``);
- ``table``, ``plots``, ``report``, ``compare``: what is made of result files;
- ``performance``, ``figures``, ``pages``: docs/performance.md and README's results.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``gankern bench``; returns the exit code. See ``gankern bench --help``."""
    from gankern.bench.cli import run

    return run(argv)
