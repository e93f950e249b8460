"""Adversarial losses: what a discriminator and a generator minimise, from logits.

D is the sigmoid of a logit. Every loss is the mean over all logits given: those of a batch, and those of a PatchGAN's map.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern._dtypes import wide
from gankern._validate import FLOATING, number, short


class AdversarialLoss(ABC):
    """A pair of losses: the discriminator's and the generator's.

    The object itself is the discriminator's, for :class:`gankern.losses.PenalizedStep`:

        loss = losses.adversarial("nonsaturating")
        step = losses.PenalizedStep(critic, loss, r1=10)    # step.backward(real, fake)
        loss.generator(critic(generator(z))).backward()

    Logits are [N], [N, 1] or maps [N, 1, h, w], in float32, float64, bfloat16 or float16; both losses are computed in float32
    (float64 for float64 logits) and have gradients of any order. No exponential overflows, whatever the logits.

    Attributes:
        name: what :func:`adversarial` calls it.
        needs_real: whether the generator's loss needs the logits of real images too.
    """

    name: ClassVar[str] = ""
    needs_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the discriminator minimises.

        Args:
            real_logits: of real images, [N, ...].
            fake_logits: of generated images, [M, ...].

        Returns:
            A scalar.

        Raises:
            TypeError: logits that are no floating-point tensors.
            ValueError: logits without a batch dimension, or empty ones.
        """
        real, fake = self._logits("real_logits", real_logits), self._logits("fake_logits", fake_logits)
        return self._discriminator(real, fake)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """What the generator minimises.

        Args:
            fake_logits: of generated images, [N, ...].
            real_logits: of real images, where :attr:`needs_real` says so; the others ignore it. Default None.

        Returns:
            A scalar.

        Raises:
            TypeError, ValueError: as :meth:`discriminator`.
        """
        fake = self._logits("fake_logits", fake_logits)
        if not self.needs_real:
            return self._generator(fake, None)
        if real_logits is None:
            raise ValueError(f"{self.name}: real_logits must be given: the generator's loss compares them with fake_logits")
        return self._generator(fake, self._logits("real_logits", real_logits))

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """:meth:`discriminator`."""
        return self.discriminator(real_logits, fake_logits)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the settings: the state of the random numbers, where there are some."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; a ValueError where it is of another loss."""
        if set(state) != set(self.state_dict()):
            raise ValueError(f"{self.name}: state must have {sorted(self.state_dict())}, got {sorted(state)}")

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"

    @abstractmethod
    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    @abstractmethod
    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor: ...

    def _logits(self, name: str, logits: Any) -> Tensor:
        if not isinstance(logits, Tensor) or logits.dtype not in FLOATING:
            got = short(logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"{self.name}: {name} must be a float32, float64, bfloat16 or float16 torch.Tensor, got {got}")
        if logits.dim() == 0 or logits.numel() == 0:
            raise ValueError(f"{self.name}: {name} must be [N], [N, 1] or [N, 1, h, w] and not empty, got {list(logits.shape)}")
        return logits.to(wide(logits.dtype))

    def _number(self, name: str, value: Any, low: float = 0.0, high: float | None = None, below: bool = False) -> float:
        value = number(self.name, name, value)
        if value < low or (high is not None and (value >= high if below else value > high)):
            text = "not be negative" if high is None else f"be {low:g} to {'below ' if below else ''}{high:g}"
            raise ValueError(f"{self.name}: {name} must {text}, got {value!r}")
        return value


