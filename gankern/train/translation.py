"""The steps of image-to-image models: pix2pix with pairs, CycleGAN with two domains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gankern.data.dataset import Batch
from gankern.losses.reconstruction import cycle_loss, identity_loss, l1_loss
from gankern.models import GAN, ImagePool
from gankern.train.distributed import Workers, backward
from gankern.train.settings import Settings
from gankern.train.steps import Game, Stats, exact


class PairedGame(Game):
    """Images from the images that belong to them (Isola et al. 2017)."""

    def __init__(self, gan: GAN, generator: nn.Module, critic: nn.Module, settings: Settings, team: Workers) -> None:
        super().__init__(gan, generator, critic, settings, team)
        self.conditional = bool(getattr(gan.config, "conditional", False))

    def _given(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the discriminator sees beside the images."""
        assert batch.inputs is not None
        return (batch.inputs,) if self.conditional else ()

    def critic_step(self, batch: Batch, index: int) -> Stats:
        """Real pairs against pairs with a generated image."""
        g, d = self.gan.generator, self.gan.discriminator
        with torch.no_grad(), self.autocast():
            fake = g(batch.inputs)
        given = self._given(batch)
        critic = (lambda x: d(x, *given)) if given else d
        return self._critic_update(critic, batch.images, exact(fake), index, plain=not given)

    def generator_step(self, batch: Batch, index: int) -> Stats:
        """Against the discriminator, and close to the right image."""
        g, d = self.gan.generator, self.gan.discriminator
        stats: Stats = {}
        given = self._given(batch)

        def objective() -> Tensor:
            with self.autocast():
                fake = g(batch.inputs)
                total = stats["loss_g"] = self._generator_loss(d(fake, *given), lambda: d(batch.images, *given))
                if "l1" in self.weights:
                    stats["l1"] = l1_loss(exact(fake), batch.images, self.weights["l1"])
                    total = total + stats["l1"]
                return total

        return self._generator_update(stats, objective)


class UnpairedGame(Game):
    """Two domains, a generator and a discriminator for each direction (Zhu et al. 2017): A is the inputs, B the images."""

    def __init__(self, gan: GAN, generator: nn.Module, critic: nn.Module, settings: Settings, team: Workers) -> None:
        super().__init__(gan, generator, critic, settings, team)
        assert settings.pool is not None
        seed = settings.seed + 2 * team.rank
        self.pools = {"a": ImagePool(settings.pool, 2 * seed), "b": ImagePool(settings.pool, 2 * seed + 1)}

    def critic_step(self, batch: Batch, index: int) -> Stats:
        """Both discriminators, on images from the pools."""
        g, d = self.gan.generator, self.gan.discriminator
        a, b = batch.inputs, batch.images
        assert a is not None
        with torch.no_grad(), self.autocast():
            fake_b, fake_a = g(a, b)
        fakes = {"a": self.pools["a"].query(exact(fake_a)), "b": self.pools["b"].query(exact(fake_b))}
        stats: Stats = {}
        reals: dict[str, Tensor] = {"a": a, "b": b}
        logits: dict[str, list[Tensor]] = {}

        def objective() -> Tensor:
            with self.autocast():
                for side, critic in (("a", d.a), ("b", d.b)):
                    logits[side] = [critic(reals[side]), critic(fakes[side])]  # type: ignore[operator]
                stats["loss_d"] = self._weighted_loss(*logits["a"]) + self._weighted_loss(*logits["b"])
                return stats["loss_d"]

        self.optimizer_d.zero_grad()
        backward(self.critic, objective)
        self._critic_moves()
        real, fake = (torch.cat([logits["a"][i].detach(), logits["b"][i].detach()]) for i in (0, 1))
        return self._reported(stats, real, fake)

    def generator_step(self, batch: Batch, index: int) -> Stats:
        """Both generators: against the discriminators, there and back again, and unchanged in their own domain."""
        g: Any = self.gan.generator
        d: Any = self.gan.discriminator
        a, b = batch.inputs, batch.images
        assert a is not None
        stats: Stats = {}

        def objective() -> Tensor:
            with self.autocast():
                fake_b, fake_a = g(a, b)
                stats["loss_g"] = torch.zeros((), device=a.device)
                for critic, fake, real in ((d.b, fake_b, b), (d.a, fake_a, a)):
                    value = self._generator_loss(critic(fake), partial(critic, real))
                    stats["loss_g"] = stats["loss_g"] + value
                total = stats["loss_g"]
                if "cycle" in self.weights:
                    back_a, back_b = g.b_to_a(fake_b), g.a_to_b(fake_a)
                    weight = self.weights["cycle"]
                    stats["cycle"] = cycle_loss(exact(back_a), a, weight) + cycle_loss(exact(back_b), b, weight)
                    total = total + stats["cycle"]
                if "identity" in self.weights:
                    same_b, same_a = g(b, a)
                    weight = self.weights["identity"]
                    stats["identity"] = identity_loss(exact(same_b), b, weight) + identity_loss(exact(same_a), a, weight)
                    total = total + stats["identity"]
                return total

        return self._generator_update(stats, objective)

    def rank_state_dict(self) -> dict[str, Any]:
        """What is this rank's own."""
        return {**super().rank_state_dict(), "pools": {side: pool.state_dict() for side, pool in self.pools.items()}}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`rank_state_dict`."""
        super().load_rank_state_dict(state)
        for side, pool in self.pools.items():
            pool.load_state_dict(state["pools"][side], self.team.device)


__all__ = ["PairedGame", "UnpairedGame"]
