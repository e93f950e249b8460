"""Reference GANs, each from its paper, built from gankern.nn; ``ops='reference'`` runs them in plain PyTorch.

Importing a family's module registers it.
"""

from gankern.models._base import Discriminator, LatentGenerator, Model, ModelConfig, set_ops
from gankern.models._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gankern.models._count import ModelSummary, count_flops, count_parameters, summarise
from gankern.models._examples import example_inputs
from gankern.models._registry import FAMILIES, GAN, Family, config_of, from_config, presets
from gankern.models._style import MappingNetwork, StyleGenerator
from gankern.models.biggan import BigGANConfig, BigGANDiscriminator, BigGANGenerator, orthogonal_penalty, standing_statistics
from gankern.models.biggan_deep import BigGANDeepConfig, BigGANDeepDiscriminator, BigGANDeepGenerator
from gankern.models.cgan import CGANConfig, CGANGenerator, MaxoutDiscriminator, ProjectionDiscriminator
from gankern.models.cyclegan import CycleGANConfig, CycleGANDiscriminator, CycleGANGenerator
from gankern.models.dcgan import DCGANConfig, DCGANDiscriminator, DCGANGenerator
from gankern.models.equivariance import rotation_equivariance, translation_equivariance
from gankern.models.image_pool import ImagePool
from gankern.models.mixture import GeneratorMixture, MGANConfig, MGANDiscriminator, MGANGenerator
from gankern.models.mlp import MLPConfig, MLPDiscriminator, MLPGenerator
from gankern.models.pix2pix import Pix2PixConfig, Pix2PixDiscriminator, Pix2PixGenerator
from gankern.models.progan import ProGANConfig, ProGANDiscriminator, ProGANGenerator
from gankern.models.r3gan import R3GANBlock, R3GANConfig, R3GANDiscriminator, R3GANGenerator
from gankern.models.sngan import SNGANConfig, SNGANDiscriminator, SNGANGenerator
from gankern.models.stylegan import StyleGANConfig, StyleGANDiscriminator, StyleGANGenerator
from gankern.models.stylegan2 import StyleGAN2Config, StyleGAN2Discriminator, StyleGAN2Generator
from gankern.models.stylegan3 import StyleGAN3Config, StyleGAN3Discriminator, StyleGAN3Generator, transform_matrix
from gankern.models.wgan import WGANConfig, WGANCritic, WGANGenerator, WGANGPConfig, WGANGPCritic, WGANGPGenerator

__all__ = [
    "FAMILIES",
    "GAN",
    "BigGANConfig",
    "BigGANDeepConfig",
    "BigGANDeepDiscriminator",
    "BigGANDeepGenerator",
    "BigGANDiscriminator",
    "BigGANGenerator",
    "CGANConfig",
    "CGANGenerator",
    "Checkpoint",
    "CycleGANConfig",
    "CycleGANDiscriminator",
    "CycleGANGenerator",
    "DCGANConfig",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Family",
    "GeneratorMixture",
    "ImagePool",
    "LatentGenerator",
    "MGANConfig",
    "MGANDiscriminator",
    "MGANGenerator",
    "MLPConfig",
    "MLPDiscriminator",
    "MLPGenerator",
    "MappingNetwork",
    "MaxoutDiscriminator",
    "Model",
    "ModelConfig",
    "ModelSummary",
    "Pix2PixConfig",
    "Pix2PixDiscriminator",
    "Pix2PixGenerator",
    "ProGANConfig",
    "ProGANDiscriminator",
    "ProGANGenerator",
    "ProjectionDiscriminator",
    "R3GANBlock",
    "R3GANConfig",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "SNGANConfig",
    "SNGANDiscriminator",
    "SNGANGenerator",
    "StyleGAN2Config",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleGAN3Config",
    "StyleGAN3Discriminator",
    "StyleGAN3Generator",
    "StyleGANConfig",
    "StyleGANDiscriminator",
    "StyleGANGenerator",
    "StyleGenerator",
    "WGANConfig",
    "WGANCritic",
    "WGANGPConfig",
    "WGANGPCritic",
    "WGANGPGenerator",
    "WGANGenerator",
    "config_of",
    "count_flops",
    "count_parameters",
    "example_inputs",
    "from_config",
    "load_checkpoint",
    "orthogonal_penalty",
    "presets",
    "rotation_equivariance",
    "save_checkpoint",
    "set_ops",
    "standing_statistics",
    "summarise",
    "transform_matrix",
    "translation_equivariance",
]
