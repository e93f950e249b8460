"""Modules: parameters and buffers plus one operator call; each can switch to its reference with the same weights."""

from gankern.nn.adaptive import AdaptiveBatchNorm2d
from gankern.nn.alias_free import AliasFreeLayer, FilteredLReLU
from gankern.nn.attention import SelfAttention2d
from gankern.nn.batch_norm import BatchNormAct2d
from gankern.nn.bias_act import BiasAct, Linear, NoiseInjection
from gankern.nn.conv import Conv2d, ConvTranspose2d
from gankern.nn.fade import FadeIn
from gankern.nn.filters import lowpass_filter
from gankern.nn.minibatch_discrimination import MinibatchDiscrimination
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
from gankern.nn.unet import ConvNormAct2d, UNetDown, UNetUp
from gankern.ops.filtered_lrelu import LayerGeometry, layer_geometries

__all__ = [
    "SPADE",
    "AdaIN",
    "AdaptiveBatchNorm2d",
    "AdaptiveConv2d",
    "AliasFreeLayer",
    "BatchNormAct2d",
    "BiasAct",
    "Blur",
    "ConditionalBatchNorm2d",
    "ConditionalInstanceNorm2d",
    "Conv2d",
    "ConvNormAct2d",
    "ConvTranspose2d",
    "Downsample2d",
    "FadeIn",
    "FilteredLReLU",
    "GradientPenalty",
    "InstanceNormAct",
    "LayerGeometry",
    "Linear",
    "MinibatchDiscrimination",
    "MinibatchStdDev",
    "ModulatedConv2d",
    "NoiseInjection",
    "PathLengthPenalty",
    "PixelNorm",
    "SelfAttention2d",
    "SpectralNorm",
    "StyleEpilogue",
    "StyleLayer",
    "ToRGB",
    "UNetDown",
    "UNetUp",
    "Upsample2d",
    "layer_geometries",
    "lowpass_filter",
]
