"""More contenders for some ops: what a goal compares with beside eager, torch.compile and the copy.

``EXTRAS[op]`` is a function of (row, keyword arguments) that gives {name: call}, for the rows where that makes sense. A
contender 'plain_conv' gives its row the numbers ``speedup_plain_conv`` (its time over ours) and
``time_over_plain_conv`` (the inverse).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gankern.bench.rows import Row

EXTRAS: dict[str, Callable[[Row, dict[str, Any]], dict[str, Callable[[], Any]]]] = {}
