"""Train GANs on a ring of 8 and a grid of 25 Gaussians, count the modes that each reaches over several seeds, plot samples.

    python examples/mode_collapse.py                  # some minutes, on one core
    python examples/mode_collapse.py --quick          # seconds: does everything, learns nothing
    python examples/mode_collapse.py --seeds 8 --steps 10000 --out modes.png --numbers modes.json

All networks are the same (two hidden layers), and so are the latents, the data, Adam, and the number of generator steps. What
differs is the loss, and the rates of discriminator and generator:

    plain, slow D   the non-saturating loss with a discriminator of a tenth of the generator's rate (that of Metz et al. 2017)
    unrolled        the same rates, the minimax loss; the generator plays against the discriminator 5 steps ahead (Metz et al.)
    plain           the non-saturating loss, equal rates: a discriminator that keeps up is half the cure
    WGAN-GP         Gulrajani et al. 2017: several critic steps and a gradient penalty
    R3GAN           Huang et al. 2024: the relativistic loss with R1 and R2

Modes are those with a sample within 3 standard deviations; such samples are of high quality (Srivastava et al. 2017). Samples
strewn over the whole square reach every mode of the grid as well: look at both numbers. All seeds of a method are trained at
once: a network here is as many networks, in batched matrix products.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import losses
from gankern._files import replacing, write_json
from gankern.train.mixtures import Coverage, Mixture, grid, ring
from gankern.train.unrolled import unrolled_loss

Z_DIM = 2
BATCH = 128
SAMPLES = 4000
"""Samples of a generator that are counted."""


@dataclass(frozen=True)
class Method:
    """What is minimised, and how fast."""

    name: str
    loss: str
    discriminator_lr: float = 1e-3
    generator_lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    critic_steps: int = 1
    unroll: int = 0
    gradient_penalty: float = 0.0
    r1_r2: float = 0.0


METHODS = (
    Method("plain, slow D", "nonsaturating", discriminator_lr=1e-4),
    Method("unrolled", "minimax", discriminator_lr=1e-4, unroll=5),
    Method("plain", "nonsaturating"),
    Method("WGAN-GP", "wasserstein", betas=(0.0, 0.9), critic_steps=5, gradient_penalty=1.0),
    Method("R3GAN", "relativistic", betas=(0.0, 0.99), r1_r2=0.02),
)


class Members(nn.Module):
    """Several multilayer perceptrons of one shape as one: [members * N, in] to [members * N, out], N rows for each.

    Args:
        members: how many networks.
        sizes: features of the input, of each hidden layer and of the output.
    """

    def __init__(self, members: int, *sizes: int) -> None:
        super().__init__()
        self.members = members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, out in pairwise(sizes):
            weight = torch.empty(members, size, out)
            for own in weight:
                nn.init.orthogonal_(own)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, out)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each network to its rows of ``x``."""
        x = x.unflatten(0, (self.members, -1))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.relu(x) if i else x, weight)
        return x.flatten(0, 1)


@dataclass
class Trained:
    """The generators of one method on one mixture.

    Attributes:
        samples: of the first seed, [SAMPLES, 2].
        found: coverage of each seed at the end.
        steps: when coverage was looked at.
        modes: [looks, seeds]: modes at each look.
        seconds: time of training.
    """

    samples: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    found: list[Coverage] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    modes: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0


