"""The averaged generator: an exponential moving average of the weights, whose images are the ones to look at."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gankern.models.progan import Growing


class EMA:
    """A copy of a network whose parameters follow it slowly: p_ema <- p + beta (p_ema - p), beta = 2^(-images / half-life).

    While few images have been seen the half-life is shorter, so that the first random weights are soon forgotten. Buffers are
    copied as they are.

    Args:
        network: to be averaged.
        half_life: in thousands of images, positive.
        rampup: the half-life is at most this share of the images seen so far; 0 for no such limit. Default 0.05.

    Attributes:
        network: the averaged copy, in evaluation mode and without gradients.

    Source: Karras et al. 2018, appendix A.1 (averaged generator); Karras et al. 2020 (ADA), table of hyperparameters (ramp-up).
    """

    def __init__(self, network: nn.Module, half_life: float, rampup: float = 0.05) -> None:
        if not half_life > 0:
            raise ValueError(f"EMA: half_life must be positive, got {half_life!r}")
        if rampup < 0:
            raise ValueError(f"EMA: rampup must not be negative, got {rampup!r}")
        self.half_life, self.rampup = half_life, rampup
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def beta(self, images: float, seen: float) -> float:
        """The share of the old average that is kept in a step of ``images``, ``seen`` in all so far."""
        half_life = self.half_life * 1000
        if self.rampup:
            half_life = min(half_life, seen * self.rampup)
        return 0.5 ** (images / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, network: nn.Module, images: float, seen: float) -> None:
        """Move towards ``network`` after a step.

        Args:
            network: as it is now.
            images: of the step, over all processes.
            seen: of all steps before it.
        """
        beta = self.beta(images, seen)
        own, new = ([p.detach() for p in n.parameters()] for n in (self.network, network))
        torch._foreach_lerp_(own, new, 1 - beta)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        if isinstance(network, Growing) and isinstance(self.network, Growing):  # numbers beside its buffers
            self.network.stage, self.network.fade.fading = network.stage, network.fade.fading


__all__ = ["EMA"]
