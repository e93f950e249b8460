"""Arguments of grad_norm_penalty and their checks."""

from __future__ import annotations

from torch import Tensor

from gankern import _validate

OP = "grad_norm_penalty"


def prepare(grad: Tensor, center: float = 0.0, weight: float = 1.0) -> tuple[Tensor, float, float]:
    """Check the public arguments and give the registered operator's."""
    if not isinstance(grad, Tensor):
        raise TypeError(f"{OP}: grad must be a torch.Tensor [N, ...], got {type(grad).__name__}")
    if grad.dtype not in _validate.FLOATING:
        raise TypeError(f"{OP}: grad must be float32, float64, bfloat16 or float16, got {_validate.short(grad.dtype)}")
    if grad.dim() < 2:
        raise ValueError(f"{OP}: grad must be [N, ...] with at least 2 dimensions, got {grad.dim()}: {list(grad.shape)}")
    return grad, _validate.number(OP, "center", center), _validate.number(OP, "weight", weight)
