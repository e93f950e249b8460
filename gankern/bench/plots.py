"""Plots of a run: speed-ups, and shares of the copy. matplotlib is optional: without it there is a note and no plot."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gankern.bench.table import groups, machine_line, row_of

MISSING = "no plots: matplotlib is not installed (pip install matplotlib)"

# Colours that stay apart for colour-blind readers (Okabe and Ito).
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


def available() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(data: Mapping[str, Any]) -> dict[str, bytes]:
    """The plots of a result file as PNG: 'speedup' and 'copy_share', those that have something to show."""
    results = [row for row in data["rows"] if row["status"] == "ok" and row["times"].get("ours")]
    found = {}
    series = [("speedup_eager", "over eager PyTorch", _BLUE), ("speedup_compile", "over torch.compile", _ORANGE)]
    for name, draws, title, label, scale in (
        ("speedup", series, "Speed-up: their time over ours, in one run", "times faster (1 = as fast)", "log"),
        (
            "copy_share",
            [("copy_share", "share of copy", _GREEN)],
            "Share of the copy bandwidth",
            "share (1 = as a copy)",
            "linear",
        ),
    ):
        shown = [row for row in results if any(row["metrics"].get(metric) for metric, _, _ in draws)]
        if shown:
            found[name] = _bars(shown, draws, f"{title}\n{_wrapped(machine_line(data['machine']))}", label, scale)
    return found


def write(data: Mapping[str, Any], folder: Path) -> tuple[list[Path], str | None]:
    """Write the plots as MODE_NAME.png into ``folder``; the files, and a note if there can be none."""
    if not available():
        return [], MISSING
    files = []
    for name, image in draw(data).items():
        path = folder / f"{data['mode']}_{name}.png"
        path.write_bytes(image)
        files.append(path)
    return files, None


def _wrapped(line: str, width: int = 110) -> str:
    """A long line broken at commas."""
    lines = [""]
    for part in line.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > width and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _bars(
    results: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str, str]], title: str, label: str, scale: str
) -> bytes:
    """One panel of horizontal bars per op, in up to three columns; goals are marked on their bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = groups(results)
    columns = min(3, math.ceil(len(panels) / 2)) if len(panels) > 1 else 1
    lines = math.ceil(len(panels) / columns)
    tallest = max(len(members) for members in panels.values())
    figure = Figure(figsize=(9 * columns, lines * (1.1 + 0.3 * tallest) + 1.3), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (op, members) in zip(axes, panels.items(), strict=False):
        _panel(axis, members, series, scale)
        axis.set_title(op, fontsize=10, loc="left", fontweight="bold")
        axis.set_xlabel(label, fontsize=9)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axis: Any, members: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str, str]], scale: str) -> None:
    show: Callable[[float], str] = (lambda v: f"{v:.3g}x") if scale == "log" else (lambda v: f"{100 * v:.0f}%")
    metrics = [metric for metric, _, _ in series]
    present = [[metric for metric in metrics if row["metrics"].get(metric)] for row in members]
    height = 0.8 / max(map(len, present))
    for metric, name, colour in series:
        # A row's bars lie around its place, as many as it has.
        spots = {
            place: place + (has.index(metric) - (len(has) - 1) / 2) * height
            for place, has in enumerate(present)
            if metric in has
        }
        if not spots:
            continue
        lengths = [members[place]["metrics"][metric] for place in spots]
        bars = axis.barh(list(spots.values()), lengths, height=height * 0.92, color=colour, label=name)
        axis.bar_label(bars, labels=[show(v) for v in lengths], fontsize=7, padding=2)
        for place, spot in spots.items():
            for goal in members[place]["goals"]:
                if goal["metric"] == metric:
                    ends = [spot - height / 2, spot + height / 2]
                    axis.plot([goal["must"]] * 2, ends, color="black", linewidth=1.6)
                    axis.plot([goal["stretch"]] * 2, ends, color="black", linewidth=1.6, linestyle=":")
    if any(goal["metric"] in metrics for row in members for goal in row["goals"]):
        axis.plot([], [], color="black", linewidth=1.6, label="goal")
        axis.plot([], [], color="black", linewidth=1.6, linestyle=":", label="stretch goal")
    axis.axvline(1, color=_GREY, linewidth=1, zorder=0)
    axis.set_yticks(range(len(members)), [row_of(row).title for row in members], fontsize=8)
    axis.invert_yaxis()
    values = [row["metrics"][metric] for row, has in zip(members, present, strict=True) for metric in has]
    values += [goal["stretch"] for row in members for goal in row["goals"] if goal["metric"] in metrics]
    if scale == "log" and max(values) > 3:
        axis.set_xscale("log")
        axis.set_xlim(min(0.5, *values) * 0.8, max(2.0, *values) * 2)
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    else:
        axis.set_xlim(0, max(1.0, *values) * 1.15)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
