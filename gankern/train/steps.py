"""What one step of training is: the discriminator's part and the generator's part, for generators of latents.

A game owns both networks' optimizers and whatever its losses remember. :mod:`gankern.train.translation` has the games of
image-to-image models; :func:`gankern.train.loop.train` calls all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import losses
from gankern._dtypes import wide
from gankern.data.dataset import Batch
from gankern.losses.adversarial import AdversarialLoss, LeastSquares, Relativistic, Wasserstein, adversarial
from gankern.models import GAN, MGANDiscriminator, MGANGenerator, StyleGenerator, orthogonal_penalty
from gankern.models.biggan import BigGANBase
from gankern.models.progan import Growing
from gankern.models.wgan import clip_weights_
from gankern.nn import PathLengthPenalty
from gankern.train.distributed import Workers, backward
from gankern.train.growing import Growth
from gankern.train.settings import BETWEEN, Settings
from gankern.train.unrolled import unrolled_loss

Stats = dict[str, Tensor]
"""What a step found, by name: scalars without gradients."""


def make_optimizer(network: nn.Module, settings: Settings, lr: float) -> torch.optim.Optimizer:
    """The optimizer of one network, for filled settings."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    assert settings.betas is not None
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=settings.betas[0])
    return torch.optim.Adam(parameters, lr, settings.betas)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients in the network's parameters, which the other network's step does not want."""
    thawed = [p for p in network.parameters() if p.requires_grad]
    for p in thawed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in thawed:
            p.requires_grad_(True)


def exact(x: Tensor) -> Tensor:
    """Images or logits in float32 whatever autocast made of them (float64 stays)."""
    return x.to(wide(x.dtype))


def accuracy(loss: AdversarialLoss, real: Tensor, fake: Tensor) -> Tensor | None:
    """The share of images that the discriminator tells apart: 0.5 is chance. None for critics, which have no threshold."""
    if isinstance(loss, Wasserstein):
        return None
    if isinstance(loss, Relativistic):
        return (real > fake).float().mean()
    threshold = (loss.real_label + loss.fake_label) / 2 if isinstance(loss, LeastSquares) else 0.0
    return ((real > threshold).float().mean() + (fake < threshold).float().mean()) / 2


class Game:
    """What the games have in common: loss, optimizers, precision, the discriminator's objective and its penalties.

    Args:
        gan: both networks, on the device of the team.
        generator: ``gan.generator``, or that in DistributedDataParallel.
        critic: ``gan.discriminator``, likewise.
        settings: filled (:func:`gankern.train.settings.fill`).
        team: the processes.

    Attributes:
        loss: the adversarial loss.
        optimizer_g: of the generator.
        optimizer_d: of the discriminator.
    """

    def __init__(self, gan: GAN, generator: nn.Module, critic: nn.Module, settings: Settings, team: Workers) -> None:
        assert settings.loss is not None and settings.lr is not None and settings.lr_d is not None
        self.gan, self.generator, self.critic, self.settings, self.team = gan, generator, critic, settings, team
        options = dict(settings.loss_options)
        if options.get("label_noise"):
            options["seed"] = options.get("seed", settings.seed) + team.rank  # flips of each rank's own
        self.loss = adversarial(settings.loss, **options)
        self.optimizer_g = make_optimizer(gan.generator, settings, settings.lr)
        self.optimizer_d = make_optimizer(gan.discriminator, settings, settings.lr_d)
        self.weights = {name: float(w) for name, w in settings.penalties.items() if w}
        # R1 and R2 by the merged gradient where the critic allows it; PenalizedStep says no by itself where not.
        self.penalized = losses.PenalizedStep(critic, self._weighted_loss)

    def critic_step(self, batch: Batch, index: int) -> Stats:
        """One step of the discriminator, which is the ``index``-th of all, on a batch."""
        raise NotImplementedError

    def generator_step(self, batch: Batch, index: int) -> Stats:
        """One step of the generator, which is the ``index``-th of all; ``batch`` has the real images and labels."""
        raise NotImplementedError

    def prepare(self, step: int) -> None:
        """Get ready for a step, counted from 0: learning rates."""
        s = self.settings
        assert s.lr_decay is not None and s.lr is not None and s.lr_d is not None
        start = s.lr_decay * s.steps
        factor = 1.0 if step < start else 1 - (step - start) / (s.steps - start)
        for optimizer, lr in ((self.optimizer_g, s.lr), (self.optimizer_d, s.lr_d)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def shown(self, images: Tensor) -> Tensor:
        """Real images as the discriminator is to see them now."""
        return images

    # ---- what they share ----------------------------------------------------------------------------------------------------
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.settings.autocast == "bf16")

    def _weighted_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        assert self.settings.d_weight is not None
        return self.settings.d_weight * self.loss.discriminator(real_logits, fake_logits)

    def _due(self, index: int) -> tuple[float, float]:
        """Weights of R1 and R2 in this step: lazy regularisation has them seldom, and as many times as large."""
        every = self.settings.r1_every
        assert every is not None
        if index % every:
            return 0.0, 0.0
        return self.weights.get("r1", 0.0) * every, self.weights.get("r2", 0.0) * every

    def _critic_update(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, index: int, plain: bool) -> Stats:
        """Gradients of loss and penalties, and the optimizer's step.

        Args:
            critic: images to logits.
            real: images.
            fake: images, without gradients.
            index: of the step.
            plain: ``critic`` is the network itself, which takes images alone.
        """
        every = self.settings.r1_every
        assert every is not None
        r1, r2 = self._due(index)
        between = [name for name in BETWEEN if name in self.weights]
        stats: Stats = {}
        self.optimizer_d.zero_grad()
        if plain and (r1 or r2) and not between:
            self.penalized.r1, self.penalized.r2 = r1, r2
            with self.autocast():
                found = self.penalized.backward(real, fake)
            real_logits, fake_logits = found.real_logits, found.fake_logits
            stats["loss_d"] = found.loss
            stats |= {name: value / every for name, value, w in (("r1", found.r1, r1), ("r2", found.r2, r2)) if w}
        else:
            made: list[Tensor] = []

            def objective() -> Tensor:
                with self.autocast():
                    x = real.detach().requires_grad_() if r1 else real
                    y = fake.detach().requires_grad_() if r2 else fake
                    made[:] = critic(x), critic(y)
                    total = stats["loss_d"] = self._weighted_loss(*made)
                    for name, weight, penalty, images, logits in (
                        ("r1", r1, losses.r1_penalty, x, made[0]),
                        ("r2", r2, losses.r2_penalty, y, made[1]),
                    ):
                        if weight:
                            value = penalty(logits, images, weight)
                            total, stats[name] = total + value, value / every
                    for name in between:
                        stats[name] = losses.wgan_gp(critic, real, fake, self.weights[name], one_sided=BETWEEN[name])
                        total = total + stats[name]
                    return total

            backward(self.critic, objective)
            real_logits, fake_logits = made
        self._critic_moves()
        return self._reported(stats, real_logits, fake_logits)

    def _generator_loss(self, fake_logits: Tensor, real_logits: Callable[[], Tensor]) -> Tensor:
        """The adversarial loss; ``real_logits`` is called, without gradients, where the loss compares with them."""
        real = None
        if self.loss.needs_real:
            with torch.no_grad():
                real = real_logits()
        return self.loss.generator(fake_logits, real)

    def _generator_update(self, stats: Stats, objective: Callable[[], Tensor], freeze: bool = True) -> Stats:
        """Gradients of ``objective``, and the optimizer's step.

        Args:
            stats: where ``objective`` leaves its terms.
            objective: gives the loss.
            freeze: leave the discriminator without gradients.
        """
        self.optimizer_g.zero_grad()
        with frozen(self.gan.discriminator) if freeze else nullcontext():
            backward(self.generator, objective)
        self.optimizer_g.step()
        return {name: value.detach() for name, value in stats.items()}

    def _reported(self, stats: Stats, real_logits: Tensor, fake_logits: Tensor) -> Stats:
        real, fake = exact(real_logits.detach()), exact(fake_logits.detach())
        stats |= {"real": real.mean(), "fake": fake.mean()}
        share = accuracy(self.loss, real, fake)
        if share is not None:
            stats["accuracy"] = share
        return {name: value.detach() for name, value in stats.items()}

    def _critic_moves(self) -> None:
        self.optimizer_d.step()
        if "clip" in self.weights:
            clip_weights_(self.gan.discriminator, self.weights["clip"])

    # ---- checkpoints --------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """What all ranks have alike."""
        return {"optimizer_g": self.optimizer_g.state_dict(), "optimizer_d": self.optimizer_d.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])

    def rank_state_dict(self) -> dict[str, Any]:
        """What is this rank's own: random numbers of label noise, pools."""
        return {"loss": self.loss.state_dict()}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`rank_state_dict`."""
        self.loss.load_state_dict(state["loss"])


class LatentGame(Game):
    """Images from latents, perhaps of classes: every family but pix2pix and CycleGAN."""

    def __init__(self, gan: GAN, generator: nn.Module, critic: nn.Module, settings: Settings, team: Workers) -> None:
        super().__init__(gan, generator, critic, settings, team)
        g: Any = gan.generator
        self.classes = bool(g.num_classes)
        self.growth: Growth | None = None
        if isinstance(g, Growing):
            self.growth = Growth([g, gan.discriminator], settings.steps, settings.grow)  # type: ignore[list-item]
        every = settings.path_length_every
        assert every is not None
        self.path_length: PathLengthPenalty | None = None
        if "path_length" in self.weights:
            if not isinstance(g, StyleGenerator):
                raise ValueError(f"penalties: path_length is for style-based generators, {settings.model} is none")
            self.path_length = PathLengthPenalty(self.weights["path_length"], every=every).to(team.device)
        if "orthogonal" in self.weights and not isinstance(g, BigGANBase):
            raise ValueError(f"penalties: orthogonal is for BigGAN, got {settings.model}")
        if "classifier" in self.weights:
            if not isinstance(g, MGANGenerator):
                raise ValueError(f"penalties: classifier is for mgan, got {settings.model}")
            beside = sorted({"r1", "r2", *BETWEEN} & set(self.weights))
            if beside:
                raise ValueError(f"penalties: classifier does not go with {', '.join(beside)}: set one of them to 0")
        if settings.unrolled and ("classifier" in self.weights or settings.optimizer == "rmsprop"):
            raise ValueError("unrolled goes with the optimizers adam and sgd, and not with the penalty classifier")
        if settings.style_mixing and not isinstance(g, StyleGenerator):
            raise ValueError(f"style_mixing is for style-based generators, {settings.model} is none")

    def prepare(self, step: int) -> None:
        """Learning rates, and ProGAN's growth."""
        super().prepare(step)
        if self.growth is not None:
            self.growth.prepare(step)

    def shown(self, images: Tensor) -> Tensor:
        """Real images, at the resolution that ProGAN has reached."""
        return images if self.growth is None else self.growth.shown(images)

    def fakes(self, count: int, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents and their images, with style mixing; style-based generators follow the mean of w."""
        g: Any = self.gan.generator
        z = g.sample_z(count)
        options: dict[str, Any] = {}
        if isinstance(g, StyleGenerator):
            options["update_w_avg"] = True
            if self.settings.style_mixing:
                options |= {"mixed_z": g.sample_z(count), "crossover": g.sample_crossover(count, self.settings.style_mixing)}
        return z, g(z, labels, **options)

    def _labels(self, batch: Batch) -> Tensor | None:
        return batch.labels if self.classes else None

    def critic_step(self, batch: Batch, index: int) -> Stats:
        """Real images against as many generated ones, of the same classes."""
        d: Any = self.gan.discriminator
        real, labels = self.shown(batch.images), self._labels(batch)
        with torch.no_grad(), self.autocast():
            z, fake = self.fakes(len(real), labels)
        fake = exact(fake)
        if "classifier" in self.weights:
            return self._classifying_step(d, real, fake, self.gan.generator.component(z))  # type: ignore[operator]
        critic = (lambda x: d(x, labels)) if labels is not None else d
        return self._critic_update(critic, real, fake, index, plain=labels is None)

    def _classifying_step(self, d: MGANDiscriminator, real: Tensor, fake: Tensor, component: Tensor) -> Stats:
        """MGAN's: the discriminator learns beside which generator made an image (Hoang et al. 2018, equation 2)."""
        stats: Stats = {}
        made: list[Tensor] = []

        def objective() -> Tensor:
            with self.autocast():
                fake_logits, which = d.heads(fake)
                made[:] = d(real), fake_logits
                stats["loss_d"] = self._weighted_loss(*made)
                stats["classifier"] = F.cross_entropy(exact(which), component)
                return stats["loss_d"] + stats["classifier"]

        self.optimizer_d.zero_grad()
        backward(self.critic, objective)
        self._critic_moves()
        return self._reported(stats, *made)

    def generator_step(self, batch: Batch, index: int) -> Stats:
        """New images against the discriminator as it is now; path length when it is due."""
        g, d = self.gan.generator, self.gan.discriminator
        labels = self._labels(batch)
        given = () if labels is None else (labels,)
        unrolled = self.settings.unrolled
        stats: Stats = {}

        def objective() -> Tensor:
            with self.autocast():
                z, fake = self.fakes(len(batch), labels)
                if unrolled:
                    images = (self.shown(batch.images), *given), (fake, *given)
                    value = unrolled_loss(d, self._weighted_loss, *images, steps=unrolled, optimizer=self.optimizer_d)
                else:
                    if "classifier" in self.weights:
                        logits, which = d.heads(fake)  # type: ignore[operator]
                    else:
                        logits = d(fake, *given)
                    value = self._generator_loss(logits, lambda: d(self.shown(batch.images), *given))
                total = stats["loss_g"] = value
                if "classifier" in self.weights:
                    total = total + self.weights["classifier"] * F.cross_entropy(exact(which), g.component(z))  # type: ignore[operator]
                if "orthogonal" in self.weights:
                    assert isinstance(g, BigGANBase)
                    total = total + orthogonal_penalty(g, self.weights["orthogonal"])
                if self.path_length is not None and self.path_length.due(index):
                    value = self._path_length(len(batch), labels)
                    total, stats["path_length"] = total + value, value / self.path_length.every
                return total

        found = self._generator_update(stats, objective, freeze=not unrolled)  # unrolling has copies that move
        if self.path_length is not None and self.path_length.due(index):
            self.team.mean_(self.path_length.pl_mean)
        return found

    def _path_length(self, count: int, labels: Tensor | None) -> Tensor:
        """On half a batch, as its second derivatives need the memory (Karras et al. 2020, appendix B)."""
        g = self.gan.generator
        assert isinstance(g, StyleGenerator) and self.path_length is not None
        count = max(count // 2, 1)
        w = g.mapping(g.sample_z(count), None if labels is None else labels[:count])
        w = w.contiguous()  # one w for each layer, not a view of one for all
        value: Tensor = self.path_length(exact(g.synthesis(w)), w)
        return value

    def state_dict(self) -> dict[str, Any]:
        """What all ranks have alike."""
        path_length = None if self.path_length is None else self.path_length.state_dict()
        return {**super().state_dict(), "path_length": path_length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        if self.path_length is not None and state["path_length"] is not None:
            self.path_length.load_state_dict(state["path_length"])


__all__ = ["Game", "LatentGame", "Stats", "accuracy", "exact", "frozen", "make_optimizer"]
