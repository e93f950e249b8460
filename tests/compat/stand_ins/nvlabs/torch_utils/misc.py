import functools

import torch


def assert_shape(tensor, ref_shape):
    assert all(want in (None, size) for size, want in zip(tensor.shape, ref_shape, strict=True)), (tensor.shape, ref_shape)


def profiled_function(fn):
    """As there: without functools.wraps, so that the signature does not show."""

    def decorator(*args, **kwargs):
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    decorator.__name__ = fn.__name__
    return decorator


@functools.cache
def constant(value, device=None):
    return torch.tensor(value, device=device)
