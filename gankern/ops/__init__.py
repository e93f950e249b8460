"""The fused operators: twice differentiable, any device. One import line per op."""

from gankern.ops.adain import adain, adain_from_features, instance_norm
from gankern.ops.bias_act import activation_funcs, bias_act, bias_act_
from gankern.ops.conv2d import conv2d, conv_transpose2d, no_weight_gradients
from gankern.ops.conv2d_resample import conv2d_resample
from gankern.ops.filtered_lrelu import filtered_lrelu
from gankern.ops.grad_norm_penalty import grad_norm_penalty
from gankern.ops.grid_sample import grid_sample
from gankern.ops.interpolate import interpolate
from gankern.ops.minibatch_stddev import minibatch_stddev
from gankern.ops.modulate import modulate, modulate_
from gankern.ops.modulated_conv2d import modulated_conv2d
from gankern.ops.pixel_norm import pixel_norm
from gankern.ops.spectral_norm import spectral_norm
from gankern.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "activation_funcs",
    "adain",
    "adain_from_features",
    "bias_act",
    "bias_act_",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "grad_norm_penalty",
    "grid_sample",
    "instance_norm",
    "interpolate",
    "minibatch_stddev",
    "modulate",
    "modulate_",
    "modulated_conv2d",
    "no_weight_gradients",
    "pixel_norm",
    "setup_filter",
    "spectral_norm",
    "upfirdn2d",
    "upsample2d",
]
