"""The nine activations: defaults, formulas as PyTorch expressions, their derivatives, and which tensor determines those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import _validate

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


def settings(op: str, act: Any, alpha: Any, gain: Any, clamp: Any) -> tuple[str, float, float, float]:
    """Check a user's (act, alpha, gain, clamp) and fill in the defaults; clamp is -1 for none."""
    if not isinstance(act, str) or act not in activation_funcs:
        raise ValueError(f"{op}: act must be one of {', '.join(activation_funcs)}, got {act!r}")
    default = activation_funcs[act]
    alpha = default.def_alpha if alpha is None else _validate.number(op, "alpha", alpha)
    gain = default.def_gain if gain is None else _validate.number(op, "gain", gain)
    if clamp is None:
        return act, alpha, gain, -1.0
    limit = _validate.number(op, "clamp", clamp)
    if limit < 0:
        raise ValueError(f"{op}: clamp must not be negative (None for no clamping), got {clamp!r}")
    return act, alpha, gain, limit


in_place: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda v, alpha: torch.relu_(v),
    "lrelu": lambda v, alpha: F.leaky_relu(v, alpha, inplace=True),
    "tanh": lambda v, alpha: torch.tanh_(v),
    "sigmoid": lambda v, alpha: torch.sigmoid_(v),
}
"""The activations that PyTorch computes in one pass over what it overwrites."""


def passes(act: str, gain: float, clamp: float) -> int:
    """How many times activation, gain and clamp go over an image, one after the other."""
    return (0 if act == "linear" else 2 if act == "swish" else 1) + (gain != 1) + (clamp >= 0)


@cache
def representable(value: float, dtype: torch.dtype) -> float:
    """``value`` rounded to ``dtype``: what a clamped output of that type holds, and backward compares it with."""
    return float(torch.tensor(value, dtype=dtype, device="cpu"))


# ---- derivatives in terms of what is saved ------------------------------------------------------------------------------
def slope(y: Tensor | None, v: Tensor | None, act: str, alpha: float, gain: float, clamp: float) -> Tensor | float:
    """dy/dv, of the output y or of the pre-activation v; zero where the output is clamped."""
    if y is None and v is None:
        return gain
    inside: Tensor | None
    if y is not None:
        t = y / gain
        inside = y.abs() < clamp if clamp >= 0 else None
        one = torch.ones((), dtype=y.dtype, device=y.device)
        f1: Tensor = {
            "linear": lambda: torch.ones_like(t),
            "relu": lambda: torch.where(t > 0, one, 0 * one),
            "lrelu": lambda: torch.where(t > 0, one, alpha * one),
            "tanh": lambda: 1 - t * t,
            "sigmoid": lambda: t * (1 - t),
            "elu": lambda: torch.where(t > 0, one, t + 1),
            "selu": lambda: torch.where(t > 0, SELU_SCALE * one, t + SELU_SCALE * SELU_ALPHA),
            "softplus": lambda: -torch.expm1(-t),
        }[act]()
    else:
        assert v is not None
        one = torch.ones((), dtype=v.dtype, device=v.device)
        sigma = torch.sigmoid(v)
        f1 = {
            "linear": lambda: torch.ones_like(v),
            "relu": lambda: torch.where(v > 0, one, 0 * one),
            "lrelu": lambda: torch.where(v > 0, one, alpha * one),
            "tanh": lambda: 1 - torch.tanh(v) ** 2,
            "sigmoid": lambda: sigma * (1 - sigma),
            "elu": lambda: torch.where(v > 0, one, torch.exp(v)),
            "selu": lambda: torch.where(v > 0, SELU_SCALE * one, SELU_SCALE * SELU_ALPHA * torch.exp(v)),
            "softplus": lambda: sigma,
            "swish": lambda: sigma * (1 + v * (1 - sigma)),
        }[act]()
        inside = (activation_funcs[act].function(v, alpha) * gain).abs() < clamp if clamp >= 0 else None
    f1 = f1 * gain
    return f1 if inside is None else torch.where(inside, f1, torch.zeros_like(f1))


def curvature(y: Tensor | None, v: Tensor | None, act: str, gain: float, clamp: float) -> Tensor | float:
    """Derivative of :func:`slope` in y, or in v where v is given; 0 at the kink of elu and selu, as PyTorch has it."""
    if y is None and v is None:
        return 0.0
    inside: Tensor | None
    if y is not None:
        t = y / gain
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        # slope is gain * f'(t) and t = y / gain: the gains cancel.
        second = {
            "tanh": lambda: -2 * t,
            "sigmoid": lambda: 1 - 2 * t,
            "elu": lambda: torch.where(t < 0, one, zero),
            "selu": lambda: torch.where(t < 0, one, zero),
            "softplus": lambda: torch.exp(-t),
        }.get(act, lambda: zero)()
        inside = y.abs() < clamp if clamp >= 0 else None
    else:
        assert v is not None
        sigma, t = torch.sigmoid(v), torch.tanh(v)
        zero = torch.zeros_like(v)
        second = (
            gain
            * {
                "tanh": lambda: -2 * t * (1 - t * t),
                "sigmoid": lambda: sigma * (1 - sigma) * (1 - 2 * sigma),
                "elu": lambda: torch.where(v < 0, torch.exp(v), zero),
                "selu": lambda: torch.where(v < 0, SELU_SCALE * SELU_ALPHA * torch.exp(v), zero),
                "softplus": lambda: sigma * (1 - sigma),
                "swish": lambda: sigma * (1 - sigma) * (2 + v * (1 - 2 * sigma)),
            }.get(act, lambda: zero)()
        )
        inside = (activation_funcs[act].function(v, 0.0) * gain).abs() < clamp if clamp >= 0 else None
    return second if inside is None else torch.where(inside, second, torch.zeros_like(second))
