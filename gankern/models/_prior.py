"""Latents of the early GANs: uniform or normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankern.models._base import LatentGenerator, ModelConfig

PRIORS = ("uniform", "normal")


def check_prior(config: ModelConfig, prior: str) -> None:
    """Require the name of a prior in the config's setting ``prior``."""
    if prior not in PRIORS:
        raise config.refuse("prior", "'uniform' or 'normal'")


class PriorGenerator(LatentGenerator):
    """A generator whose latents are uniform in [-1, 1] or standard normal.

    Attributes:
        prior: 'uniform' or 'normal'.
        layers: from latents to images; subclasses with classes or several parts have a ``forward`` of their own instead.
    """

    prior: str = "normal"
    layers: nn.Module

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of ``z`` [N, z_dim]; ``labels`` must be None."""
        self.check_inputs(z, labels)
        return self.layers(z)

    def sample_z(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` latents [count, z_dim] of the prior, on this module's device."""
        if self.prior == "normal":
            return super().sample_z(count, generator)
        like = next(self.parameters())
        z = torch.rand(count, self.z_dim, generator=generator, device=generator.device if generator else like.device)
        return (2 * z - 1).to(like.device)


__all__ = ["PRIORS", "PriorGenerator", "check_prior"]
