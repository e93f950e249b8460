"""Models for the tests of gankern.patch: PyTorch's layers, and stand-ins of other people's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def conv_act(**settings: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, **settings), nn.LeakyReLU(0.3, inplace=True), nn.Conv2d(8, 4, 3, 2, bias=False), nn.ReLU()
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.ReLU(True), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), nn.Tanh()
    )


def normed(**settings: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False),
        nn.InstanceNorm2d(8, **settings),
        nn.ReLU(True),
        nn.InstanceNorm2d(8, **settings),
        nn.SiLU(),
    )


def hooked_spectral() -> nn.Module:
    norm = torch.nn.utils.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(4, 8, 3)), nn.LeakyReLU(0.1), norm(nn.ConvTranspose2d(8, 4, 3), n_power_iterations=2), nn.Sigmoid()
    )


def parametrized_spectral() -> nn.Module:
    norm = parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(4, 8, 3)), nn.LeakyReLU(0.1), norm(nn.ConvTranspose2d(8, 4, 3), n_power_iterations=2), nn.Sigmoid()
    )


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Linear(8, 3), nn.Sigmoid(), nn.Linear(3, 2))


class Residual(nn.Module):
    """Its own forward method; an activation that is used twice, and a convolution too."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(0.2)
        self.conv = nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect")
        self.block = nn.Sequential(self.conv, self.act, nn.Conv2d(4, 4, 1), self.act)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.conv(self.block(x)))


