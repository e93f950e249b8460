"""Modules: parameters and buffers plus one operator call; each can switch to its reference with the same weights."""

from gankern.nn.alias_free import AliasFreeLayer, FilteredLReLU
from gankern.nn.batch_norm import BatchNormAct2d
from gankern.nn.bias_act import BiasAct, Linear, NoiseInjection
from gankern.nn.conv import Conv2d, ConvTranspose2d
from gankern.nn.filters import lowpass_filter
from gankern.nn.modulated import AdaptiveConv2d, ModulatedConv2d, StyleLayer, ToRGB
from gankern.nn.norm import (
    SPADE,
    AdaIN,
    ConditionalBatchNorm2d,
    ConditionalInstanceNorm2d,
    InstanceNormAct,
    MinibatchStdDev,
    PixelNorm,
    SpectralNorm,
    StyleEpilogue,
)
from gankern.nn.penalty import GradientPenalty, PathLengthPenalty
from gankern.nn.resample import Blur, Downsample2d, Upsample2d
from gankern.ops.filtered_lrelu import LayerGeometry, layer_geometries

__all__ = [
    "SPADE",
    "AdaIN",
    "AdaptiveConv2d",
    "AliasFreeLayer",
    "BatchNormAct2d",
    "BiasAct",
    "Blur",
    "ConditionalBatchNorm2d",
    "ConditionalInstanceNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Downsample2d",
    "FilteredLReLU",
    "GradientPenalty",
    "InstanceNormAct",
    "LayerGeometry",
    "Linear",
    "MinibatchStdDev",
    "ModulatedConv2d",
    "NoiseInjection",
    "PathLengthPenalty",
    "PixelNorm",
    "SpectralNorm",
    "StyleEpilogue",
    "StyleLayer",
    "ToRGB",
    "Upsample2d",
    "layer_geometries",
    "lowpass_filter",
]
