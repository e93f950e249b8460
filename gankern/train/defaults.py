"""How each family is trained in its paper, and the small settings for the bundled images: the one table of defaults.

The loss and the penalties' weights are the family's own (``gankern.models.FAMILIES``); all else stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of training, of a paper.

    Attributes:
        optimizer: 'adam', 'rmsprop' or 'sgd'. Default 'adam'.
        lr: learning rate of the generator. Default 2e-4.
        lr_d: learning rate of the discriminator. Default None: ``lr``.
        betas: of Adam; the first one is SGD's momentum. Default (0.5, 0.999).
        batch: images of a step, over all processes. Default 64.
        n_critic: discriminator steps in a step. Default 1.
        r1_every: apply R1 and R2 in every so many-th step, with as many times the weight. Default 1.
        path_length_every: the same for path length. Default 4.
        ema: the averaged generator's half-life in thousands of images, 0 for none. Default 0.
        style_mixing: probability of mixing two styles in training. Default 0.
        lr_decay: share of the steps after which learning rates fall linearly to 0; 1 for never. Default 1.
        pool: earlier generated images that are kept for the discriminator. Default 0.
        d_weight: factor on the discriminator's adversarial loss. Default 1.
        loss_options: of the family's adversarial loss, as for :func:`gankern.losses.adversarial`. Default none.
        extra: weights of penalties that the family does not name. Default none.
    """

    optimizer: str = "adam"
    lr: float = 2e-4
    lr_d: float | None = None
    betas: tuple[float, float] = (0.5, 0.999)
    batch: int = 64
    n_critic: int = 1
    r1_every: int = 1
    path_length_every: int = 4
    ema: float = 0.0
    style_mixing: float = 0.0
    lr_decay: float = 1.0
    pool: int = 0
    d_weight: float = 1.0
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)


# A half-life of h images is a decay of 2^(-batch / h) for each step: 0.999 at 16 images is 11 thousand.
RECIPES: dict[str, Recipe] = {
    # Settings that Goodfellow et al. 2014 published beside the paper; the decay of the rate over a million steps is left out.
    "gan": Recipe("sgd", 0.1, betas=(0.5, 0.0), batch=100),
    # Radford et al. 2016, section 4.
    "dcgan": Recipe(batch=128),
    # Miyato and Koyama 2018, section 4; Mirza and Osindero's networks take --optimizer sgd --lr 0.1.
    "cgan": Recipe(betas=(0.0, 0.9), n_critic=5),
    # Hoang et al. 2018, section 5.2.
    "mgan": Recipe(),
    # Arjovsky et al. 2017, algorithm 1.
    "wgan": Recipe("rmsprop", 5e-5, n_critic=5),
    # Gulrajani et al. 2017, algorithm 1.
    "wgan-gp": Recipe(lr=1e-4, betas=(0.0, 0.9), n_critic=5),
    # Miyato et al. 2018, table 1 (C) and section 4.
    "sngan": Recipe(betas=(0.0, 0.9), n_critic=5),
    # Brock et al. 2019, appendix C; batches of 2048 are the paper's best, 256 its baseline (table 1).
    "biggan": Recipe(lr=5e-5, lr_d=2e-4, betas=(0.0, 0.999), batch=256, n_critic=2, ema=1774.0, extra={"orthogonal": 1e-4}),
    # As BigGAN; the paper finds no use in orthogonal regularisation here.
    "biggan-deep": Recipe(lr=5e-5, lr_d=2e-4, betas=(0.0, 0.999), batch=256, n_critic=2, ema=1774.0),
    # Karras et al. 2018, appendix A.1.
    "progan": Recipe(lr=1e-3, betas=(0.0, 0.99), batch=16, ema=11.1, loss_options={"drift": 1e-3}),
    # Karras et al. 2019, appendix C (FFHQ, configuration F).
    "stylegan": Recipe(lr=1e-3, betas=(0.0, 0.99), batch=32, ema=22.2, style_mixing=0.9),
    # Karras et al. 2020, appendix B and section 3.1 (lazy regularisation every 16 and 8 steps).
    "stylegan2": Recipe(
        lr=2e-3, betas=(0.0, 0.99), batch=32, r1_every=16, path_length_every=8, ema=10.0, style_mixing=0.9
    ),
    # Karras et al. 2021, appendix G.
    "stylegan3": Recipe(lr=2.5e-3, lr_d=2e-3, betas=(0.0, 0.99), batch=32, r1_every=16, ema=10.0),
    # Huang et al. 2024, appendix (FFHQ at 64^2); its schedules of betas and gamma are left out.
    "r3gan": Recipe(betas=(0.0, 0.99), batch=256, ema=500.0),
    # Isola et al. 2017, section 3.3: "we divide the objective by 2 while optimizing D".
    "pix2pix": Recipe(batch=1, d_weight=0.5),
    # Zhu et al. 2017, section 4 and appendix 7.1: half of the training at a constant rate, half down to 0; the half of the
    # discriminator's objective is in the loss already.
    "cyclegan": Recipe(batch=1, lr_decay=0.5, pool=50, loss_options={"generator_weight": 1.0}),
}  # fmt: skip
"""Family name to its paper's settings."""


