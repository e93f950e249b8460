"""grad_norm_penalty: how far each sample's gradient norm is from where it should be, squared, in one pass over the gradient."""

from gankern.ops.grad_norm_penalty.op import grad_norm_penalty

__all__ = ["grad_norm_penalty"]
