"""The families and their presets by name, and the pair of networks that a config makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gankern.models._base import ModelConfig

TASKS = ("latent", "paired", "unpaired")


@dataclass(frozen=True)
class Family:
    """One kind of GAN.

    Attributes:
        name: 'stylegan2'.
        title: what it is, in a line.
        paper: authors and year.
        config: its config class.
        generator: (config, ops) to the generator.
        discriminator: (config, ops) to the discriminator.
        presets: name to published settings, 'stylegan2-256'.
        tiny: settings small enough for tests and quick benchmarks.
        task: 'latent' (images from latents, and labels), 'paired' or 'unpaired' (image to image).
        loss: the name of the paper's loss: 'minimax', 'nonsaturating', 'lsgan', 'hinge', 'wasserstein', 'relativistic'.
        penalties: the paper's regularisers and their weights, by 'clip', 'wgan_gp', 'wgan_lp', 'r1', 'r2', 'path_length',
            'cycle', 'identity' and 'l1'.
    """

    name: str
    title: str
    paper: str
    config: type[ModelConfig]
    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    presets: Mapping[str, ModelConfig]
    tiny: ModelConfig
    task: str = "latent"
    loss: str = "nonsaturating"
    penalties: Mapping[str, float] | None = None


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known; each family's module does so when it is imported."""
    if family.task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {family.task!r}")
    FAMILIES[family.name] = family


class GAN(nn.Module):
    """A generator and a discriminator of one config.

    Attributes:
        config: their settings.
        generator: the generator.
        discriminator: the discriminator.
    """

    def __init__(self, config: ModelConfig, ops: str = "fused") -> None:
        super().__init__()
        family = FAMILIES[config.family]
        self.config = config
        self.generator = family.generator(config, ops)
        self.discriminator = family.discriminator(config, ops)

    @property
    def family(self) -> Family:
        """The family's entry."""
        return FAMILIES[self.config.family]


def presets() -> dict[str, ModelConfig]:
    """Every preset of every family, and each family's name for its defaults."""
    found: dict[str, ModelConfig] = {}
    for family in FAMILIES.values():
        found[family.name] = family.config()
        found.update(family.presets)
    return found


def config_of(name: str, **changes: Any) -> ModelConfig:
    """The config of a preset or family, with some settings changed.

    Args:
        name: a preset ('stylegan2-256') or a family ('dcgan': its defaults).
        **changes: settings of the config to change.

    Raises:
        ValueError: an unknown name or setting (those that exist are listed), or a setting that the family cannot do.
    """
    known = presets()
    if name not in known:
        raise ValueError(f"no model {name!r}; there are {', '.join(sorted(known))}")
    return known[name].replace(**changes)


def from_config(name: str | ModelConfig, ops: str = "fused", **changes: Any) -> GAN:
    """Build a GAN.

    Args:
        name: a preset ('stylegan2-256'), a family ('dcgan') or a config.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.
        **changes: settings of the config to change.

    Returns:
        The pair of networks, randomly initialised as the paper does.

    Raises:
        ValueError: an unknown name or setting, or a setting that the family cannot do.
    """
    config = name.replace(**changes) if isinstance(name, ModelConfig) else config_of(name, **changes)
    return GAN(config, ops)


__all__ = ["FAMILIES", "GAN", "Family", "config_of", "from_config", "presets", "register"]
