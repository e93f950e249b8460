"""Which steps compute a convolution with resampling at the least cost: shapes in, a list of steps out, no tensor touched.

The definition filters at the upsampled resolution and convolves there. All steps are linear and shift-invariant without
padding in between, so they commute where sizes allow: a 1x1 kernel goes to the side with the fewest pixels, a larger one
strides itself (a transposed convolution for ``up``), which saves up^2 and down^2 of its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One operator with its settings. ``taps`` says whether upfirdn2d gets the filter (else it pads and crops)."""

    op: str
    settings: dict[str, Any] = field(default_factory=dict)
    taps: bool = False

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.op}({settings})" if self.op != "upfirdn2d" or self.taps else f"{self.op}({settings}, no filter)"


def steps(kernel: Sequence[int], padding: Sequence[int], has_filter: bool, up: int, down: int, groups: int) -> list[Step]:
    """The steps for a ``kernel`` of (kh, kw) taps and ``padding`` (x0, x1, y0, y1) of the upsampled image, all included."""
    kh, kw = kernel
    x0, x1, y0, y1 = padding
    conv = Step("conv2d", {"groups": groups})
    decimate = Step("upfirdn2d", {"down": down}, taps=has_filter)
    raise_gain = {"gain": up**2}
    if kh == kw == 1:
        if up > 1:
            # At the low resolution; padding, being zero, stays zero under a 1x1 kernel without bias.
            first = [conv, Step("upfirdn2d", {"up": up, "padding": [x0, x1, y0, y1], **raise_gain}, taps=has_filter)]
            return [*first, decimate] if down > 1 else first
        if down > 1:
            return [Step("upfirdn2d", {"down": down, "padding": [x0, x1, y0, y1]}, taps=has_filter), conv]
    if up > 1:
        # The full transposed convolution has (size - 1) * up + k pixels. The definition's result begins k - 1 - pad0 into it,
        # and its last up - 1 zeros lie past the end. What both sides have too much, the convolution need not compute.
        before_x, after_x = x0 - (kw - 1), x1 + up - kw
        before_y, after_y = y0 - (kh - 1), y1 + up - kh
        crop_x, crop_y = max(0, min(-before_x, -after_x)), max(0, min(-before_y, -after_y))
        rest = [before_x + crop_x, after_x + crop_x, before_y + crop_y, after_y + crop_y]
        first = [
            Step("conv_transpose2d", {"stride": up, "padding": [crop_y, crop_x], "groups": groups}),
            Step("upfirdn2d", {"padding": rest, **raise_gain}, taps=has_filter),
        ]
        return [*first, decimate] if down > 1 else first
    if down > 1:
        strided = Step("conv2d", {"stride": down, "groups": groups})
        return [Step("upfirdn2d", {"padding": [x0, x1, y0, y1]}, taps=has_filter), strided]
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return [Step("conv2d", {"padding": [y0, x0], "groups": groups})]
    return [Step("upfirdn2d", {"padding": [x0, x1, y0, y1]}), conv]
