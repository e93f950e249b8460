"""Modules: parameters and buffers plus one operator call; each can switch to its reference with the same weights."""

from gankern.nn.bias_act import BiasAct, Linear, NoiseInjection
from gankern.nn.conv import Conv2d
from gankern.nn.modulated import AdaptiveConv2d, ModulatedConv2d, StyleLayer, ToRGB
from gankern.nn.resample import Blur, Downsample2d, Upsample2d

__all__ = [
    "AdaptiveConv2d",
    "BiasAct",
    "Blur",
    "Conv2d",
    "Downsample2d",
    "Linear",
    "ModulatedConv2d",
    "NoiseInjection",
    "StyleLayer",
    "ToRGB",
    "Upsample2d",
]
