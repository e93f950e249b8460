"""The nine activations: defaults, formulas as PyTorch expressions, and which tensor determines their derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017


@dataclass(frozen=True)
class Activation:
    """One activation function f.

    Attributes:
        index: number by which kernels know it.
        function: f(v, alpha) as a PyTorch expression (any dtype, any order of differentiation).
        def_alpha: default of alpha; only leaky ReLU uses alpha.
        def_gain: default gain: sqrt(2) restores the variance that a rectifier halves (He et al. 2015), else 1.
        curved: whether f'' is not identically zero away from kinks.
        needs: what its derivative is computed from: '' nothing, 'y' the output, 'x' the input.
    """

    index: int
    function: Callable[[Tensor, float], Tensor]
    def_alpha: float
    def_gain: float
    curved: bool
    needs: str


activation_funcs: dict[str, Activation] = {
    "linear": Activation(0, lambda v, alpha: v, 0.0, 1.0, False, ""),
    "relu": Activation(1, lambda v, alpha: F.relu(v), 0.0, 2.0**0.5, False, "y"),
    "lrelu": Activation(2, lambda v, alpha: F.leaky_relu(v, alpha), 0.2, 2.0**0.5, False, "y"),
    "tanh": Activation(3, lambda v, alpha: torch.tanh(v), 0.0, 1.0, True, "y"),
    "sigmoid": Activation(4, lambda v, alpha: torch.sigmoid(v), 0.0, 1.0, True, "y"),
    "elu": Activation(5, lambda v, alpha: F.elu(v), 0.0, 1.0, True, "y"),
    "selu": Activation(6, lambda v, alpha: F.selu(v), 0.0, 1.0, True, "y"),
    "softplus": Activation(7, lambda v, alpha: F.softplus(v), 0.0, 1.0, True, "y"),
    "swish": Activation(8, lambda v, alpha: torch.sigmoid(v) * v, 0.0, 2.0**0.5, True, "x"),
}
"""Name -> :class:`Activation`; ``activation_funcs["lrelu"].def_gain`` is what other code reads of it."""


def reference_tensor(act: str, alpha: float, gain: float, clamp: float) -> str:
    """Which tensor backward needs: '' none, 'y' the output or 'x' the input.

    The output serves where it determines v's branch. It does not for a leaky ReLU of negative slope, whose output has one
    sign on both sides; and a gain of 0 wipes everything out of it.
    """
    needs = activation_funcs[act].needs
    if needs == "" and clamp >= 0:
        needs = "y"
    if needs == "y" and (gain == 0 or (act == "lrelu" and alpha < 0)):
        needs = "x"
    return needs
