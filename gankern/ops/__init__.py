"""The fused operators: twice differentiable, any device. One import line per op."""

from gankern.ops.bias_act import activation_funcs, bias_act, bias_act_
from gankern.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["activation_funcs", "bias_act", "bias_act_", "downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
