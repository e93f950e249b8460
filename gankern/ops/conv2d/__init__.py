"""2-D convolutions that are cheap to differentiate twice. See README.md in this folder for the mathematics."""

from gankern.ops.conv2d.op import conv2d, conv_transpose2d
from gankern.ops.conv2d.scope import no_weight_gradients

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]
