"""What a training run is told: one dataclass, with the paper's values where nothing is said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gankern.losses.adversarial import LOSSES
from gankern.metrics import metric_names
from gankern.models import FAMILIES, config_of
from gankern.models._base import check_ops
from gankern.models._registry import Family
from gankern.train.defaults import RECIPES, SMALL

OPTIMIZERS = ("adam", "rmsprop", "sgd")
PENALTIES = (
    "clip", "wgan_gp", "wgan_lp", "r1", "r2", "path_length", "cycle", "identity", "l1", "classifier", "orthogonal",
)  # fmt: skip
"""Regularisers and further terms by name; what each weighs is in its family, else nothing."""
BETWEEN = {"wgan_gp": False, "wgan_lp": True}
"""Those of gradients between real and generated images, and whether one-sided (:func:`gankern.losses.wgan_gp`)."""
_OF_TASK = {
    "cycle": ("unpaired",), "identity": ("unpaired",), "l1": ("paired",), "path_length": ("latent",), "classifier": ("latent",),
    "orthogonal": ("latent",), "r1": ("latent", "paired"), "r2": ("latent", "paired"), "wgan_gp": ("latent", "paired"),
    "wgan_lp": ("latent", "paired"),
}  # fmt: skip
"""Which kinds of models a term is for; the others are for all."""


@dataclass
class Settings:
    """Settings of a training run. None means: the model's own, from its paper (``gankern.train.defaults``).

    A step is ``n_critic`` discriminator steps, each on a batch of its own, and ``n_generator`` generator steps.

    Attributes:
        out: folder for checkpoints, sample grids, curves and results; it is made.
        model: a preset ('stylegan2-256') or a family ('dcgan'). A family with bundled data has a small size, which ``set`` may
            change; see ``gankern.train.defaults.SMALL``. Default 'dcgan'.
        data: 'digits', 'photos' or a folder, as for :func:`gankern.data.open_data`. Default 'digits'.
        steps: to be made in all, those before a resume included. Default 1000.
        batch: images of a step over all processes. Default None.
        resume: go on from ``out``'s checkpoint, if there is one. Default False.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch. Default 'fused'.
        device: 'cpu', 'cuda', 'cuda:1', or 'auto': a GPU if there is one. Default 'auto'.
        seed: of weights, data order, latents and noise. Default 0.
        set: settings of the model's config to change. Default none.
        classes: train a model with classes on the data's, where the model can. Default False: models that always have classes.
        flip: mirror half of the images. Default False.
        loss: one of 'minimax', 'nonsaturating', 'lsgan', 'hinge', 'wasserstein' and 'relativistic'. Default None.
        loss_options: of :func:`gankern.losses.adversarial` (label smoothing, ...). Default none.
        penalties: weights by the names in ``PENALTIES``, which take the place of the family's; 0 for none. Default none.
        r1_every: R1 and R2 in every so many-th step (lazy regularisation). Default None.
        path_length_every: the same for path length. Default None.
        optimizer: 'adam', 'rmsprop' or 'sgd'. Default None.
        lr: learning rate. Default None.
        lr_d: the discriminator's. Default None: the paper's, or ``lr`` if that is given.
        betas: of Adam; the first is SGD's momentum. Default None.
        lr_decay: share of the steps after which learning rates fall linearly to 0; 1: never. Default None.
        n_critic: discriminator steps in a step. Default None.
        n_generator: generator steps in a step, all beside the last batch. Default 1.
        unrolled: steps that the discriminator is ahead in the generator's loss (:func:`gankern.train.unrolled.unrolled_loss`;
            models of latents). Default 0.
        d_weight: factor on the discriminator's adversarial loss. Default None.
        pool: earlier generated images kept for the discriminator ('unpaired' only). Default None.
        ema: half-life of the averaged generator in thousands of images, 0 for none. Default None.
        ema_rampup: the half-life is at most this share of the images so far. Default 0.05 (Karras et al. 2020).
        style_mixing: probability of mixing two styles (style-based generators only). Default None.
        grow: train ProGAN from 4x4 on, in equal shares of the steps. Default True.
        autocast: 'bf16' for bfloat16 in the networks, with float32 weights. Default None.
        channels_last: images and weights in NHWC. Default False.
        log_every: write losses every so many steps. Default 10.
        sample_every: a grid of samples every so many steps, 0 for the last one alone. Default 500.
        sample_count: images in it. Default 64.
        checkpoint_every: a checkpoint every so many steps, 0 for the first and the last alone. Default 500.
        metric: metrics of :func:`gankern.metrics.compare`, the first of which decides what is best. Default none.
        metric_every: compute them every so many steps, 0 for the end alone. Default 0.
        metric_images: images on each side. Default 1000.
        extractor: as for :func:`gankern.metrics.compare`. Default None: 'digits' for the digits, else 'pixels'.
        tensorboard: write its event files too, if it is installed. Default False.
        progress: show a bar or lines. Default True.

    Raises:
        ValueError, TypeError: a setting that cannot be; the message names it and what is accepted.
    """

    out: str = "gankern-run"
    model: str = "dcgan"
    data: str = "digits"
    steps: int = 1000
    batch: int | None = None
    resume: bool = False
    ops: str = "fused"
    device: str = "auto"
    seed: int = 0
    set: dict[str, Any] = field(default_factory=dict)
    classes: bool = False
    flip: bool = False
    loss: str | None = None
    loss_options: dict[str, Any] = field(default_factory=dict)
    penalties: dict[str, float] = field(default_factory=dict)
    r1_every: int | None = None
    path_length_every: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    lr_d: float | None = None
    betas: tuple[float, float] | None = None
    lr_decay: float | None = None
    n_critic: int | None = None
    n_generator: int = 1
    unrolled: int = 0
    d_weight: float | None = None
    pool: int | None = None
    ema: float | None = None
    ema_rampup: float = 0.05
    style_mixing: float | None = None
    grow: bool = True
    autocast: str | None = None
    channels_last: bool = False
    log_every: int = 10
    sample_every: int = 500
    sample_count: int = 64
    checkpoint_every: int = 500
    metric: tuple[str, ...] = ()
    metric_every: int = 0
    metric_images: int = 1000
    extractor: str | None = None
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        self.metric = tuple(self.metric)
        if self.betas is not None:
            self.betas = (float(self.betas[0]), float(self.betas[1]))
        _check(self)

    def replace(self, **changes: Any) -> Settings:
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Names and values, plain enough for JSON and for checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Settings:
        """The settings that :meth:`to_dict` wrote; names that this version does not know are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in settings.items() if k in known})

    @property
    def family(self) -> Family:
        """The model's family."""
        return FAMILIES[config_of(self.model).family]


