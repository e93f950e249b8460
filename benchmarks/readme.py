"""Write the results section of README.md from the committed result files: ``python -m benchmarks.readme [--check]``.

Every number of that section comes from ``benchmarks/results/<device>/quick.json``, which ``pytest benchmarks/ --record`` wrote.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from gankern.bench import table
from gankern.bench.common import percent, seconds, times
from gankern.bench.results import load
from gankern.bench.steps import STEPS

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: python -m benchmarks.readme -->", "<!-- end of results -->"
DIRECTIONS = {"forward": "forward", "backward": "forward + backward", "double_backward": "gradient penalty (double backward)"}
COLUMNS = ("what", "direction", "gankern", "over eager PyTorch", "over torch.compile", "memory saved", "of copy speed")


def section(files: list[Path]) -> str:
    """The section's text: for each device one table of the rows of the best backend, and the plots beside the file."""
    parts = [BEGIN]
    for path in files:
        data = load(path)
        parts += ["", f"{table.machine_line(data['machine'])}:", ""]
        parts += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        rows = [row for row in data["rows"] if row["backend"] == "best" and row["status"] == "ok"]
        shown = [row for row in rows if row["dtype"] == "float32" and row["layout"] == "nchw"]
        parts += ["| " + " | ".join(_cells(row)) + " |" for row in shown]
        wrong = [row for row in rows if row["note"].startswith("eager is wrong")]
        parts += ["", *(f"- `{row['op']}`, {row['description']}, {row['dtype']}: {row['note']}" for row in wrong)]
        for image in sorted(path.parent.glob(f"{path.stem}*.png")):
            parts += ["", f"![{image.stem}]({image.relative_to(ROOT).as_posix()})"]
    return "\n".join([*parts, "", END])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    numbers, step = row["metrics"], row["op"] in STEPS
    return (
        f"`{row['op']}`, {row['description'] or row['sample']}",
        "the step" if step else DIRECTIONS[row["direction"]],
        seconds(row["times"]["ours"]["median"]),
        times(numbers.get("speedup_eager")),
        times(numbers.get("speedup_compile")),
        times(numbers.get("memory_saved")),
        percent(numbers.get("copy_share")),
    )


def rewritten(text: str, files: list[Path]) -> str:
    """README's text with the section between the markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md lacks the markers {BEGIN!r} and {END!r}")
    return before + section(files) + after


def main() -> int:
    """Rewrite README.md, or with --check say whether it is up to date (exit code 1 if not)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is not what would be written")
    given = parser.parse_args()
    files = sorted(p for p in (ROOT / "benchmarks" / "results").glob("*/quick.json") if p.parent.name != "latest")
    readme = ROOT / "README.md"
    text = readme.read_text()
    new = rewritten(text, files)
    if given.check:
        print("README.md is up to date" if new == text else "README.md differs: run python -m benchmarks.readme")
        return int(new != text)
    temporary = readme.with_suffix(".md.tmp")
    temporary.write_text(new)
    os.replace(temporary, readme)
    print(f"README.md: results of {', '.join(p.parent.name for p in files) or 'no device'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
