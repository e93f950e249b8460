"""interpolate and its derivatives, the definitions: pure PyTorch, any dtype, any order of differentiation."""

from __future__ import annotations

import math

from torch import Tensor

from gankern._dtypes import wide
from gankern.ops.interpolate.arguments import prepare


def interpolate_reference(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Reference of :func:`gankern.ops.interpolate`: same arguments, same result, composed of PyTorch's own operators."""
    return interpolate_composed(*prepare(real, fake, eps))


def per_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """``numbers`` [N] in a shape that multiplies samples of ``like`` [N, ...]."""
    return numbers.reshape(numbers.shape[0], *(1,) * (like.dim() - 1))


def interpolate_composed(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The same on prepared arguments."""
    e = per_sample(eps, real)
    return (e * real.to(e.dtype) + (1 - e) * fake.to(e.dtype)).to(real.dtype)


def backward_composed(
    dy: Tensor, real: Tensor | None, fake: Tensor | None, eps: Tensor | None, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """(eps dy, (1 - eps) dy, sum of dy (real - fake)) for the wanted ones of ``mask``, an empty tensor for the others.

    The sum is over each sample, [N] in the wide type; of real and fake one may be absent, and counts as 0. ``eps`` is looked at
    for the first two only.
    """
    d_real = d_fake = d_eps = dy.new_empty(0)
    g = dy.to(wide(dy.dtype))
    if mask[0] or mask[1]:
        assert eps is not None
        e = per_sample(eps, dy)
        d_real = (e * g).to(dy.dtype) if mask[0] else d_real
        d_fake = ((1 - e) * g).to(dy.dtype) if mask[1] else d_fake
    if mask[2]:
        terms = [g * real] if real is not None else []
        terms += [-g * fake] if fake is not None else []
        if len(terms) == 2:
            assert real is not None and fake is not None
            terms = [g * (real.to(g.dtype) - fake.to(g.dtype))]
        d_eps = terms[0].reshape(dy.shape[0], math.prod(dy.shape[1:])).sum(1)
    return d_real, d_fake, d_eps
