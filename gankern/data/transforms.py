"""Transforms of images without torchvision: resizing with antialiasing, crops, flips, numbers of channels, ranges.

Images are tensors [..., C, H, W]: uint8 from 0 to 255 on the way from the disk, float32 from -1 to 1 as networks see them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Luma of ITU-R BT.601, which JPEG and most tools mean by grey.
LUMA = (0.299, 0.587, 0.114)
CHANNELS = (1, 3, 4)


def check_image(name: str, x: Tensor) -> None:
    """Require a tensor [..., C, H, W] of uint8 or floating point with 1, 3 or 4 channels."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor [..., C, H, W], got {type(x).__name__}")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise TypeError(f"{name} must be uint8 or floating-point, got {x.dtype}")
    if x.dim() < 3 or x.shape[-3] not in CHANNELS:
        raise ValueError(f"{name} must be [..., C, H, W] with 1, 3 or 4 channels, got {list(x.shape)}")


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bicubic interpolation with antialiasing: where it shrinks, the filter is as wide as the pixels of the result.

    Args:
        x: [..., C, H, W], uint8 or floating point.
        height: of the result, at least 1.
        width: of the result, at least 1.

    Returns:
        [..., C, height, width] of the dtype of ``x``; uint8 is rounded and clamped, floating point may overshoot.

    Raises:
        TypeError, ValueError: an image or a size that is none.
    """
    check_image("x", x)
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    if tuple(x.shape[-2:]) == (height, width):
        return x
    flat = x.reshape(-1, *x.shape[-3:])
    wide = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    y = F.interpolate(wide, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    if x.dtype == torch.uint8:
        y = y.round().clamp(0, 255)
    return y.to(x.dtype).reshape(*x.shape[:-2], height, width)


def resize_short_side(x: Tensor, size: int) -> Tensor:
    """``x`` [..., C, H, W] with its shorter side resized to ``size``, the longer one in proportion (rounded)."""
    height, width = x.shape[-2:]
    short = min(height, width)
    return resize(x, max(round(height * size / short), size), max(round(width * size / short), size))


def crop(x: Tensor, top: int, left: int, size: int) -> Tensor:
    """The square [..., C, size, size] of ``x`` that starts at row ``top`` and column ``left``."""
    height, width = x.shape[-2:]
    if not (0 <= top <= height - size and 0 <= left <= width - size):
        raise ValueError(f"a crop of {size} x {size} at {top}, {left} does not lie in an image of {height} x {width}")
    return x[..., top : top + size, left : left + size]


def center_crop(x: Tensor, size: int) -> Tensor:
    """The square [..., C, size, size] in the middle of ``x`` [..., C, H, W]."""
    return crop(x, (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2, size)


def random_crop(x: Tensor, size: int, draws: tuple[float, float]) -> Tensor:
    """The square [..., C, size, size] of ``x`` where two uniform numbers in [0, 1) put it: row first, then column."""
    rows, columns = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    return crop(x, min(int(draws[0] * rows), rows - 1), min(int(draws[1] * columns), columns - 1), size)


def to_channels(x: Tensor, channels: int) -> Tensor:
    """``x`` with another number of channels: 1 is grey (ITU-R BT.601), 3 is RGB, 4 is RGB and opacity.

    What is not opaque lies on white. Grey becomes RGB of three equal channels; new opacity is full.

    Args:
        x: [..., C, H, W], uint8 from 0 to 255, or floating point from -1 to 1; C is 1, 3 or 4.
        channels: 1, 3 or 4.

    Returns:
        [..., channels, H, W] of the dtype of ``x``.

    Raises:
        TypeError, ValueError: an image or a number of channels that is none of these.
    """
    check_image("x", x)
    if channels not in CHANNELS:
        raise ValueError(f"channels must be 1, 3 or 4, got {channels!r}")
    if x.shape[-3] == channels:
        return x
    whole = x.dtype == torch.uint8
    low, high = (0.0, 255.0) if whole else (-1.0, 1.0)
    y = x.float() if whole else x
    if y.shape[-3] == 4:
        opacity = (y[..., 3:, :, :] - low) / (high - low)
        y = high + opacity * (y[..., :3, :, :] - high)
    if channels == 1 and y.shape[-3] == 3:
        y = (y * y.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)
    elif channels > 1 and y.shape[-3] == 1:
        y = y.expand(*y.shape[:-3], 3, *y.shape[-2:])
    if channels == 4:
        y = torch.cat([y, torch.full_like(y[..., :1, :, :], high)], -3)
    return y.round().clamp(0, 255).to(torch.uint8) if whole else y


def to_float(x: Tensor) -> Tensor:
    """uint8 images from 0 to 255 as float32 from -1 to 1."""
    return x.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Floating-point images from -1 to 1 as uint8 from 0 to 255, rounded; what lies outside is clamped, NaN becomes 0."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point from -1 to 1, or uint8, got {images.dtype}")
    return images.detach().float().add(1).mul(127.5).round().nan_to_num(0.0, 255.0, 0.0).clamp(0, 255).to(torch.uint8)


def grey(x: Tensor) -> Tensor:
    """Luma [..., 1, H, W] of images from -1 to 1: the input of colourisation."""
    return to_channels(x, 1)


def edges(x: Tensor) -> Tensor:
    """Edges [..., 1, H, W] of images from -1 to 1: the magnitude of the luma's Sobel gradient, white on black.

    A step across half of the range, or more, is white (1); a flat area is black (-1).
    """
    y = to_channels(x, 1)
    flat = F.pad(y.reshape(-1, 1, *y.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    smooth, slope = y.new_tensor([1.0, 2.0, 1.0]), y.new_tensor([-1.0, 0.0, 1.0])
    taps = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    magnitude = F.conv2d(flat, taps).square().sum(1, keepdim=True).sqrt()  # 4 for a vertical step of 1
    return (magnitude / 2 - 1).clamp(max=1).reshape(y.shape)


CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {"grey": grey, "edges": edges}
"""What can be computed from an image, to make pairs of it: name to function of float images from -1 to 1."""

__all__ = [
    "CONDITIONS",
    "center_crop",
    "crop",
    "edges",
    "grey",
    "random_crop",
    "resize",
    "resize_short_side",
    "to_channels",
    "to_float",
    "to_uint8",
]
