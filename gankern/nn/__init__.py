"""Modules: parameters and buffers plus one operator call; each can switch to its reference with the same weights."""

from gankern.nn.bias_act import BiasAct, Conv2d, Linear, NoiseInjection
from gankern.nn.resample import Blur, Downsample2d, Upsample2d

__all__ = ["BiasAct", "Blur", "Conv2d", "Downsample2d", "Linear", "NoiseInjection", "Upsample2d"]
