"""adain: normalise each plane, scale and shift it, activate; noise, bias and an activation in front, all in one operator."""

from gankern.ops.adain.op import adain, adain_from_features, instance_norm

__all__ = ["adain", "adain_from_features", "instance_norm"]
