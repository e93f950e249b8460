"""bias_act: noise, bias, activation, gain and clamp in one pass."""

from gankern._activations import activation_funcs
from gankern.ops.bias_act.op import bias_act, bias_act_

__all__ = ["activation_funcs", "bias_act", "bias_act_"]
