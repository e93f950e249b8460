"""What the style-based networks share: settings, the mapping network from z to w, truncation, style mixing, base classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gankern import nn as gk
from gankern.models._base import Discriminator, LatentGenerator, ModelConfig, check_labels


@dataclass(frozen=True)
class StyleConfig(ModelConfig):
    """The settings that all style-based networks have; each family's config says what they are there."""

    resolution: int = 1024
    z_dim: int = 512
    w_dim: int = 512
    num_classes: int = 0
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    w_avg_beta: float = 0.995
    channel_base: int = 32768
    channel_max: int = 512

    def check_resolution(self, low: int) -> None:
        """Require a power of 2."""
        if not isinstance(self.resolution, int) or self.resolution < low or self.resolution & (self.resolution - 1):
            raise self.refuse("resolution", f"a power of 2 of at least {low}")


@dataclass(frozen=True)
class PyramidConfig(StyleConfig):
    """Settings of networks with a stage for each resolution from 4 x 4 on, and their channels."""

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ..., resolution."""
        return [2**i for i in range(2, self.resolution.bit_length())]

    def width(self, resolution: int) -> int:
        """Channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def check_channels(self, mbstd_group: int, mbstd_channels: int) -> None:
        """Require a channel at every resolution, and some for minibatch standard deviation to divide at 4 x 4."""
        if self.channel_base < self.resolution:
            raise self.refuse("channel_base", f"at least the resolution, {self.resolution}")
        if mbstd_group and self.width(4) % mbstd_channels:
            raise self.refuse("mbstd_channels", f"a divisor of the {self.width(4)} channels at 4 x 4")


def check_z(name: str, z: Tensor, z_dim: int) -> None:
    """Require latents [N, z_dim]."""
    if z.dim() != 2 or z.shape[1] != z_dim:
        raise ValueError(f"{name}: z must be [N, {z_dim}], got {list(z.shape)}")


def as_ws(name: str, w: Tensor, num_ws: int, w_dim: int, argument: str = "w") -> Tensor:
    """``w`` as [N, num_ws, w_dim]; [N, w_dim] serves all layers."""
    if w.dim() == 2 and w.shape[1] == w_dim:
        return w[:, None].expand(-1, num_ws, -1)
    if w.dim() != 3 or tuple(w.shape[1:]) != (num_ws, w_dim):
        raise ValueError(f"{name}: {argument} must be [N, {num_ws}, {w_dim}] or [N, {w_dim}], got {list(w.shape)}")
    return w


