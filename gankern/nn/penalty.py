"""Penalties as modules: their settings, and the running mean of path lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankern.losses import penalties

_KINDS = {"r1": "logits and real", "r2": "logits and fake", "wgan_gp": "critic, real and fake"}


class _Lazy(nn.Module):
    """A penalty that is applied in every so many-th step, with as many times the weight."""

    def __init__(self, weight: float, every: int) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"{type(self).__name__}: every must be an int of at least 1, got {every!r}")
        self.weight, self.every = weight, every

    def due(self, step: int) -> bool:
        """Whether the penalty is applied in this step, counted from 0."""
        return step % self.every == 0


class GradientPenalty(_Lazy):
    """A gradient penalty with its settings: R1, R2 or WGAN-GP, every step or every few steps (lazy regularisation).

    Args:
        kind: 'r1' (:func:`gankern.losses.r1_penalty`), 'r2' or 'wgan_gp'.
        weight: gamma of R1 and R2, the factor of WGAN-GP. Default 10.
        center: norm that costs nothing, WGAN-GP only. Default 1.
        every: apply in every so many-th step, with as many times the weight (Karras et al. 2020). Default 1.
        one_sided: norms below ``center`` cost nothing, too, WGAN-GP only. Default False.

    Shape: images [N, ...] and logits [N, ...] to a scalar. Gradients of any order in the critic's parameters.
    """

    def __init__(
        self, kind: str = "r1", weight: float = 10.0, center: float = 1.0, every: int = 1, one_sided: bool = False
    ) -> None:
        if kind not in _KINDS:
            raise ValueError(f"GradientPenalty: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
        super().__init__(weight, every)
        if one_sided and kind != "wgan_gp":
            raise ValueError(f"GradientPenalty: one_sided is for 'wgan_gp' alone, got kind {kind!r}")
        self.kind, self.center, self.one_sided = kind, center, one_sided

    def forward(self, first: Any, *images: Tensor, eps: Tensor | None = None) -> Tensor:
        """The penalty.

        Args:
            first: the logits (R1, R2) or the critic (WGAN-GP).
            images: the images of the logits, or real and fake ones.
            eps: as for :func:`gankern.losses.wgan_gp`.
        """
        if len(images) != (2 if self.kind == "wgan_gp" else 1):
            raise TypeError(f"GradientPenalty: {self.kind} takes {_KINDS[self.kind]}, got {1 + len(images)} arguments")
        weight = self.weight * self.every
        if self.kind == "wgan_gp":
            return penalties.wgan_gp(first, images[0], images[1], weight, self.center, eps, self.one_sided)
        run = penalties.r1_penalty if self.kind == "r1" else penalties.r2_penalty
        return run(first, images[0], weight)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        text = f"kind={self.kind!r}, weight={self.weight}"
        text += f", center={self.center}" if self.kind == "wgan_gp" else ""
        text += f", every={self.every}"
        return text + (", one_sided=True" if self.one_sided else "")


class PathLengthPenalty(_Lazy):
    """Path length regularisation with its running mean (:func:`gankern.losses.path_length_penalty`).

    Args:
        weight: factor. Default 2.
        decay: how far the running mean moves towards the batch's. Default 0.01.
        every: apply in every so many-th step, with as many times the weight. Default 1; StyleGAN2 has 4.

    Shape: images [N, C, H, W] and latents [N, D] or [N, layers, D] to a scalar. Gradients of any order in the generator's
    parameters.
    """

    pl_mean: Tensor

    def __init__(self, weight: float = 2.0, decay: float = 0.01, every: int = 1) -> None:
        super().__init__(weight, every)
        self.decay = decay
        self.register_buffer("pl_mean", torch.zeros(()))

    def forward(self, images: Tensor, ws: Tensor) -> Tensor:
        """The penalty; moves the running mean, in training mode only."""
        found = penalties.path_length_penalty(images, ws, self.pl_mean, self.decay, self.weight * self.every)
        if self.training:
            self.pl_mean.copy_(found[2])
        return found[0]

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return f"weight={self.weight}, decay={self.decay}, every={self.every}"
