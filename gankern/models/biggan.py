"""BigGAN (Brock et al. 2019): wide residual networks for many classes, with self-attention and latents at every resolution."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern._scopes import evaluating
from gankern.models._base import Discriminator, LatentGenerator, ModelConfig
from gankern.models._registry import Family, register
from gankern.models._resnet import DiscriminatorBlock, GeneratorBlock, Layers, Projection
from gankern.nn import AdaptiveBatchNorm2d, BatchNormAct2d, SelfAttention2d

# Widths in units of config.width: of the generator's first feature map and after each of its blocks, of the discriminator's
# blocks (the paper's tables 4 to 6; 32 and 64 as its authors' later code has them for CIFAR and small ImageNet; 16 likewise).
GENERATOR_WIDTHS = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
DISCRIMINATOR_WIDTHS = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}


@dataclass(frozen=True)
class BigGANConfig(ModelConfig):
    """Settings of BigGAN; the defaults are those of 128x128 (Brock et al. 2019, table 4 and appendix C).

    Attributes:
        resolution: 16, 32, 64, 128, 256 or 512. Default 128.
        channels: channels of the images. Default 3.
        z_dim: size of the latent: a multiple of the number of its chunks, one for the first layer and one for each block.
            Default 120: 6 chunks of 20 (paper: 140 at 256x256, 160 at 512x512).
        num_classes: number of classes, at least 1. Default 1000.
        shared_dim: size of the class embedding that all blocks of the generator share. Default 128.
        width: channels of the narrowest layers ('ch'). Default 96.
        attention_resolution: where feature maps attend to themselves, in both networks; 0 for nowhere. Default 64.
        eps: added to variances and to the lengths in spectral normalisation. Default 1e-4 (appendix C).
    """

    family: ClassVar[str] = "biggan"
    resolution: int = 128
    z_dim: int = 120
    num_classes: int = 1000
    shared_dim: int = 128
    width: int = 96
    attention_resolution: int = 64
    eps: float = 1e-4

    def __post_init__(self) -> None:
        if self.resolution not in GENERATOR_WIDTHS:
            raise self.refuse("resolution", f"one of {', '.join(map(str, GENERATOR_WIDTHS))}")
        self.at_least(1, "channels", "z_dim", "num_classes", "shared_dim", "width")
        if self.z_dim % self.chunks:
            raise self.refuse("z_dim", f"a multiple of {self.chunks}: a chunk for the first layer and for each block")
        places = [8 << i for i in range(self.resolution.bit_length() - 4)]
        if self.attention_resolution not in (0, *places):
            raise self.refuse("attention_resolution", f"0 or one of {', '.join(map(str, places))}")
        if self.eps <= 0:
            raise self.refuse("eps", "above 0")

    @property
    def chunks(self) -> int:
        """Into how many pieces the latent is cut."""
        return len(GENERATOR_WIDTHS[self.resolution])


def orthogonal(weight: Tensor, gain: float) -> None:
    """Orthogonal first values."""
    nn.init.orthogonal_(weight)  # of gain 1 everywhere (appendix C)


def attention(channels: int, layers: Layers) -> SelfAttention2d:
    """BigGAN's self-attention: keys and values pooled, all weights as ``layers`` makes them."""
    module = SelfAttention2d(channels, value_channels=max(channels // 2, 1), pool=2, reference=layers.reference)
    for conv in (module.query, module.key, module.value, module.out):
        layers.finished(conv)
    return module


class BigGANBase(LatentGenerator):
    """What the generators of BigGAN and BigGAN-deep share: embedding, ends, norms, sampling; subclasses add the stages.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'.
        first_dim: size of what the first layer gets.
        condition_dim: size of what the norms get.
    """

    config: BigGANConfig

    def __init__(self, config: BigGANConfig, ops: str, first_dim: int, condition_dim: int) -> None:
        super().__init__(config, ops)
        self.z_dim, self.num_classes = config.z_dim, config.num_classes
        self.condition_dim = condition_dim
        self.layers = Layers(orthogonal, config.eps, self.reference)
        self.widths = [config.width * factor for factor in GENERATOR_WIDTHS[config.resolution]]
        self.embedding = nn.Embedding(config.num_classes, config.shared_dim)
        nn.init.orthogonal_(self.embedding.weight)
        self.linear = self.layers.linear(first_dim, self.widths[0] * 16)
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.norm = BatchNormAct2d(self.widths[-1], config.eps, reference=self.reference)
        self.to_rgb = self.layers.conv(self.widths[-1], config.channels, 3, act="tanh")

    def add_stage(self, stage: int, *blocks: nn.Module) -> None:
        """Append the blocks of a stage, the last of which doubles the resolution, and self-attention where its place is."""
        self.blocks.extend(blocks)
        here = 8 << stage == self.config.attention_resolution
        self.attentions.append(attention(self.widths[stage + 1], self.layers) if here else nn.Identity())

    def make_norm(self, channels: int) -> AdaptiveBatchNorm2d:
        """A batch norm with ReLU that knows the condition."""
        module = AdaptiveBatchNorm2d(channels, self.condition_dim, self.config.eps, reference=self.reference)
        self.layers.finished(module.gains)
        self.layers.finished(module.biases)
        return module

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of the latents ``z`` [N, z_dim] and the classes ``labels`` [N]."""
        self.check_inputs(z, labels)
        return self.from_embedding(z, self.embedding(labels))

    def from_embedding(self, z: Tensor, embedded: Tensor) -> Tensor:
        """Images of latents and class embeddings [N, shared_dim], which may lie between classes."""
        raise NotImplementedError(f"{type(self).__name__} has no blocks")

    def sample_z(self, count: int, generator: torch.Generator | None = None, truncation: float | None = None) -> Tensor:
        """``count`` latents of the prior: standard normal, or with the truncation trick.

        Args:
            count: how many.
            generator: PyTorch's generator of random numbers. Default None: the global one.
            truncation: values beyond this magnitude are drawn again; less makes images better and less varied. Default None:
                none is.
        """
        z = super().sample_z(count, generator)
        if truncation is None:
            return z
        if not truncation > 0:
            raise ValueError(f"{type(self).__name__}: truncation must be above 0 or None, got {truncation}")
        return nn.init.trunc_normal_(z, a=-truncation, b=truncation, generator=generator)


class BigGANGenerator(BigGANBase):
    """BigGAN's generator: residual blocks whose batch norms know the class and a chunk of the latent; one self-attention.

    The first chunk makes the 4x4 feature map, each block gets the class embedding and a chunk of its own (skip-z). All weights
    but the embedding are spectrally normalised; orthogonal initialisation.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim] and labels [N] to images [N, channels, resolution, resolution] in [-1, 1].
    """

    def __init__(self, config: BigGANConfig, ops: str = "fused") -> None:
        chunk = config.z_dim // config.chunks
        super().__init__(config, ops, first_dim=chunk, condition_dim=config.shared_dim + chunk)
        for i, (inside, outside) in enumerate(pairwise(self.widths)):
            self.add_stage(i, GeneratorBlock(inside, outside, self.layers, self.make_norm))

    def from_embedding(self, z: Tensor, embedded: Tensor) -> Tensor:
        """Images of latents and class embeddings [N, shared_dim], which may lie between classes."""
        first, *rest = z.chunk(self.config.chunks, 1)
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        for chunk, block, attend in zip(rest, self.blocks, self.attentions, strict=True):
            x = attend(block(x, torch.cat([embedded, chunk.to(embedded.dtype)], 1)))
        return self.to_rgb(self.norm(x))  # type: ignore[no-any-return]


class BigGANDiscriminatorBase(Discriminator):
    """What the discriminators of BigGAN and BigGAN-deep share: attention's place, class projection; subclasses add the stages.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'.
    """

    config: BigGANConfig
    output: Projection

    def __init__(self, config: BigGANConfig, ops: str) -> None:
        super().__init__(config, ops)
        self.num_classes = config.num_classes
        self.layers = Layers(orthogonal, config.eps, self.reference)
        self.widths = [config.width * factor for factor in DISCRIMINATOR_WIDTHS[config.resolution]]
        self.blocks = nn.Sequential()

    def add_stage(self, stage: int, channels: int, *blocks: nn.Module) -> None:
        """Append the blocks of a stage, which have ``channels`` at their end, and self-attention where its place is."""
        self.blocks.extend(blocks)
        if self.config.resolution >> (stage + 1) == self.config.attention_resolution:
            self.blocks.append(attention(channels, self.layers))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of ``images`` and their classes ``labels`` [N]."""
        self.check_inputs(images, labels)
        return self.output(self.blocks(images), labels)  # type: ignore[no-any-return]


class BigGANDiscriminator(BigGANDiscriminatorBase):
    """BigGAN's discriminator: wide residual blocks, one self-attention, class projection; everything spectrally normalised.

    Args:
        config: the settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, resolution, resolution] and labels [N] to logits [N, 1].
    """

    def __init__(self, config: BigGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        widths = [config.channels, *self.widths]
        # The last block keeps its resolution; at 32x32 the last two do, as SN-GAN's for CIFAR.
        downs = 2 if config.resolution <= 32 else len(widths) - 2
        for i, (inside, outside) in enumerate(pairwise(widths)):
            block = DiscriminatorBlock(inside, outside, outside, self.layers, down=i < downs, first=i == 0)
            self.add_stage(i, outside, block)
        self.output = Projection(widths[-1], config.num_classes, self.layers)


def orthogonal_penalty(generator: BigGANBase, beta: float = 1e-4) -> Tensor:
    r"""BigGAN's orthogonal regularisation of the generator: filters are to be orthogonal, whatever their lengths.

    ``beta * sum over weights of |W W^T * (1 - I)|^2`` with W [out, in * kh * kw], of all weights but the class embedding
    (equation 3). It is what makes truncated latents give good images.

    Args:
        generator: the generator; the weights are those that are trained, before spectral normalisation.
        beta: factor. Default 1e-4.

    Returns:
        A scalar, with gradients of any order into the weights.

    Source: Brock et al. 2019, section 3.1.
    """
    total = next(generator.parameters()).new_zeros(())
    for name, parameter in generator.named_parameters():
        if parameter.dim() < 2 or name.startswith("embedding."):
            continue
        rows = parameter.flatten(1)
        products = rows @ rows.mT
        total = total + (products - torch.diag(products.diagonal())).square().sum()
    return total * beta


def standing_statistics(
    generator: BigGANBase,
    batch_size: int,
    batches: int = 100,
    truncation: float | None = None,
    random: torch.Generator | None = None,
) -> None:
    """Set the running statistics of all batch norms to those of many forward passes, with latents as they will be sampled.

    The averages that training leaves behind are of changing weights and of latents without truncation. Nothing else changes.

    Args:
        generator: the generator; it is left in its mode.
        batch_size: images of a pass, at least 2; their classes are drawn uniformly.
        batches: passes. Default 100.
        truncation: as for :meth:`BigGANBase.sample_z`. Default None.
        random: PyTorch's generator of random numbers, on the CPU. Default None: the global one.

    Source: Brock et al. 2019, appendix C ("standing statistics").
    """
    for name, value, least in (("batch_size", batch_size, 2), ("batches", batches, 1)):
        if value < least:
            raise ValueError(f"standing_statistics: {name} must be at least {least}, got {value}")
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    with evaluating(generator), torch.no_grad():  # evaluating: no power iterations
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of all passes
                norm.train()
            for _ in range(batches):
                z = generator.sample_z(batch_size, random, truncation=truncation)
                labels = torch.randint(generator.num_classes, (batch_size,), generator=random).to(z.device)
                generator(z.to(generator.embedding.weight.dtype), labels)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


_PRESETS = {
    "biggan-32": BigGANConfig(resolution=32, z_dim=80, num_classes=10, width=64, attention_resolution=0),
    "biggan-64": BigGANConfig(resolution=64, z_dim=100, width=64, attention_resolution=32),
    "biggan-128": BigGANConfig(),
    "biggan-256": BigGANConfig(resolution=256, z_dim=140),
    "biggan-512": BigGANConfig(resolution=512, z_dim=160),
}

register(
    Family(
        name="biggan",
        title="BigGAN: class-conditional residual networks with self-attention",
        paper="Brock et al. 2019",
        config=BigGANConfig,
        generator=BigGANGenerator,
        discriminator=BigGANDiscriminator,
        presets=_PRESETS,
        tiny=BigGANConfig(resolution=16, z_dim=12, num_classes=3, shared_dim=8, width=4, attention_resolution=8),
        loss="hinge",
    )
)

__all__ = ["BigGANBase", "BigGANConfig", "BigGANDiscriminator", "BigGANGenerator", "orthogonal_penalty", "standing_statistics"]
