"""gankern: fused, twice differentiable kernels for generative adversarial networks on PyTorch."""

from gankern import losses, nn, ops
from gankern._dispatch import explain, use_backend
from gankern._library import NATIVE
from gankern._version import __version__

__all__ = ["NATIVE", "__version__", "explain", "losses", "nn", "ops", "use_backend"]
