"""Convolution whose input channels each sample scales by its own style. See README.md in this folder for the mathematics."""

from gankern.ops.modulated_conv2d.op import modulated_conv2d

__all__ = ["modulated_conv2d"]
