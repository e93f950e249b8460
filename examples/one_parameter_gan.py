"""A generator with one parameter, which shifts a distribution onto another: where is there a gradient, and where is none?

    python examples/one_parameter_gan.py
    python examples/one_parameter_gan.py --steps 300 --out shift.png

Real numbers are uniform on [0, 1], generated ones on [theta, theta + 1]: right at theta = 0, without a common point beyond 1.
(Example 1 of Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017, with something to overlap.) What is known:

    JS(theta) = log(2) min(|theta|, 1): flat where the supports part, with no gradient in theta
    W(theta)  = |theta|: a gradient of 1 from anywhere

The best discriminator's loss is 2 log(2) - 2 JS. Beside the formulas stand what small networks find, trained from nothing for
each theta; the Wasserstein distance of samples, exactly in one dimension (scipy.stats.wasserstein_distance) and as a linear
program (scipy.optimize.linprog), which goes in any number of dimensions; and the gradient in theta that each loss hands to the
generator. Last, theta is trained with each, from 2.

The critic is held to slopes of at most 1 by a one-sided gradient penalty (Petzka, Fischer, Lukovnikov, "On the regularization
of Wasserstein GANs", 2018). The two-sided one of WGAN-GP has a second minimum at the slope -1, and in one dimension there is no
way around the slope 0 between them: a critic that starts the wrong way stays so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gankern import losses
from gankern._files import replacing

BATCH = 256
START = 2.0
"""Where theta starts."""
LOSSES = ("minimax", "nonsaturating", "wasserstein")
TITLES = {"minimax": "minimax", "nonsaturating": "non-saturating", "wasserstein": "Wasserstein, critic with one-sided penalty"}
COLOURS = {"minimax": "#D55E00", "nonsaturating": "#E69F00", "wasserstein": "#0072B2"}
PENALTY = 100.0
"""Weight of the critic's gradient penalty: its best slope is 1 + O(1 / weight), so its estimate is that much too large."""
PROGRAM_POINTS = 500
"""Most points on a side of the linear program, which has their square as unknowns."""


def network() -> nn.Module:
    """A discriminator of numbers."""
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def jensen_shannon(theta: float) -> float:
    """Of the two uniform distributions: only one of them has mass outside of their overlap, 1 - |theta| long."""
    return math.log(2) * min(abs(theta), 1.0)


def linear_program(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein distance of two samples, points [N, D] and [M, D] of equal weights: the cheapest transport plan.

    The plan's masses p_ij are not negative; the mass that leaves point i is 1 / N, what reaches point j is 1 / M.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = len(a), len(b)
    cost = np.linalg.norm(a[:, None] - b[None], axis=2).ravel()
    leaves, reaches = kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))
    masses = np.concatenate((np.full(n, 1 / n), np.full(m, 1 / m)))
    found = linprog(cost, A_eq=vstack((leaves, reaches)).tocsr(), b_eq=masses, method="highs")
    if not found.success:
        raise RuntimeError(f"linear program: {found.message}")
    return float(found.fun)


