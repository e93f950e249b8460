"""Fading a new layer in: progressive growing's blend of the old images and the new."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankern import _validate, ops
from gankern.ops.interpolate.reference import interpolate_reference


class FadeIn(nn.Module):
    """``(1 - alpha) * old + alpha * new``, in one pass: how ProGAN fades a new resolution in (Karras et al. 2018, figure 2).

    ``alpha`` is a buffer: it moves with the module, is saved with it, and changing it compiles nothing anew. Whether it is
    below 1 is known to Python as well, as :attr:`fading`, so that networks need not compute old images that count for nothing.

    Args:
        alpha: share of the new images, from 0 to 1. Default 1: none of the old ones.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: old and new, both [N, C, H, W], to the same; with ``alpha`` 1 it is ``new``. Gradients of any order.
    """

    weight: Tensor

    def __init__(self, alpha: float = 1.0, reference: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))
        self.fading = False
        self.reference = reference
        self.set_alpha(alpha)

    @property
    def alpha(self) -> float:
        """The share of the new images (reading it waits for a GPU)."""
        return float(self.weight)

    def set_alpha(self, alpha: float) -> None:
        """Set the share of the new images, from 0 to 1; a GPU is not waited for."""
        value = _validate.number("FadeIn", "alpha", alpha)
        if not 0 <= value <= 1:
            raise ValueError(f"FadeIn: alpha must be from 0 to 1, got {alpha}")
        self.weight.fill_(value)
        self.fading = value < 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.weight.device.type != "meta":
            self.fading = self.alpha < 1

    def forward(self, old: Tensor | None, new: Tensor) -> Tensor:
        """Blend ``old``, which may be None if it is not :attr:`fading`, and ``new``."""
        if not self.fading:
            return new
        if old is None or old.shape != new.shape:
            got = "None" if old is None else list(old.shape)
            raise ValueError(f"FadeIn: old must have the shape of new, {list(new.shape)}, while alpha is below 1, got {got}")
        return (interpolate_reference if self.reference else ops.interpolate)(new, old.to(new.dtype), self.weight)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return f"fading={self.fading}" + (", reference=True" if self.reference else "")


__all__ = ["FadeIn"]
