"""Gradient penalties of critics and path length regularisation of generators, without work that nobody uses.

Each takes gradients in its images (or latents) alone. Operators of gankern then compute no weight and no bias gradient in that
first backward, and send nothing where nothing is needed (see ``gankern/_autograd.py``); PyTorch's own do what they do.

Inside ``torch.compile(fullgraph=True)`` R1 and R2 stay in one graph with ``torch._dynamo.config.trace_autograd_ops = True`` (if
this torch has it), where ``requires_grad_()`` is called on the images outside of the compiled function.

Gradients that are NaN make the penalty NaN: an exploded critic is to be seen, not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gankern import ops
from gankern._validate import FLOATING, number, short

Critic = Callable[[Tensor], Tensor]


def r1_penalty(logits: Tensor, real: Tensor, gamma: float = 10.0) -> Tensor:
    """Zero-centred gradient penalty on real images: ``gamma / 2`` times the batch mean of the squared gradient norm.

    Add it to the critic's loss, or call ``backward`` on it alone every few steps with as many times the ``gamma`` (lazy
    regularisation, Karras et al. 2020).

    Args:
        logits: what the critic said of ``real``: [N], [N, 1] or [N, ...]. All logits of a sample are summed, so no sample's may
            depend on another's image (as through batch statistics), or their gradients mix.
        real: the images [N, ...] that were given to the critic, with ``requires_grad_()`` called before.
        gamma: weight, not negative. Default 10.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError: images or logits that are no floating-point tensors.
        ValueError: images without ``requires_grad``; logits that do not depend on them; another batch size; negative ``gamma``.

    Gradients: of any order in the critic's parameters and ``real``.

    Source: Mescheder, Geiger, Nowozin, "Which training methods for GANs do actually converge?", 2018, equation 9.
    """
    return _of_logits("r1_penalty", "real", logits, real, gamma)


def r2_penalty(logits: Tensor, fake: Tensor, gamma: float = 10.0) -> Tensor:
    """The same on generated images: ``gamma / 2`` times the batch mean of the squared gradient norm.

    Args:
        logits: what the critic said of ``fake``, as for :func:`r1_penalty`.
        fake: the images [N, ...] that were given to the critic: ``fake.detach().requires_grad_()`` for a critic's step.
        gamma: weight, not negative. Default 10.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError, ValueError: as :func:`r1_penalty`.

    Gradients: of any order in the critic's parameters and ``fake``.

    Source: Mescheder et al. 2018, section 4.1; Huang et al., "The GAN is dead; long live the GAN!" (R3GAN), 2024.
    """
    return _of_logits("r2_penalty", "fake", logits, fake, gamma)


def wgan_gp(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    center: float = 1.0,
    eps: Tensor | None = None,
    one_sided: bool = False,
) -> Tensor:
    """Gradient penalty between real and generated images: ``weight`` times the batch mean of (gradient norm - center)^2.

    The critic is run on ``eps * real + (1 - eps) * fake``, which is made from their values alone: no gradient reaches the
    generator.

    Args:
        critic: images [N, ...] to logits [N, ...], see :func:`r1_penalty` for what it may not do.
        real: images [N, ...].
        fake: images of the same shape and dtype.
        weight: factor, not negative. Default 10.
        center: norm that costs nothing, not negative. Default 1; 0 is the zero-centred form.
        eps: [N], numbers of 0 to 1. Default None: uniformly random.
        one_sided: norms below ``center`` cost nothing, too: max(0, gradient norm - center)^2 (WGAN-LP). Default False.

    Returns:
        A scalar in float32 (float64 for float64 images). Where the gradient is 0, its norm has the subgradient 0.

    Raises:
        TypeError, ValueError: as :func:`r1_penalty`; images of different shape, dtype or device; ``eps`` of another shape;
            ``one_sided`` that is no bool.

    Gradients: of any order in the critic's parameters; one-sided and where the norm is ``center``, those of norms below it: 0.

    Source: Gulrajani et al., "Improved training of Wasserstein GANs", 2017, algorithm 1; one-sided: its section 4, and Petzka,
    Fischer, Lukovnikov, "On the regularization of Wasserstein GANs", 2018.
    """
    op = "wgan_gp"
    _images(op, "real", real)
    _images(op, "fake", fake)
    for name in ("shape", "dtype", "device"):
        mine, other = getattr(real, name), getattr(fake, name)
        if mine != other:
            raise ValueError(f"{op}: fake must have the {name} of real ({_text(mine)}), got {_text(other)}")
    weight, center = _not_negative(op, "weight", weight), _not_negative(op, "center", center)
    if not isinstance(one_sided, bool):
        raise TypeError(f"{op}: one_sided must be True or False, got {one_sided!r}")
    n = real.shape[0]
    wide = torch.float64 if real.dtype == torch.float64 else torch.float32
    if eps is None:
        eps = torch.rand(n, dtype=wide, device=real.device)
    elif not isinstance(eps, Tensor) or not eps.is_floating_point() or eps.numel() != n or eps.shape[:1] != (n,):
        got = f"{list(eps.shape)} {short(eps.dtype)}" if isinstance(eps, Tensor) else type(eps).__name__
        raise ValueError(f"{op}: eps must be a floating-point tensor [{n}], one number a sample, got {got}")
    with torch.enable_grad():
        x = ops.interpolate(real.detach(), fake.detach(), eps.detach().reshape(n).to(wide)).requires_grad_()
        gradient = _gradient(op, "the critic's input", critic(x), x)
        if one_sided:  # one pass over the gradient, as for two sides; the rest is a number a sample
            norm = _root(ops.grad_norm_penalty(gradient))
            return weight * (norm - center).relu().square().mean()
        return ops.grad_norm_penalty(gradient, center, weight).mean()


def zero_centered(critic: Critic, real: Tensor, fake: Tensor, weight: float = 10.0, eps: Tensor | None = None) -> Tensor:
    """:func:`wgan_gp` with ``center=0``: ``weight`` times the batch mean of the squared gradient norm between the images.

    Args:
        critic: as for :func:`wgan_gp`.
        real: as for :func:`wgan_gp`.
        fake: as for :func:`wgan_gp`.
        weight: as for :func:`wgan_gp`. Default 10.
        eps: as for :func:`wgan_gp`. Default None.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError, ValueError: as :func:`wgan_gp`.

    Gradients: of any order in the critic's parameters.

    Source: Thanh-Tung, Tran, Venkatesh, "Improving generalization and stability of generative adversarial networks", 2019.
    """
    return wgan_gp(critic, real, fake, weight, 0.0, eps)


def path_length_penalty(
    images: Tensor, ws: Tensor, pl_mean: Tensor | float, decay: float = 0.01, weight: float = 2.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Path length regularisation: a step in w should change the image by as much everywhere.

    The length of a sample is the norm of the gradient in its latents of <image, noise> with noise of variance 1 / (H W): the
    root of the mean over layers of the sum over each layer's w of squares.

    Args:
        images: [N, C, H, W], made from ``ws``.
        ws: latents [N, D], or [N, layers, D] with one for each layer, that require gradients and of which ``images`` was made.
        pl_mean: running mean of the lengths: a scalar tensor, or a number (0 at first).
        decay: how far the mean moves towards the batch's, 0 to 1. Default 0.01.
        weight: factor, not negative. Default 2.
        noise: of the shape of ``images``, for tests. Default None: standard normal / sqrt(H W).

    Returns:
        (penalty, lengths [N], new_mean): ``weight`` times the batch mean of (length - new_mean)^2, with
        new_mean = pl_mean + decay * (mean of lengths - pl_mean), through which the penalty's gradient flows as well; lengths
        and new_mean are detached, to be logged and kept.

    Raises:
        TypeError, ValueError: images or latents of a wrong kind, latents that the images do not depend on, a decay outside of
            0 to 1.

    Gradients: of any order in the generator's parameters and ``ws``. Where a length is 0 it has the subgradient 0.

    Source: Karras et al., "Analyzing and improving the image quality of StyleGAN", 2020, section 3.2 and appendix B.
    """
    op = "path_length_penalty"
    _images(op, "images", images)
    if images.dim() != 4:
        raise ValueError(f"{op}: images must have 4 dimensions [N, C, H, W], got {list(images.shape)}")
    _leaf(op, "ws", ws)
    if ws.dim() not in (2, 3) or ws.shape[0] != images.shape[0]:
        raise ValueError(f"{op}: ws must be [N, D] or [N, layers, D] with N = {images.shape[0]}, got {list(ws.shape)}")
    weight, decay = _not_negative(op, "weight", weight), number(op, "decay", decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"{op}: decay must be 0 to 1, got {decay}")
    if noise is None:
        noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    elif noise.shape != images.shape:
        raise ValueError(f"{op}: noise must have the shape of images {list(images.shape)}, got {list(noise.shape)}")
    with torch.enable_grad():
        gradient = _gradient(op, "ws", images, ws, noise.detach())
        layers = gradient.shape[1] if gradient.dim() == 3 else 1
        squared = ops.grad_norm_penalty(gradient) / layers
        lengths = _root(squared)
        mean = torch.as_tensor(pl_mean, dtype=lengths.dtype, device=lengths.device).detach()
        new_mean = mean + decay * (lengths.mean() - mean)
        penalty = weight * (lengths - new_mean).square().mean()
    return penalty, lengths.detach(), new_mean.detach()


