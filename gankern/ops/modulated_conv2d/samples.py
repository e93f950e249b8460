"""Named inputs of modulated_conv2d: every argument, then StyleGAN2's layers at 256 (channel_base 16384) and 1024."""

from __future__ import annotations

from typing import Any

import torch

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})
_CUDA = frozenset({"quick_cuda", "full_cuda"})


def _sample(
    name: str,
    x: tuple[int, int, int, int],
    w: tuple[int, ...],
    *,
    noise: tuple[int, ...] | None = None,
    bias: bool = True,
    input_gain: tuple[int, ...] | None = None,
    taps: bool = False,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] | None = None,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case: weights and styles of variance 1, as StyleGAN2 has them (styles are centred at 1)."""
    up, down = settings.get("up", 1), settings.get("down", 1)
    o, i, kh, kw = w[-4:]
    pixels_in, pixels_out = x[0] * x[2] * x[3], x[0] * x[2] * x[3] * up**2 // down**2
    names = ["x", "weight", "styles"]
    names += ["noise"] if noise is not None else []
    names += ["bias"] if bias else []
    names += ["input_gain"] if input_gain is not None else []
    names += ["kernel_mix"] if len(w) == 5 else []

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn(x, dtype, device, generator), "weight": randn(w, dtype, device, generator)}
        if not settings.get("demodulate", True):
            kwargs["weight"] = kwargs["weight"] * (i * kh * kw) ** -0.5
        kwargs["styles"] = 1 + randn((x[0], i), dtype, device, generator)
        if noise is not None:
            kwargs["noise"] = randn(noise, dtype, device, generator)
        if bias:
            # At a rectifier far from 0, in both directions: half types would else take another branch here and there, and
            # compare a slope of 1 with one of 0.2.
            signs = torch.tensor([12.0, -12.0]).repeat(o)[:o] * (settings.get("act") == "lrelu")
            kwargs["bias"] = (randn((o,), torch.float32, torch.device("cpu"), generator) + signs).to(dtype).to(device)
        if input_gain is not None:
            kwargs["input_gain"] = randn(input_gain, dtype, device, generator)
        if len(w) == 5:
            kwargs["kernel_mix"] = randn((x[0], w[0]), dtype, device, generator)
        if taps:
            f = torch.tensor([1.0, 3, 3, 1])
            kwargs["resample_filter"] = (f[:, None] * f / 64).to(device)
        return {**kwargs, **settings}

    return Sample(
        name=name,
        make=make,
        differentiable=differentiable or tuple(names),
        tags=tags,
        macs=min(pixels_in, pixels_out) * o * i * kh * kw,
        bytes=lambda itemsize: itemsize * (pixels_in * i + pixels_out * o + o * i * kh * kw),
        description=description,
    )


def _layer(channels: int, size: int, batch: int, tags: frozenset[str], outputs: int | None = None, **settings: Any) -> Sample:
    """A layer of StyleGAN2 as it is used: noise, bias, leaky ReLU, clamp."""
    up = settings.get("up", 1)
    title = f"StyleGAN2 layer, {'up 2, ' if up > 1 else ''}{channels} ch {size}^2 x {batch}"
    return _sample(
        f"stylegan2_{'up_' if up > 1 else ''}{channels}x{size}_b{batch}", (batch, channels, size, size),
        (outputs or channels, channels, 3, 3), noise=(batch, 1, size * up, size * up), padding=1, act="lrelu", clamp=256.0,
        taps=up > 1, tags=tags, description=title, **settings,
    )  # fmt: skip


SAMPLES = [
    _sample("3x3", (2, 3, 5, 6), (4, 3, 3, 3), padding=1, bias=False, tags=_CHECK),
    _sample("layer", (2, 3, 5, 6), (4, 3, 3, 3), noise=(2, 1, 5, 6), padding=1, act="lrelu", clamp=8.0, tags=_CHECK),
    _sample("up_2", (2, 3, 4, 5), (4, 3, 3, 3), noise=(8, 10), up=2, padding=1, taps=True, act="lrelu"),
    _sample("down_2", (2, 3, 6, 8), (4, 3, 3, 3), down=2, padding=1, taps=True, act="lrelu"),
    _sample("rgb", (2, 5, 4, 4), (3, 5, 1, 1), demodulate=False, clamp=2.0),
    _sample("rgb_up_2", (2, 5, 4, 4), (3, 5, 1, 1), demodulate=False, up=2, taps=True),
    _sample("swish_gain", (2, 3, 5, 6), (4, 3, 3, 3), act="swish", gain=0.7),
    _sample("tanh_even_kernel", (2, 3, 5, 6), (4, 3, 2, 4), act="tanh", padding=[1, 2, 0, 1]),
    _sample("flipped", (2, 3, 5, 6), (4, 3, 3, 2), flip_weight=False, padding=1),
    _sample("input_gain", (2, 3, 5, 6), (4, 3, 3, 3), input_gain=(), padding=2),
    _sample("input_gain_channels", (2, 3, 5, 6), (4, 3, 3, 3), input_gain=(3,), padding=2),
    _sample("input_gain_samples", (2, 3, 5, 6), (4, 3, 3, 3), input_gain=(2, 3), padding=2, demodulate=False),
    _sample("kernel_mix", (3, 3, 5, 6), (2, 4, 3, 3, 3), noise=(3, 1, 5, 6), padding=1, act="lrelu", tags=_CHECK),
    _sample("kernel_mix_up_2", (2, 3, 4, 4), (3, 4, 3, 3, 3), padding=1, up=2, taps=True, input_gain=(3,)),
    _sample("channels_last_inside", (2, 16, 6, 7), (16, 16, 3, 3), noise=(2, 1, 6, 7), padding=1, act="lrelu"),
    _sample("one_large_image", (1, 2, 12, 13), (3, 2, 3, 3), noise=(1, 1, 12, 13), padding=1, act="lrelu", clamp=8.0),
    _sample("empty_batch", (0, 3, 5, 6), (4, 3, 3, 3), padding=1),
    _sample("only_styles_trained", (2, 3, 5, 6), (4, 3, 3, 3), padding=1, act="lrelu", differentiable=("styles",)),
    _layer(64, 128, 4, _QUICK),
    _layer(512, 16, 4, _QUICK),
    _layer(256, 64, 1, _FULL),
    _layer(64, 256, 1, _FULL),
    _layer(64, 256, 4, _FULL),
    _layer(128, 128, 1, _FULL),
    _layer(128, 128, 4, _FULL),
    _layer(256, 64, 4, _FULL),
    _layer(512, 32, 1, _FULL),
    _layer(512, 32, 4, _FULL),
    _layer(512, 4, 4, _FULL),
    _layer(128, 64, 4, _QUICK, outputs=64, up=2),
    _layer(512, 64, 8, _CUDA),
    _layer(256, 128, 8, _CUDA),
    _layer(128, 256, 8, _CUDA),
    _layer(64, 512, 8, _CUDA),
    _layer(32, 1024, 8, _CUDA),
    _layer(512, 8, 1, _CUDA),
]  # fmt: skip
