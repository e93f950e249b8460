"""Losses of image-to-image GANs that compare an image with the one it should be: L1, cycle consistency, identity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gankern._dtypes import wide
from gankern._validate import FLOATING, number, short


def l1_loss(output: Tensor, target: Tensor, weight: float = 100.0) -> Tensor:
    """pix2pix's L1: ``weight`` times the mean absolute difference over images, channels and pixels.

    Args:
        output: what the generator made, [N, ...].
        target: what it should have made, of the same shape, dtype and device.
        weight: the paper's lambda, not negative. Default 100.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError: images that are no floating-point tensors.
        ValueError: empty images, images of different shape, dtype or device, a negative weight.

    Gradients: of any order in both; 0 where they are equal.

    Source: Isola, Zhu, Zhou, Efros, "Image-to-image translation with conditional adversarial networks", 2017, equation 3.
    """
    return _distance("l1_loss", "output", output, "target", target, weight)


def cycle_loss(cycled: Tensor, images: Tensor, weight: float = 10.0) -> Tensor:
    """CycleGAN's cycle consistency in one direction: ``weight`` times the mean absolute difference of F(G(x)) and x.

    The paper's equation 2 is the sum of both: ``cycle_loss(f(g(a)), a) + cycle_loss(g(f(b)), b)``.

    Args:
        cycled: images brought to the other domain and back, [N, C, H, W].
        images: the images they were, of the same shape, dtype and device.
        weight: the paper's lambda, not negative. Default 10.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError, ValueError: as :func:`l1_loss`.

    Gradients: of any order in both; 0 where they are equal.

    Source: Zhu, Park, Isola, Efros, "Unpaired image-to-image translation using cycle-consistent adversarial networks", 2017,
    equation 2.
    """
    return _distance("cycle_loss", "cycled", cycled, "images", images, weight)


def identity_loss(mapped: Tensor, images: Tensor, weight: float = 5.0) -> Tensor:
    """CycleGAN's identity loss in one direction: ``weight`` times the mean absolute difference of G(y) and y.

    y is an image of the domain that G maps to, which G should leave as it is.

    Args:
        mapped: what a generator makes of images that are of its output domain already, [N, C, H, W].
        images: these images, of the same shape, dtype and device.
        weight: not negative. Default 5: the paper's half of the cycle's lambda.

    Returns:
        A scalar in float32 (float64 for float64 images).

    Raises:
        TypeError, ValueError: as :func:`l1_loss`.

    Gradients: of any order in both; 0 where they are equal.

    Source: Zhu et al. 2017, section 5.2, "Photo generation from paintings".
    """
    return _distance("identity_loss", "mapped", mapped, "images", images, weight)


def _distance(op: str, name: str, output: Any, other: str, target: Any, weight: Any) -> Tensor:
    for what, x in ((name, output), (other, target)):
        if not isinstance(x, Tensor) or x.dtype not in FLOATING:
            got = short(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{op}: {what} must be a float32, float64, bfloat16 or float16 torch.Tensor, got {got}")
    if output.numel() == 0:
        raise ValueError(f"{op}: {name} must not be empty, got {list(output.shape)}")
    for what in ("shape", "dtype", "device"):  # broadcasting would compare each image with all the others
        mine, theirs = getattr(output, what), getattr(target, what)
        if mine != theirs:
            raise ValueError(f"{op}: {other} must have the {what} of {name}, {_text(mine)}, got {_text(theirs)}")
    factor = number(op, "weight", weight)
    if factor < 0:
        raise ValueError(f"{op}: weight must not be negative, got {weight!r}")
    exact = wide(output.dtype)
    return factor * (output.to(exact) - target.to(exact)).abs().mean()


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")
