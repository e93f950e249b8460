"""What dynamo puts into a graph as calls, to be run whenever the graph is traced further or run as it stands.

A module of its own, imported when a graph is traced: it needs dynamo, whose import takes longer than that of torch.
"""

from __future__ import annotations

import torch._dynamo

from gankern.ops.conv2d.scope import change


@torch._dynamo.allow_in_graph
def enter(this_thread: bool) -> None:
    """Open a scope of :class:`gankern.ops.no_weight_gradients`."""
    change(1, this_thread)


@torch._dynamo.allow_in_graph
def leave(this_thread: bool) -> None:
    """Close it."""
    change(-1, this_thread)
