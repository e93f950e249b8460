"""Write the results section of README.md from the committed result files: ``python -m benchmarks.readme [--check]``.

The same tables and plots as in docs/performance.md, which ``gankern bench --report`` writes; ``gankern.bench.performance``
makes both.
"""

from __future__ import annotations

import argparse
import sys

from gankern.bench import performance
from gankern.bench.common import BenchError
from gankern.bench.machine import ROOT
from gankern.bench.pages import write_section


def main() -> int:
    """Rewrite README.md, or with --check say whether it is up to date (exit code 1 if not)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is not what would be written")
    given = parser.parse_args()
    try:
        section = performance.readme_section(performance.devices())
        return write_section(ROOT / "README.md", performance.BEGIN, performance.END, section, given.check)
    except (BenchError, OSError) as error:
        print(f"benchmarks.readme: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
