"""Bias, noise and activation as modules, and the fully connected layer whose epilogue is one fused call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import ops
from gankern._activations import activation_funcs, in_place, passes, settings
from gankern._dispatch import Row, small, takes_reference
from gankern.ops.bias_act.backends import FORWARD
from gankern.ops.bias_act.reference import bias_act_reference


def check_act(owner: str, act: str) -> None:
    """Require the name of an activation."""
    if act not in activation_funcs:
        raise ValueError(f"{owner}: act must be one of {', '.join(activation_funcs)}, got {act!r}")


# Activations that are one call of PyTorch's, and whether they take alpha.
_ONE_STEP: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "relu": (torch.relu, False),
    "lrelu": (F.leaky_relu, True),
    "tanh": (torch.tanh, False),
    "sigmoid": (torch.sigmoid, False),
}
_Step = tuple[Callable[..., Tensor], tuple[float, ...]]


@lru_cache(typed=True)
def _activation(act: Any, alpha: Any, gain: Any, clamp: Any) -> tuple[int, tuple[str, float, float, float], _Step | None]:
    """Passes over an image, the settings with the defaults filled in, and the one step (function, further arguments) if it is
    one. A module asks for the same at every call.
    """
    act, alpha, gain, clamp = settings("bias_act", act, alpha, gain, clamp)
    steps, (function, takes_alpha) = passes(act, gain, clamp), _ONE_STEP.get(act, (None, False))
    step = (function, (alpha,) if takes_alpha else ()) if steps == 1 and function is not None else None
    return steps, (act, alpha, gain, clamp), step


def epilogue(
    x: Tensor,
    reference: bool,
    fresh: bool,
    *,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    **noise: Any,
) -> Tensor:
    """bias_act; in place where ``x`` is ``fresh`` (nobody else holds it) and no gradient, or functorch, will ask for it.

    A fresh ``x`` comes back as it is where there is nothing to do.
    """
    if reference:
        return bias_act_reference(x, b, dim, act, alpha, gain, clamp, **noise)
    if b is None and not noise and not torch.compiler.is_compiling():
        steps, made, step = _activation(act, alpha, gain, clamp)
        if steps == 0 and fresh:
            return x
        if small(x, steps):
            if steps == 1 and fresh and act in in_place and not torch.is_grad_enabled():
                return FORWARD.rows[-1].call(in_place[act], x, made[1])  # type: ignore[no-any-return]
            if step is not None and type(FORWARD.rows[-1]) is Row:  # as the following, where nobody counts
                return step[0](x, *step[1])
            return FORWARD.compose(x, None, None, 1, *made)  # type: ignore[no-any-return]
    if fresh and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and not takes_reference():
        return ops.bias_act_(x, b, dim, act, alpha, gain, clamp, **noise)
    return ops.bias_act(x, b, dim, act, alpha, gain, clamp, **noise)


class BiasAct(nn.Module):
    """Learned bias, activation, gain and clamp; with ``noise=True`` also StyleGAN's noise of learned strength, in one pass.

    Args:
        channels: size of dimension ``dim`` of the input.
        act: activation of :func:`gankern.ops.bias_act`. Default 'lrelu'.
        dim: dimension that the bias belongs to. Default 1.
        alpha: as for :func:`gankern.ops.bias_act`. Default None.
        gain: as for :func:`gankern.ops.bias_act`. Default None.
        clamp: as for :func:`gankern.ops.bias_act`. Default None.
        bias: have a bias. Default True.
        noise: add noise times a learned strength, 0 at first, before the bias. Default False.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: any to the same; [N, C, H, W] with noise. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        act: str = "lrelu",
        dim: int = 1,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        bias: bool = True,
        noise: bool = False,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act("BiasAct", act)
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None
        self.settings: dict[str, Any] = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
        self.reference = reference

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Apply to ``x``; ``noise`` [N or 1, 1, H, W] is drawn anew where the module has noise and none is given."""
        if self.noise_strength is None:
            if noise is not None:
                raise ValueError("BiasAct: noise is given, but the module was made with noise=False")
            return epilogue(x, self.reference, fresh=False, b=self.bias, **self.settings)
        noise = _draw(x) if noise is None else noise
        extra: dict[str, Any] = {"noise": noise, "noise_strength": self.noise_strength}
        return epilogue(x, self.reference, fresh=False, b=self.bias, **self.settings, **extra)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        text = ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if v is not None)
        text += ", noise=True" if self.noise_strength is not None else ""
        return text + (", reference=True" if self.reference else "")


def _draw(x: Tensor) -> Tensor:
    """One normal number a pixel."""
    if x.dim() != 4:
        raise ValueError(f"noise needs x of 4 dimensions [N, C, H, W], got {x.dim()}: {list(x.shape)}")
    return torch.randn((x.shape[0], 1, x.shape[2], x.shape[3]), dtype=x.dtype, device=x.device)


class NoiseInjection(nn.Module):
    """Add noise, one number a pixel, times a learned strength that is 0 at first (StyleGAN, Karras et al. 2019).

    Where a bias and an activation follow, ``BiasAct(..., noise=True)`` does all three in one pass.

    Args:
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, C, H, W] to the same. Gradients of any order.
    """

    def __init__(self, reference: bool = False) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.reference = reference

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """``x + noise_strength * noise``; the noise [N or 1, 1, H, W] is drawn anew where none is given."""
        noise = _draw(x) if noise is None else noise
        return epilogue(x, self.reference, fresh=False, noise=noise, noise_strength=self.noise_strength)


class Equalized(nn.Module):
    """Weights of unit variance, scaled by 1 / sqrt(fan in) at run time (Karras et al. 2018), and a fused epilogue.

    Without ``equalized`` the weight is used as it is, and starts as torch.nn's layers of that shape do.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        bias_init: float,
        lr_multiplier: float,
        settings: dict[str, Any],
        reference: bool,
        equalized: bool = True,
        outputs: int | None = None,
        fan_in: float | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_act(name, settings["act"])
        if lr_multiplier <= 0:
            raise ValueError(f"{name}: lr_multiplier must be positive, got {lr_multiplier}")
        if not equalized and lr_multiplier != 1:
            raise ValueError(f"{name}: lr_multiplier must be 1 with equalized=False, got {lr_multiplier}")
        if equalized:
            self.weight = nn.Parameter(torch.randn(shape) / lr_multiplier)
            self.weight_gain = lr_multiplier / math.sqrt(math.prod(shape[1:]) if fan_in is None else fan_in)
        else:
            self.weight = nn.Parameter(torch.empty(shape))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # torch.nn's: uniform in +-1 / sqrt(fan in)
            self.weight_gain = 1.0
        size = shape[0] if outputs is None else outputs
        self.bias = nn.Parameter(torch.full((size,), bias_init / lr_multiplier)) if bias else None
        self.equalized = equalized
        self.lr_multiplier = lr_multiplier
        self.settings = settings
        self.reference = reference

    def scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The weight in ``dtype`` and the bias, at run-time scale."""
        bias: Tensor | None = self.bias
        if bias is not None and self.lr_multiplier != 1:
            bias = bias * self.lr_multiplier
        weight = self.weight * self.weight_gain if self.equalized else self.weight
        # No comparison but of identity, for torch.fx traces this.
        return weight if weight.dtype is dtype else weight.to(dtype), bias

    def split(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The bias as (what the convolution or product of ``x`` adds, what the epilogue adds).

        For large images the epilogue, which then needs no pass over them for the bias's gradient; for small ones what comes
        before, which has the bias for nothing.
        """
        if self.reference or bias.dtype != weight.dtype or not small(x):
            return None, bias
        return bias, None

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        text = ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if v is not None)
        text += "" if self.equalized else ", equalized=False"
        return f"{list(self.weight.shape)}, {text}" + (", reference=True" if self.reference else "")


