"""Why goals are missed: a row's own numbers, and in words what no number says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gankern.bench import breakdown, table
from gankern.bench.common import percent, times
from gankern.bench.compare import spread
from gankern.bench.goals import fits
from gankern.bench.rows import Row
from gankern.bench.timing import UNSETTLED


@dataclass(frozen=True)
class Reason:
    """Why a goal is not reached, in words beside a row's breakdown and rooflines. Without numbers: those are measured.

    Attributes:
        op, sample, direction, kind: as of a :class:`Goal`; ``sample`` may be several patterns, separated by '|'.
        metric: of the goal, or '*'.
        text: the reason.
        layout: a pattern. Default '*'.
    """

    op: str
    sample: str
    direction: str
    kind: str
    metric: str
    text: str
    layout: str = "*"

    def matches(self, row: Row, kind: str, metric: str) -> bool:
        """Whether it is about this number of the row on this kind of device."""
        return (
            self.kind == kind
            and fits(row.sample, self.sample)
            and fnmatchcase(row.op, self.op)
            and fnmatchcase(row.direction, self.direction)
            and fnmatchcase(row.layout, self.layout)
            and fnmatchcase(metric, self.metric)
        )


REASONS: tuple[Reason, ...] = (
    Reason(
        "modulated_conv2d", "stylegan2_64x*", "forward", "cpu", "time_over_plain_conv",
        "few channels: a pass over the image costs much beside their convolution",
    ),
    Reason(
        "adain", "*", "double_backward", "cpu", "speedup_eager",
        "PyTorch's share is the squared norm and its gradient, the same on both sides",
    ),
    Reason(
        "upfirdn2d", "blur_4x4_256*", "forward", "cpu", "speedup_eager",
        "the output is fresh memory, which the system maps and clears while it is written",
    ),
)  # fmt: skip
"""What is known and no number says. The numbers are the row's own: see :func:`why`."""


def reason(row: Row, kind: str, metric: str, reasons: Sequence[Reason] | None = None) -> str:
    """What is known of a row's missed goal, '' for nothing."""
    known = REASONS if reasons is None else reasons
    return "; ".join(each.text for each in known if each.matches(row, kind, metric))


def why(row: Mapping[str, Any], kind: str, goal: Mapping[str, Any], peak: float | None = None) -> str:
    """Why a goal is missed: rooflines, the row's breakdown, the spread of its times, and what ``REASONS`` knows.

    Args:
        row: with the goal.
        kind: of its device.
        goal: judged.
        peak: floating-point operations a second of the fastest plain convolution in the same results.
    """
    parts, of, ours = [], row.get("breakdown"), row["times"].get("ours", {}).get("median")
    share, ceiling, reached = row["metrics"].get("copy_share"), row["metrics"].get("ceiling"), goal.get("value")
    faster = goal["metric"] == "speedup_eager"
    if faster and share and share >= 0.8:
        parts.append(f"it moves its bytes at {percent(share)} of a copy's speed: memory allows no more")
    elif faster and share and reached and reached / share < goal["must"]:
        parts.append(f"at a copy's speed it would be {times(reached / share)}")
    if faster and ceiling and ceiling < goal["must"]:
        parts.append(f"the ceiling is {times(ceiling)}: its convolutions alone")
    if of and ours:
        parts.append(breakdown.describe(of, ours))
        inside = ours - of["between"]
        if reached and faster and 0.1 * ours < of["between"] < ours:
            parts.append(f"without what is between operators it would be {times(reached * ours / inside)}")
        if share and goal["metric"] == "copy_share" and of["kernels"]:
            parts.append(f"its kernels alone are at {percent(share * ours / of['kernels'])} of a copy's speed")
    flops = 2 * (row.get("macs") or 0)
    if peak and ours and row["direction"] == "forward" and (rate := flops / ours / peak) > 0.4:
        parts.append(f"it multiplies and adds at {percent(rate)} of the speed of the fastest convolution")
    for name in ("ours", "eager"):
        if name in row["times"] and (apart := spread(row["times"], name)) > UNSETTLED:
            parts.append(f"unsteady: the quartiles of {name} are {percent(apart)} of its median apart")
    return "; ".join(part for part in (*parts, reason(table.row_of(row), kind, goal["metric"])) if part)
