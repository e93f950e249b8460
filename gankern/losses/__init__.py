"""Losses of GANs: adversarial ones, those that compare images, and gradient penalties at the price they should have."""

from gankern.losses.adversarial import (
    LOSSES,
    AdversarialLoss,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
    adversarial,
)
from gankern.losses.merged import Penalized, PenalizedStep
from gankern.losses.penalties import path_length_penalty, r1_penalty, r2_penalty, wgan_gp, zero_centered
from gankern.losses.reconstruction import cycle_loss, identity_loss, l1_loss

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "Penalized",
    "PenalizedStep",
    "Relativistic",
    "Wasserstein",
    "adversarial",
    "cycle_loss",
    "identity_loss",
    "l1_loss",
    "path_length_penalty",
    "r1_penalty",
    "r2_penalty",
    "wgan_gp",
    "zero_centered",
]
