"""Convolution with FIR upsampling or downsampling. See README.md in this folder for the mathematics."""

from gankern.ops.conv2d_resample.op import conv2d_resample

__all__ = ["conv2d_resample"]
