"""Training steps of critics with gradient penalties: ``penalised_step`` on the critics of ``critics.py``.

Ours is the critic on gankern's operators with ``losses.PenalizedStep`` (R1, R2) or ``losses.wgan_gp``; eager is the same critic
in PyTorch with double backward. Contenders: eager with gankern's convolutions alone, torch.compile of the whole step where it
runs, and the plain step (ours without a penalty).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import losses
from gankern._dispatch import OpSpec
from gankern._samples import Sample, randn
from gankern.bench.critics import EAGER, FUSED, PATCHED, SHAPES, Critic, Kit, Shapes, convolutions, initial, run

_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})
_CUDA = frozenset({"quick_cuda", "full_cuda"})
# r1, r2, and the loss of (real logits, fake logits); DCGAN has WGAN-GP.
GAMMA = {"dcgan": (0.0, 0.0), "stylegan2": (10.0, 0.0), "r3gan": (10.0, 10.0), "resnet": (10.0, 10.0)}


def _loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    if kind == "dcgan":
        return fake.mean() - real.mean()
    if kind == "stylegan2":
        return F.softplus(fake).mean() + F.softplus(-real).mean()
    return F.softplus(fake - real).mean()


def _double_backward(kit: Kit) -> Callable[..., tuple[Tensor, ...]]:
    """The step as it is written today."""

    def step(kind: str, real: Tensor, fake: Tensor, eps: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            parameters = {name: p.detach().requires_grad_() for name, p in named.items()}

            def critic(x: Tensor) -> Tensor:
                return run(kind, kit, parameters, x)

            def squared(x: Tensor) -> tuple[Tensor, Tensor]:
                x = x.detach().requires_grad_()
                logits = critic(x)
                (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
                return logits, g.square().sum((1, 2, 3))

            r1, r2 = GAMMA[kind]
            penalty: Any = 0.0
            if r1:
                real_logits, norms = squared(real)
                penalty = penalty + r1 / 2 * norms.mean()
            else:
                real_logits = critic(real)
            if r2:
                fake_logits, norms = squared(fake)
                penalty = penalty + r2 / 2 * norms.mean()
            else:
                fake_logits = critic(fake)
            if kind == "dcgan":
                a = eps[:, None, None, None].to(real.dtype)
                penalty = 10 * (squared(a * real + (1 - a) * fake)[1].sqrt() - 1).square().mean()
            return _gradients(_loss(kind, real_logits, fake_logits) + penalty, list(parameters.values()))

    return step


def _gradients(total: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))


_kept: dict[str, Any] = {}


def _critic(kind: str, named: dict[str, Tensor]) -> tuple[Critic, losses.PenalizedStep]:
    """The module with these parameters and its step, kept for the next call with them, as in training."""
    key = (kind, *(id(p) for p in named.values()))
    if _kept.get("key") != key:
        critic = Critic(kind, FUSED, named)
        r1, r2 = GAMMA[kind]
        step = losses.PenalizedStep(critic, lambda real, fake: _loss(kind, real, fake), r1=r1, r2=r2)
        _kept.update(key=key, made=(critic, step), parameters=named)
    made: tuple[Critic, losses.PenalizedStep] = _kept["made"]
    return made


def _ours(kind: str, real: Tensor, fake: Tensor, eps: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
    critic, step = _critic(kind, named)
    parameters = list(critic.parameters())
    with torch.enable_grad():
        if kind == "dcgan":
            total = _loss(kind, critic(real), critic(fake)) + losses.wgan_gp(critic, real, fake, eps=eps)
            return _gradients(total, [*parameters])
        found = step.gradients(real, fake)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))


def _plain(kind: str, real: Tensor, fake: Tensor, eps: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
    critic, _ = _critic(kind, named)
    with torch.enable_grad():
        return _gradients(_loss(kind, critic(real), critic(fake)), list(critic.parameters()))


def _sample(kind: str, batch: int, size: int, tags: frozenset[str], description: str, *settings: int) -> Sample:
    shapes: Shapes = SHAPES[kind](size, *settings)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        images = (batch, 3, size, size)
        kwargs: dict[str, Any] = {name: randn(images, dtype, device, generator) for name in ("real", "fake")}
        kwargs["eps"] = torch.rand(batch, generator=generator, device=generator.device).to(device)
        return {"kind": kind, **kwargs, **initial(shapes, dtype, device, generator)}

    macs = 2 * batch * sum(convolutions(kind, shapes, size))
    # Critics are not trained in half types alone: near the kink of a rectifier two roundings take two branches, whose slopes
    # differ five-fold, and second derivatives are made of slopes.
    wide = (torch.float32, torch.float64)
    return Sample(f"{kind}_{size}_b{batch}", make, (), tags, macs=macs, dtypes=wide, description=description)


SAMPLES = [
    _sample("dcgan", 8, 64, _QUICK, "WGAN-GP step, DCGAN critic 32 to 256 ch, 64^2 x 8", 32),
    _sample("stylegan2", 2, 64, _QUICK, "R1 step, StyleGAN2 D 32 to 128 ch, 64^2 x 2", 32, 128),
    _sample("r3gan", 4, 32, _QUICK, "R1 + R2 step, R3GAN-style critic, groups of 16, 32^2 x 4", 64, 16),
    _sample("resnet", 4, 32, _QUICK, "R1 + R2 step, ResNet critic 32 to 128 ch, 32^2 x 4", 32),
    _sample("dcgan", 64, 64, _FULL, "WGAN-GP step, DCGAN critic 64 to 512 ch, 64^2 x 64", 64),
    _sample("stylegan2", 4, 256, _FULL, "R1 step, StyleGAN2 D at 256 (channel_base 16384), 256^2 x 4", 64, 512),
    _sample("r3gan", 8, 64, _FULL, "R1 + R2 step, R3GAN-style critic, groups of 16, 64^2 x 8", 96, 16),
    _sample("resnet", 16, 64, _FULL, "R1 + R2 step, ResNet critic 64 to 512 ch, 64^2 x 16", 64),
    _sample("dcgan", 128, 64, _CUDA, "WGAN-GP step, DCGAN critic 64 to 512 ch, 64^2 x 128", 64),
    _sample("stylegan2", 32, 256, _CUDA, "R1 step, StyleGAN2 D at 256 (channel_base 16384), 256^2 x 32", 64, 512),
    _sample("r3gan", 64, 64, _CUDA, "R1 + R2 step, R3GAN-style critic, groups of 16, 64^2 x 64", 192, 16),
    _sample("resnet", 64, 128, _CUDA, "R1 + R2 step, ResNet critic 64 to 1024 ch, 128^2 x 64", 64),
]

PENALISED = OpSpec(
    "penalised_step",
    _ours,
    _double_backward(EAGER),
    lambda **_: (),
    table=None,
    samples=SAMPLES,
    derivative_order=0,
    image="real",
)
CONTENDERS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "patched_conv": _double_backward(PATCHED),
    "plain_step": _plain,
}
