"""Arguments of interpolate: the forms that users may give, and their checks."""

from __future__ import annotations

from torch import Tensor

from gankern import _validate
from gankern._dtypes import wide

OP = "interpolate"


def prepare(real: Tensor, fake: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check the public arguments and give the registered operator's: ``eps`` [N], contiguous and in the wide type."""
    for name, value in (("real", real), ("fake", fake)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{OP}: {name} must be a torch.Tensor [N, ...], got {type(value).__name__}")
        if value.dtype not in _validate.FLOATING:
            raise TypeError(f"{OP}: {name} must be float32, float64, bfloat16 or float16, got {_validate.short(value.dtype)}")
    if real.dim() < 1:
        raise ValueError(f"{OP}: real must be [N, ...], got a scalar")
    if fake.shape != real.shape:
        raise ValueError(f"{OP}: fake must have the shape of real {list(real.shape)}, got {list(fake.shape)}")
    if fake.dtype != real.dtype:
        want, got = _validate.short(real.dtype), _validate.short(fake.dtype)
        raise TypeError(f"{OP}: fake must have the dtype of real ({want}), got {got}")
    if fake.device != real.device:
        raise ValueError(f"{OP}: fake must be on the device of real ({real.device}), got {fake.device}")
    if not isinstance(eps, Tensor) or not eps.is_floating_point():
        found = f"dtype {_validate.short(eps.dtype)}" if isinstance(eps, Tensor) else type(eps).__name__
        raise TypeError(f"{OP}: eps must be a floating-point torch.Tensor, got {found}")
    if eps.device != real.device:
        raise ValueError(f"{OP}: eps must be on the device of real ({real.device}), got {eps.device}")
    n, rank = real.shape[0], real.dim()
    one_each = eps.dim() in (1, rank) and eps.shape[0] == n and all(size == 1 for size in eps.shape[1:])
    for_all = eps.dim() <= rank and all(size == 1 for size in eps.shape)
    if not one_each and not for_all:
        raise ValueError(
            f"{OP}: eps must be [N] = [{n}] or [N, 1, ..., 1] of {rank} dimensions, one number a sample, "
            f"or one number for all, got {list(eps.shape)}"
        )
    eps = eps.to(wide(real.dtype))
    if eps.dim() != 1 or eps.shape[0] != n:
        eps = eps.reshape(-1).expand(n)
    return real, fake, eps.contiguous()
