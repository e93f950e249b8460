"""Arguments of pixel_norm and their checks."""

from __future__ import annotations

from torch import Tensor

from gankern import _validate

OP = "pixel_norm"


def prepare(x: Tensor, dim: int = 1, eps: float = 1e-8) -> tuple[Tensor, int, float]:
    """Check the public arguments and give the registered operator's: ``dim`` is not negative."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{OP}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in _validate.FLOATING:
        raise TypeError(f"{OP}: x must be float32, float64, bfloat16 or float16, got {_validate.short(x.dtype)}")
    if x.dim() < 1:
        raise ValueError(f"{OP}: x must have at least one dimension, got a scalar")
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{OP}: dim must be an int, got {dim!r}")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"{OP}: dim must be in [{-x.dim()}, {x.dim() - 1}] for x of {x.dim()} dimensions, got {dim}")
    number = _validate.number(OP, "eps", eps)
    if number <= 0:
        raise ValueError(f"{OP}: eps must be positive, got {eps!r}")
    return x, dim % x.dim(), number
