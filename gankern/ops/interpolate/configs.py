"""Settings of interpolate: samples are flat memory, cut into pieces."""

from gankern._pieces import CPU, GPU, MOST_PIECES, chunk, tile

__all__ = ["CPU", "GPU", "MOST_PIECES", "chunk", "tile"]
