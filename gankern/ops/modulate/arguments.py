"""Arguments of modulate: the forms that users may give, and their checks."""

from __future__ import annotations

from torch import Tensor

from gankern import _validate
from gankern._activations import settings
from gankern._dtypes import wide

OP = "modulate"
Prepared = tuple[Tensor, "Tensor | None", "Tensor | None", "Tensor | None", str, float, float, float]


def prepare(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Prepared:
    """Check the public arguments and give the registered operator's.

    Those are (x, scale, noise, b, act, alpha, gain, clamp): scale [N, C], noise [N or 1, 1, H, W] and b [C] contiguous and
    in the wide type, defaults filled in, clamp -1 for none.
    """
    _validate.tensor4(OP, "x", x)
    act, alpha, gain, limit = settings(OP, act, alpha, gain, clamp)
    n, c, h, w = x.shape
    if scale is not None:
        _validate.companion(OP, x, "scale", scale)
        if scale.dim() != 2 or (scale.shape[0] != n and scale.shape[0] != 1) or scale.shape[1] != c:
            raise ValueError(
                f"{OP}: scale must have shape [N, C] = [{n}, {c}], or [1, {c}] for all samples, got {list(scale.shape)}"
            )
        scale = scale.to(wide(x.dtype)).expand(n, c).contiguous()
    if noise is not None:
        noise = _validate.pixel_noise(OP, x, noise, (h, w)).to(wide(x.dtype)).contiguous()
    if b is not None:
        _validate.companion(OP, x, "b", b)
        if b.dim() != 1 or b.shape[0] != c:
            raise ValueError(f"{OP}: b must have shape [C] = [{c}], one number a channel of x, got {list(b.shape)}")
        b = b.to(wide(x.dtype)).contiguous()
    return x, scale, noise, b, act, alpha, gain, limit