def slope_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """PENALTY times the mean of max(0, gradient norm - 1)^2 between real and generated points."""
    between = torch.lerp(fake, real, torch.rand(len(real), 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return PENALTY * (gradient.norm(dim=1) - 1).clamp_min(0).square().mean()


class Player:
    """A discriminator (or critic) and its optimizer."""

    def __init__(self, name: str, lr: float = 5e-3) -> None:
        self.name, self.loss, self.network = name, losses.adversarial(name), network()
        self.lr, self.optimizer = lr, torch.optim.Adam(self.network.parameters(), lr, (0.5, 0.99))

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """What it minimises, without the penalty."""
        return self.loss.discriminator(self.network(real), self.network(fake))

    def train(self, theta: float, steps: int, settle: bool = False) -> None:
        """Some steps against the generator of one theta; to ``settle``, with a rate that falls to 0."""
        for step in range(steps):
            self.optimizer.param_groups[0]["lr"] = self.lr * (1 - step / steps if settle else 1)
            real, fake = torch.rand(BATCH, 1), torch.rand(BATCH, 1) + theta
            value = self.value(real, fake)
            if self.name == "wasserstein":
                value = value + slope_penalty(self.network, real, fake)
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()

    def estimate(self, theta: float) -> float:
        """The distance that it sees: JS = log 2 - loss / 2, or W = -loss; on points that fill both intervals evenly."""
        with torch.no_grad():
            value = float(self.value(even(), even() + theta))
        return -value if self.name == "wasserstein" else math.log(2) - value / 2

    def slope(self, theta: float) -> float:
        """The generator's gradient: d loss / d theta."""
        place = torch.tensor(theta, requires_grad=True)
        (found,) = torch.autograd.grad(self.loss.generator(self.network(even() + place)), place)
        return float(found)


def even(count: int = 2000) -> Tensor:
    """Midpoints of equal parts of [0, 1], [count, 1]."""
    return ((torch.arange(count) + 0.5) / count)[:, None]


@dataclass
class Curves:
    """What was found at each theta.

    Attributes:
        thetas: places.
        exact_w: scipy's distance of samples, in one dimension.
        program_w: that of the linear program, of the same samples.
        estimates: the distance that each discriminator sees.
        slopes: the gradient that each one hands to the generator.
    """

    thetas: list[float]
    exact_w: list[float]
    program_w: list[float]
    estimates: dict[str, list[float]]
    slopes: dict[str, list[float]]


def measure(thetas: list[float], steps: int, points: int) -> Curves:
    """Train a discriminator of each kind from nothing at each theta; transport samples of ``points`` numbers."""
    from scipy.stats import wasserstein_distance

    found = Curves(thetas, [], [], {n: [] for n in LOSSES}, {n: [] for n in LOSSES})
    for theta in thetas:
        real, fake = torch.rand(points, 1).numpy(), (torch.rand(points, 1) + theta).numpy()
        found.exact_w.append(float(wasserstein_distance(real[:, 0], fake[:, 0])))
        found.program_w.append(linear_program(real, fake))
        for name in LOSSES:
            player = Player(name)
            player.train(theta, steps, settle=True)
            found.estimates[name].append(player.estimate(theta))
            found.slopes[name].append(player.slope(theta))
    return found


def descend(name: str, steps: int, warm_up: int, lr: float = 0.02) -> list[float]:
    """Theta of each step of gradient descent, from START, against a discriminator that takes 5 steps between two of them."""
    player, theta = Player(name), START
    player.train(theta, warm_up)
    path = [theta]
    for _ in range(steps):
        player.train(theta, 5)
        theta -= lr * player.slope(theta)
        path.append(theta)
    return path


def draw(found: Curves, paths: dict[str, list[float]], out: Path) -> None:
    """The distances, the gradients, the trained thetas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle("Real: uniform on [0, 1].  Generated: uniform on [θ, θ + 1].  The supports part at |θ| = 1.", fontsize=13)
    (js, w), (gradient, path) = figure.subplots(2, 2)
    fine = np.linspace(min(found.thetas), max(found.thetas), 401)
    js.plot(fine, [jensen_shannon(t) for t in fine], color="black", label="exact: log 2 min(|θ|, 1)")
    js.plot(
        found.thetas, found.estimates["minimax"], "o", color=COLOURS["minimax"], label="trained discriminator: log 2 - loss / 2"
    )
    js.set(title="Jensen-Shannon divergence: flat beyond 1", xlabel="θ", ylabel="JS (nats)")
    w.plot(fine, abs(fine), color="black", label="exact: |θ|")
    w.plot(found.thetas, found.estimates["wasserstein"], "o", color=COLOURS["wasserstein"], label="trained critic: -loss")
    w.plot(found.thetas, found.exact_w, "+", ms=11, color="#009E73", label="samples, one dimension (scipy.stats)")
    w.plot(found.thetas, found.program_w, "x", ms=7, color="#CC79A7", label="the same samples, linear program")
    w.set(title="Wasserstein distance: a slope of 1 everywhere", xlabel="θ", ylabel="W")
    for name in LOSSES:
        sizes = [max(abs(s), 1e-8) for s in found.slopes[name]]
        gradient.semilogy(found.thetas, sizes, "o-", ms=4, color=COLOURS[name], label=TITLES[name])
        path.plot(paths[name], color=COLOURS[name], lw=2, label=TITLES[name])
    gradient.set(title="size of the generator's gradient, |d loss / dθ|", xlabel="θ", ylabel="|d loss / dθ| (below 1e-8: 1e-8)")
    for axis in (js, w, gradient):
        axis.axvspan(-1, 1, color="#F0E442", alpha=0.2, lw=0)
        axis.set_xlim(min(found.thetas) - 0.1, max(found.thetas) + 0.1)
    path.axhspan(-1, 1, color="#F0E442", alpha=0.2, lw=0, label="supports overlap")
    path.axhline(0, color="black", lw=0.8, ls="--")
    path.set(title="θ, trained", xlabel="step of the generator", ylabel="θ")
    path.set_ylim(-START, START + 1)
    for axis in (js, w, gradient, path):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    with replacing(out) as temporary:  # never half a picture
        figure.savefig(temporary)


def report(found: Curves, paths: dict[str, list[float]]) -> None:
    """The numbers."""
    print(
        "  theta   JS exact / found     W exact / critic / samples / program    gradient: minimax, non-saturating, Wasserstein"
    )
    for i, theta in enumerate(found.thetas):
        js, w = found.estimates["minimax"][i], found.estimates["wasserstein"][i]
        slopes = "".join(f"{found.slopes[n][i]:12.2e}" for n in LOSSES)
        distances = f"{abs(theta):7.4f} / {w:.4f} / {found.exact_w[i]:.4f} / {found.program_w[i]:.4f}"
        print(f"  {theta:5.2f}   {jensen_shannon(theta):8.4f} / {js:.4f}    {distances}  {slopes}")
    for name in LOSSES:
        print(f"  theta trained with {name:14s} {paths[name][0]:.3f} -> {paths[name][-1]:7.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="steps of each discriminator (default 800)")
    parser.add_argument("--points", type=int, default=64, help="samples on each side of the linear program (default 64)")
    parser.add_argument("--places", type=int, default=9, help="thetas from -2 to 2 (default 9)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default 0)")
    parser.add_argument("--out", type=Path, default=Path("one_parameter_gan.png"), help="picture to write")
    given = parser.parse_args(arguments)
    for name, least, most in (("steps", 1, math.inf), ("points", 2, PROGRAM_POINTS), ("places", 2, 1000)):
        value = getattr(given, name)
        if not least <= value <= most:
            parser.error(
                f"--{name} must be at least {least}" + (f" and at most {most}" if most < math.inf else "") + f", got {value}"
            )
    try:
        import scipy  # noqa: F401
    except ImportError:
        sys.exit('one_parameter_gan: scipy is missing: pip install -e ".[train]"')
    torch.set_num_threads(1)  # networks this small lose more by waiting for other threads than these save
    torch.manual_seed(given.seed)
    thetas = [-2 + 4 * i / (given.places - 1) for i in range(given.places)]
    found = measure(thetas, given.steps, given.points)
    paths = {name: descend(name, max(1, given.steps // 4), given.steps) for name in LOSSES}
    report(found, paths)
    try:
        draw(found, paths, given.out)
    except ImportError:
        sys.exit('one_parameter_gan: no picture written, matplotlib is missing: pip install -e ".[train]"')
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
