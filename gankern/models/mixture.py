"""Mixtures of generators against one discriminator, and MGAN, whose classifier keeps them apart (Hoang et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import LatentGenerator
from gankern.models._prior import PriorGenerator
from gankern.models._registry import Family, register
from gankern.models.dcgan import DCGANConfig, DCGANDiscriminator, UpConvs, initialise


class _Mixture(PriorGenerator):
    """A generator that is several: the last latent of each sample says which one makes it.

    Its cumulative probability under the prior is a uniform number in [0, 1]; component k is where that number lies between the
    sums of the first k and the first k + 1 weights. So a latent always gives the same image, whatever is in its batch.
    """

    thresholds: Tensor

    def _mix(self, generators: int, weights: Sequence[float] | None) -> None:
        name = type(self).__name__
        if weights is None:
            weights = [1 / generators] * generators
        if len(weights) != generators or not all(0 <= w < math.inf for w in weights) or sum(weights) <= 0:
            raise ValueError(f"{name}: weights must be {generators} numbers, not negative and not all 0, got {list(weights)}")
        self.generator_count = generators
        self.weights = tuple(w / sum(weights) for w in weights)
        # What lies behind the last weight is not reached, not even by a probability that rounds to 1.
        sums = [sum(self.weights[:k]) if any(self.weights[k:]) else math.inf for k in range(1, generators)]
        self.register_buffer("thresholds", torch.tensor(sums), persistent=False)  # a setting, nothing that is learned

    def component(self, z: Tensor) -> Tensor:
        """The component, int64 [N] from 0, that makes the image of each latent of ``z`` [N, z_dim]."""
        u = z[:, -1].float()
        p = (u + 1) / 2 if self.prior == "uniform" else torch.special.ndtr(u)
        return (p[:, None] >= self.thresholds).sum(1)

    def _chosen(self, z: Tensor, component: int | Tensor | None) -> int | Tensor:
        """The given component, checked, or that of the latents."""
        name, count = type(self).__name__, self.generator_count
        if component is None:
            return self.component(z)
        if isinstance(component, int):
            if not 0 <= component < count:
                raise ValueError(f"{name}: component must be from 0 to {count - 1}, got {component}")
            return component
        if not isinstance(component, Tensor) or component.dtype != torch.int64 or component.shape != z.shape[:1]:
            tensor = isinstance(component, Tensor)
            got = f"{component.dtype} {list(component.shape)}" if tensor else type(component).__name__
            raise ValueError(f"{name}: component must be an int or int64 [{z.shape[0]}], got {got}")
        if not torch.compiler.is_compiling() and component.device.type == "cpu" and component.numel():
            low, high = int(component.min()), int(component.max())
            if low < 0 or high >= count:
                raise ValueError(f"{name}: component must be from 0 to {count - 1}, got {low if low < 0 else high}")
        return component


def _select(outputs: Sequence[Tensor], component: Tensor) -> Tensor:
    """Sample n of the output that ``component[n]`` names. No index reaches the host, and a NaN stays where it is."""
    y = outputs[0]
    for k in range(1, len(outputs)):
        y = torch.where((component == k).reshape(-1, *[1] * (y.dim() - 1)), outputs[k], y)
    return y


class GeneratorMixture(_Mixture):
    """Several generators as one, each with a weight: the probability that it makes an image.

    Any generators of images from latents, of one family or of several, with parameters of their own. Latents are one number
    longer than theirs: the last one, standard normal or uniform as theirs are, chooses the generator.

    In training mode, under torch.compile and on a GPU every generator runs on the whole batch and the results are picked, so
    that shapes do not depend on values; ``component=k`` runs one alone. In evaluation mode on a CPU each one runs on its
    samples only. Where all but the first layer may be shared, :class:`MGANGenerator` costs little more than one generator.

    Args:
        generators: at least one, with the same image_shape, z_dim, num_classes and prior.
        weights: one number for each, not negative; they are divided by their sum. Default None: all the same.

    Shape: z [N, z_dim] with z_dim one more than that of the generators (and labels [N]) to images [N, C, H, W].

    Raises:
        TypeError, ValueError: no generators, or some that do not fit together, or weights that are none.
    """

    def __init__(self, generators: Sequence[LatentGenerator], weights: Sequence[float] | None = None) -> None:
        if not generators:
            raise ValueError("GeneratorMixture: generators must be at least one, got none")
        for i, g in enumerate(generators):
            if not isinstance(g, LatentGenerator):
                raise TypeError(f"GeneratorMixture: generators must be LatentGenerators, got {type(g).__name__} at {i}")
        first = generators[0]
        super().__init__(first.config, "reference" if first.reference else "fused")
        for name in ("image_shape", "z_dim", "num_classes", "prior"):
            wanted = getattr(first, name, "normal")
            for i, g in enumerate(generators):
                if getattr(g, name, "normal") != wanted:
                    raise ValueError(
                        f"GeneratorMixture: generators must have the {name} of the first ({wanted}), "
                        f"got {getattr(g, name, 'normal')} at {i}"
                    )
        self.z_dim, self.num_classes = first.z_dim + 1, first.num_classes
        self.prior = getattr(first, "prior", "normal")
        self._mix(len(generators), weights)
        self.generators = nn.ModuleList(generators)

    def forward(self, z: Tensor, labels: Tensor | None = None, component: int | Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] of ``z`` [N, z_dim] and ``labels`` [N].

        Args:
            z: latents.
            labels: classes, if the generators have some.
            component: the generator to use: its number for all samples, or int64 [N]. Default None: as the latents say.
        """
        self.check_inputs(z, labels)
        chosen = self._chosen(z, component)
        z = z[:, :-1]
        if isinstance(chosen, int):
            return self.generators[chosen](z, labels)
        if self.training or z.device.type != "cpu" or torch.compiler.is_compiling():
            return _select([generator(z, labels) for generator in self.generators], chosen)
        rows = [torch.nonzero(chosen == k).flatten() for k in range(self.generator_count)]
        parts = [g(z[r], None if labels is None else labels[r]) for g, r in zip(self.generators, rows, strict=True) if len(r)]
        if not parts:
            return self.generators[0](z, labels)
        return torch.cat(parts)[torch.argsort(torch.cat(rows))]


