"""The fused operators: twice differentiable, any device. One import line per op."""

from gankern.ops.bias_act import activation_funcs, bias_act, bias_act_
from gankern.ops.conv2d import conv2d, conv_transpose2d, no_weight_gradients
from gankern.ops.conv2d_resample import conv2d_resample
from gankern.ops.grid_sample import grid_sample
from gankern.ops.modulate import modulate, modulate_
from gankern.ops.modulated_conv2d import modulated_conv2d
from gankern.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "activation_funcs",
    "bias_act",
    "bias_act_",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "downsample2d",
    "filter2d",
    "grid_sample",
    "modulate",
    "modulate_",
    "modulated_conv2d",
    "no_weight_gradients",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
