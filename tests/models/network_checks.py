"""What tests of several families ask of their networks."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gankern import losses, models


def count(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in module.parameters())


def moved(module: Any, seed: int = 0) -> Any:
    """In float64, with strengths and biases that are not 0."""
    torch.manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


def assert_fused_equals_reference(config: models.ModelConfig) -> None:
    """Outputs, gradients and R1 gradients of a StyleGAN of 16 x 16 and latents of 16, with and without gankern's operators."""
    gan = moved(models.from_config(config))
    other = copy.deepcopy(gan)
    models.set_ops(other, "reference")
    z, real = torch.randn(2, 16).double(), torch.randn(2, 3, 16, 16).double().requires_grad_()
    labels = torch.tensor([2, 1]) if gan.config.num_classes else None
    found = []
    for m in (gan, other):
        image = m.generator(z, labels, noise_mode="const")
        fake = m.discriminator(image, labels)
        assert fake.shape == (2, 1)
        penalty = losses.r1_penalty(m.discriminator(real, labels), real)
        gradients = torch.autograd.grad(F.softplus(-fake).mean() + penalty, list(m.parameters()))
        found.append([image, fake, penalty, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