# ---- what they share --------------------------------------------------------------------------------------------------------
def _of_logits(op: str, name: str, logits: Any, images: Any, gamma: Any) -> Tensor:
    _leaf(op, name, images)
    gamma = _not_negative(op, "gamma", gamma)
    with torch.enable_grad():
        gradient = _gradient(op, name, logits, images)
        return ops.grad_norm_penalty(gradient, 0.0, gamma / 2).mean()


def _gradient(op: str, name: str, outputs: Any, inputs: Tensor, cotangent: Tensor | None = None) -> Tensor:
    """The gradient in ``inputs`` of the sum of ``outputs`` (times ``cotangent``), with a graph."""
    given = "logits" if cotangent is None else "images"
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        got = short(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TypeError(f"{op}: {given} must be a floating-point torch.Tensor, got {got}")
    if outputs.dim() == 0 or outputs.shape[0] != inputs.shape[0]:
        raise ValueError(f"{op}: {given} must be [N, ...] with N = {inputs.shape[0]}, not reduced, got {list(outputs.shape)}")
    cut = f"{op}: {given} do not depend on {name}: was it detached or replaced between requires_grad_() and the network, "
    cut += "or does the network detach, or run under no_grad?"
    if not outputs.requires_grad:
        raise ValueError(cut)
    given_cotangent = torch.ones_like(outputs) if cotangent is None else cotangent
    (gradient,) = torch.autograd.grad(outputs, inputs, given_cotangent, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(cut)
    return gradient


def _root(x: Tensor) -> Tensor:
    """The square root, with the subgradient 0 at 0 rather than NaN; NaN stays."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def _images(op: str, name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor [N, ...], got {type(x).__name__}")
    if x.dtype not in FLOATING:
        raise TypeError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {short(x.dtype)}")
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"{op}: {name} must be [N, ...] with at least one sample, got {list(x.shape)}")


def _leaf(op: str, name: str, x: Any) -> None:
    """Images or latents in which a gradient is to be taken."""
    _images(op, name, x)
    if not x.requires_grad:
        raise ValueError(f"{op}: {name} must require gradients: call {name}.requires_grad_() before it is used")


def _not_negative(op: str, name: str, value: Any) -> float:
    value = number(op, name, value)
    if value < 0:
        raise ValueError(f"{op}: {name} must not be negative, got {value}")
    return float(value)


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