class MappingNetwork(nn.Module):
    """The mapping of latents z, and of classes, to intermediate latents w (Karras et al. 2019, section 2).

    z is scaled to a root mean square of 1; so is the embedding of the class, which is put behind it (Karras et al. 2020a,
    "Training generative adversarial networks with limited data"). Fully connected layers with leaky ReLU and equalised
    learning rate follow.

    Args:
        z_dim: size of z; 0 for a network of classes alone (a discriminator's).
        w_dim: size of w, of the layers between and of the class embedding.
        num_ws: layers that take a w: the result is [N, num_ws, w_dim]. Default None: [N, w_dim].
        num_classes: classes, 0 for none. Default 0.
        num_layers: fully connected layers. Default 8.
        lr_multiplier: factor on the learning rate of weights and biases. Default 0.01.
        w_avg_beta: share of the old mean in an update of ``w_avg``. Default 0.995; None for no such buffer.
        reference: run the pure PyTorch references. Default False.

    Attributes:
        w_avg: [w_dim], running mean of w, 0 at first, which :meth:`update_w_avg` moves.

    Shape: z [N, z_dim] and labels [N] to [N, num_ws, w_dim]. Gradients of any order.
    """

    w_avg: Tensor | None

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        num_ws: int | None = None,
        num_classes: int = 0,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
        reference: bool = False,
    ) -> None:
        super().__init__()
        if z_dim == 0 and num_classes == 0:
            raise ValueError("MappingNetwork: z_dim must be positive where there are no classes, got 0")
        if num_layers < 1:
            raise ValueError(f"MappingNetwork: num_layers must be at least 1, got {num_layers}")
        if w_avg_beta is not None and not 0 <= w_avg_beta <= 1:
            raise ValueError(f"MappingNetwork: w_avg_beta must be 0 to 1, got {w_avg_beta}")
        self.z_dim, self.w_dim, self.num_ws, self.num_classes = z_dim, w_dim, num_ws, num_classes
        self.w_avg_beta = w_avg_beta
        self.norm = gk.PixelNorm(reference=reference)
        # Unit variance, and normalised afterwards: only directions matter.
        self.embedding = nn.Embedding(num_classes, w_dim) if num_classes else None
        first = z_dim + (w_dim if num_classes else 0)
        self.layers = nn.Sequential(
            *(
                gk.Linear(first if i == 0 else w_dim, w_dim, act="lrelu", lr_multiplier=lr_multiplier, reference=reference)
                for i in range(num_layers)
            )
        )
        self.register_buffer("w_avg", None if w_avg_beta is None else torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        labels: Tensor | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        """Map ``z``.

        Args:
            z: [N, z_dim]; None for a network of classes alone.
            labels: int64 [N], where there are classes.
            truncation: psi: w becomes w_avg + psi * (w - w_avg) (Karras et al. 2019, appendix B). Default 1: as it is.
            truncation_cutoff: how many of the num_ws layers, from the coarsest on, are truncated. Default None: all.
            update_w_avg: move ``w_avg`` towards the mean of this batch's w, before truncation. Default False.

        Returns:
            w [N, num_ws, w_dim], the same for all layers but for the cutoff; [N, w_dim] without num_ws.

        Raises:
            ValueError: latents, labels or a cutoff that do not fit.
        """
        name = type(self).__name__
        count = self.num_ws or 1
        if truncation_cutoff is not None and not 0 <= truncation_cutoff <= count:
            raise ValueError(f"{name}: truncation_cutoff must be 0 to {count} or None, got {truncation_cutoff}")
        if (z is None) != (self.z_dim == 0):
            raise ValueError(f"{name}: z must be {'None' if z is not None else f'[N, {self.z_dim}]'}, got {_shape(z)}")
        parts = []
        dtype = next(self.layers.parameters()).dtype
        if z is not None:
            check_z(name, z, self.z_dim)
            check_labels(name, labels, self.num_classes, z.shape[0])
            parts.append(self.norm(z.to(dtype)))
        else:
            check_labels(name, labels, self.num_classes, 0 if labels is None else labels.shape[0])
        if self.embedding is not None:
            parts.append(self.norm(self.embedding(labels)))
        w = self.layers(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        if update_w_avg:
            self.update_w_avg(w)
        if self.num_ws is None:
            return self.truncated(w, truncation) if truncation_cutoff != 0 else w
        if truncation == 1 or truncation_cutoff == 0:
            return w[:, None].expand(-1, self.num_ws, -1)
        near = self.truncated(w, truncation)
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        rest = w.to(near.dtype)[:, None].expand(-1, self.num_ws - cutoff, -1)
        return torch.cat([near[:, None].expand(-1, cutoff, -1), rest], 1)

    def truncated(self, w: Tensor, truncation: float) -> Tensor:
        """``w`` [..., w_dim] moved to ``w_avg`` until the share ``truncation`` of the distance is left."""
        if truncation == 1:
            return w
        if self.w_avg is None:
            raise ValueError(f"{type(self).__name__}: truncation must be 1 without w_avg, got {truncation}")
        return self.w_avg + truncation * (w - self.w_avg)

    @torch.no_grad()
    def update_w_avg(self, w: Tensor) -> None:
        """Move ``w_avg`` towards the mean of ``w``, [N, w_dim] or [N, num_ws, w_dim] (of which the first layer's counts)."""
        if self.w_avg is None or self.w_avg_beta is None:
            raise ValueError(f"{type(self).__name__}: the module was made without w_avg (w_avg_beta=None)")
        flat = w[:, 0] if w.dim() == 3 else w
        if flat.dim() != 2 or flat.shape[1] != self.w_dim:
            raise ValueError(
                f"{type(self).__name__}: w must be [N, {self.w_dim}] or [N, num_ws, {self.w_dim}], got {list(w.shape)}"
            )
        self.w_avg.copy_(torch.lerp(flat.detach().to(self.w_avg.dtype).mean(0), self.w_avg, self.w_avg_beta))

    def extra_repr(self) -> str:
        """Sizes for print(module)."""
        return f"z_dim={self.z_dim}, w_dim={self.w_dim}, num_ws={self.num_ws}, num_classes={self.num_classes}"


def _shape(x: Tensor | None) -> Any:
    return None if x is None else list(x.shape)


class StyleGenerator(LatentGenerator):
    """A generator in two parts: ``mapping`` from z to w, and ``synthesis`` from one w for each layer to images.

    Args:
        config: settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.
        synthesis: (config, reference) to the module of w [N, num_ws, w_dim] and options, which has ``num_ws``.

    Attributes:
        w_dim: size of w.
        num_ws: layers that take a w.
        mapping: ``mapping(z, labels=None, truncation=1.0, truncation_cutoff=None)`` gives w [N, num_ws, w_dim]; its buffer
            ``w_avg`` [w_dim] is the running mean of w.
        synthesis: ``synthesis(w, **options)`` gives images.
    """

    w_dim: int = 0
    num_ws: int = 0
    mapping: MappingNetwork
    synthesis: Any

    def __init__(self, config: StyleConfig, ops: str, synthesis: Callable[[Any, bool], Any]) -> None:
        super().__init__(config, ops)
        self.z_dim, self.w_dim, self.num_classes = config.z_dim, config.w_dim, config.num_classes
        self.synthesis = synthesis(config, self.reference)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            config.z_dim, config.w_dim, self.num_ws, config.num_classes, config.mapping_layers,
            config.mapping_lr_multiplier, config.w_avg_beta, self.reference,
        )  # fmt: skip

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        *,
        mixed_z: Tensor | None = None,
        crossover: int | Tensor | None = None,
        update_w_avg: bool = False,
        **options: Any,
    ) -> Tensor:
        """Images from latents.

        Args:
            z: [N, z_dim].
            labels: int64 [N], where there are classes.
            truncation: as for :class:`MappingNetwork`. Default 1.
            truncation_cutoff: as for :class:`MappingNetwork`. Default None.
            mixed_z: further latents [N, z_dim] whose styles the layers from ``crossover`` on take. Default None.
            crossover: as for :meth:`mix`; with ``mixed_z``.
            update_w_avg: as for :class:`MappingNetwork`, of ``z`` alone. Default False.
            **options: as for ``synthesis``.

        Returns:
            Images [N, channels, resolution, resolution].

        Raises:
            ValueError: latents, labels or a crossover that do not fit.
        """
        self.check_inputs(z, labels)
        if (mixed_z is None) != (crossover is None):
            raise ValueError(f"{type(self).__name__}: mixed_z and crossover must be given both or neither")
        w = self.mapping(z, labels, truncation, truncation_cutoff, update_w_avg=update_w_avg)
        if mixed_z is not None and crossover is not None:
            w = self.mix(w, self.mapping(mixed_z, labels, truncation, truncation_cutoff), crossover)
        images: Tensor = self.synthesis(w, **options)
        return images

    def mix(self, w1: Tensor, w2: Tensor, crossover: int | Tensor) -> Tensor:
        """Style mixing: the layers before ``crossover`` of ``w1``, the others of ``w2`` (Karras et al. 2019, section 3.1).

        Args:
            w1: coarse styles [N, num_ws, w_dim] or [N, w_dim].
            w2: fine styles, likewise.
            crossover: layers of ``w1``, 0 to num_ws; an int, or int64 [N] for each sample its own.

        Returns:
            w [N, num_ws, w_dim].

        Raises:
            ValueError: latents or a crossover that do not fit. The values of a tensor are not looked at: below 0 is as 0, above
                num_ws as num_ws.
        """
        name = type(self).__name__
        w1, w2 = (as_ws(name, w, self.num_ws, self.w_dim, f"w{i}") for i, w in enumerate((w1, w2), 1))
        if w1.shape[0] != w2.shape[0] and 1 not in (w1.shape[0], w2.shape[0]):
            raise ValueError(f"{name}: w1 and w2 must have as many samples, got {w1.shape[0]} and {w2.shape[0]}")
        layers = torch.arange(self.num_ws, device=w1.device)
        if not isinstance(crossover, Tensor):
            if isinstance(crossover, bool) or not isinstance(crossover, int) or not 0 <= crossover <= self.num_ws:
                raise ValueError(f"{name}: crossover must be an int from 0 to {self.num_ws} or int64 [N], got {crossover!r}")
            return torch.where((layers < crossover)[None, :, None], w1, w2)
        count = max(w1.shape[0], w2.shape[0])
        if crossover.dtype != torch.int64 or crossover.shape != (count,):
            raise ValueError(f"{name}: crossover must be int64 [{count}], got {crossover.dtype} {list(crossover.shape)}")
        return torch.where((layers < crossover[:, None])[:, :, None], w1, w2)

    def sample_crossover(self, count: int, probability: float = 0.9, generator: torch.Generator | None = None) -> Tensor:
        """Crossovers int64 [count] for mixing regularisation: uniform from 1 to num_ws - 1, else num_ws (nothing is mixed).

        Args:
            count: samples.
            probability: of mixing. Default 0.9 (Karras et al. 2019, table 2).
            generator: of random numbers. Default None: PyTorch's own, on this module's device.
        """
        device = generator.device if generator else next(self.parameters()).device
        drawn = torch.randint(1, max(self.num_ws, 2), (count,), generator=generator, device=device)
        mixed = torch.rand(count, generator=generator, device=device) < probability
        return torch.where(mixed, drawn, self.num_ws).to(next(self.parameters()).device)

    def update_w_avg(self, w: Tensor) -> None:
        """Move the running mean of w, ``mapping.w_avg``, towards that of ``w`` [N, num_ws, w_dim] or [N, w_dim]."""
        self.mapping.update_w_avg(w)