def _check(s: Settings) -> None:
    """Refuse what cannot be, before anything is opened or written."""
    config_of(s.model)
    check_ops(s.ops)
    least = {
        "steps": 1, "batch": 1, "r1_every": 1, "path_length_every": 1, "n_critic": 1, "n_generator": 1, "pool": 0,
        "unrolled": 0, "log_every": 1, "sample_every": 0, "sample_count": 1, "checkpoint_every": 0, "metric_every": 0,
        "metric_images": 2, "seed": 0,
    }  # fmt: skip
    for name, low in least.items():
        value = getattr(s, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise ValueError(f"{name} must be an int, at least {low}, got {value!r}")
    for name, low, high in (
        ("lr", 0, math.inf), ("lr_d", 0, math.inf), ("ema", 0, math.inf), ("ema_rampup", 0, math.inf), ("style_mixing", 0, 1),
        ("lr_decay", 0, 1), ("d_weight", 0, math.inf),
    ):  # fmt: skip
        value = getattr(s, name)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if value is not None and (not fits or not math.isfinite(value)):
            raise ValueError(
                f"{name} must be {f'from {low} to {high}' if high < math.inf else 'a number, not negative'}, got {value!r}"
            )
    if s.betas is not None and not all(0 <= b < 1 for b in s.betas):
        raise ValueError(f"betas must be two numbers from 0 to below 1, got {s.betas!r}")
    for name, value, accepted in (
        ("loss", s.loss, (None, *LOSSES)),
        ("optimizer", s.optimizer, (None, *OPTIMIZERS)),
        ("autocast", s.autocast, (None, "bf16")),
    ):
        if value not in accepted:
            raise ValueError(f"{name} must be one of {', '.join(map(str, accepted))}, got {value!r}")
    for name, weight in s.penalties.items():
        if name not in PENALTIES:
            raise ValueError(f"penalties: there is no {name!r}; there are {', '.join(PENALTIES)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"penalties: {name} must be a number, not negative, got {weight!r}")
        if weight and s.family.task not in _OF_TASK.get(name, (s.family.task,)):
            raise ValueError(f"penalties: {name} is for {' or '.join(_OF_TASK[name])} models, {s.model} is {s.family.task}")
    if s.unrolled and s.family.task != "latent":
        raise ValueError(f"unrolled is for models of latents, {s.model} is {s.family.task}")
    if s.metric:
        metric_names(s.metric)
    if s.metric_every and not s.metric:
        raise ValueError(f"metric must name what is to be computed every {s.metric_every} steps (metric_every), got none")


def fill(settings: Settings) -> Settings:
    """The same with the paper's values, and a small size's, in place of each None.

    Args:
        settings: what the user said.

    Returns:
        A copy that says everything, but for the number of classes, which the data decide. ``fill(fill(x)) == fill(x)``.

    Raises:
        ValueError: as :class:`Settings`; a setting of the model's config that does not exist or cannot be.
    """
    family = settings.family
    recipe = {f.name: getattr(RECIPES[family.name], f.name) for f in dataclasses.fields(RECIPES[family.name])}
    extra, loss_options = recipe.pop("extra"), recipe.pop("loss_options")
    penalties = {**(family.penalties or {}), **extra}
    model: dict[str, Any] = {}
    small = SMALL.get((family.name, settings.data))
    if small is not None and settings.model == family.name:
        model.update(small.model)
        if "resolution" in settings.set:  # widths for each stage, or groups of layers, were for another size
            model = {k: v for k, v in model.items() if not isinstance(v, tuple)}
        for name, value in small.train.items():
            (penalties if name in PENALTIES else recipe)[name] = value
    changes: dict[str, Any] = {n: v for n, v in recipe.items() if getattr(settings, n) is None}
    if settings.lr is not None and settings.lr_d is None:
        changes["lr_d"] = settings.lr  # who sets one rate means both
    if settings.loss is None:
        changes |= {"loss": family.loss, "loss_options": {**loss_options, **settings.loss_options}}
    if settings.extractor is None:
        changes["extractor"] = "digits" if settings.data == "digits" else "pixels"
    model |= settings.set
    config = config_of(settings.model, **model)
    if hasattr(config, "clip"):  # WGAN's config says it too
        penalties["clip"] = config.clip
    filled = settings.replace(**changes, penalties={**penalties, **settings.penalties}, set=model)
    return filled if filled.lr_d is not None else filled.replace(lr_d=filled.lr)


__all__ = ["OPTIMIZERS", "PENALTIES", "Settings", "fill"]
