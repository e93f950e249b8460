"""Which part of each layer's canvas a window of the image needs: arithmetic along one axis, no tensors.

A network of alias-free layers can be run on a larger canvas than it was trained for, since nothing in it knows where it is but
its input, which has a value everywhere. It can also be run on any window of a canvas: each layer on what the next one needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gankern.nn import LayerGeometry


@dataclass(frozen=True)
class Strip:
    """Along one axis, what a layer takes to make a part of its output.

    Attributes:
        start: first pixel of the input, counted on the layer's whole canvas.
        stop: behind the last pixel of the input.
        padding: (front, back) for the layer behind its convolution, see :meth:`gankern.nn.AliasFreeLayer.forward`.
    """

    start: int
    stop: int
    padding: tuple[int, int]


def sizes_along(geometries: Sequence[LayerGeometry], resolution: int, canvas: int) -> list[int]:
    """Pixels along an axis of each layer's input and of the image, on a canvas of ``canvas`` pixels of the image."""
    extra = canvas - resolution
    sizes = [g.in_size + round(g.in_rate) * extra // resolution for g in geometries]
    return [*sizes, canvas]


def step_of(geometries: Sequence[LayerGeometry], resolution: int) -> int:
    """Canvases are multiples of this many pixels of the image: of one pixel of the coarsest layer."""
    return max(resolution // round(min(g.in_rate for g in geometries)), 1)


def needed(geometry: LayerGeometry, size: int, start: int, stop: int) -> Strip:
    """What a layer takes for ``start`` to ``stop`` of its output, where its input has ``size`` pixels.

    With its zeros between pixels, input x of the resampling lies at ``up * x``; output o needs ``taps_u + taps_d - 1`` places
    from ``down * o - front`` on. The convolution pads with its whole kernel: its output x needs x - (kernel - 1) to x.
    """
    g = geometry
    reach, front = g.conv_kernel - 1, g.padding[0]
    first = start * g.down - front
    last = (stop - 1) * g.down - front + g.up_taps + g.down_taps - 2
    low = max(-(-first // g.up), 0)  # of the convolution's output
    high = min(last // g.up + 1, size + reach)
    x0 = min(max(low - reach, 0), size - 1)
    x1 = max(min(high, size), x0 + 1)  # at least a pixel, where only padding is needed
    # Where the strip ends inside the canvas, the convolution's zeros made it wrong for `reach` pixels: they are cropped here.
    before = x0 * g.up - first
    behind = last - first + 1 - before - (x1 - x0 + reach) * g.up
    return Strip(x0, x1, (before, behind))


def strips(geometries: Sequence[LayerGeometry], resolution: int, canvas: int, start: int, stop: int) -> list[Strip]:
    """For each layer, what it takes to make ``start`` to ``stop`` of the image, on a canvas of ``canvas`` pixels."""
    found: list[Strip] = []
    for g, size in zip(reversed(geometries), reversed(sizes_along(geometries, resolution, canvas)[:-1]), strict=True):
        strip = needed(g, size, start, stop)
        start, stop = strip.start, strip.stop
        found.append(strip)
    return found[::-1]


def tiles(canvas: tuple[int, int], tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows (top, left, height, width) of at most ``tile`` pixels along each axis that cover a canvas."""
    for top in range(0, canvas[0], tile):
        for left in range(0, canvas[1], tile):
            yield top, left, min(tile, canvas[0] - top), min(tile, canvas[1] - left)


__all__ = ["Strip", "needed", "sizes_along", "step_of", "strips", "tiles"]
