"""The merged gradient: loss and gradient penalty of a piecewise linear critic for the price of 4 convolutions a layer, not 6.

With one logit l_n a sample and no normalisation the critic is piecewise linear in its images. Let g be the cotangent of 1 at a
layer's output, x its input and P = r / (2 N) sum_n |dl_n/dimage|^2. The gradient of P in a parameter is that of the logits'
tangents along v = r/N dl/dimage, which run through the layers linearly, the masks being constants: x' before a layer. So

    dP/dW = W(x', g),  dLoss/dW = W(x, c g) with c = dLoss/dl_n,  both together W(c x + x', g),  db = sum of c g,

with the weight gradient W(x, g) of ``gankern.ops.conv2d``. A penalised batch costs forward, input gradient, tangent and weight
gradient: 4 units a layer, where a plain training step has 3 and double backward 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from gankern import ops
from gankern._dtypes import wide
from gankern.losses._program import Program, modes, qualify, signature
from gankern.losses._tape import Tape, Unfit
from gankern.losses.penalties import _images, _not_negative

_OP = "PenalizedStep"
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Penalized:
    """What a step found, all detached.

    Attributes:
        loss: the user's loss, without penalties.
        r1: penalty on real images, 0 without.
        r2: penalty on generated images, 0 without.
        real_logits: as the critic gave them.
        fake_logits: likewise.
    """

    loss: Tensor
    r1: Tensor
    r2: Tensor
    real_logits: Tensor
    fake_logits: Tensor


class PenalizedStep:
    """A critic's training step with R1 and R2 penalties, by the merged gradient where the critic's layers allow it.

    Gradients are those of ``loss(critic(real), critic(fake)) + R1 + R2`` with R1 = ``r1 / 2`` times the batch mean of the
    squared norm of dlogit/dimage on real images, and R2 the same on generated ones:

        step = PenalizedStep(critic, lambda real, fake: F.softplus(fake - real).mean(), r1=10, r2=10)
        optimizer.zero_grad()
        step.backward(real, fake)
        optimizer.step()

    A critic qualifies for the merged gradient if it gives one logit a sample and is made of convolutions, linear layers,
    (leaky) rectifiers, FIR filters, average and max pooling, residual sums, factors and reshapes; with equalised or spectrally
    normalised weights. It does not with normalisation or statistics of activations, smooth activations, dropout in training
    mode, several logits a sample or forward hooks. What was decided, and why, :meth:`explain` says. The decision is made at
    the first step, by tracing ``critic.forward`` (torch.fx) and running it on three samples, and again when attributes, modes
    or image sizes change; a forward whose course depends on anything else (global variables, Python's random numbers) should
    not be given to this class.

    Args:
        critic: module of images [N, ...] to logits [N] or [N, 1]; also in ``DistributedDataParallel``.
        loss: (real logits, fake logits) to a scalar, with the mean over the batch taken in it. Its own parameters get no
            gradients.
        r1: weight gamma of the penalty on real images, not negative. Default 0: none. The attributes ``r1`` and ``r2`` may be
            changed between steps (lazy regularisation).
        r2: the same on generated images. Default 0.
        fallback: where the critic does not qualify, do plain double backward. False raises ValueError instead. Default True.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; the message names it and what is accepted.

    Gradients: into ``.grad`` of the critic's parameters, as ``loss.backward()`` does: they accumulate, frozen parameters get
    none, and hooks of parameters run, DistributedDataParallel's too.

    Source: Mescheder et al. 2018 (R1, R2); Pearlmutter, "Fast exact multiplication by the Hessian", 1994 (the tangent pass).
    """

    def __init__(self, critic: nn.Module, loss: Loss, r1: float = 0.0, r2: float = 0.0, fallback: bool = True) -> None:
        if not isinstance(critic, nn.Module):
            raise TypeError(f"{_OP}: critic must be a torch.nn.Module, got {type(critic).__name__}")
        if not callable(loss):
            raise TypeError(f"{_OP}: loss must be a function of (real logits, fake logits), got {type(loss).__name__}")
        if not isinstance(fallback, bool):
            raise TypeError(f"{_OP}: fallback must be a bool, got {fallback!r}")
        self.critic, self.loss, self.fallback = critic, loss, fallback
        self.r1, self.r2 = _not_negative(_OP, "r1", r1), _not_negative(_OP, "r2", r2)
        self._decisions: dict[Any, Program | Unfit] = {}
        self._last: str = "not decided yet: the first step does, or explain(real)"

    def backward(self, real: Tensor, fake: Tensor, scale: float | Tensor = 1.0) -> Penalized:
        """Add the gradients of loss and penalties to ``.grad`` of the critic's parameters.

        Args:
            real: images [N, ...].
            fake: images [M, ...]; no gradient reaches their generator.
            scale: factor on all gradients: 1 / micro-batches for accumulation, ``GradScaler.get_scale()``. A number, or a
                tensor of one. Default 1.

        Returns:
            :class:`Penalized`, not scaled.

        Raises:
            TypeError, ValueError: images that are no floating-point tensors [N, ...], or empty; a critic or a loss that gives
                what it may not; a critic that does not qualify, with ``fallback=False``.
        """
        scale = self._checked(real, fake, scale)
        module = self.critic
        if not isinstance(module, DistributedDataParallel):
            delivery, found = self._compute(module, real, fake, scale)
            delivery.backward()
            return found
        # DistributedDataParallel prepares its reduction around a forward pass of its own: the whole step is that pass.
        inner, own = module.module, dict(module.module.__dict__)
        made: list[tuple[Tensor, Penalized]] = []

        def restore() -> None:
            inner.__dict__.pop("forward", None)
            if "forward" in own:
                inner.__dict__["forward"] = own["forward"]

        def forward(real: Tensor, fake: Tensor) -> Tensor:
            restore()
            made.append(self._compute(inner, real, fake, scale))
            return made[0][0]

        inner.__dict__["forward"] = forward
        try:
            delivery = module(real, fake)
        finally:
            restore()
        delivery.backward()
        return made[0][1]

    def gradients(self, real: Tensor, fake: Tensor, scale: float | Tensor = 1.0) -> list[Tensor | None]:
        """The gradients that :meth:`backward` would add, in the order of ``critic.parameters()``; None where it adds none.

        Args:
            real: as for :meth:`backward`.
            fake: as for :meth:`backward`.
            scale: as for :meth:`backward`. Default 1.
        """
        scale = self._checked(real, fake, scale)
        module = _inner(self.critic)
        delivery, _ = self._compute(module, real, fake, scale)
        parameters = list(module.parameters())
        asked = [p for p in parameters if p.requires_grad]
        found = iter(torch.autograd.grad(delivery, asked, allow_unused=True))
        return [next(found) if p.requires_grad else None for p in parameters]

    def explain(self, real: Tensor | None = None) -> str:
        """Which way steps go, and why.

        Args:
            real: images to decide for, which changes nothing else. Default None: what the last step did.
        """
        if real is not None:
            _images(_OP, "real", real)
            self._decide(_inner(self.critic), real)
        return self._last

    # ---- the decision -------------------------------------------------------------------------------------------------------
    def _checked(self, real: Any, fake: Any, scale: Any) -> Any:
        """The scale, after all checks: a number, or a tensor without dimensions, which changes no dtype."""
        _images(_OP, "real", real)
        _images(_OP, "fake", fake)
        if isinstance(scale, Tensor) and scale.numel() == 1:
            return scale.detach().reshape(())
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"{_OP}: scale must be a number or a tensor of one, got {scale!r}")
        return scale

    def _decide(self, module: nn.Module, images: Tensor) -> Program | None:
        """The program of the merged gradient, or None for double backward."""
        if self.r1 == self.r2 == 0:
            self._last = "no penalty: plain forward and backward"
            return None
        key = (signature(module), images.shape[1:], images.shape[0] == 1, images.dtype, images.device, modes())
        if key not in self._decisions:
            if len(self._decisions) >= 16:
                self._decisions.clear()
            self._decisions[key] = qualify(module, images)
        return self._take(self._decisions[key])

    def _take(self, decision: Program | Unfit) -> Program | None:
        if isinstance(decision, Program):
            self._last = "merged gradient: forward, input gradient, tangent, weight gradient"
            return decision
        why = f"{decision.where}: {decision}" if decision.where else str(decision)
        self._last = f"plain double backward: {why}"
        if not self.fallback:
            raise ValueError(f"{_OP}: the critic does not qualify for the merged gradient (fallback=False): {why}")
        return None

    # ---- the step -----------------------------------------------------------------------------------------------------------
    def _compute(self, module: nn.Module, real: Tensor, fake: Tensor, scale: Any) -> tuple[Tensor, Penalized]:
        """A tensor whose ``backward()`` brings the gradients to the parameters, and the result."""
        batches, weights = (real.detach(), fake.detach()), (self.r1, self.r2)
        with torch.enable_grad():
            programs: list[Program | None] = [None, None]
            if not any(weights):
                self._decide(module, real)
            for i in (0, 1):
                if weights[i]:
                    programs[i] = self._decide(module, batches[i])
                    if programs[i] is None:  # one way for both batches
                        return self._double(module, batches, weights, scale)
            try:
                return self._merged(module, batches, weights, programs, scale)
            except Unfit as unfit:  # what a few samples did not show
                self._take(unfit)
                return self._double(module, [x.detach() for x in batches], weights, scale)

    def _merged(self, module: nn.Module, batches: Any, weights: Any, programs: Any, scale: Any) -> tuple[Tensor, Penalized]:
        runs: list[Any] = []
        for x, program in zip(batches, programs, strict=True):
            tape = Tape(x.shape[0])
            x = x.requires_grad_() if program is not None else x
            runs.append((x, tape, module(x) if program is None else program.run(x, tape)))
        leaves = [logits.detach().requires_grad_() for *_, logits in runs]
        loss = self._loss(*leaves)
        cotangents = torch.autograd.grad(loss, leaves, allow_unused=True)
        gradients: list[tuple[Tensor, Tensor]] = []
        penalties = []
        for i, (weight, program, c) in enumerate(zip(weights, programs, cotangents, strict=True)):
            x, tape, logits = runs[i]
            runs[i] = None  # the graph of one batch goes before the second passes of the other come
            c = torch.zeros_like(logits) if c is None else c * scale
            exact = wide(x.dtype)
            if program is None:
                penalties.append(torch.zeros((), dtype=exact, device=x.device))
                gradients.append((logits, c.to(logits.dtype)))
                continue
            one = torch.ones_like(logits).requires_grad_()
            (g,) = torch.autograd.grad(logits, x, one, create_graph=True)
            penalties.append(_penalty(g.detach(), weight))
            tape.cotangents = c.reshape(-1).to(exact)
            # The derivative of <g, v> in the cotangents of 1 runs through the layers as their tangents along v.
            torch.autograd.grad(g, one, g.detach() * (weight / x.shape[0]) * scale)
            gradients += tape.finish()
        return self._delivered(loss, gradients), self._found(loss, penalties, leaves)

    def _double(self, module: nn.Module, batches: Any, weights: Any, scale: Any) -> tuple[Tensor, Penalized]:
        logits, penalties = [], []
        with _Convolutions():
            for x, weight in zip(batches, weights, strict=True):
                logits.append(module(x.requires_grad_() if weight else x))
            loss = self._loss(*logits)
            for x, y, weight in zip(batches, logits, weights, strict=True):
                if not weight:
                    penalties.append(torch.zeros((), dtype=wide(x.dtype), device=x.device))
                    continue
                (g,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
                penalties.append(_penalty(g, weight))
        total = loss + sum(p for p, weight in zip(penalties, weights, strict=True) if weight)
        return total * scale, self._found(loss, penalties, logits)

    def _loss(self, *logits: Tensor) -> Tensor:
        loss = self.loss(*logits)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.requires_grad:
            got = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) and loss.dim() else f"{loss!r}"
            raise ValueError(f"{_OP}: loss must give a scalar tensor that depends on the logits, got {got}")
        return loss

    def _delivered(self, loss: Tensor, gradients: list[tuple[Tensor, Tensor]]) -> Tensor:
        if not any(t.requires_grad for t, _ in gradients):
            raise ValueError(f"{_OP}: no parameter of the critic requires gradients")
        tensors, values = zip(*gradients, strict=True)
        made: Tensor = _Deliver.apply(loss.detach(), values, *tensors)  # type: ignore[no-untyped-call]
        return made

    def _found(self, loss: Tensor, penalties: list[Tensor], logits: list[Tensor]) -> Penalized:
        return Penalized(*(t.detach() for t in (loss, *penalties, *logits)))


class _Deliver(torch.autograd.Function):
    """Ready gradients on their way through autograd, so that what was made of parameters (equalised, spectrally normalised
    weights) carries them on, and hooks of parameters see them.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *gradients


_OURS: dict[Any, Any] = {torch.conv2d: ops.conv2d, torch.conv_transpose2d: ops.conv_transpose2d}


class _Convolutions(TorchFunctionMode):
    """PyTorch's 2-D convolutions replaced by gankern's, whose double backward costs what it should."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x = args[0] if args else None
        if function in _OURS and isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point():
            function = _OURS[function]
        return function(*args, **(kwargs or {}))


def _penalty(gradient: Tensor, weight: float) -> Tensor:
    """``weight / 2`` times the mean over the batch of the squared norm."""
    return gradient.to(wide(gradient.dtype)).square().sum() * (weight / 2 / gradient.shape[0])


def _inner(critic: nn.Module) -> nn.Module:
    return critic.module if isinstance(critic, DistributedDataParallel) else critic
