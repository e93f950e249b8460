"""Whole reference GANs as rows: each family of gankern.models at a small size, fused beside ops='reference'.

- ``model_forward``: images of the generator in evaluation mode, without gradients;
- ``model_step``: a training step: the critic's gradients (loss, and the family's R1, R2 or WGAN-GP penalty), then the
  generator's (through the critic; with L1, cycle and identity terms or a classifier where the family has them). What is done
  every few steps (path length) or after the optimizer (clipping) is not in it.

At these sizes most of the time is Python's and the dispatcher's: the rows watch over what a call costs, and say little about
large models, whose layers are rows of their own. Eager has double backward where ours has the merged gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import losses
from gankern._dispatch import OpSpec
from gankern._samples import Sample
from gankern._scopes import own_random
from gankern.models import FAMILIES, GAN, ModelConfig, example_inputs, from_config

BATCH = 4
_STATE, _GENERATOR, _CRITIC = "gan.", "generator_", "critic_"

# Changes to ``tiny`` for families whose step takes a few milliseconds there, most of them Python's.
_SIZES: dict[str, dict[str, Any]] = {
    **{name: {"resolution": 32, "width": 32} for name in ("dcgan", "cgan", "wgan", "mgan")},
    "gan": {"resolution": 28, "z_dim": 100, "hidden": 1200, "maxout_units": 240, "maxout_pieces": 5},
    "pix2pix": {"resolution": 64, "generator_channels": 16, "discriminator_channels": 16, "patch": 70},
    "cyclegan": {"generator_channels": 16, "discriminator_channels": 16},
    "r3gan": {"widths": (64, 64, 32), "groups": (8, 8, 4)},
    "sngan": {"generator_channels": (32, 32, 32), "discriminator_channels": (32, 32, 32)},
    **{name: {"resolution": 32, "channel_base": 1024, "channel_max": 32} for name in ("progan", "stylegan", "stylegan2")},
    "stylegan3": {"channel_base": 512, "channel_max": 32},
}

_stores: list[dict[str, Any]] = []


def store() -> dict[str, Any]:
    """A place for networks that are kept for the next call; those in it change as training goes on (running means)."""
    _stores.append({})
    return _stores[-1]


_kept = store()


def small_config(name: str) -> ModelConfig:
    """The settings that a family is measured with."""
    return FAMILIES[name].tiny.replace(**_SIZES.get(name, {}))


def _make(name: str) -> Callable[..., dict[str, Any]]:
    """Inputs of both networks and their whole state, the same for every dtype but for its rounding."""

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        with own_random(0):
            gan = from_config(small_config(name))
        kwargs: dict[str, Any] = {"family": name}
        # A seed with which no rectifier stands at its kink, which a penalty would feel.
        for prefix, given in zip((_GENERATOR, _CRITIC), example_inputs(gan, BATCH, seed=1, dtype=dtype), strict=True):
            kwargs |= {f"{prefix}{i}": x for i, x in enumerate(given)}
        kwargs |= {_STATE + k: v.detach().to(dtype) if v.is_floating_point() else v for k, v in gan.state_dict().items()}
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in kwargs.items()}

    return make


def _gan(family: str, ops: str, training: bool, named: dict[str, Tensor]) -> GAN:
    """The networks with this state, kept for the next call with it, as in training."""
    key = (family, training, *(id(v) for v in named.values()))
    if _kept.get("key") != key:
        _kept.clear()
        _kept.update(key=key, named=named)  # named: as long as these tensors live, no others have their ids
    if ops not in _kept:
        first = named[_GENERATOR + "0"]
        gan = from_config(small_config(family), ops).to(first.device, first.dtype).train(training)
        gan.load_state_dict({k.removeprefix(_STATE): v for k, v in named.items() if k.startswith(_STATE)})
        _kept[ops] = gan
    made: GAN = _kept[ops]
    return made


def _inputs(prefix: str, named: dict[str, Tensor]) -> list[Tensor]:
    return [named[k] for k in sorted(named) if k.startswith(prefix)]


def _forward(ops: str) -> Callable[..., tuple[Tensor, ...]]:
    def forward(family: str, **named: Tensor) -> tuple[Tensor, ...]:
        gan = _gan(family, ops, False, named)
        torch.manual_seed(0)  # noise
        images = gan.generator(*_inputs(_GENERATOR, named))
        return images if isinstance(images, tuple) else (images,)

    return forward


def _step(ops: str) -> Callable[..., tuple[Tensor, ...]]:
    def step(family: str, **named: Tensor) -> tuple[Tensor, ...]:
        gan = _gan(family, ops, True, named)
        given, real = _inputs(_GENERATOR, named), _inputs(_CRITIC, named)
        torch.manual_seed(0)  # noise, dropout
        with torch.enable_grad():
            return _unpaired(gan, given) if gan.family.task == "unpaired" else _single(gan, ops, given, real)

    return step


def _single(gan: GAN, ops: str, given: list[Tensor], real: list[Tensor]) -> tuple[Tensor, ...]:
    """The step of one generator and one critic."""
    family = gan.family
    generator: Any = gan.generator
    loss, terms = losses.adversarial(family.loss), dict(family.penalties or {})
    fake = generator(*given)
    component = generator.component(given[0]) if "classifier" in terms else None
    # What the critic is told beside the image: the classes, or the image that the generator started from.
    beside = given[1:] if family.task == "latent" else real[1:]
    gradients = critic_gradients(gan, ops, real, fake.detach(), beside, _kept, component)
    real_logits = gan.discriminator(*real).detach() if loss.needs_real else None
    fake_logits, apart = _judged(gan.discriminator, fake, beside, component)
    total = loss.generator(fake_logits, real_logits) + terms.get("classifier", 0.0) * apart
    if "l1" in terms:
        total = total + terms["l1"] * F.l1_loss(fake, real[0])
    return gradients, _gradients(total, generator)


def critic_gradients(
    gan: GAN, ops: str, real: list[Tensor], fake: Tensor, beside: list[Tensor], kept: dict[str, Any], component: Any = None
) -> Tensor:
    """The norm of the gradients of a critic's step: its loss, and the R1, R2 or WGAN-GP penalty of its family.

    Args:
        gan: both networks.
        ops: 'fused': penalties from gankern.losses, by the merged gradient where the critic allows it; 'reference': double
            backward in plain PyTorch.
        real: the critic's arguments.
        fake: generated images.
        beside: the critic's other arguments for these.
        kept: remembers how the merged gradient went about this critic.
        component: which of several generators made each image, or None.
    """
    critic: Any = gan.discriminator  # some have more methods than forward
    loss, terms = losses.adversarial(gan.family.loss), dict(gan.family.penalties or {})
    gammas = terms.get("r1", 0.0), terms.get("r2", 0.0)
    if ops == "fused" and any(gammas) and not beside:
        if "step" not in kept:
            kept["step"] = losses.PenalizedStep(critic, loss, *gammas)
        return norm(kept["step"].gradients(real[0], fake))
    pair = [real[0].detach(), fake]
    pair = [x.detach().requires_grad_() if gamma else x for x, gamma in zip(pair, gammas, strict=True)]
    fake_logits, apart = _judged(critic, pair[1], beside, component)
    logits = [critic(pair[0], *real[1:]), fake_logits]
    total = loss.discriminator(*logits) + apart
    for x, y, gamma in zip(pair, logits, gammas, strict=True):
        if gamma:
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            total = total + gamma / 2 * g.square().sum((1, 2, 3)).mean()
    if "wgan_gp" in terms:
        total = total + _between(critic, ops, pair[0], pair[1], terms["wgan_gp"])
    return _gradients(total, critic)


def _judged(critic: Any, fake: Tensor, beside: list[Tensor], component: Tensor | None) -> tuple[Tensor, Tensor | float]:
    """Logits of generated images, and the cross-entropy of which generator made them where there are several."""
    if component is None:
        return critic(fake, *beside), 0.0
    logits, classes = critic.heads(fake)
    return logits, F.cross_entropy(classes, component)


def _unpaired(gan: GAN, images: list[Tensor]) -> tuple[Tensor, ...]:
    """The step of CycleGAN."""
    adversarial = losses.adversarial(gan.family.loss)
    terms, generator = dict(gan.family.penalties or {}), gan.generator
    a, b = images
    fake_b, fake_a = generator(a, b)
    real, fake = gan.discriminator(a, b), gan.discriminator(fake_a.detach(), fake_b.detach())
    critics = adversarial.discriminator(real[0], fake[0]) + adversarial.discriminator(real[1], fake[1])
    gradients = _gradients(critics, gan.discriminator)
    loss = sum((adversarial.generator(y) for y in gan.discriminator(fake_a, fake_b)), torch.zeros(()))
    back_b, back_a = generator(fake_a, fake_b)
    loss = loss + terms["cycle"] * (F.l1_loss(back_a, a) + F.l1_loss(back_b, b))
    same_b, same_a = generator(b, a)
    loss = loss + terms["identity"] * (F.l1_loss(same_a, a) + F.l1_loss(same_b, b))
    return gradients, _gradients(loss, generator)


def _between(critic: nn.Module, ops: str, real: Tensor, fake: Tensor, weight: float) -> Tensor:
    """The WGAN-GP penalty."""
    eps = torch.linspace(0.1, 0.9, real.shape[0], dtype=real.dtype, device=real.device)
    if ops == "fused":
        return losses.wgan_gp(critic, real, fake, weight, eps=eps)
    mix = eps[:, None, None, None]
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return weight * (g.square().sum((1, 2, 3)).sqrt() - 1).square().mean()


def _gradients(loss: Tensor, network: nn.Module) -> Tensor:
    return norm(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


def norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """The norm of all gradients of a network, which is what is compared; in :func:`whole_gradients` all of them in one vector.

    One by one they cannot be: that of a bias before a norm is rounding and nothing else, and where a rectifier or an absolute
    value is so near its kink that two roundings take two branches, a whole filter's gradient moves by a thousandth.
    """
    vector = torch.cat([g.flatten() for g in gradients if g is not None])
    return vector if _whole else torch.linalg.vector_norm(vector)


_whole = False


@contextmanager
def whole_gradients() -> Iterator[None]:
    """Within, steps return their gradients and not these' norm: of two norms that are off, the nearer one may be so by luck.

    They are first steps, of networks of their own: those that are being timed stay, and as they are.
    """
    global _whole
    before, _whole = _whole, True
    contents = [dict(each) for each in _stores]
    for each in _stores:
        each.clear()
    try:
        yield
    finally:
        _whole = before
        for each, content in zip(_stores, contents, strict=True):
            each.clear()
            each.update(content)


def _samples() -> list[Sample]:
    """One for each family, in float32: half types alone are not what models are trained or sampled in."""
    made = []
    for name, family in FAMILIES.items():
        description = f"{name} at {small_config(name).resolution}^2 x {BATCH}, few channels: {family.title}"
        wide = (torch.float32, torch.float64)
        tags = frozenset({"quick", "full"})
        made.append(Sample(name, _make(name), (), tags, layouts=("nchw",), dtypes=wide, description=description))
    return made


MODELS = {
    name: OpSpec(
        name, public, reference, lambda **_: (), table=None, samples=_samples(), derivative_order=0, image=_GENERATOR + "0"
    )
    for name, public, reference in (
        ("model_forward", _forward("fused"), _forward("reference")),
        ("model_step", _step("fused"), _step("reference")),
    )
}
"""The rows by name."""
