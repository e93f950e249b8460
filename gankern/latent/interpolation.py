"""Ways between latents: straight lines and great circles."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.latent.rendering import check_generator, check_labels_of, home, map_latents, render
from gankern.models import LatentGenerator, StyleGenerator

METHODS = ("lerp", "slerp")


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The point at the share ``t`` of the straight line from ``a`` to ``b``: ``a + t (b - a)``.

    Args:
        a: [..., D], floating point.
        b: likewise.
        t: a number, or a tensor that broadcasts with [..., D]. 0 gives ``a``, 1 gives ``b``; others extrapolate.

    Returns:
        [..., D]. Gradients of any order.

    Raises:
        TypeError, ValueError: latents of other dtypes or sizes.
    """
    _check(a, b)
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The point at the share ``t`` of the angle from ``a`` to ``b``, in the plane of both (Shoemake 1985).

        slerp(a, b, t) = (sin((1 - t) W) a + sin(t W) b) / sin W,  W = the angle between a and b

    Between latents of a normal distribution it keeps their norm, which straight lines do not: in many dimensions their middle
    lies where the distribution has next to no mass (White 2016, "Sampling generative networks"). Where the vectors are parallel
    or opposite (within some 1e-3 of the sine), so that there is no such plane, or one is 0, it is :func:`lerp`.

    Args:
        a: [..., D], floating point; angles are those of the last dimension.
        b: likewise.
        t: a number, or a tensor that broadcasts with [..., 1]. 0 gives ``a``, 1 gives ``b``.

    Returns:
        [..., D]. Gradients of any order, away from parallel vectors.

    Raises:
        TypeError, ValueError: latents of other dtypes or sizes.
    """
    _check(a, b)
    norms = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(-1, keepdim=True) / torch.where(norms > 0, norms, 1)
    plain = (1 - cosine.square() < 1e-6) | (norms == 0)
    angle = torch.where(plain, 1.0, cosine.masked_fill(plain, 0).clamp(-1, 1).acos())
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return torch.where(plain, lerp(a, b, t), curved)


def interpolate(
    generator: LatentGenerator,
    z: Tensor,
    frames: int = 8,
    *,
    space: str | None = None,
    method: str | None = None,
    labels: int | Tensor | None = None,
    truncation: float = 1.0,
    loop: bool = False,
    batch: int = 16,
) -> Tensor:
    """Images on the way from latent to latent.

    Args:
        generator: a LatentGenerator.
        z: latents [K, z_dim] to pass through, at least 2.
        frames: steps from each to the next. Default 8.
        space: 'z', or 'w' for a StyleGenerator, where ways are perceptually shorter (Karras et al. 2019, section 4.1). Default
            None: 'w' where there is one.
        method: 'lerp' or 'slerp'. Default None: 'slerp' in z if that is normally distributed, otherwise 'lerp'.
        labels: int64 [K], or one class for all, where there are classes. In w classes blend, in z the nearer one is taken.
        truncation: of w, for a StyleGenerator. Default 1.
        loop: go on from the last to the first. Default False.
        batch: images at a time. Default 16.

    Returns:
        Images [(K - 1) * frames + 1, C, H, W], or with ``loop`` [K * frames, C, H, W], on the CPU: each latent's own one at
        every ``frames``.

    Raises:
        TypeError, ValueError: arguments that do not fit the generator.
    """
    check_generator(generator)
    style = isinstance(generator, StyleGenerator)
    space = space or ("w" if style else "z")
    if space not in ("z", "w") or (space == "w" and not style):
        raise ValueError(f"space must be 'z'{' or ' + repr('w') if style else ''}, got {space!r}")
    normal = space == "z" and getattr(generator, "prior", "normal") == "normal"
    method = method or ("slerp" if normal else "lerp")
    if method not in METHODS:
        raise ValueError(f"method must be 'lerp' or 'slerp', got {method!r}")
    if z.dim() != 2 or z.shape[0] < 2:
        raise ValueError(f"z must be [K, {generator.z_dim}] with at least 2 latents, got {list(z.shape)}")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    count = z.shape[0]
    chosen = check_labels_of(generator, labels, count)
    points = z.to(home(generator))
    if space == "w":
        assert isinstance(generator, StyleGenerator)
        points = map_latents(generator, z, chosen, truncation)
    starts = torch.arange(count if loop else count - 1, device=points.device)
    ends = (starts + 1) % count
    shares = torch.arange(frames, device=points.device, dtype=points.dtype) / frames
    t = shares.view(1, frames, *[1] * (points.dim() - 1))
    way = (lerp if method == "lerp" else slerp)(points[starts][:, None], points[ends][:, None], t).flatten(0, 1)
    if not loop:
        way = torch.cat([way, points[-1:]])
    if space == "w":
        return render(generator, w=way, batch=batch)
    near = None
    if chosen is not None:
        near = torch.where(shares[None] < 0.5, chosen[starts][:, None], chosen[ends][:, None]).flatten()
        near = near if loop else torch.cat([near, chosen[-1:]])
    return render(generator, way, near, truncation=truncation, batch=batch)


def _check(a: Tensor, b: Tensor) -> None:
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a floating-point torch.Tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if a.dim() < 1 or b.dim() < 1 or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a and b must be [..., D] with one D, got {list(a.shape)} and {list(b.shape)}")


__all__ = ["interpolate", "lerp", "slerp"]