class Modulated(nn.Module):
    """A stand-in of the StyleGAN2 family's convolution, sample by sample: Karras et al. 2020, equations 1 and 3."""

    def __init__(self, upsample: bool = False, downsample: bool = False, demodulate: bool = True, kernel_size: int = 3) -> None:
        super().__init__()
        self.upsample, self.downsample, self.demodulate, self.kernel_size, self.eps = (
            upsample,
            downsample,
            demodulate,
            kernel_size,
            1e-8,
        )
        self.scale = 0.2
        self.weight = nn.Parameter(torch.randn(1, 5, 4, kernel_size, kernel_size))
        self.modulation = nn.Linear(6, 4)
        self.gain = 1.0
        if upsample or downsample:
            self.blur = nn.Module()
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            self.blur.register_buffer("kernel", taps.outer(taps) / 64 * (4 if upsample else 1))
            more = kernel_size - 1
            self.blur.pad = ((3 - more) // 2 + 1, (2 - more) // 2 + 1) if upsample else ((3 + more) // 2, (2 + more) // 2)

    def smoothed(self, x: Tensor) -> Tensor:
        a, b = self.blur.pad
        kernel = self.blur.kernel.flip(0, 1)[None, None].expand(x.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(x, [a, b, a, b]), kernel, groups=x.shape[1])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        images = []
        for image, s in zip(x, self.modulation(style), strict=True):
            w = self.scale * self.weight[0] * s[:, None, None]
            if self.demodulate:
                w = w / (w.square().sum((1, 2, 3), keepdim=True) + self.eps).sqrt()
            if self.upsample:
                y = self.smoothed(F.conv_transpose2d(image[None], w.transpose(0, 1), stride=2))
            elif self.downsample:
                y = F.conv2d(self.smoothed(image[None]), w, stride=2)
            else:
                y = F.conv2d(image[None], w, padding=self.kernel_size // 2)
            images.append(y * self.gain)
        return torch.cat(images)


class ModConv(nn.Module):
    """A stand-in of the other convention: the style comes made, and is the factor minus 1."""

    def __init__(self, demod: bool = True, kernel: int = 3, eps: float = 1e-8) -> None:
        super().__init__()
        self.demod, self.kernel, self.eps, self.stride, self.dilation = demod, kernel, eps, 1, 1
        self.weight = nn.Parameter(torch.randn(5, 4, kernel, kernel))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        weights = [self.weight * (1 + s[:, None, None]) for s in y]
        if self.demod:
            weights = [w / (w.square().sum((1, 2, 3), keepdim=True) + self.eps).sqrt() for w in weights]
        return torch.cat([F.conv2d(i[None], w, padding=self.kernel // 2) for i, w in zip(x, weights, strict=True)])


class Adaptive(nn.Module):
    """A stand-in of GigaGAN's: each sample mixes its kernel; fewer styles than images serve all of them."""

    def __init__(self, kernels: int, demod: bool = True) -> None:
        super().__init__()
        self.demod, self.kernel, self.eps, self.stride, self.dilation = demod, 3, 1e-8, 1, 1
        self.weights = nn.Parameter(torch.randn(kernels, 5, 4, 3, 3))

    def forward(self, fmap: Tensor, mod: Tensor, kernel_mod: Tensor | None = None) -> Tensor:
        images = []
        for n, image in enumerate(fmap):
            k = n % len(mod)
            mix = torch.ones(1) if kernel_mod is None or kernel_mod.numel() == 0 else kernel_mod[k].softmax(0)
            w = torch.einsum("k,koihw->oihw", mix.to(self.weights), self.weights) * (1 + mod[k])[:, None, None]
            if self.demod:
                w = w * w.square().sum((1, 2, 3), keepdim=True).clamp_min(self.eps).rsqrt()
            images.append(F.conv2d(image[None], w, padding=1))
        return torch.cat(images)


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()


class MinibatchStdDev(nn.Module):
    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        g = min(n, self.group_size)
        groups = x.reshape(g, n // g, *x.shape[1:])
        std = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat([x, std.repeat(g)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 4, 8, 8),)


def styled(*sizes: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(3, 4, 6, 8), *(torch.randn(3, size) for size in sizes))


CASES = {
    "conv": (conv_act, images, 3),
    "conv-groups": (lambda: conv_act(groups=2, dilation=2), images, 3),
    "conv-circular": (lambda: nn.Conv2d(4, 3, 3, padding=2, padding_mode="circular"), images, 1),
    "transposed": (transposed, images, 4),
    "instance-norm": (normed, images, 5),
    "instance-norm-affine": (lambda: normed(affine=True, eps=1e-3), images, 5),
    "instance-norm-tracked": (lambda: normed(affine=True, track_running_stats=True, momentum=0.3, eps=1e-3), images, 5),
    "spectral-hook": (hooked_spectral, images, 6),
    "spectral-parametrization": (parametrized_spectral, images, 6),
    "linear": (linear, images, 4),
    "residual": (Residual, images, 3),
    "modulated": (Modulated, styled(6), 1),
    "modulated-up": (lambda: Modulated(upsample=True), styled(6), 1),
    "modulated-down": (lambda: Modulated(downsample=True), styled(6), 1),
    "modulated-rgb": (lambda: Modulated(demodulate=False, kernel_size=1), styled(6), 1),
    "conv2dmod": (ModConv, styled(4), 1),
    "conv2dmod-plain": (lambda: ModConv(demod=False, kernel=1), styled(4), 1),
    "adaptive": (lambda: Adaptive(3), styled(4, 3), 1),
    "adaptive-one": (lambda: Adaptive(1), styled(4), 1),
    "pixel-norm": (PixelNorm, images, 1),
    "minibatch-stddev": (MinibatchStdDev, lambda: (torch.randn(8, 4, 3, 3),), 1),
}


def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...], int]:
    torch.manual_seed(0)
    build, draw, swapped = CASES[name]
    model = build()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)  # biases and gains that would be missed
    return model, draw(), swapped


def results(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Values, gradients, gradients of a gradient penalty, and buffers afterwards."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    inside = [*leaves, *model.parameters()]
    y = model(*leaves)
    grads = torch.autograd.grad(y.pow(2).sum() + y.sum(), inside, create_graph=True)
    penalty = sum(g.square().sum() for g in grads[: len(leaves)])
    seconds = torch.autograd.grad(penalty, inside, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for g, t in zip(seconds, inside, strict=True)]
    return [y, *grads, *zeros, *(b.clone() for b in model.buffers())]


def assert_same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = a.detach().double(), b.detach().double()
        assert (a - b).norm() <= tolerance * max(float(b.norm()), 1e-3)
