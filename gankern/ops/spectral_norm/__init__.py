"""spectral_norm: a weight divided by its largest singular value, found by power iteration."""

from gankern.ops.spectral_norm.op import spectral_norm

__all__ = ["spectral_norm"]
