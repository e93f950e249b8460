"""StyleGAN3's input, random waves, and the affine maps that move it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern._autocast import suspended


class FourierInput(nn.Module):
    """Random waves, moved and turned as w says: an input that has a value everywhere (sections 3.1, 3.2, appendix F).

    Frequencies are uniform in the disc of radius ``bandwidth``, phases uniform; neither is trained. A learned affine map of w
    gives each sample a rotation and a translation, which is none at first; a transform of the user's comes on top. Waves whose
    frequency a transform takes out of the band fade out up to the Nyquist frequency. A learned matrix mixes the waves.

    Args:
        channels: waves, and channels of the output.
        size: height and width of the output, margin included.
        w_dim: size of w.
        rate: sampling rate, pixels per unit of length: the image is 1 long, and 0 is its centre.
        bandwidth: largest frequency, below half the rate.
        reference: run the pure PyTorch references. Default False.

    Shape: w [N, w_dim] to [N, channels, size, size], or the size of the strips. Gradients of any order.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int, size: int, w_dim: int, rate: float, bandwidth: float, reference: bool = False) -> None:
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        angle, radius = 2 * math.pi * torch.rand(channels), bandwidth * torch.rand(channels).sqrt()
        self.register_buffer("frequencies", torch.stack([angle.cos() * radius, angle.sin() * radius], 1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.affine = gk.Linear(w_dim, 4, reference=reference)
        with torch.no_grad():
            self.affine.weight.zero_()
            assert self.affine.bias is not None
            self.affine.bias[0] = 1.0
        self.mix = gk.Conv2d(channels, channels, 1, bias=False, reference=reference)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # module.half() must not round the waves: their phases would change from pixel to pixel.
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            if moved is not None and buffer is not None and moved.dtype.itemsize < buffer.dtype.itemsize:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def forward(
        self,
        w: Tensor,
        transform: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        strips: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> Tensor:
        """The waves of ``w``.

        Args:
            w: [N, w_dim].
            transform: as for :class:`StyleGAN3Synthesis`. Default None.
            canvas: height and width in pixels of this input. Default None: (size, size).
            strips: (first, behind the last) row and column of the canvas to make. Default None: all.
        """
        with suspended(w.device):  # a translation in bfloat16 would miss pixels
            basis, phases = self._moved(w, transform)
        height, width = canvas or (self.size, self.size)
        (y0, y1), (x0, x1) = strips or ((0, height), (0, width))
        device, dtype = basis.device, basis.dtype
        y = (torch.arange(y0, y1, device=device, dtype=dtype) + (0.5 - height / 2)) / self.rate
        x = (torch.arange(x0, x1, device=device, dtype=dtype) + (0.5 - width / 2)) / self.rate
        turns = (basis[:, :, 0, None] * x)[:, :, None] + (basis[:, :, 1, None] * y + phases[:, :, None])[..., None]
        norm = torch.linalg.vector_norm(basis, dim=2)
        amplitude = (1 - (norm - self.bandwidth) / (self.rate / 2 - self.bandwidth)).clamp(0, 1)
        waves = torch.sin(2 * math.pi * turns) * amplitude[:, :, None, None]
        mixed: Tensor = self.mix(waves.to(self.mix.weight.dtype))
        return mixed

    def _moved(self, w: Tensor, transform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frequencies [N, channels, 2] and phases [N, channels] of each sample's waves."""
        t = self.affine(w.to(self.affine.weight.dtype)).to(self.frequencies.dtype)
        t = t / torch.linalg.vector_norm(t[:, :2], dim=1, keepdim=True)
        cos, sin, translation = t[:, 0], t[:, 1], t[:, 2:]
        # A wave f sees the place p as R (p - translation), and p itself as the user's transform undone.
        rotation = torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2))
        basis = self.frequencies @ rotation
        phases = self.phases - (basis * translation[:, None]).sum(2)
        if transform is not None:
            linear, shift = _inverse(transform.to(basis))
            phases = phases + (basis * shift[:, None]).sum(2)
            basis = basis @ linear
        return basis, phases

    def extra_repr(self) -> str:
        """Sizes for print(module)."""
        return f"channels={len(self.phases)}, size={self.size}, rate={self.rate}, bandwidth={self.bandwidth}"


def _inverse(transform: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of an affine map [2, 3] or [N, 2, 3]: linear part [N or 1, 2, 2] and shift [N or 1, 2]; no host waits."""
    m = transform.reshape(-1, *transform.shape[-2:])
    (a, b), (c, d) = m[:, 0, :2].unbind(1), m[:, 1, :2].unbind(1)
    linear = torch.stack([d, -b, -c, a], 1).unflatten(1, (2, 2)) / (a * d - b * c)[:, None, None]
    return linear, -(linear @ m[:, :2, 2:]).squeeze(2)


def check_transform(transform: Tensor | None, count: int) -> None:
    """Require an affine map, or one for each of ``count`` samples."""
    if transform is None:
        return
    if not isinstance(transform, Tensor):
        raise TypeError(f"StyleGAN3Generator: transform must be a torch.Tensor, got {type(transform).__name__}")
    shape = tuple(transform.shape)
    if shape[-2:] not in ((2, 3), (3, 3)) or shape[:-2] not in ((), (1,), (count,)):
        accepted = f"[2, 3], [3, 3], [{count}, 2, 3] or [{count}, 3, 3]"
        raise ValueError(f"StyleGAN3Generator: transform must be {accepted}, got {list(shape)}")


def transform_matrix(translate: tuple[float, float] = (0.0, 0.0), angle: float = 0.0, scale: float = 1.0) -> Tensor:
    """The affine map that scales and turns what an image shows about its centre, then moves it.

    Args:
        translate: (x, y), in lengths of the image: (0.25, 0) is a quarter of its width to the right. Default (0, 0).
        angle: in degrees, clockwise on the screen, where y points down. Default 0.
        scale: factor on sizes; not 0. Default 1.

    Returns:
        [3, 3] in float64, for the ``transform`` of :class:`StyleGAN3Synthesis`; products of such matrices are transforms too.

    Raises:
        ValueError: ``scale=0``.
    """
    if scale == 0:
        raise ValueError("transform_matrix: scale must not be 0, got 0")
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    x, y = translate
    return torch.tensor([[cos, -sin, x], [sin, cos, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


__all__ = ["FourierInput", "check_transform", "transform_matrix"]
