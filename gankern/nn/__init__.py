"""Modules: parameters and buffers plus one operator call; each can switch to its reference with the same weights."""

from gankern.nn.resample import Blur, Downsample2d, Upsample2d

__all__ = ["Blur", "Downsample2d", "Upsample2d"]
