"""interpolate: points between real and generated images, with one weight a sample, in one pass."""

from gankern.ops.interpolate.op import interpolate

__all__ = ["interpolate"]
