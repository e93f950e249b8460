"""Reference GANs, each from its paper, built from gankern.nn; ``ops='reference'`` runs them in plain PyTorch."""

from gankern.models._base import Discriminator, LatentGenerator, Model, ModelConfig, set_ops
from gankern.models._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gankern.models._registry import FAMILIES, GAN, Family, config_of, from_config, presets

# One line for each family: its module registers it.

__all__ = [
    "FAMILIES",
    "GAN",
    "Checkpoint",
    "Discriminator",
    "Family",
    "LatentGenerator",
    "Model",
    "ModelConfig",
    "config_of",
    "from_config",
    "load_checkpoint",
    "presets",
    "save_checkpoint",
    "set_ops",
]