class StyleDiscriminator(Discriminator):
    """A discriminator that ends at 4 x 4: minibatch standard deviation, a convolution and two fully connected layers.

    Subclasses make what comes before, and then :meth:`make_end`.
    """

    mbstd: gk.MinibatchStdDev | None

    def make_end(self, width: int, outputs: int, group: int, extra: int, clamp: float | None = None) -> None:
        """Add the last layers.

        Args:
            width: channels at 4 x 4.
            outputs: size of the last layer's output.
            group: samples of a group of minibatch standard deviation; 0 for none of it.
            extra: its channels.
            clamp: largest magnitude of the convolution's output. Default None.
        """
        self.mbstd = gk.MinibatchStdDev(group, extra, reference=self.reference) if group else None
        inputs = width + extra if group else width
        self.conv = gk.Conv2d(inputs, width, 3, act="lrelu", clamp=clamp, reference=self.reference)
        self.fc = gk.Linear(16 * width, width, act="lrelu", reference=self.reference)
        self.out = gk.Linear(width, outputs, reference=self.reference)

    def end(self, x: Tensor) -> Tensor:
        """The last layers, of ``x`` [N, width, 4, 4]: [N, outputs]."""
        if self.mbstd is not None:
            x = self.mbstd(x)
        return self.out(self.fc(self.conv(x).flatten(1)))


__all__ = ["MappingNetwork", "PyramidConfig", "StyleConfig", "StyleDiscriminator", "StyleGenerator", "as_ws", "check_z"]