class Game:
    """Generators and discriminators of all seeds, with their optimizers.

    The mean over all rows is 1 / seeds times the sum of the members' means: the sum, of which no member sees another's part, is
    that times the seeds.
    """

    def __init__(self, method: Method, mixture: Mixture, seeds: int, hidden: int) -> None:
        self.method, self.mixture, self.seeds = method, mixture, seeds
        self.scale = float(mixture.centers.abs().max())  # networks see numbers of -1 to 1
        self.loss, self.gp = losses.adversarial(method.loss), losses.wgan_gp
        self.generator = Members(seeds, Z_DIM, hidden, hidden, 2)
        self.discriminator = Members(seeds, 2, hidden, hidden, 1)
        self.rates = (method.generator_lr, method.discriminator_lr)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr, method.betas)
            for net, lr in zip((self.generator, self.discriminator), self.rates, strict=True)
        ]

    def real(self) -> Tensor:
        """A batch for each seed."""
        return self.mixture.sample(self.seeds * BATCH) / self.scale

    def fake(self) -> Tensor:
        """A generated batch of each seed."""
        return self.generator(torch.randn(self.seeds * BATCH, Z_DIM))

    def parts(self) -> list[Tensor]:
        """All parameters; their first dimension is that of the seeds."""
        return [*self.generator.parameters(), *self.discriminator.parameters()]

    def set_rates(self, factor: float) -> None:
        """Learning rates as shares of what they start with."""
        for optimizer, lr in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def discriminator_value(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss and penalties, the mean over all seeds."""
        method, d = self.method, self.discriminator
        if method.r1_r2:
            real, fake = real.requires_grad_(), fake.requires_grad_()
        real_logits, fake_logits = d(real), d(fake)
        value = self.loss.discriminator(real_logits, fake_logits)
        if method.gradient_penalty:
            value = value + self.gp(d, real, fake, method.gradient_penalty)
        if method.r1_r2:
            value = value + losses.r1_penalty(real_logits, real, method.r1_r2)
            value = value + losses.r2_penalty(fake_logits, fake, method.r1_r2)
        return value

    def generator_value(self) -> Tensor:
        """What the generators minimise, the mean over all seeds."""
        fake, real = self.fake(), self.real()
        if self.method.unroll:
            # The steps ahead are made with the sum over the seeds, as real ones are.
            ahead = unrolled_loss(
                self.discriminator, lambda r, f: self.seeds * self.loss(r, f), real, fake,
                steps=self.method.unroll, optimizer=self.optimizers[1],
            )  # fmt: skip
            return ahead / self.seeds
        real_logits = None
        if self.loss.needs_real:
            with torch.no_grad():
                real_logits = self.discriminator(real)
        return self.loss.generator(self.discriminator(fake), real_logits)

    def step(self) -> None:
        """The discriminator's steps, then one of the generator."""
        for _ in range(self.method.critic_steps):
            with torch.no_grad():
                fake = self.fake()
            self._descend(1, self.discriminator, self.discriminator_value(self.real(), fake))
        self._descend(0, self.generator, self.generator_value())

    def _descend(self, which: int, network: nn.Module, value: Tensor) -> None:
        self.optimizers[which].zero_grad()
        (self.seeds * value).backward(inputs=list(network.parameters()))
        self.optimizers[which].step()

    @torch.no_grad()
    def samples(self) -> Tensor:
        """[seeds, SAMPLES, 2]."""
        return self.generator(torch.randn(self.seeds * SAMPLES, Z_DIM)).unflatten(0, (self.seeds, -1)) * self.scale


def train(method: Method, mixture: Mixture, seeds: int, steps: int, hidden: int, seed: int = 0) -> Trained:
    """Train all seeds of a method; the learning rates fall along a cosine in the second half."""
    torch.manual_seed(seed)
    game, result, start = Game(method, mixture, seeds, hidden), Trained(), time.perf_counter()
    every = max(1, steps // 20)
    for step in range(steps):
        game.set_rates(0.51 + 0.49 * math.cos(math.pi * max(0.0, 2 * step / steps - 1)))
        game.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            samples = game.samples()
            result.found = [mixture.coverage(x) for x in samples]
            result.samples = samples[0]
            result.steps.append(step + 1)
            result.modes.append([c.modes for c in result.found])
    result.seconds = time.perf_counter() - start
    return result


def line(method: Method, mixture: Mixture, result: Trained) -> str:
    """The numbers of all seeds."""
    modes, quality = ([getattr(c, k) for c in result.found] for k in ("modes", "high_quality"))
    mean, share = sum(modes) / len(modes), 100 * sum(quality) / len(quality)
    spread = ", ".join(str(m) for m in modes)
    return (
        f"  {mixture.name:10s} {method.name:14s} modes {mean:5.1f} of {len(mixture)} ({spread})   "
        f"high quality {share:5.1f} %   {result.seconds:6.1f} s"
    )


def draw(results: dict[str, dict[str, Trained]], mixtures: list[Mixture], steps: int, out: Path) -> None:
    """A row of samples for each mixture, a column a method; below, the modes over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(METHODS), 3.1 * len(mixtures) + 3.6), layout="constrained", dpi=90)
    FigureCanvasAgg(figure)
    seeds = len(next(iter(results[mixtures[0].name].values())).found)
    figure.suptitle(f"Mode collapse on mixtures of Gaussians: {steps} generator steps, {seeds} seeds", fontsize=14)
    rows = figure.add_gridspec(len(mixtures) + 1, 1, height_ratios=[1.0] * len(mixtures) + [1.1])
    colours = ["#999999", "#009E73", "#000000", "#E69F00", "#0072B2"]  # stay apart for colour-blind readers (Okabe and Ito)
    curves = rows[-1].subgridspec(1, len(mixtures))
    for row, mixture in enumerate(mixtures):
        panels = rows[row].subgridspec(1, len(METHODS))
        reach = 1.35 * float(mixture.centers.abs().max())
        curve = figure.add_subplot(curves[row])
        for column, method in enumerate(METHODS):
            r = results[mixture.name][method.name]
            axis = figure.add_subplot(panels[column])
            axis.scatter(
                mixture.centers[:, 0], mixture.centers[:, 1], s=60, facecolors="none", edgecolors="#D55E00", linewidths=0.8
            )
            axis.scatter(r.samples[:2000, 0], r.samples[:2000, 1], s=2, alpha=0.3, color="#0072B2", linewidths=0)
            modes = sum(c.modes for c in r.found) / len(r.found)
            quality = 100 * sum(c.high_quality for c in r.found) / len(r.found)
            axis.set_title(f"{method.name}\n{modes:.1f} of {len(mixture)} modes, {quality:.0f} % good", fontsize=10)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(f"{mixture.name}\n(circles: the modes)")
            each = torch.tensor(r.modes, dtype=torch.float32)
            curve.plot(r.steps, each.mean(1), color=colours[column], lw=2, label=method.name)
            curve.fill_between(r.steps, each.amin(1), each.amax(1), color=colours[column], alpha=0.12, lw=0)
        curve.axhline(len(mixture), color="#D55E00", lw=0.8, ls="--")
        curve.set(xlabel="generator step", ylabel="modes reached", ylim=(0, 1.05 * len(mixture)))
        curve.set_title(f"{mixture.name}: mean over the seeds, and their range", fontsize=10)
        curve.grid(alpha=0.3)
        curve.legend(fontsize=8)
    with replacing(out) as temporary:  # never half a picture
        figure.savefig(temporary)


def numbers(results: dict[str, dict[str, Trained]], settings: dict[str, Any]) -> dict[str, Any]:
    """What was found, for a JSON file."""
    found = {
        mixture: {
            name: {
                "modes": [c.modes for c in r.found],
                "high_quality": [round(c.high_quality, 4) for c in r.found],
                "divergence": [None if math.isnan(c.divergence) else round(c.divergence, 4) for c in r.found],
                "seconds": round(r.seconds, 1),
            }
            for name, r in by_method.items()
        }
        for mixture, by_method in results.items()
    }
    return {"settings": {**settings, "torch": torch.__version__}, "results": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, count, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="steps of the generator (default 2000)")
    parser.add_argument("--seeds", type=int, help="networks of each method (default 3)")
    parser.add_argument("--hidden", type=int, help="units of each hidden layer (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default 0)")
    parser.add_argument("--quick", action="store_true", help="60 steps of small networks, 2 seeds: seconds")
    parser.add_argument("--out", type=Path, default=Path("mode_collapse.png"), help="picture to write")
    parser.add_argument("--numbers", type=Path, help="JSON file to write the numbers to")
    given = parser.parse_args(arguments)
    usual = {"steps": 60, "seeds": 2, "hidden": 32} if given.quick else {"steps": 2000, "seeds": 3, "hidden": 128}
    settings = {name: value if getattr(given, name) is None else getattr(given, name) for name, value in usual.items()}
    for name, value in settings.items():
        if value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    torch.set_num_threads(1)  # networks this small lose more by waiting for other threads than these save
    mixtures = [ring(), grid()]
    results: dict[str, dict[str, Trained]] = {mixture.name: {} for mixture in mixtures}
    print("{steps} generator steps, {seeds} seeds, {hidden} hidden units:".format(**settings))
    for mixture in mixtures:
        for method in METHODS:
            results[mixture.name][method.name] = result = train(method, mixture, seed=given.seed, **settings)
            print(line(method, mixture, result), flush=True)
    if given.numbers:
        write_json(given.numbers, numbers(results, {**settings, "seed": given.seed}))
        print(f"wrote {given.numbers}")
    try:
        draw(results, mixtures, settings["steps"], given.out)
    except ImportError:
        sys.exit('mode_collapse: no picture written, matplotlib is missing: pip install -e ".[train]"')
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
