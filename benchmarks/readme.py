"""Write the results section of README.md from the committed result files: ``python -m benchmarks.readme [--check]``.

Every number of that section comes from ``benchmarks/results/<device>/quick.json``, which ``pytest benchmarks/ --record`` wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gankern._files import write_text
from gankern.bench import table
from gankern.bench.common import percent, seconds, times
from gankern.bench.results import load
from gankern.bench.steps import STEPS

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: python -m benchmarks.readme -->", "<!-- end of results -->"
MODELS = ("model_forward", "model_step")
DIRECTIONS = ("forward", "backward", "double_backward")
COLUMNS = ("what", "forward", "forward + backward", "gradient penalty", "over torch.compile", "memory saved", "of copy speed")


def section(files: list[Path]) -> str:
    """The section's text: for each device one table of the rows of the best backend, and the plots beside the file."""
    parts = [BEGIN]
    for path in files:
        data = load(path)
        parts += ["", f"{table.machine_line(data['machine'])}:", ""]
        parts += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        rows = [row for row in data["rows"] if row["backend"] == "best" and row["status"] == "ok"]
        shown = [row for row in rows if row["dtype"] == "float32" and row["layout"] == "nchw"]
        samples: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for row in shown:
            if row["op"] not in MODELS:
                samples.setdefault((row["op"], row["sample"]), {})[row["direction"]] = row
        parts += ["| " + " | ".join(_cells(of)) + " |" for of in samples.values()]
        parts += _models(shown)
        wrong = [row for row in rows if row["note"].startswith("eager is wrong")]
        parts += ["", *(f"- `{row['op']}`, {row['description']}, {row['dtype']}: {row['note']}" for row in wrong)]
        for image in sorted(path.parent.glob(f"{path.stem}*.png")):
            parts += ["", f"![{image.stem}]({image.relative_to(ROOT).as_posix()})"]
    return "\n".join([*parts, "", END])


def _models(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the reference GANs: forward of the generator and a training step, a family a line."""
    families: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["op"] in MODELS:
            families.setdefault(row["sample"], {})[row["op"]] = row
    lines = [f"| `{name}` | " + " | ".join(_cell(of.get(op)) for op in MODELS) + " |" for name, of in families.items()]
    head = ["", "Reference GANs at small sizes, where much of the time is Python's:", ""]
    return [*head, "| `gankern.models` | generator | critic + generator step |", "|---|---|---|", *lines] if lines else []


def _cells(rows: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """One sample: its time and speed-up in each direction; the last three columns are about forward (memory: the largest)."""
    first = rows.get("forward") or next(iter(rows.values()))
    saved = [r["metrics"].get("memory_saved") for r in rows.values()]
    step = " (the step)" if first["op"] in STEPS else ""
    return (
        f"`{first['op']}`, {first['description'] or first['sample']}{step}",
        *(_cell(rows.get(direction)) for direction in DIRECTIONS),
        times(first["metrics"].get("speedup_compile")),
        times(max((s for s in saved if s is not None), default=None)),
        "-" if step else percent(first["metrics"].get("copy_share")),
    )


def _cell(row: dict[str, Any] | None) -> str:
    """'1.2x (3.4 ms)': over eager, and our time."""
    if row is None:
        return "-"
    return f"{times(row['metrics'].get('speedup_eager'))} ({seconds(row['times']['ours']['median'])})"


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
    write_text(readme, new)
    print(f"README.md: results of {', '.join(p.parent.name for p in files) or 'no device'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
