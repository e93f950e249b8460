"""pixel_norm: each pixel's vector of channels, scaled to a root mean square of 1."""

from gankern.ops.pixel_norm.op import pixel_norm

__all__ = ["pixel_norm"]
