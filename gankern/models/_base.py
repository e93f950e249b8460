"""What the reference GANs share: configs, the choice of operators, argument checks, a state_dict that fits or is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from typing_extensions import Self

from gankern._scopes import is_recording

OPS = ("fused", "reference")


@dataclass(frozen=True)
class ModelConfig:
    """Settings of one GAN, generator and discriminator together; each family has its own, with the defaults of its paper.

    Attributes:
        resolution: height and width of the images.
        channels: channels of the images: 3 for RGB, 1 for grey.
    """

    family: ClassVar[str] = ""
    resolution: int = 64
    channels: int = 3

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings; a name that is not a setting is a ValueError that lists those that are."""
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ValueError(f"{type(self).__name__}: no setting {name!r}; it has {', '.join(names)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Names and values, plain enough for JSON and for torch.load(weights_only=True)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The config that :meth:`to_dict` wrote (lists become tuples again)."""
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return cls().replace(**known)

    def refuse(self, name: str, accepted: str) -> ValueError:
        """The error for a setting that this family cannot do."""
        return ValueError(f"{type(self).__name__}: {name} must be {accepted}, got {getattr(self, name)!r}")

    def at_least(self, low: int, *names: str) -> None:
        """Refuse the first of the named settings that is below ``low``."""
        for name in names:
            if getattr(self, name) < low:
                raise self.refuse(name, f"at least {low}" if low else "0 or more")


def check_ops(ops: str) -> bool:
    """Whether ``ops`` asks for references: the ``reference=`` argument of gankern.nn's modules."""
    if ops not in OPS:
        raise ValueError(f"ops must be 'fused' or 'reference', got {ops!r}")
    return ops == "reference"


class Model(nn.Module):
    """A network of a reference GAN.

    Subclasses build themselves from ``config`` with gankern.nn's modules, to which they pass ``reference=self.reference``.

    Args:
        config: the family's settings.
        ops: 'fused' for gankern's operators, 'reference' for plain PyTorch with the same parameters.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig, ops: str = "fused") -> None:
        super().__init__()
        self.config = config
        self.reference = check_ops(ops)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.config.channels, self.config.resolution, self.config.resolution

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch.nn.Module.load_state_dict, but a state_dict of another config is refused before anything is copied."""
        own = {k: tuple(v.shape) for k, v in self.state_dict().items() if isinstance(v, Tensor)}
        theirs = {k: tuple(v.shape) for k, v in state_dict.items() if isinstance(v, Tensor)}
        wrong = [f"{k} is {list(theirs[k])}, here {list(own[k])}" for k in own if k in theirs and own[k] != theirs[k]]
        if strict:
            wrong += [f"{k} is missing" for k in own if k not in theirs]
            wrong += [f"{k} is unknown here" for k in theirs if k not in own]
        if wrong:
            more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(
                f"{type(self).__name__}: the state_dict is of another config than {self.config}: " + "; ".join(wrong[:5]) + more
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class LatentGenerator(Model):
    """A generator of images [N, C, H, W], about in [-1, 1], from latents z [N, z_dim] and, if it has classes, labels [N]."""

    z_dim: int = 0
    num_classes: int = 0

    def check_inputs(self, z: Tensor, labels: Tensor | None) -> None:
        """Raise a ValueError that names the argument if latents or labels do not fit."""
        name = type(self).__name__
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"{name}: z must be [N, {self.z_dim}], got {list(z.shape)}")
        check_labels(name, labels, self.num_classes, z.shape[0])

    def sample_z(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` latents of the prior (standard normal), on this module's device."""
        like = next(self.parameters())
        z = torch.randn(count, self.z_dim, generator=generator, device=generator.device if generator else like.device)
        return z.to(like.device)


class Discriminator(Model):
    """A critic of images [N, C, H, W] (and labels [N]) to logits: [N, 1], or a map [N, 1, h, w] where the class says so."""

    num_classes: int = 0

    def check_inputs(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Raise a ValueError that names the argument if images or labels do not fit."""
        if isinstance(images, fx.Proxy):  # gankern.losses.PenalizedStep traces critics: there are no values to look at
            return
        name = type(self).__name__
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"{name}: images must be [N, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}")
        check_labels(name, labels, self.num_classes, images.shape[0])


def check_labels(name: str, labels: Tensor | None, num_classes: int, count: int) -> None:
    """Require int64 class indices [count] below ``num_classes``, or none where there are no classes.

    The range is looked at on the CPU and outside torch.compile only: on a GPU the host would have to wait for it.
    """
    if num_classes == 0:
        if labels is not None:
            raise ValueError(f"{name}: labels must be None, the model has no classes, got {list(labels.shape)}")
        return
    if labels is None:
        raise ValueError(f"{name}: labels must be given, the model has {num_classes} classes")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(f"{name}: labels must be int64 [{count}], got {labels.dtype} {list(labels.shape)}")
    traced = torch.compiler.is_compiling() or is_recording()
    if not traced and labels.device.type == "cpu" and count:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name}: labels must be from 0 to {num_classes - 1}, got {low if low < 0 else high}")


def set_ops(module: nn.Module, ops: str) -> None:
    """Switch every module inside to gankern's operators ('fused') or to plain PyTorch ('reference'); parameters stay."""
    reference = check_ops(ops)
    for part in module.modules():
        if hasattr(part, "reference"):
            part.reference = reference  # type: ignore[assignment]


__all__ = ["Discriminator", "LatentGenerator", "Model", "ModelConfig", "check_labels", "check_ops", "set_ops"]
