"""Unrolled GANs: the generator plays against the discriminator that its images will have made in some steps' time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gankern._validate import number

Objective = Callable[[Tensor, Tensor], Tensor]
Inputs = Tensor | tuple[Any, ...]

_OP = "unroll"


class UnrolledDiscriminator:
    """A discriminator some steps ahead, as a function; its parameters depend on the images that made the steps.

    Attributes:
        parameters: name to value after the last step, with the graph of all steps (without, if not ``differentiable``). Frozen
            parameters are the module's own values.
        losses: what the discriminator's loss was before each step, detached, [steps].
    """

    def __init__(self, module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], losses: Tensor) -> None:
        self._module, self.parameters, self._buffers, self.losses = module, parameters, buffers, losses

    def __call__(self, *inputs: Any) -> Tensor:
        """Logits of images (and labels): what ``discriminator(*inputs)`` would say after the steps."""
        return _run(self._module, self.parameters, self._buffers, inputs)


def unroll(
    discriminator: nn.Module,
    loss: Objective,
    real: Inputs,
    fake: Inputs,
    steps: int = 5,
    optimizer: str | torch.optim.Optimizer = "adam",
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
    eps: float = 1e-8,
    differentiable: bool = True,
) -> UnrolledDiscriminator:
    """Let the discriminator take some steps against these images without changing it, and keep their graph.

    The generator's gradient then has a second term: how its images move the discriminator of the future. That term punishes
    putting everything on one mode, which the discriminator would find out (Metz et al., equation 11).

        ahead = unroll(discriminator, loss.discriminator, real, generator(z), steps=5)
        value = -loss.discriminator(ahead(real), ahead(generator(z)))   # real images count: the steps depend on the fakes
        value.backward()    # into the generator alone

    :func:`unrolled_loss` is these lines. Each step costs a forward and a backward pass, and what they saved is kept until
    ``backward``: time and memory grow with ``steps``.

    Args:
        discriminator: module of images (and labels) to logits; also in DistributedDataParallel, whose module is taken: its
            parameters get no gradients. Neither its parameters, nor their ``.grad``, nor its buffers (batch and spectral
            norm) are changed; a dropout's masks are drawn anew in each step. Needs derivatives of second order.
        loss: (real logits, fake logits) to the scalar that the discriminator minimises, as
            :meth:`gankern.losses.AdversarialLoss.discriminator`.
        real: images [N, ...], or a tuple of the discriminator's arguments (images, labels). All steps are made with them.
        fake: generated images, with the graph of the generator, or such a tuple.
        steps: how many, 0 or more. Default 5.
        optimizer: 'sgd' or 'adam', starting from nothing; or the discriminator's own torch.optim.SGD or torch.optim.Adam, from
            the state that it is in (which is not changed): the steps are those that it would make. Default 'adam'.
        lr: of 'sgd' and 'adam', positive. Default 1e-3.
        betas: of 'adam', each 0 to below 1. Default (0.5, 0.999).
        eps: of 'adam', positive. Where all gradients of a parameter are 0, Adam's step has a derivative of up to lr / eps.
            Default 1e-8.
        differentiable: keep the graph of the steps. False leaves the first term of the gradient alone: a generator that plays
            against a better discriminator but does not know that it moves it. Default True.

    Returns:
        An :class:`UnrolledDiscriminator`: call it as the discriminator.

    Raises:
        TypeError: arguments of a wrong type; an optimizer that is neither SGD nor Adam.
        ValueError: values that are not accepted; a discriminator without parameters that require gradients, or with some that
            the given optimizer does not have; a loss that is no scalar of the logits; settings of an optimizer that are not
            known here (amsgrad, maximize).

    Gradients: in ``fake`` and what it was made of, of as many orders as the discriminator has, less one; also under
    ``torch.no_grad()`` the steps are made.

    Source: Metz, Poole, Pfau, Sohl-Dickstein, "Unrolled generative adversarial networks", 2017, equations 7 to 11.
    """
    module = discriminator
    if isinstance(module, (DistributedDataParallel, DataParallel)):
        module = module.module
    if not isinstance(module, nn.Module):
        raise TypeError(f"{_OP}: discriminator must be a torch.nn.Module, got {type(module).__name__}")
    if not callable(loss):
        raise TypeError(f"{_OP}: loss must be a function of (real logits, fake logits), got {type(loss).__name__}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{_OP}: steps must be an int of 0 or more, got {steps!r}")
    real, fake = _inputs("real", real), _inputs("fake", fake)
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not own:
        raise ValueError(f"{_OP}: discriminator has no parameter that requires gradients")
    rules = _rules(own, optimizer, lr, betas, eps)

    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    parameters = {name: p.detach().clone().requires_grad_() for name, p in own.items()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    if not differentiable:
        fake_inputs: tuple[Any, ...] = tuple(x.detach() if isinstance(x, Tensor) else x for x in fake)
    else:
        fake_inputs = fake
    losses = []
    with torch.enable_grad():
        for _ in range(steps):
            value = loss(
                _run(module, frozen | parameters, buffers, real), _run(module, frozen | parameters, buffers, fake_inputs)
            )
            if not isinstance(value, Tensor) or value.dim() != 0 or not value.requires_grad:
                got = f"shape {list(value.shape)}" if isinstance(value, Tensor) and value.dim() else f"{value!r}"
                raise ValueError(f"{_OP}: loss must give a scalar tensor that depends on the logits, got {got}")
            losses.append(value.detach())
            found = torch.autograd.grad(value, list(parameters.values()), create_graph=differentiable, allow_unused=True)
            for (name, p), gradient in zip(list(parameters.items()), found, strict=True):
                if gradient is None:  # as torch.optim: what the loss does not reach stays as it is
                    continue
                moved = rules[name](p if differentiable else p.detach(), gradient)
                parameters[name] = moved if differentiable else moved.detach().requires_grad_()
    if not differentiable or not steps:
        parameters = {name: p.detach() for name, p in parameters.items()}
    wide = torch.stack(losses) if losses else torch.zeros(0)
    return UnrolledDiscriminator(module, frozen | parameters, buffers, wide)


def unrolled_loss(discriminator: nn.Module, loss: Objective, real: Inputs, fake: Inputs, **settings: Any) -> Tensor:
    """What the generator minimises against a discriminator some steps ahead: minus the loss that this one then has.

    Args:
        discriminator: as for :func:`unroll`.
        loss: as for :func:`unroll`. The paper's is that of :class:`gankern.losses.Minimax`.
        real: as for :func:`unroll`.
        fake: as for :func:`unroll`, with the graph of the generator.
        **settings: of :func:`unroll`: steps, optimizer, lr, betas, eps, differentiable.

    Returns:
        A scalar: ``-loss(D_k(real), D_k(fake))``.

    Raises:
        TypeError, ValueError: as :func:`unroll`.

    Gradients: as :func:`unroll`; the discriminator's parameters get none.

    Source: Metz et al. 2017, equations 7 and 8.
    """
    ahead = unroll(discriminator, loss, real, fake, **settings)
    return -loss(ahead(*_inputs("real", real)), ahead(*_inputs("fake", fake)))


def _run(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
    made: Tensor = functional_call(module, {**parameters, **buffers}, inputs)
    return made


def _inputs(name: str, value: Any) -> tuple[Any, ...]:
    inputs = value if isinstance(value, tuple) else (value,)
    if not inputs or not isinstance(inputs[0], Tensor):
        got = "an empty tuple" if not inputs else type(inputs[0]).__name__
        raise TypeError(f"{_OP}: {name} must be images [N, ...] or a tuple of the discriminator's arguments, got {got}")
    return inputs


# ---- the optimizers, as functions -------------------------------------------------------------------------------------------
@dataclass
class _SGD:
    """torch.optim.SGD of one parameter; nothing is changed in place."""

    lr: float | Tensor
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    velocity: Tensor | None = None

    def __call__(self, p: Tensor, gradient: Tensor) -> Tensor:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * p
        if self.momentum:
            self.velocity = (
                gradient if self.velocity is None else self.momentum * self.velocity + (1 - self.dampening) * gradient
            )
            gradient = gradient + self.momentum * self.velocity if self.nesterov else self.velocity
        return p - self.lr * gradient


@dataclass
class _Adam:
    """torch.optim.Adam, or AdamW if ``decoupled``, of one parameter; nothing is changed in place."""

    lr: float | Tensor
    betas: tuple[float, float]
    eps: float
    weight_decay: float = 0.0
    decoupled: bool = False
    step: float = 0
    mean: Tensor | None = None
    square: Tensor | None = None

    def __call__(self, p: Tensor, gradient: Tensor) -> Tensor:
        if self.weight_decay and self.decoupled:
            p = p * (1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * p
        b1, b2 = self.betas
        self.step += 1
        before = (0.0, 0.0) if self.mean is None or self.square is None else (self.mean, self.square)
        self.mean = b1 * before[0] + (1 - b1) * gradient
        self.square = b2 * before[1] + (1 - b2) * gradient.square()
        mean, square = self.mean / (1 - b1**self.step), self.square / (1 - b2**self.step)
        # The root has no derivative at 0, where a dead unit's gradients are: a subgradient of 0 rather than NaN.
        zero = square == 0
        return p - self.lr * mean / (torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt()) + self.eps)


def _rules(own: dict[str, nn.Parameter], optimizer: Any, lr: Any, betas: Any, eps: Any) -> dict[str, Callable[..., Tensor]]:
    """The step of each parameter."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return _of_optimizer(own, optimizer)
    if optimizer not in ("sgd", "adam"):
        text = "'sgd', 'adam', a torch.optim.SGD or a torch.optim.Adam"
        raise ValueError(f"{_OP}: optimizer must be {text}, got {optimizer!r}")
    lr, eps = number(_OP, "lr", lr), number(_OP, "eps", eps)
    for name, value in (("lr", lr), ("eps", eps)):
        if value <= 0:
            raise ValueError(f"{_OP}: {name} must be positive, got {value!r}")
    if optimizer == "sgd":
        return {name: _SGD(lr) for name in own}
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"{_OP}: betas must be two numbers, got {betas!r}")
    b1, b2 = (number(_OP, "betas", b) for b in betas)
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError(f"{_OP}: betas must each be 0 to below 1, got {tuple(betas)!r}")
    return {name: _Adam(lr, (b1, b2), eps) for name in own}


