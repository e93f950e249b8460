"""minibatch_stddev: append to each sample how much its minibatch group varies."""

from gankern.ops.minibatch_stddev.op import minibatch_stddev

__all__ = ["minibatch_stddev"]
