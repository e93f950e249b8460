"""grid_sample: bilinear sampling of images at given positions."""

from gankern.ops.grid_sample.op import grid_sample

__all__ = ["grid_sample"]