# ---- with labels ------------------------------------------------------------------------------------------------------------
class _Labelled(AdversarialLoss):
    """A discriminator that is told 'real' and 'generated', and sometimes the wrong one of them.

    Flips are drawn on the CPU, so that a seed means the same on every device. A sample's flip is that of its whole map.
    """

    def __init__(self, label_noise: float, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"{self.name}: seed must be an int of 0 to 2**63 - 1, got {seed!r}")
        self.label_noise, self.seed = self._number("label_noise", label_noise, 0, 1), seed
        self._random = torch.Generator().manual_seed(seed) if self.label_noise else None

    def state_dict(self) -> dict[str, Any]:
        """The state of the flips' random numbers, if labels are flipped."""
        return {} if self._random is None else {"random": self._random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the flips from what :meth:`state_dict` gave; a ValueError where it is of another loss."""
        super().load_state_dict(state)
        if self._random is not None:
            self._random.set_state(state["random"].cpu())

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return self._told(real, True) + self._told(fake, False)

    def _told(self, logits: Tensor, real: bool) -> Tensor:
        """The loss of logits whose images are called real or generated, but for the flipped ones."""
        if self._random is None:
            return self._of(logits, real).mean()
        flips = torch.rand(logits.shape[0], generator=self._random) < self.label_noise
        flips = flips.to(logits.device, non_blocking=True).reshape(-1, *[1] * (logits.dim() - 1))
        return torch.where(flips, self._of(logits, not real), self._of(logits, real)).mean()

    @abstractmethod
    def _of(self, logits: Tensor, real: bool) -> Tensor:
        """The loss of each logit, if its image is called real or generated."""


class Minimax(_Labelled):
    """The first GAN's: D maximises, and G minimises, V = E log D(real) + E log(1 - D(fake)).

    The discriminator's loss is -V. With densities p of real and q of generated images its best answer is p / (p + q), where
    V = 2 JS(p, q) - 2 log 2. The generator minimises E log(1 - D(fake)), the part of V that depends on it; its gradient is
    that of the logit times -D, which vanishes where the discriminator is sure: hence :class:`NonSaturating`.

    Args:
        smoothing: one-sided label smoothing (Salimans et al. 2016, section 3.4): real images are called real with 1 -
            smoothing, 0 to below 1; the best answer is (1 - smoothing) p / (p + q). Default 0.
        label_noise: share of images that the discriminator is told the wrong label of, 0 to 1. Default 0.
        seed: of these flips; under torch.distributed another one for every rank. Default 0.

    Raises:
        TypeError, ValueError: a setting that is none.

    Source: Goodfellow et al., "Generative adversarial nets", 2014, equation 1 and section 4.
    """

    name = "minimax"

    def __init__(self, smoothing: float = 0.0, label_noise: float = 0.0, seed: int = 0) -> None:
        super().__init__(label_noise, seed)
        self.smoothing = self._number("smoothing", smoothing, 0, 1, below=True)

    def _of(self, logits: Tensor, real: bool) -> Tensor:
        if not real:
            return softplus(logits)
        if not self.smoothing:
            return softplus(-logits)
        return (1 - self.smoothing) * softplus(-logits) + self.smoothing * softplus(logits)

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -softplus(fake).mean()


class NonSaturating(Minimax):
    """The minimax discriminator, against a generator that minimises -E log D(fake).

    The generator's gradient is that of the logit times D - 1: largest where the discriminator is sure of its images.

    Args:
        smoothing: one-sided label smoothing, as for :class:`Minimax`. Default 0.
        label_noise: share of flipped labels, as for :class:`Minimax`. Default 0.
        seed: of the flips, as for :class:`Minimax`. Default 0.

    Raises:
        TypeError, ValueError: a setting that is none.

    Source: Goodfellow et al. 2014, section 3.
    """

    name = "nonsaturating"

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return softplus(-fake).mean()


class LeastSquares(_Labelled):
    """LSGAN: logits are drawn to labels by the squared distance, a half of it.

    D minimises 1/2 E (real - real_label)^2 + 1/2 E (fake - fake_label)^2, with the best answer
    (real_label p + fake_label q) / (p + q); G minimises generator_weight E (fake - generator_label)^2. real_label = 0.9 is
    one-sided label smoothing.

    Args:
        real_label: the paper's b. Default 1.
        fake_label: the paper's a. Default 0.
        generator_label: the paper's c. Default 1. (-1, 1, 0 for a, b, c minimise Pearson's chi-squared divergence.)
        generator_weight: not negative. Default 1/2, the paper's; CycleGAN has 1.
        label_noise: share of flipped labels, as for :class:`Minimax`. Default 0.
        seed: of the flips, as for :class:`Minimax`. Default 0.

    Raises:
        TypeError, ValueError: a setting that is none.

    Source: Mao et al., "Least squares generative adversarial networks", 2017, equations 2 and 9; Zhu et al. 2017 (CycleGAN),
    section 4.
    """

    name = "lsgan"

    def __init__(
        self,
        real_label: float = 1.0,
        fake_label: float = 0.0,
        generator_label: float = 1.0,
        generator_weight: float = 0.5,
        label_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(label_noise, seed)
        self.real_label, self.fake_label = (
            number(self.name, "real_label", real_label),
            number(self.name, "fake_label", fake_label),
        )
        self.generator_label = number(self.name, "generator_label", generator_label)
        self.generator_weight = self._number("generator_weight", generator_weight)

    def _of(self, logits: Tensor, real: bool) -> Tensor:
        return (logits - (self.real_label if real else self.fake_label)).square() / 2

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return self.generator_weight * (fake - self.generator_label).square().mean()


# ---- without ----------------------------------------------------------------------------------------------------------------
class Hinge(AdversarialLoss):
    """D minimises E max(0, 1 - real) + E max(0, 1 + fake); G minimises -E fake.

    The discriminator's best answer is the sign of p - q, its loss there twice the integral of min(p, q). At a logit of exactly
    1 (real) or -1 (fake) the subgradient is 0.

    Source: Lim and Ye, "Geometric GAN", 2017, section 3; Miyato et al. 2018 (SN-GAN), equations 16 and 17.
    """

    name = "hinge"

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class Wasserstein(AdversarialLoss):
    """The critic minimises E fake - E real, the generator -E fake.

    Minus the critic's loss is at most the Wasserstein distance times the critic's Lipschitz constant, which something else has
    to hold down: ``clip_weights_`` of :class:`gankern.models.wgan.WGANCritic` behind every step, or
    :func:`gankern.losses.wgan_gp`.

    Args:
        drift: weight of E real^2 in the critic's loss, which keeps its values near 0; not negative. Default 0; ProGAN has
            0.001 (Karras et al. 2018, appendix A.1).

    Raises:
        TypeError, ValueError: a drift that is no number, or negative.

    Source: Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017, equations 2 and 3.
    """

    name = "wasserstein"

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = self._number("drift", drift)

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        loss = fake.mean() - real.mean()
        return loss + self.drift * real.square().mean() if self.drift else loss

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


class Relativistic(AdversarialLoss):
    """Pairs of a real and a generated image: D minimises E log(1 + exp(fake - real)), G minimises E log(1 + exp(real - fake)).

    Sample n of one batch is compared with sample n of the other, so both have one shape. It is R3GAN's loss, which has R1 and
    R2 beside it. For the generator's loss run the discriminator on real images under ``torch.no_grad()``: they do not depend
    on the generator.

    Source: Jolicoeur-Martineau, "The relativistic discriminator", 2019, section 4.2 (RpGAN); Huang et al., "The GAN is dead;
    long live the GAN!", 2024, equation 2.
    """

    name = "relativistic"
    needs_real = True

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(self._difference(fake, real)).mean()

    def _generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return softplus(-self._difference(fake, real)).mean()

    def _difference(self, fake: Tensor, real: Tensor) -> Tensor:
        # Broadcasting [N] against [N, 1] would compare every image with every other one, and say nothing.
        if fake.shape != real.shape:
            raise ValueError(
                f"{self.name}: fake_logits must have the shape of real_logits, {list(real.shape)}, got {list(fake.shape)}"
            )
        return fake - real


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to the last digits for all x; torch's softplus is off by 2e-9 beside its threshold of 20."""
    return -F.logsigmoid(-x)


