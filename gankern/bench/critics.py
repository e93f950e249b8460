"""Critics as users write them, twice with the same parameters: in eager PyTorch, and with gankern's operators.

A critic is a function of images and parameters, given the operators to use. All give one logit a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import ops
from gankern.ops.minibatch_stddev.reference import minibatch_stddev_reference
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference


@dataclass(frozen=True)
class Kit:
    """The operators that a critic is made of."""

    conv: Callable[..., Tensor]
    resample: Callable[..., Tensor]
    stddev: Callable[..., Tensor]
    act: Callable[[Tensor, Tensor | None], Tensor]


def _eager_act(x: Tensor, b: Tensor | None) -> Tensor:
    return F.leaky_relu(x if b is None else x + b[:, None, None], 0.2) * 2**0.5


def _fused_act(x: Tensor, b: Tensor | None) -> Tensor:
    return ops.bias_act(x, b, act="lrelu")


# torch.fx, which PenalizedStep traces critics with, sees gankern's functions where they are called by their module's name.
def _conv2d(*args: Any, **kwargs: Any) -> Tensor:
    return ops.conv2d(*args, **kwargs)


def _conv2d_resample(*args: Any, **kwargs: Any) -> Tensor:
    return ops.conv2d_resample(*args, **kwargs)


def _minibatch_stddev(x: Tensor) -> Tensor:
    return ops.minibatch_stddev(x)


def _eager_resample(x: Tensor, w: Tensor, f: Tensor, down: int = 1, padding: int = 0) -> Tensor:
    """As StyleGAN2's code has it without its kernels: filter, then the convolution with a stride (1x1: after the stride)."""
    before, after = padding + (f.shape[0] - down + 1) // 2, padding + (f.shape[0] - down) // 2
    pads = [before, after, before, after]
    if w.shape[2] == 1:
        return F.conv2d(upfirdn2d_reference(x, f, down=down, padding=pads), w)
    return F.conv2d(upfirdn2d_reference(x, f, padding=pads), w, stride=down)


EAGER = Kit(F.conv2d, _eager_resample, minibatch_stddev_reference, _eager_act)
FUSED = Kit(_conv2d, _conv2d_resample, _minibatch_stddev, _fused_act)
PATCHED = Kit(ops.conv2d, _eager_resample, minibatch_stddev_reference, _eager_act)

Shapes = dict[str, tuple[int, ...]]


