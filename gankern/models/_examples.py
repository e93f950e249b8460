"""Random inputs of the right shapes for both networks of any family: for counting, timing and tests."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.models._base import LatentGenerator, Model
from gankern.models._registry import GAN


def example_inputs(
    gan: GAN, count: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Random inputs for both networks of a GAN of any family.

    The generator takes latents, and labels if it has classes, or images; the discriminator takes images, and labels or the
    images that the generator starts from.

    Args:
        gan: both networks; inputs are on the device of their parameters ('meta' too).
        count: samples, at least 1. Default 1.
        seed: of the random numbers, which are those of the CPU whatever the device. Default 0.
        dtype: of latents and images. Default float32.

    Returns:
        (arguments of the generator's forward, arguments of the discriminator's).

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"example_inputs: count must be at least 1, got {count}")
    generator, discriminator = gan.generator, gan.discriminator
    assert isinstance(generator, Model) and isinstance(discriminator, Model)
    device = next(gan.parameters()).device
    random = torch.Generator().manual_seed(seed)

    def images(channels: int | None = None) -> Tensor:
        own, height, width = generator.image_shape
        x = torch.rand(count, own if channels is None else channels, height, width, generator=random) * 2 - 1
        return x.to(device, dtype)

    def labels(network: torch.nn.Module) -> tuple[Tensor, ...]:
        classes = getattr(network, "num_classes", 0)
        return (torch.randint(classes, (count,), generator=random).to(device),) if classes else ()

    if gan.family.task == "unpaired":
        return (images(), images()), (images(), images())
    if gan.family.task == "paired":
        source = images(getattr(gan.config, "in_channels", None))
        return (source,), (images(), source) if getattr(gan.config, "conditional", True) else (images(),)
    assert isinstance(generator, LatentGenerator)
    z = torch.empty(count, generator.z_dim) if device.type == "meta" else generator.sample_z(count, random)
    return (z.to(device, dtype), *labels(generator)), (images(), *labels(discriminator))


__all__ = ["example_inputs"]
