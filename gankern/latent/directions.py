"""Directions in latent spaces that change one thing: from examples, by arithmetic, or from the weights alone (SeFa)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern._optional import TRAIN, optional
from gankern._scopes import evaluating
from gankern.latent.rendering import check_generator, check_labels_of, constant_noise, home, map_latents, render
from gankern.latent.styles import check_layers
from gankern.models import LatentGenerator, StyleGenerator
from gankern.models._fourier import FourierInput

METHODS = ("mean", "svm")


def latent_arithmetic(plus: Sequence[Tensor], minus: Sequence[Tensor] = ()) -> Tensor:
    """The sum of the means of some sets of latents, less those of others (Radford et al. 2016, section 6.3.2, figure 7).

    "Smiling woman - neutral woman + neutral man": ``latent_arithmetic([smiling_women, neutral_men], [neutral_women])``. One
    example of each is unstable; the paper takes the mean of three.

    Args:
        plus: sets [N, ...] of latents of one size, z or w.
        minus: likewise. Default none.

    Returns:
        One latent [...].

    Raises:
        ValueError: no set, an empty one, or sizes that differ.
    """
    sets = [*plus, *minus]
    if not plus:
        raise ValueError("plus must have at least one set of latents, got none")
    for i, x in enumerate(sets):
        if x.dim() < 2 or x.shape[0] == 0 or x.shape[1:] != sets[0].shape[1:]:
            raise ValueError(
                f"sets must be [N, ...] of one size, {list(sets[0].shape[1:])}, not empty; got {list(x.shape)} at {i}"
            )
    total = sets[0].mean(0)
    for x in plus[1:]:
        total = total + x.mean(0)
    for x in minus:
        total = total - x.mean(0)
    return total


def attribute_direction(positive: Tensor, negative: Tensor, method: str = "mean") -> Tensor:
    """The direction from latents without an attribute to those with it, of length 1.

    Args:
        positive: latents [N, ...] of images that have the attribute, z or w.
        negative: latents [M, ...] of images that do not.
        method: 'mean' is the difference of the means (Radford et al. 2016); 'svm' the normal of the hyperplane that separates
            both best (InterFaceGAN, Shen et al. 2020, section 2.2), by scikit-learn's LinearSVC. Default 'mean'.

    Returns:
        [...], of the dtype of ``positive``.

    Raises:
        ValueError: sets that are empty, differ in size or have the same mean, or another method.
        ImportError: 'svm' without scikit-learn.
    """
    if method not in METHODS:
        raise ValueError(f"method must be 'mean' or 'svm', got {method!r}")
    difference = latent_arithmetic([positive], [negative])
    if method == "svm":
        svm = optional("sklearn.svm", f"method 'svm' needs scikit-learn, which is not installed: {TRAIN} scikit-learn")
        x = torch.cat([positive, negative]).flatten(1).double().cpu().numpy()
        y = [1] * positive.shape[0] + [0] * negative.shape[0]
        normal = svm.LinearSVC(random_state=0, max_iter=10_000).fit(x, y).coef_[0]
        difference = torch.from_numpy(normal).to(difference).view_as(difference)
    length = difference.norm()
    if not length > 0:
        raise ValueError("positive and negative have the same mean: there is no direction from one to the other")
    return difference / length


def edit(
    generator: LatentGenerator,
    latents: Tensor,
    direction: Tensor,
    strengths: Sequence[float] = (-3.0, -1.5, 0.0, 1.5, 3.0),
    *,
    space: str | None = None,
    layers: Sequence[int] | range | None = None,
    labels: int | Tensor | None = None,
    batch: int = 16,
) -> Tensor:
    """Images of latents that are moved along a direction.

    Args:
        generator: a LatentGenerator.
        latents: z [N, z_dim]; for a StyleGenerator w, [N, num_ws, w_dim] or [N, w_dim].
        direction: of a latent's size; for w [w_dim] serves all layers.
        strengths: S factors of the direction. Default -3, -1.5, 0, 1.5, 3.
        space: 'z' or 'w'. Default None: 'w' for a StyleGenerator.
        layers: of w, layers that are moved. Default None: all.
        labels: for z, where there are classes. Default None.
        batch: images at a time. Default 16.

    Returns:
        Images [N, S, channels, H, W] on the CPU.

    Raises:
        TypeError, ValueError: arguments that do not fit the generator.
    """
    check_generator(generator, style=space == "w")
    space = space or ("w" if isinstance(generator, StyleGenerator) else "z")
    if space not in ("z", "w"):
        raise ValueError(f"space must be 'z' or 'w', got {space!r}")
    if not len(strengths):
        raise ValueError("strengths must have at least one number, got none")
    if layers is not None and space == "z":
        raise ValueError("layers must be None in space 'z': all layers share it")
    like = home(generator)
    latents, direction = latents.to(like), direction.to(like)
    if space == "w":
        assert isinstance(generator, StyleGenerator)
        chosen = check_layers(generator, layers)
        if latents.dim() == 2:
            latents = latents[:, None].expand(-1, generator.num_ws, -1)
        size: tuple[int, ...] = (generator.num_ws, generator.w_dim)
        own = direction.expand(size) if direction.shape in ((generator.w_dim,), size) else direction
        mask = torch.zeros(generator.num_ws, 1).to(like)
        mask[chosen] = 1
        move = own * mask if own.shape == size else own
    else:
        size, move = (generator.z_dim,), direction
    if tuple(latents.shape[1:]) != size or tuple(move.shape) != size:
        wanted = ", ".join(map(str, size))
        raise ValueError(
            f"latents must be [N, {wanted}] and direction [{wanted}]{f' or [{size[-1]}]' if space == 'w' else ''}, "
            f"got {list(latents.shape)} and {list(direction.shape)}"
        )
    n, s = latents.shape[0], len(strengths)
    factors = torch.tensor(list(strengths)).to(like).view(1, s, *[1] * len(size))
    moved = (latents[:, None] + factors * move).flatten(0, 1)
    if space == "w":
        return render(generator, w=moved, batch=batch).unflatten(0, (n, s))
    if isinstance(labels, Tensor):
        labels = labels.repeat_interleave(s)
    return render(generator, moved, labels, batch=batch).unflatten(0, (n, s))


def deviation(
    generator: LatentGenerator,
    direction: Tensor,
    *,
    space: str | None = None,
    labels: int | None = None,
    count: int = 1000,
    seed: int = 0,
) -> float:
    """Standard deviation of the generator's latents along a direction: the unit in which to say how far to move.

    Args:
        generator: a LatentGenerator.
        direction: [z_dim], or for w [w_dim] or [num_ws, w_dim]; of any length, which does not count.
        space: 'z' or 'w'. Default None: 'w' for a StyleGenerator.
        labels: the class, for w, where there are classes. Default None.
        count: latents to draw, at least 2. Default 1000.
        seed: of these. Default 0.

    Returns:
        The deviation; ``edit(..., deviation(generator, d) * d / d.norm(), strengths=[-2, 2])`` moves by two of it.

    Raises:
        TypeError, ValueError: arguments that do not fit the generator.
    """
    check_generator(generator, style=space == "w")
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    x = generator.sample_z(count, torch.Generator().manual_seed(seed))
    if (space or "w") == "w" and isinstance(generator, StyleGenerator):
        x = map_latents(generator, x, check_labels_of(generator, labels, count))
        x = x if direction.dim() == 2 else x[:, 0]
    if tuple(x.shape[1:]) != tuple(direction.shape) or not direction.norm() > 0:
        raise ValueError(f"direction must be {list(x.shape[1:])} and not 0, got {list(direction.shape)}")
    unit = direction.to(x).double() / direction.double().norm()
    return float((x.double() * unit).flatten(1).sum(1).std())


def closed_form_directions(weight: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Directions that a linear layer ``A w + b`` amplifies most: first eigenvectors of A^T A (Shen & Zhou 2021, equation 7).

    Args:
        weight: A [M, D], floating point; several layers' weights one below the other.
        count: directions. Default None: all D.

    Returns:
        (directions [count, D] of length 1, perpendicular to each other, each with its largest component positive; eigenvalues
        [count], falling), of the dtype of ``weight``. Computed in float64.

    Raises:
        TypeError, ValueError: no matrix, or a count that is out of range.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(f"weight must be a floating-point torch.Tensor, got {getattr(weight, 'dtype', type(weight).__name__)}")
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be a matrix [M, D], got {list(weight.shape)}")
    size = weight.shape[1]
    count = size if count is None else count
    if not 1 <= count <= size:
        raise ValueError(f"count must be from 1 to {size}, got {count}")
    wide = weight.detach().double()
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    values, directions = values.flip(0)[:count].clamp(min=0), vectors.T.flip(0)[:count]
    # Eigenvectors have no sign of their own.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).to(weight.dtype), values.to(weight.dtype)


def sefa(
    generator: StyleGenerator, count: int | None = 5, layers: Sequence[int] | range | None = None
) -> tuple[Tensor, Tensor]:
    """Directions in w that change most, found in the weights alone: SeFa, closed-form factorisation (Shen & Zhou 2021).

    A is the weights of the affine layers that make styles from w, one below the other, as they are applied (with their
    equalised learning rate).

    Args:
        generator: a StyleGenerator.
        count: directions. Default 5; None for all w_dim.
        layers: numbers of w whose affine layers count: 0 to num_ws - 1. Default None: all.

    Returns:
        (directions [count, w_dim], eigenvalues [count]), as :func:`closed_form_directions`. :func:`edit` applies them; give it
        the same layers.

    Raises:
        TypeError, ValueError: a generator without w, or numbers that are out of range.
    """
    check_generator(generator, style=True)
    chosen = set(check_layers(generator, layers))
    rows = [
        affine.scaled(torch.float64)[0]
        for affine, served in style_layers(generator)
        if served in chosen
    ]  # fmt: skip
    if not rows:
        raise ValueError(f"layers {sorted(chosen)} of {type(generator).__name__} have no affine layer of w")
    directions, values = closed_form_directions(torch.cat(rows), count)
    return directions.to(home(generator).dtype), values.to(home(generator).dtype)


@torch.no_grad()
def style_layers(generator: StyleGenerator) -> list[tuple[Any, int]]:
    """The affine layers that make styles, in the order of their calls, each with the number of the w that it takes.

    Found by running the synthesis once on a w whose layers hold their own numbers.
    """
    found: list[tuple[Any, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        if x.dim() == 2 and x.shape[1] == generator.w_dim and bool((x == x[:1, :1]).all()):
            found.append((module, int(x[0, 0])))

    synthesis: Any = generator.synthesis
    parts = [m for m in synthesis.modules() if not isinstance(m, FourierInput)]  # its affine layer moves the image, no style
    layers = [m.affine for m in parts if isinstance(getattr(m, "affine", None), nn.Module)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    like = home(generator)
    numbers = torch.arange(generator.num_ws).to(like)[None, :, None].expand(1, -1, generator.w_dim)
    try:
        with evaluating(generator):
            generator.synthesis(numbers, **constant_noise(generator))
    finally:
        for handle in handles:
            handle.remove()
    return found


__all__ = ["attribute_direction", "closed_form_directions", "deviation", "edit", "latent_arithmetic", "sefa", "style_layers"]
