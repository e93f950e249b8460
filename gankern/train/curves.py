"""Losses and metrics over time: rows in memory, as CSV and as a picture of curves, for TensorBoard if wanted."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gankern._files import replacing, write_text
from gankern._optional import optional

Row = dict[str, float]
FIRST = ("step", "images", "seconds")
"""Columns that say when."""


class Table:
    """Rows of numbers, a CSV file of them. The file is written whole: readers see the old one or the new one.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """One more row."""
        self.rows.append(row)

    def columns(self) -> list[str]:
        """Names in the order of their first use, with when in front."""
        found = dict.fromkeys(FIRST) | dict.fromkeys(name for row in self.rows for name in row)
        return [n for n in found if any(n in row for row in self.rows)]

    def write(self) -> None:
        """Write the file, if there is anything."""
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = self.columns()
        writer.writerow(names)
        for row in self.rows:
            writer.writerow([_text(name, row[name]) if name in row else "" for name in names])
        write_text(self.path, text.getvalue())

    def read(self, up_to: int) -> None:
        """Take up the rows of the file with a step of at most ``up_to``; no file is no rows."""
        if not self.path.exists():
            return
        with open(self.path, newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                row = {name: float(value) for name, value in line.items() if value}
                if row["step"] <= up_to:
                    self.rows.append(row)


def _text(name: str, value: float) -> str:
    return f"{value:.0f}" if name in ("step", "images") else f"{value:.3f}" if name == "seconds" else repr(float(value))


def draw(path: Path, losses: Sequence[Mapping[str, float]], metrics: Sequence[Mapping[str, float]], title: str = "") -> bool:
    """Draw curves as PNG: losses, scores of real and generated images, the discriminator's accuracy, each metric.

    Args:
        path: the file.
        losses: rows with 'step'.
        metrics: rows with 'step'.
        title: above.

    Returns:
        Whether there is a picture now: not without matplotlib, which is said, and not without rows.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        warnings.warn("curves are drawn with matplotlib, which is not installed: pip install matplotlib", stacklevel=2)
        return False
    scores, shares = ("real", "fake"), ("accuracy", "alpha")
    panels: list[tuple[str, Sequence[Mapping[str, float]], list[str]]] = []
    names = [n for n in dict.fromkeys(k for row in losses for k in row) if n not in FIRST]
    for label, chosen in (
        ("losses and penalties", [n for n in names if n not in scores + shares]),
        ("logits", [n for n in names if n in scores]),
        ("discriminator's accuracy", [n for n in names if n in shares]),
    ):
        if chosen:
            panels.append((label, losses, chosen))
    for name in dict.fromkeys(k for row in metrics for k in row if k not in FIRST and not k.endswith("_std")):
        panels.append((name, metrics, [name]))
    if not panels:
        return False
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), dpi=100, layout="constrained")
    for i, (label, source, chosen) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        for name in chosen:
            points = [(row["step"], row[name]) for row in source if name in row and math.isfinite(row[name])]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="." if len(points) < 30 else None)
        axes.set_xlabel("step")
        axes.set_title(label, fontsize=9)
        axes.grid(alpha=0.3)
        if len(chosen) > 1:
            axes.legend(fontsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return True


class Board:
    """TensorBoard's event files, if they are wanted.

    Args:
        folder: for the files.
        wanted: write them; an ImportError that says what to install, if that cannot be.
    """

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.folder = folder
        self.make: Any = None
        self.writer: Any = None
        if wanted:
            missing = "tensorboard=True needs TensorBoard: pip install tensorboard"
            self.make = optional("torch.utils.tensorboard", missing).SummaryWriter

    def add(self, group: str, row: Row) -> None:
        """One row of numbers; the first one makes the files."""
        if self.writer is None and self.make is not None:
            self.writer = self.make(str(self.folder))
        if self.writer is not None:
            for name, value in row.items():
                if name not in FIRST:
                    self.writer.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def close(self) -> None:
        """Finish the files."""
        if self.writer is not None:
            self.writer.close()


__all__ = ["Board", "Row", "Table", "draw"]
