"""GAN inversion: the latent w whose image comes closest to a given one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern._scopes import evaluating
from gankern.latent.rendering import check_generator, check_labels_of, constant_noise, home
from gankern.models import StyleGenerator

SPACES = ("w", "w+")
SAMPLES = 10_000
"""Latents whose w give the mean and the deviation."""
RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps in which the learning rate rises, and falls."""
JITTER_SHARE = 0.75
"""Share of the steps in which w is jittered."""
SMALLEST_NOISE = 8
"""The noise penalty's pyramid ends here."""


@dataclass
class Projection:
    """What :func:`project` found.

    Attributes:
        w: [1, num_ws, w_dim].
        image: [1, C, H, W] on the CPU: the image of ``w`` and ``noise``.
        noise: the noise maps that were optimised, by the names of the buffers in ``generator.synthesis``, whose
            ``load_state_dict(noise, strict=False)`` puts them in place. Empty without.
        losses: distance between image and target before each step, without the noise penalty.
    """

    w: Tensor
    image: Tensor
    noise: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def project(
    generator: StyleGenerator,
    target: Tensor,
    *,
    steps: int = 1000,
    space: str = "w",
    perceptual: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None,
    pixel_weight: float | None = None,
    optimise_noise: bool = True,
    noise_weight: float = 1e5,
    lr: float = 0.1,
    jitter: float = 0.05,
    labels: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    callback: Callable[[int, float, Tensor], None] | None = None,
) -> Projection:
    """Find a w, and noise maps, whose image is like ``target`` (Karras et al. 2020, appendix D).

    Adam on w, from the mean of 10,000 latents, and on the layers' noise, which each step brings back to mean 0 and variance 1.
    The learning rate rises over the first 5 % of the steps and falls, as a cosine, over the last 25 %. For the first 75 %
    normal noise is added to w, of the deviation ``jitter * sigma * (1 - i / (0.75 steps))^2``, where sigma^2 is the mean
    squared distance of latents' w from their mean. The loss is

        pixel_weight * mean((image - target)^2) + perceptual(image, target) + noise_weight * sum L

    where L is, for each noise map and each level of its pyramid (2x2 means times 2, down to 8x8), the squared correlation with
    itself shifted by a pixel, in x and in y: noise shall not paint the image. The paper's loss is LPIPS alone, which is the
    package ``lpips``: ``perceptual=lpips.LPIPS(net="vgg")``; its weight of the noise penalty is for that one.

    Args:
        generator: a StyleGenerator. Its parameters and buffers do not change.
        target: [C, H, W] or [1, C, H, W], floating point from -1 to 1, of the generator's size.
        steps: of the optimiser. Default 1000.
        space: 'w': one for all layers; 'w+': each layer its own, which fits closer and edits worse (Abdal et al. 2019). Default
            'w'.
        perceptual: distance of two images [1, C, H, W] from -1 to 1, of any shape: its mean counts. Default None.
        pixel_weight: of the mean squared difference. Default None: 1 without ``perceptual``, 0 with it.
        optimise_noise: change the noise maps as well. Default True.
        noise_weight: of the noise penalty. Default 1e5.
        lr: largest learning rate. Default 0.1.
        jitter: of w, in units of sigma. Default 0.05.
        labels: the class, where there are classes. Default None.
        start: w to begin with, [1, num_ws, w_dim], [1, w_dim] or [w_dim] (for 'w' the mean over the layers counts). Default
            None: the mean of latents.
        seed: of latents and jitter, 0 or more. Default 0.
        callback: called before each step with its number, the distance, and the image [1, C, H, W], whose gradient is cut off.

    Returns:
        The last step's w, noise and image, and the distances.

    Raises:
        TypeError, ValueError: a generator without w, or arguments that do not fit it.
        FloatingPointError: the loss is not finite.
    """
    check_generator(generator, style=True)
    like = home(generator)
    goal = _target(generator, target).to(like.device, like.dtype)
    for name, value in (("steps", steps), ("lr", lr)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")
    if space not in SPACES:
        raise ValueError(f"space must be 'w' or 'w+', got {space!r}")
    weight = (1.0 if perceptual is None else 0.0) if pixel_weight is None else pixel_weight
    for name, value in (("pixel_weight", weight), ("noise_weight", noise_weight), ("jitter", jitter), ("seed", seed)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if perceptual is None and weight == 0:
        raise ValueError("pixel_weight must be positive without perceptual: nothing would be compared")
    random = torch.Generator().manual_seed(seed)
    mean, sigma = _statistics(generator, labels, random)
    w = (_start(generator, start, space) if start is not None else mean[None, None]).to(like)
    w = w.expand(1, generator.num_ws if space == "w+" else 1, -1).clone().requires_grad_()

    synthesis: Any = generator.synthesis
    options = constant_noise(generator, whole=True)
    # Weights as constants, so that no gradient of theirs is computed.
    fixed = {n: x.detach() for n, x in (*synthesis.named_parameters(), *synthesis.named_buffers())}
    noise = {}
    if optimise_noise:
        names = [n for n, _ in synthesis.named_buffers() if n.rpartition(".")[2] == "noise_const"]
        noise = {n: _drawn(fixed[n], random).requires_grad_() for n in names}

    def image_of(latent: Tensor) -> Tensor:
        latent = latent.expand(1, generator.num_ws, -1)
        return torch.func.functional_call(synthesis, fixed | noise, (latent,), options)

    optimiser = torch.optim.Adam([w, *noise.values()], lr=lr)
    losses: list[float] = []
    with evaluating(generator), torch.enable_grad():
        for i in range(steps):
            done = (i + 0.5) / steps
            optimiser.param_groups[0]["lr"] = lr * learning_rate_share(done)
            spread = jitter * sigma * max(0.0, 1 - done / JITTER_SHARE) ** 2
            image = image_of(w + spread * torch.randn(w.shape, generator=random).to(w))
            distance = _distance(image, goal, weight, perceptual)
            loss = distance
            if noise and noise_weight:
                loss = loss + noise_weight * sum(noise_penalty(n) for n in noise.values())
            losses.append(float(distance.detach()))
            if not math.isfinite(total := float(loss.detach())):
                raise FloatingPointError(f"project: the loss is {total} at step {i}; a lower lr than {lr} may help")
            if callback is not None:
                callback(i, losses[-1], image.detach())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for n in noise.values():
                    n.copy_((n - n.mean()) / n.std(correction=0).clamp(min=1e-8))
        with torch.no_grad():
            final = w.detach().expand(1, generator.num_ws, -1).clone()
            image = image_of(final).cpu()
    return Projection(final, image, {n: x.detach() for n, x in noise.items()}, losses)


def learning_rate_share(done: float) -> float:
    """What is left of the learning rate when the share ``done`` of the steps is done: a linear rise, a plateau, a cosine."""
    rise = min(1.0, done / RAMP_UP)
    fall = min(1.0, (1 - done) / RAMP_DOWN)
    return rise * (0.5 - 0.5 * math.cos(math.pi * fall))


def noise_penalty(noise: Tensor) -> Tensor:
    """Squared correlation of a noise map [H, W] with itself shifted by a pixel, on all levels of its pyramid, summed."""
    x = noise[None, None]
    total = x.new_zeros(())
    while True:
        for dim in (2, 3):
            total = total + (x * x.roll(1, dim)).mean().square()
        if min(x.shape[2:]) <= SMALLEST_NOISE:
            return total
        x = 2 * F.avg_pool2d(x, 2)  # a mean of four has half the deviation


def _distance(image: Tensor, goal: Tensor, weight: float, perceptual: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
    distance = weight * (image - goal).square().mean()
    return distance if perceptual is None else distance + perceptual(image, goal).mean()


def _target(generator: StyleGenerator, target: Tensor) -> Tensor:
    if not isinstance(target, Tensor) or not target.is_floating_point():
        raise TypeError(f"target must be a floating-point torch.Tensor, got {getattr(target, 'dtype', type(target).__name__)}")
    goal = target[None] if target.dim() == 3 else target
    if tuple(goal.shape) != (1, *generator.image_shape):
        shape = ", ".join(map(str, generator.image_shape))
        raise ValueError(f"target must be [{shape}] or [1, {shape}], got {list(target.shape)}")
    if not bool(goal.isfinite().all()):
        raise ValueError("target must be finite")
    return goal.detach()


def _start(generator: StyleGenerator, start: Tensor, space: str) -> Tensor:
    size = (generator.num_ws, generator.w_dim)
    if tuple(start.shape) not in ((1, *size), (1, size[1]), (size[1],)):
        raise ValueError(f"start must be [1, {size[0]}, {size[1]}], [1, {size[1]}] or [{size[1]}], got {list(start.shape)}")
    x = start.detach().reshape(1, -1, size[1])
    return x if space == "w+" else x.mean(1, keepdim=True)


@torch.no_grad()
def _statistics(generator: StyleGenerator, labels: int | None, random: torch.Generator) -> tuple[Tensor, float]:
    """Mean of w [w_dim], and the root of the mean squared distance from it."""
    like = home(generator)
    ws = []
    with evaluating(generator):
        for _ in range(0, SAMPLES, 1000):
            z = generator.sample_z(1000, random).to(like)
            ws.append(generator.mapping(z, check_labels_of(generator, labels, 1000))[:, 0].double())
    w = torch.cat(ws)
    mean = w.mean(0)
    return mean.to(like), float((w - mean).square().sum(1).mean().sqrt())


def _drawn(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random).to(like)


__all__ = ["Projection", "learning_rate_share", "noise_penalty", "project"]
