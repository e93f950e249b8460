"""Settings of bias_act as data, with the measurement or the argument that justifies each."""

from __future__ import annotations

from gankern.ops.bias_act.geometry import Geometry


def reduction_chunks(backend: str, g: Geometry, element_size: int, with_noise: bool) -> tuple[int, int]:
    """(positions a chunk, channels a chunk) of the first stage of backward's reductions.

    CPU: a chunk of positions is a task. Some 64 Ki elements in all (half an L2), but at least a few vectors a row, so that
    each piece of a row is long enough to stream; all channels in one chunk, so that the noise gradient needs one partial.
    """
    if g.inner == 1:
        return max(1, min(g.positions, 65536 // max(g.channels, 1))), g.channels
    return max(1, min(g.positions, max(1024, 65536 // max(g.channels, 1)))), g.channels
