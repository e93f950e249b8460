"""Training steps as rows: what an operator is worth where it stands, beside the same step in eager PyTorch.

A step looks like an op whose only direction is forward: a function that takes images and parameters and returns gradients.

- ``r1_step``: loss and R1 penalty of a convolutional critic, one backward through both (every step of R3GAN);
- ``penalty_step``: the penalty alone (StyleGAN2's lazy regularisation, WGAN-GP's penalty term);
- ``path_length_step``: path length regularisation of two StyleGAN2 layers: forward, the gradient in the styles alone, and the
  gradients of its length's deviation in styles, weights and biases;
- ``penalised_step``: a critic's whole step with its penalty, see ``penalised.py``;
- ``model_forward``, ``model_step``: whole reference GANs, small, see ``models.py``; ``network_*``: large, see ``networks.py``;
- ``second_order_weight_gradient``: the gradient in the weight of a convolution's input gradient, alone; PyTorch computes it on
  CUDA as a convolution with an image-sized filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import ops
from gankern._dispatch import OpSpec
from gankern._samples import Sample, randn
from gankern.bench.inference import INFERENCE
from gankern.bench.models import MODELS
from gankern.bench.networks import SPECS as NETWORKS
from gankern.bench.penalised import PENALISED
from gankern.ops.modulated_conv2d.reference import modulated_conv2d_reference

_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})
_CUDA = frozenset({"quick_cuda", "full_cuda"})

Conv = Callable[..., Tensor]
Act = Callable[[Tensor, Tensor], Tensor]


def _eager_act(x: Tensor, b: Tensor) -> Tensor:
    return F.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5


def _fused_act(x: Tensor, b: Tensor) -> Tensor:
    return ops.bias_act(x, b, act="lrelu")


def _critic(conv: Conv, act: Act, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """Logits [N, 1] of a plain stack: every second 3x3 convolution halves the resolution. The last parameter is linear."""
    *layers, head = parameters
    for i in range(0, len(layers), 2):
        x = act(conv(x, layers[i], stride=1 + i // 2 % 2, padding=1), layers[i + 1])
    return x.mean((2, 3)) @ head


def _penalised(conv: Conv, act: Act, with_loss: bool) -> Callable[..., tuple[Tensor, ...]]:
    def step(x: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            parameters = [p.detach().requires_grad_() for p in named.values()]
            logits = _critic(conv, act, x, parameters)
            (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            loss = 5 * g.square().sum((1, 2, 3)).mean()
            if with_loss:
                loss = loss + F.softplus(-logits).mean()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return tuple(torch.zeros_like(p) if d is None else d for p, d in zip(parameters, found, strict=True))

    return step


def _stack(name: str, batch: int, channels: tuple[int, ...], size: int, tags: frozenset[str], description: str) -> Sample:
    """Images [batch, 3, size, size] and a critic with these channels."""

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn((batch, 3, size, size), dtype, device, generator)}
        before = 3
        for i, c in enumerate(channels):
            w = randn((c, before, 3, 3), torch.float64, device, generator) * (before * 9) ** -0.5
            kwargs[f"w{i}"], kwargs[f"b{i}"] = w.to(dtype), randn((c,), dtype, device, generator)
            before = c
        return {**kwargs, "head": randn((before, 1), dtype, device, generator)}

    macs, before, pixels = 0, 3, size * size
    for i, c in enumerate(channels):
        pixels //= 1 if i % 2 == 0 else 4
        macs += batch * pixels * c * before * 9
        before = c
    return Sample(name, make, (), tags, macs=macs, description=description)


_STACKS = [
    _stack("critic_64x64", 4, (32, 64, 64, 128, 128), 64, _QUICK, "critic of 5 convolutions, 32 to 128 ch, 64^2 x 4"),
    _stack("critic_128x128", 2, (32, 64, 64, 128, 128, 256, 256), 128, _FULL,
           "critic of 7 convolutions, 32 to 256 ch, 128^2 x 2"),
    _stack("critic_512x512", 8, (32, 64, 64, 128, 128, 256, 256, 512, 512), 512, _CUDA,
           "critic of 9 convolutions, 32 to 512 ch, 512^2 x 8"),
]  # fmt: skip


class _SecondOrder:
    """The gradient in w of <dx, v>, where dx is the input gradient of a convolution: the graph up to there is made once."""

    def __init__(self, conv: Conv) -> None:
        self.conv = conv
        self.made: tuple[Any, ...] = (None, None, None)

    def __call__(self, x: Tensor, w: Tensor, dy: Tensor, v: Tensor, groups: int) -> tuple[Tensor, ...]:
        if self.made[0] is not x:
            with torch.enable_grad():
                image, kernel = x.detach().requires_grad_(), w.detach().requires_grad_()
                y = self.conv(image, kernel, padding=1, groups=groups)
                (dx,) = torch.autograd.grad(y, image, dy, create_graph=True)
            self.made = (x, kernel, dx)
        return torch.autograd.grad(self.made[2], [self.made[1]], v, retain_graph=True)


def _layer(name: str, batch: int, channels: int, size: int, groups: int, tags: frozenset[str], description: str) -> Sample:
    """A 3x3 layer with as many channels out as in; v is the cotangent of the input gradient."""

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        x, dy, v = (randn((batch, channels, size, size), dtype, device, generator) for _ in range(3))
        fan_in = channels // groups * 9
        w = randn((channels, channels // groups, 3, 3), torch.float64, device, generator) * fan_in**-0.5
        return {"x": x, "w": w.to(dtype), "dy": dy, "v": v, "groups": groups}

    return Sample(name, make, (), tags, macs=batch * size**2 * channels**2 // groups * 9, description=description)


_LAYERS = [
    _layer("stylegan2_d256", 1, 64, 128, 1, _QUICK, "StyleGAN2 D at 256: 64 ch 128^2 x 1"),
    _layer("stylegan2_d1024", 1, 32, 256, 1, _QUICK, "StyleGAN2 D at 1024: 32 ch, 256^2 of its 1024^2 x 1"),
    _layer("r3gan_grouped", 4, 384, 32, 24, _QUICK, "R3GAN: 384 ch in groups of 16, 32^2 x 4"),
    _layer("stylegan2_d256_b32", 32, 64, 256, 1, _CUDA, "StyleGAN2 D at 256: 64 ch 256^2 x 32"),
    _layer("stylegan2_d1024_b8", 8, 32, 1024, 1, _CUDA, "StyleGAN2 D at 1024: 32 ch 1024^2 x 8"),
    _layer("r3gan_grouped_b8", 8, 1536, 32, 96, _CUDA, "R3GAN: 1536 ch in groups of 16, 32^2 x 8"),
]


def _path_length(layer: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def step(x: Tensor, styles: Tensor, noise: Tensor, direction: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            parameters = [p.detach().requires_grad_() for p in (styles, *named.values())]
            styles, w0, b0, w1, b1 = parameters
            for i, (w, b) in enumerate(((w0, b0), (w1, b1))):
                x = layer(x, w, styles[:, i], noise=noise, padding=1, bias=b, act="lrelu", clamp=256.0)
            (g,) = torch.autograd.grad((x * direction).sum(), styles, create_graph=True)
            lengths = g.square().sum(2).mean(1).sqrt()
            found = torch.autograd.grad((lengths - 1).square().mean(), parameters, allow_unused=True)
        return tuple(torch.zeros_like(p) if d is None else d for p, d in zip(parameters, found, strict=True))

    return step


def _style_layers(channels: int, size: int, batch: int, tags: frozenset[str]) -> Sample:
    """A block of StyleGAN2 at 256: two layers. ``direction`` is the random image of the path length."""

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        image = (batch, channels, size, size)
        kwargs = {
            "x": randn(image, dtype, device, generator),
            "styles": 1 + randn((batch, 2, channels), dtype, device, generator),
            "noise": randn((batch, 1, size, size), dtype, device, generator),
            "direction": randn(image, dtype, device, generator) / size,
        }
        for i, bias in enumerate((12.0, 100.0)):
            kwargs[f"w{i}"] = randn((channels, channels, 3, 3), dtype, device, generator)
            # Far from the kink of the leaky ReLU, in both directions (the second layer's sums are some 12 in size): near it two
            # roundings would take two branches, and second derivatives are made of slopes.
            kwargs[f"b{i}"] = torch.tensor([bias, -bias]).repeat(channels)[:channels].to(dtype).to(device)
        return kwargs

    macs = 2 * batch * size**2 * channels**2 * 9
    description = f"two StyleGAN2 layers, {channels} ch {size}^2 x {batch}"
    return Sample(f"stylegan2_{channels}x{size}_b{batch}", make, (), tags, macs=macs, description=description)


_STYLE_LAYERS = [
    _style_layers(64, 128, 4, _QUICK),
    _style_layers(512, 16, 4, _FULL),
    *(_style_layers(c, s, b, _FULL) for c, s in ((64, 256), (128, 128), (256, 64), (512, 32)) for b in (1, 4)),
    _style_layers(256, 64, 8, _CUDA),
    _style_layers(64, 256, 8, _CUDA),
]


def _step(name: str, public: Callable[..., Any], reference: Callable[..., Any], samples: list[Sample]) -> OpSpec:
    return OpSpec(name, public, reference, prepare=lambda **_: (), table=None, samples=samples, derivative_order=0)


STEPS = (
    {
        spec.name: spec
        for spec in (
            PENALISED,
            _step("r1_step", _penalised(ops.conv2d, _fused_act, True), _penalised(F.conv2d, _eager_act, True), _STACKS),
            _step("penalty_step", _penalised(ops.conv2d, _fused_act, False), _penalised(F.conv2d, _eager_act, False), _STACKS),
            _step(
                "path_length_step", _path_length(ops.modulated_conv2d), _path_length(modulated_conv2d_reference), _STYLE_LAYERS
            ),
            _step("second_order_weight_gradient", _SecondOrder(ops.conv2d), _SecondOrder(F.conv2d), _LAYERS),
        )
    }
    | MODELS
    | NETWORKS
    | INFERENCE
)
"""The steps by name."""

PATCHED = {
    "r1_step": _penalised(ops.conv2d, _eager_act, True),
    "penalty_step": _penalised(ops.conv2d, _eager_act, False),
}
"""The steps with gankern's convolutions in otherwise eager code: what replacing them alone gives."""
