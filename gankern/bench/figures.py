"""The plots of docs/performance.md: speed-ups, a roofline, whole networks, scaling; small PNGs that say what made them."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
_DIRECTIONS = (
    ("forward", "forward", _BLUE),
    ("backward", "forward + backward", _ORANGE),
    ("double_backward", "gradient penalty", _GREEN),
)
_DPI = 72
_KEY = "gankern-data"


def digest(data: Any) -> str:
    """What identifies the numbers of a plot."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(png: bytes) -> str | None:
    """The digest that a plot was saved with, or None."""
    found = re.search(_KEY.encode() + rb"\0([0-9a-f]{16})", png)
    return found.group(1).decode() if found else None


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any, data: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None, _KEY: digest(data)})
    return buffer.getvalue()


def _tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def speedups(data: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """A bar for each direction of each sample: times faster than eager PyTorch.

    Args:
        data: (label, direction to speed-up), in the order of the plot.
    """
    from matplotlib.patches import Patch

    figure = _figure(8.5, 1.0 + 0.42 * len(data))
    axis = figure.subplots()
    for place, (_, found) in enumerate(data):
        height = 0.8 / max(len(found), 1)
        for nth, (direction, _, colour) in enumerate(d for d in _DIRECTIONS if d[0] in found):
            spot = place + (nth - (len(found) - 1) / 2) * height
            bar = axis.barh(spot, found[direction], height=0.9 * height, color=colour)
            axis.bar_label(bar, labels=[f"{found[direction]:.3g}x"], fontsize=6, padding=2)
    axis.set_yticks(range(len(data)), [label for label, _ in data])
    axis.set_ylim(len(data) - 0.4, -0.6)
    axis.set_xscale("log")
    values = [v for _, found in data for v in found.values()]
    axis.set_xlim(min(0.7, *values) * 0.9, max(2.0, *values) * 1.6)
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.axvline(1, color=_GREY, linewidth=1)
    axis.set_xlabel("times faster than eager PyTorch", fontsize=9)
    patches = [Patch(color=colour, label=label) for _, label, colour in _DIRECTIONS]
    axis.legend(handles=patches, fontsize=8, loc="lower right", frameon=False)
    _tidy(axis)
    return _png(figure, data)


def roofline(bandwidth: float, peak: float, points: Sequence[tuple[str, str, float, float]]) -> bytes:
    """Work a second against work a byte, under the measured limits of the machine.

    Args:
        bandwidth: of a copy, bytes a second.
        peak: of a convolution, FLOP a second.
        points: (operator, side 'ours' or 'eager', FLOP a byte, FLOP a second).
    """
    figure = _figure(8.5, 5.2)
    axis = figure.subplots()
    low, high = min(p[2] for p in points) / 2, max(2 * peak / bandwidth, 2 * max(p[2] for p in points))
    ridge = peak / bandwidth
    axis.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", linewidth=1.2)
    axis.annotate(f"copy, {bandwidth / 1e9:.0f} GB/s", (low, 1.9 * low * bandwidth), fontsize=8)
    axis.annotate(f"convolution, {peak / 1e9:.0f} GFLOP/s", (high, peak), fontsize=8, ha="right", va="bottom")
    names = list(dict.fromkeys(p[0] for p in points))
    markers = "os^Dv<>Pp*hX"
    colours = (_BLUE, _ORANGE, _GREEN, _RED, "#CC79A7", "#56B4E9")
    for nth, name in enumerate(names):
        for side in ("eager", "ours"):
            mine = [(x, y) for n, s, x, y in points if n == name and s == side]
            if mine:
                face = colours[nth % len(colours)] if side == "ours" else "none"
                axis.scatter(
                    *zip(*mine, strict=True), marker=markers[nth % len(markers)], s=36, facecolor=face,
                    edgecolor=colours[nth % len(colours)], label=name if side == "ours" else None,
                )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("FLOP a byte of least traffic", fontsize=9)
    axis.set_ylabel("FLOP a second (filled: ours, hollow: eager)", fontsize=9)
    axis.legend(fontsize=7, loc="lower right", frameon=False, ncols=2)
    _tidy(axis)
    return _png(figure, [bandwidth, peak, points])


def networks(data: Sequence[tuple[str, float, float | None]]) -> bytes:
    """A bar for each phase of each whole network: times faster than eager, with its ceiling.

    Args:
        data: (label, speed-up, ceiling or None).
    """
    figure = _figure(8.5, 1.0 + 0.26 * len(data))
    axis = figure.subplots()
    bars = axis.barh(range(len(data)), [d[1] for d in data], height=0.7, color=_BLUE, label="gankern")
    axis.bar_label(bars, labels=[f"{d[1]:.3g}x" for d in data], fontsize=7, padding=2)
    for place, (_, _, ceiling) in enumerate(data):
        if ceiling is not None:
            axis.plot([ceiling] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.6)
    axis.plot([], [], color="black", linewidth=1.6, label="ceiling: its convolutions alone")
    axis.set_yticks(range(len(data)), [d[0] for d in data])
    axis.set_ylim(len(data) - 0.4, -0.6)
    values = [v for d in data for v in d[1:] if v is not None]
    axis.set_xscale("log")
    axis.set_xlim(min(0.7, *values) * 0.9, max(2.0, *values) * 1.5)
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.axvline(1, color=_GREY, linewidth=1)
    axis.set_xlabel("times faster than eager PyTorch", fontsize=9)
    axis.legend(fontsize=8, loc="lower right", frameon=False)
    _tidy(axis)
    return _png(figure, data)


def scaling(sweeps: Sequence[Mapping[str, Any]], memory: Mapping[str, Any] | None) -> bytes:
    """A panel for each subject and parameter: time against the parameter, ours and eager; memory over steps at the end."""
    subjects = list(dict.fromkeys(s["subject"] for s in sweeps))
    parameters = list(dict.fromkeys(s["parameter"] for s in sweeps))
    lines = len(subjects) + (memory is not None)
    figure = _figure(2.3 * len(parameters), 1.75 * lines + 0.3)
    axes = figure.subplots(lines, len(parameters), squeeze=False)
    for row in axes:
        for axis in row:
            axis.set_visible(False)
    for sweep in sweeps:
        axis = axes[subjects.index(sweep["subject"])][parameters.index(sweep["parameter"])]
        axis.set_visible(True)
        values = [p["value"] for p in sweep["points"]]
        for side, colour in (("eager", _ORANGE), ("ours", _BLUE)):
            axis.plot(values, [1e3 * p[side]["median"] for p in sweep["points"]], "o-", color=colour, markersize=3, label=side)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(values, [str(v) for v in values])
        axis.minorticks_off()
        axis.set_xlabel(sweep["parameter"], fontsize=7)
        if sweep["parameter"] == parameters[0]:
            axis.set_ylabel(f"{sweep['title']}\nms", fontsize=7)
            axis.legend(fontsize=6, frameon=False)
        _tidy(axis)
        axis.tick_params(labelsize=6)
    if memory is not None:
        axis = axes[-1][0]
        axis.set_visible(True)
        known = [(p["step"], p["resident"] / 2**20) for p in memory["points"] if p["resident"] is not None]
        if known:
            axis.plot(*zip(*known, strict=True), color=_BLUE)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("training steps", fontsize=7)
        axis.set_ylabel("resident MiB", fontsize=7)
        _tidy(axis)
        axis.tick_params(labelsize=6)
    return _png(figure, [list(sweeps), memory])