# ---- MGAN -------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MGANConfig(DCGANConfig):
    """Settings of MGAN on DCGAN's networks; defaults are those of its experiment on CIFAR-10 (Hoang et al. 2018, 5.2).

    Attributes:
        resolution: as for DCGANConfig. Default 32.
        channels: as for DCGANConfig. Default 3.
        z_dim: size of the latents; one number more chooses the generator. Default 100.
        width: as for DCGANConfig. Default 128.
        max_channels: as for DCGANConfig. Default 1024.
        kernel_size: as for DCGANConfig. Default 5.
        prior: as for DCGANConfig. Default 'uniform'.
        generators: number of generators. Default 10.
        weights: probability of each generator, up to a common factor; empty for all the same. Default empty.
    """

    family: ClassVar[str] = "mgan"
    resolution: int = 32
    generators: int = 10
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.generators, bool) or not isinstance(self.generators, int) or self.generators < 1:
            raise self.refuse("generators", "at least 1")
        if self.weights:
            fit = len(self.weights) == self.generators and all(0 <= w < math.inf for w in self.weights)
            if not fit or sum(self.weights) <= 0:
                raise self.refuse("weights", f"empty or {self.generators} numbers, not negative and not all 0")


class MGANGenerator(_Mixture):
    """The generators of MGAN: input layers of their own (projection, batch norm, ReLU), all other layers shared.

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: z [N, z_dim + 1] to images [N, channels, resolution, resolution].

    Source: Hoang, Nguyen, Le, Phung, "MGAN: training generative adversarial nets with multiple generators", 2018, section 4.
    The statistics of an input layer's batch norm are those of the whole batch of latents, not of its own samples alone.
    """

    config: MGANConfig

    def __init__(self, config: MGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.z_dim, self.prior = config.z_dim + 1, config.prior
        self._mix(config.generators, config.weights or None)
        size = config.widths[0]
        self.shared = UpConvs(config.z_dim, config, reference=self.reference)
        del self.shared.project, self.shared.norms[0]  # each generator has its own
        self.project = nn.ModuleList(
            gk.Linear(config.z_dim, size * 16, bias=False, reference=self.reference, equalized=False)
            for _ in range(config.generators)
        )
        self.norms = nn.ModuleList(gk.BatchNormAct2d(size, reference=self.reference) for _ in range(config.generators))
        for own in (self.project, self.norms):
            initialise(own)

    def forward(self, z: Tensor, labels: Tensor | None = None, component: int | Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] of ``z`` [N, z_dim + 1]; ``labels`` must be None.

        Args:
            z: latents.
            labels: None.
            component: the generator to use: its number for all samples, or int64 [N]. Default None: as the latents say.
        """
        self.check_inputs(z, labels)
        chosen = self._chosen(z, component)
        z = z[:, :-1]
        if isinstance(chosen, int):
            x = self._input(chosen, z)
        else:
            x = _select([self._input(k, z) for k in range(self.generator_count)], chosen)
        first, *convs = self.shared.convs
        x = first(x)
        for norm, conv in zip(self.shared.norms, convs, strict=True):
            x = conv(norm(x))
        return x

    def _input(self, k: int, z: Tensor) -> Tensor:
        x = self.project[k](z).unflatten(1, (self.config.widths[0], 4, 4))
        return self.norms[k](x)


class MGANDiscriminator(DCGANDiscriminator):
    """DCGAN's discriminator with a second head: which generator made an image.

    The classifier is trained on generated images by cross-entropy; the generators minimise the same times beta beside their
    adversarial loss, which keeps them apart (Hoang et al. 2018, equation 2). With ``component = generator.component(z)``:

        logits, which = discriminator.heads(generator(z))
        loss = adversarial(logits) + beta * F.cross_entropy(which, component)   # of the generators; beta is 0.01 on CIFAR-10

    Args:
        config: settings.
        ops: 'fused' or 'reference'. Default 'fused'.

    Shape: images [N, channels, resolution, resolution] to logits [N, 1].
    """

    def __init__(self, config: MGANConfig, ops: str = "fused") -> None:
        super().__init__(config, ops)
        self.classifier = gk.Linear(config.widths[0] * 16, config.generators, reference=self.reference, equalized=False)
        initialise(self.classifier)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, 1], and the logits [N, generators] of the classes that the generators are, of one pass."""
        self.check_inputs(images)
        features = self.layers(images).flatten(1)
        return self.output(features), self.classifier(features)

    def classify(self, images: Tensor) -> Tensor:
        """Logits [N, generators] of the generator that made each image."""
        return self.heads(images)[1]


register(
    Family(
        name="mgan",
        title="mixture of generators that a classifier keeps apart, on DCGAN's networks",
        paper="Hoang et al. 2018",
        config=MGANConfig,
        generator=MGANGenerator,
        discriminator=MGANDiscriminator,
        presets={"mgan-cifar10": MGANConfig()},
        tiny=MGANConfig(resolution=16, z_dim=6, width=8, generators=3),
        loss="nonsaturating",
        penalties={"classifier": 0.01},
    )
)

__all__ = ["GeneratorMixture", "MGANConfig", "MGANDiscriminator", "MGANGenerator"]