class Linear(Equalized):
    """Fully connected layer, with equalised learning rate or without, and bias + activation in one fused call.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's.
        bias: have a bias. Default True.
        act: activation of :func:`gankern.ops.bias_act`. Default 'linear'.
        lr_multiplier: factor on the learning rate of weight and bias. Default 1.
        bias_init: first value of the bias. Default 0.
        alpha: as for :func:`gankern.ops.bias_act`. Default None.
        gain: as for :func:`gankern.ops.bias_act`. Default None.
        clamp: as for :func:`gankern.ops.bias_act`. Default None.
        reference: run the pure PyTorch reference of the epilogue. Default False.
        equalized: scale the weight by 1 / sqrt(in_features) at run time. False: use it as it is, with torch.nn.Linear's first
            values (the bias starts as ``bias_init`` all the same). Default True.

    Shape: [..., in_features] to [..., out_features]. Gradients of any order.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        reference: bool = False,
        equalized: bool = True,
    ) -> None:
        settings = {"dim": -1, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
        super().__init__((out_features, in_features), bias, bias_init, lr_multiplier, settings, reference, equalized)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [..., in_features]."""
        weight, bias = self.scaled(x.dtype)
        inner = None
        if bias is not None:
            inner, bias = self.split(x, weight, bias)
        return epilogue(F.linear(x, weight, inner), self.reference, fresh=True, b=bias, **self.settings)
