"""modulate: what stands around a modulated convolution, in one pass: scale, noise, bias, activation, gain and clamp."""

from gankern.ops.modulate.layouts import relayout
from gankern.ops.modulate.op import modulate, modulate_

__all__ = ["modulate", "modulate_", "relayout"]