def _of_optimizer(own: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Callable[..., Tensor]]:
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise TypeError(f"{_OP}: optimizer must be torch.optim.SGD, Adam or AdamW, got {kind.__name__}")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rules: dict[str, Callable[..., Tensor]] = {}
    for name, p in own.items():
        group = groups.get(id(p))
        if group is None:
            raise ValueError(f"{_OP}: optimizer does not have the discriminator's parameter {name!r}")
        for setting in ("maximize", "amsgrad"):
            if group.get(setting):
                raise ValueError(f"{_OP}: optimizer must not have {setting}, got True")
        state = {k: v.detach() if isinstance(v, Tensor) else v for k, v in optimizer.state.get(p, {}).items()}
        if kind is torch.optim.SGD:
            rules[name] = _SGD(
                group["lr"], group["momentum"], group["dampening"], group["weight_decay"], group["nesterov"],
                state.get("momentum_buffer"),
            )  # fmt: skip
        else:
            rules[name] = _Adam(
                group["lr"], tuple(group["betas"]), group["eps"], group["weight_decay"],
                kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay")),
                float(state.get("step", 0)), state.get("exp_avg"), state.get("exp_avg_sq"),
            )  # fmt: skip
    return rules


__all__ = ["UnrolledDiscriminator", "unroll", "unrolled_loss"]
