"""Losses of GANs: gradient penalties at the price they should have."""

from gankern.losses.merged import Penalized, PenalizedStep
from gankern.losses.penalties import path_length_penalty, r1_penalty, r2_penalty, wgan_gp, zero_centered

__all__ = [
    "Penalized",
    "PenalizedStep",
    "path_length_penalty",
    "r1_penalty",
    "r2_penalty",
    "wgan_gp",
    "zero_centered",
]
