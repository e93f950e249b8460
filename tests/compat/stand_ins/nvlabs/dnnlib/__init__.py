from .util import EasyDict

__all__ = ["EasyDict"]