LOSSES: dict[str, type[AdversarialLoss]] = {
    kind.name: kind for kind in (Minimax, NonSaturating, LeastSquares, Hinge, Wasserstein, Relativistic)
}
"""The adversarial losses by name."""


def adversarial(name: str, **options: Any) -> AdversarialLoss:
    """An adversarial loss by its name.

    Args:
        name: 'minimax', 'nonsaturating', 'lsgan', 'hinge', 'wasserstein' or 'relativistic': those of
            ``gankern.models.FAMILIES[...].loss``.
        **options: settings of its class: :class:`Minimax`, :class:`NonSaturating`, :class:`LeastSquares`, :class:`Hinge`,
            :class:`Wasserstein`, :class:`Relativistic`.

    Returns:
        An :class:`AdversarialLoss`: ``.discriminator(real_logits, fake_logits)``, ``.generator(fake_logits, real_logits)``.

    Raises:
        ValueError: an unknown name or option (those that exist are listed), or a value that is not accepted.
        TypeError: an option of a wrong type.

    Gradients: of any order in the logits.
    """
    if name not in LOSSES:
        raise ValueError(f"adversarial: name must be one of {', '.join(LOSSES)}, got {name!r}")
    kind = LOSSES[name]
    known = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"adversarial: {name} has no option {option!r}; {has}")
    return kind(**options)