@dataclass(frozen=True)
class Small:
    """A size that learns a bundled data set in minutes on two CPU cores.

    Attributes:
        model: settings of the family's config.
        train: settings of training that such a size and so few images want otherwise than the paper.
    """

    model: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)


def _digits(train: Mapping[str, Any] | None = None, **model: Any) -> Small:
    return Small({"resolution": 16, "channels": 1} | model, train or {})


def _style(resolution: int, channels: int, **more: Any) -> dict[str, Any]:
    """Small networks of the StyleGAN family."""
    sizes = {
        "z_dim": 64,
        "w_dim": 64,
        "mapping_layers": 2,
        "channel_base": 512 if resolution == 16 else 1024,
        "channel_max": 64,
    }
    return {"resolution": resolution, "channels": channels} | sizes | more


_ALIAS_FREE = {
    "num_layers": 6, "num_critical": 1, "num_fp16_res": 0, "first_cutoff": 1.5, "first_stopband": 3.0,
    "discriminator_channel_base": 512, "discriminator_channel_max": 64,
}  # fmt: skip
_SMOOTH = {"use_noise": False}  # a few thousand steps do not get over the grain that noise begins with
_QUICK = {"batch": 32, "ema": 2.0}
_FEW = {"batch": 16, "ema": 1.0, "r1": 1.0}

SMALL: dict[tuple[str, str], Small] = {
    ("gan", "digits"): _digits(hidden=256, maxout_units=64),
    # With a penalty the discriminator cannot learn 1,797 digits by heart.
    ("dcgan", "digits"): _digits({"batch": 64, "ema": 2.0, "r1": 1.0}, z_dim=64, width=32, kernel_size=4, prior="normal"),
    ("cgan", "digits"): _digits(_QUICK | {"n_critic": 1, "betas": (0.5, 0.999)}, z_dim=32, width=32, embed_dim=16),
    ("mgan", "digits"): _digits(_QUICK, z_dim=32, width=32, kernel_size=4, generators=4),
    ("wgan", "digits"): _digits(_QUICK, z_dim=32, width=32),
    ("wgan-gp", "digits"): _digits(_QUICK, z_dim=32, width=32),
    ("sngan", "digits"): _digits(
        _QUICK | {"n_critic": 2}, z_dim=32, generator_channels=(64, 64, 32), discriminator_channels=(32, 64, 64)
    ),
    ("biggan", "digits"): _digits(_QUICK, z_dim=24, shared_dim=16, width=16, attention_resolution=8),
    ("biggan-deep", "digits"): _digits(_QUICK, z_dim=24, shared_dim=16, width=16, attention_resolution=8),
    ("progan", "digits"): _digits(_QUICK, z_dim=32, channel_base=512, channel_max=64),
    ("stylegan", "digits"): Small(_style(16, 1, **_SMOOTH), _FEW),
    ("stylegan2", "digits"): Small(_style(16, 1, **_SMOOTH), _FEW),
    ("stylegan3", "digits"): Small(_style(16, 1) | _ALIAS_FREE, _FEW),
    ("r3gan", "digits"): _digits(
        _QUICK | {"r1": 0.5, "r2": 0.5}, z_dim=32, widths=(64, 64, 32), groups=(8, 8, 4), blocks=1
    ),
    ("dcgan", "photos"): Small({"resolution": 32, "z_dim": 64, "width": 32, "kernel_size": 4, "prior": "normal"}, _QUICK),
    ("wgan-gp", "photos"): Small({"resolution": 32, "z_dim": 64, "width": 32}, _QUICK),
    ("stylegan", "photos"): Small(_style(32, 3, **_SMOOTH), _FEW),
    ("stylegan2", "photos"): Small(_style(32, 3, **_SMOOTH), _FEW),
    ("stylegan3", "photos"): Small(_style(32, 3) | _ALIAS_FREE, _FEW),
    ("r3gan", "photos"): Small(
        {"resolution": 32, "z_dim": 64, "widths": (64, 64, 64, 32), "groups": (8, 8, 8, 4), "blocks": 1},
        _QUICK | {"r1": 0.5, "r2": 0.5},
    ),
    ("pix2pix", "photos"): Small(
        {
            "resolution": 64, "levels": 5, "generator_channels": 24, "discriminator_channels": 24, "patch": 34,
            "norm": "instance",
        },
        {"batch": 4},
    ),
    ("cyclegan", "photos"): Small(
        {"resolution": 64, "blocks": 3, "generator_channels": 16, "discriminator_channels": 24, "patch": 34}, {"batch": 2}
    ),
}  # fmt: skip
"""(family, bundled data) to a small size: taken where a model is named by its family alone ('dcgan', not 'dcgan-64')."""

__all__ = ["RECIPES", "SMALL", "Recipe", "Small"]