def _dcgan(kit: Kit, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """4x4 convolutions of stride 2 down to 4x4, without normalisation (WGAN-GP's)."""
    i = 0
    while f"w{i}" in p:
        x = kit.act(kit.conv(x, p[f"w{i}"], stride=2, padding=1), p[f"b{i}"])
        i += 1
    return kit.conv(x, p["head"]).flatten(1)


def _dcgan_shapes(size: int, width: int) -> Shapes:
    shapes: Shapes = {}
    channels, i = 3, 0
    while size > 4:
        shapes[f"w{i}"], shapes[f"b{i}"] = (width, channels, 4, 4), (width,)
        channels, width, size, i = width, 2 * width, size // 2, i + 1
    return {**shapes, "head": (1, channels, 4, 4)}


def run(kind: str, kit: Kit, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits [N, 1] of images ``x`` [N, 3, H, W]."""
    return CRITICS[kind](kit, {"fir": ops.setup_filter([1, 3, 3, 1], device=x.device), **parameters}, x)


def _stylegan2(kit: Kit, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Residual blocks with filtered downsampling, then minibatch standard deviation (Karras et al. 2020)."""
    x = kit.act(kit.conv(x, p["rgb_w"]), p["rgb_b"])
    i = 0
    while f"skip{i}" in p:
        y = kit.act(kit.conv(x, p[f"a{i}_w"], padding=1), p[f"a{i}_b"])
        y = kit.act(kit.resample(y, p[f"b{i}_w"], p["fir"], down=2, padding=1), p[f"b{i}_b"])
        x = (y + kit.resample(x, p[f"skip{i}"], p["fir"], down=2)) * 0.5**0.5
        i += 1
    x = kit.act(kit.conv(kit.stddev(x), p["last_w"], padding=1), p["last_b"])
    return F.linear(x.flatten(1), p["head"])


def _stylegan2_shapes(size: int, width: int, most: int) -> Shapes:
    shapes: Shapes = {"rgb_w": (width, 3, 1, 1), "rgb_b": (width,)}
    i = 0
    while size > 4:
        after = min(2 * width, most)
        shapes |= {f"a{i}_w": (width, width, 3, 3), f"a{i}_b": (width,)}
        shapes |= {f"b{i}_w": (after, width, 3, 3), f"b{i}_b": (after,), f"skip{i}": (after, width, 1, 1)}
        width, size, i = after, size // 2, i + 1
    return {**shapes, "last_w": (width, width + 1, 3, 3), "last_b": (width,), "head": (1, width * 16)}


def _r3gan(kit: Kit, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Grouped residual blocks, normalisation-free (Huang et al. 2024): 1x1, grouped 3x3 and 1x1 in each."""
    x = kit.conv(x, p["rgb_w"], padding=1)
    i = 0
    while f"a{i}" in p:
        y = kit.act(kit.conv(x, p[f"a{i}"]), p[f"a{i}_b"])
        y = kit.act(kit.conv(y, p[f"g{i}"], padding=1, groups=p[f"g{i}"].shape[0] // p[f"g{i}"].shape[1]), p[f"g{i}_b"])
        x = x + kit.conv(y, p[f"c{i}"])
        if f"down{i}" in p:
            x = kit.resample(x, p[f"down{i}"], p["fir"], down=2)
        i += 1
    return F.linear(x.mean((2, 3)), p["head"])


def _r3gan_shapes(size: int, width: int, group: int) -> Shapes:
    shapes: Shapes = {"rgb_w": (width, 3, 3, 3)}
    i = 0
    while size > 4:
        inner = 2 * width
        shapes |= {f"a{i}": (inner, width, 1, 1), f"a{i}_b": (inner,), f"g{i}": (inner, group, 3, 3), f"g{i}_b": (inner,)}
        shapes |= {f"c{i}": (width, inner, 1, 1), f"down{i}": (2 * width, width, 1, 1)}
        width, size, i = 2 * width, size // 2, i + 1
    return {**shapes, "head": (1, width)}


def _resnet(kit: Kit, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Residual blocks with average pooling (Gulrajani et al. 2017, without normalisation)."""
    x = kit.conv(x, p["rgb_w"], padding=1)
    i = 0
    while f"a{i}" in p:
        y = kit.conv(kit.act(x, None), p[f"a{i}"], padding=1)
        y = kit.conv(kit.act(y, p[f"a{i}_b"]), p[f"b{i}"], padding=1)
        x = F.avg_pool2d(y + kit.conv(x, p[f"skip{i}"]), 2)
        i += 1
    return F.linear(kit.act(x, None).mean((2, 3)), p["head"])


def _resnet_shapes(size: int, width: int) -> Shapes:
    shapes: Shapes = {"rgb_w": (width, 3, 3, 3)}
    i = 0
    while size > 4:
        shapes |= {f"a{i}": (width, width, 3, 3), f"a{i}_b": (width,), f"b{i}": (2 * width, width, 3, 3)}
        shapes[f"skip{i}"] = (2 * width, width, 1, 1)
        width, size, i = 2 * width, size // 2, i + 1
    return {**shapes, "head": (1, width)}


CRITICS: dict[str, Callable[[Kit, dict[str, Tensor], Tensor], Tensor]] = {
    "dcgan": _dcgan,
    "stylegan2": _stylegan2,
    "r3gan": _r3gan,
    "resnet": _resnet,
}
SHAPES: dict[str, Callable[..., Shapes]] = {
    "dcgan": _dcgan_shapes,
    "stylegan2": _stylegan2_shapes,
    "r3gan": _r3gan_shapes,
    "resnet": _resnet_shapes,
}


class Critic(nn.Module):
    """A critic as a module: ``kind`` of CRITICS, with the operators of ``kit`` and these parameters (shared, not copied)."""

    def __init__(self, kind: str, kit: Kit, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.kind, self.kit = kind, kit
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value.detach()))
        self.names = tuple(parameters)
        device = next(iter(parameters.values())).device
        self.register_buffer("fir", ops.setup_filter([1, 3, 3, 1], device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 1] of images ``x`` [N, 3, H, W]."""
        return CRITICS[self.kind](self.kit, {name: getattr(self, name) for name in (*self.names, "fir")}, x)


def initial(shapes: Shapes, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    """Random parameters: weights of variance 1 / fan in, biases small."""
    made = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)
        scale = 0.1 if len(shape) == 1 else torch.Size(shape[1:]).numel() ** -0.5
        made[name] = (value * scale).to(dtype).to(device)
    return made


def convolutions(kind: str, shapes: Shapes, size: int) -> Iterator[int]:
    """Multiplications and additions of each convolution for one image of ``size``, in no order."""
    with torch.device("meta"):
        macs: list[int] = []

        def count(x: Tensor, w: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            y = F.conv2d(x, w, **{k: v for k, v in kwargs.items() if k in ("stride", "padding", "groups")})
            macs.append(y.shape[2] * y.shape[3] * w.numel())
            return y

        def resample(x: Tensor, w: Tensor, f: Tensor, down: int = 1, padding: int = 0) -> Tensor:
            return count(x, w, padding=w.shape[2] // 2)[:, :, ::down, ::down]

        kit = Kit(count, resample, lambda x: torch.cat([x, x[:, :1]], 1), lambda x, b: x)
        parameters = {name: torch.empty(shape) for name, shape in {**shapes, "fir": (4, 4)}.items()}
        CRITICS[kind](kit, parameters, torch.empty(1, 3, size, size))
    yield from macs
