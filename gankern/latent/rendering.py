"""Images of latents, the same ones each time: what all tools share."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern._scopes import evaluating
from gankern.models import LatentGenerator, StyleGenerator


def check_generator(generator: Any, style: bool = False) -> None:
    """Require a generator from latents; with ``style`` one with a mapping network and w.

    Raises:
        TypeError: something else.
    """
    if style and not isinstance(generator, StyleGenerator):
        raise TypeError(f"generator must be a StyleGenerator (StyleGAN, 2 or 3): it has no w, got {type(generator).__name__}")
    if not isinstance(generator, LatentGenerator):
        raise TypeError(f"generator must be a LatentGenerator, got {type(generator).__name__}")


def home(generator: nn.Module) -> Tensor:
    """A parameter, for its device and dtype."""
    return next(generator.parameters())


def constant_noise(generator: StyleGenerator, whole: bool = False) -> dict[str, Any]:
    """Options of ``synthesis`` that make it the same each time: the layers' own noise, where it has some.

    With ``whole`` also those that keep it out of float16, where small gradients vanish.
    """
    synthesis: Any = generator.synthesis
    known = inspect.signature(synthesis.forward if isinstance(synthesis, nn.Module) else synthesis).parameters
    wanted = {"noise_mode": "const"} | ({"half": False} if whole else {})
    return {name: value for name, value in wanted.items() if name in known}


def check_labels_of(generator: LatentGenerator, labels: int | Tensor | None, count: int) -> Tensor | None:
    """``labels`` for ``count`` latents: an int is the class of all.

    Raises:
        ValueError: no labels for a generator with classes, labels for one without, or others than it knows.
    """
    classes, name = generator.num_classes, type(generator).__name__
    if classes == 0:
        if labels is not None:
            raise ValueError(f"labels must be None: {name} has no classes")
        return None
    if labels is None:
        raise ValueError(f"labels must be given: {name} has {classes} classes")
    found = torch.tensor([labels] * count) if isinstance(labels, int) else labels
    if found.dtype != torch.int64 or found.shape != (count,):
        raise ValueError(f"labels must be an int or int64 [{count}], got {found.dtype} {list(found.shape)}")
    if count and (int(found.min()) < 0 or int(found.max()) >= classes):
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {found.tolist()}")
    return found.to(home(generator).device)


def draw_latents(generator: LatentGenerator, seeds: Sequence[int]) -> Tensor:
    """Latents z [len(seeds), z_dim] of the prior, each drawn with its own seed on the CPU: the same on every device.

    Raises:
        TypeError: no generator from latents.
        ValueError: no seed, or one below 0.
    """
    check_generator(generator)
    if not len(seeds):
        raise ValueError("seeds must have at least one number, got none")
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seeds must be 0 or more, got {seed}")
    return torch.cat([generator.sample_z(1, torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def map_latents(
    generator: StyleGenerator,
    z: Tensor,
    labels: int | Tensor | None = None,
    truncation: float = 1.0,
    truncation_cutoff: int | None = None,
) -> Tensor:
    """Latents w [N, num_ws, w_dim] of latents z [N, z_dim], in evaluation mode.

    Args:
        generator: a StyleGenerator.
        z: [N, z_dim].
        labels: int64 [N], or one class for all, where there are classes. Default None.
        truncation: as for :class:`gankern.models.MappingNetwork`. Default 1.
        truncation_cutoff: likewise. Default None.

    Raises:
        TypeError, ValueError: a generator without w, or latents or labels that do not fit.
    """
    check_generator(generator, style=True)
    chosen = check_labels_of(generator, labels, z.shape[0])
    with evaluating(generator):
        like = home(generator)
        return generator.mapping(z.to(like.device, like.dtype), chosen, truncation, truncation_cutoff)


@torch.no_grad()
def render(
    generator: LatentGenerator,
    z: Tensor | None = None,
    labels: int | Tensor | None = None,
    *,
    w: Tensor | None = None,
    truncation: float = 1.0,
    truncation_cutoff: int | None = None,
    batch: int = 16,
) -> Tensor:
    """Images of latents z, or of w, in evaluation mode and with constant noise.

    Args:
        generator: a LatentGenerator; for ``w`` a StyleGenerator.
        z: [N, z_dim]; this or ``w``.
        labels: int64 [N], or one class for all; for ``z`` where there are classes. Default None.
        w: [N, num_ws, w_dim] or [N, w_dim]; this or ``z``.
        truncation: of ``z``, for a StyleGenerator. Default 1.
        truncation_cutoff: likewise. Default None: all layers.
        batch: images at a time. Default 16.

    Returns:
        [N, channels, height, width] on the CPU, about in [-1, 1].

    Raises:
        TypeError, ValueError: arguments that do not fit the generator.
    """
    style = isinstance(generator, StyleGenerator)
    check_generator(generator, style=w is not None)
    if (z is None) == (w is None):
        raise ValueError("render takes z or w, and got " + ("both" if z is not None else "neither"))
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not style and (truncation != 1 or truncation_cutoff is not None):
        raise ValueError(f"truncation must be 1: {type(generator).__name__} has no w to be truncated, got {truncation}")
    if z is not None and style:
        assert isinstance(generator, StyleGenerator)
        w, z = map_latents(generator, z, labels, truncation, truncation_cutoff), None
    like = home(generator)
    with evaluating(generator):
        if w is not None:
            assert isinstance(generator, StyleGenerator)
            options = constant_noise(generator)
            parts = [generator.synthesis(x.to(like.device, like.dtype), **options).cpu() for x in w.split(batch)]
        else:
            assert z is not None
            chosen = check_labels_of(generator, labels, z.shape[0])
            parts = []
            for i in range(0, z.shape[0], batch):
                own = None if chosen is None else chosen[i : i + batch]
                parts.append(generator(z[i : i + batch].to(like.device, like.dtype), own).cpu())
    return torch.cat(parts) if parts else torch.empty(0, *generator.image_shape)


__all__ = ["draw_latents", "map_latents", "render"]
