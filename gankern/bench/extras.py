"""More contenders for some ops: what a goal compares with beside eager, torch.compile and the copy.

``EXTRAS[op]`` is a function of (row, keyword arguments) that gives {name: call}, for the rows where that makes sense. A
contender 'plain_conv' gives its row the numbers ``speedup_plain_conv`` (its time over ours) and
``time_over_plain_conv`` (the inverse).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from gankern.bench.rows import Row
from gankern.bench.steps import PATCHED


def _patched(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Eager code with gankern's convolutions alone."""
    return {"patched_conv": lambda: PATCHED[row.op](**kwargs)}


def _plain_conv(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The convolution inside a modulated layer, alone: no style, no resampling filter, no epilogue."""
    if row.direction != "forward":
        return {}
    x = kwargs["x"].detach()
    w = (
        kwargs["weight"]
        .detach()
        .contiguous(memory_format=torch.channels_last if row.layout == "channels_last" else torch.contiguous_format)
    )
    up, padding = kwargs.get("up", 1), kwargs.get("padding", 0)

    def plain() -> Any:
        with torch.no_grad():
            if up > 1:
                return F.conv_transpose2d(x, w.transpose(0, 1), stride=up)
            return F.conv2d(x, w, padding=padding)

    return {"plain_conv": plain}


EXTRAS: dict[str, Callable[[Row, dict[str, Any]], dict[str, Callable[[], Any]]]] = {
    **{name: _patched for name in PATCHED},
    "modulated_conv2d": _plain_conv,
}
