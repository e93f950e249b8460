"""Named inputs of modulate: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

from __future__ import annotations

from typing import Any

import torch

from gankern._activations import activation_funcs
from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})


def _sample(
    name: str,
    shape: tuple[int, int, int, int],
    act: str = "linear",
    *,
    scale: tuple[int, ...] | str | None = "each",
    noise: tuple[int, ...] | None = None,
    bias: bool = True,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] | None = None,
    description: str = "",
    **settings: float | None,
) -> Sample:
    """One case; ``scale`` "each" is one number a channel of a sample. Every tensor is differentiable unless said otherwise."""
    n, c, h, w = shape
    elements = n * c * h * w
    sizes: dict[str, Any] = {"scale": (n, c) if scale == "each" else scale, "noise": noise, "b": (c,) if bias else None}
    sizes = {name: size for name, size in sizes.items() if size is not None}

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn(shape, dtype, device, generator), "act": act, **settings}
        return kwargs | {name: randn(size, dtype, device, generator) for name, size in sizes.items()}

    return Sample(
        name=name,
        make=make,
        differentiable=("x", *sizes) if differentiable is None else differentiable,
        tags=tags,
        macs=elements,
        bytes=lambda itemsize: 2 * elements * itemsize,
        description=description,
    )


CONTRACT = [
    _sample("scale", (2, 3, 5, 7), bias=False, tags=_CHECK),
    _sample("scale_for_all", (3, 4, 5, 6), "lrelu", scale=(1, 4)),
    _sample("scale_bias_lrelu", (2, 3, 5, 7), "lrelu"),
    _sample("lrelu_noise_clamp", (2, 5, 6, 9), "lrelu", noise=(2, 1, 6, 9), clamp=1.5, tags=_CHECK),
    _sample("swish_everything", (2, 4, 5, 6), "swish", noise=(2, 1, 5, 6), clamp=1.25, gain=1.3, tags=_CHECK),
    _sample("tanh", (2, 3, 5, 7), "tanh", noise=(2, 1, 5, 7)),
    *(_sample(f"{act}_clamp", (2, 3, 4, 5), act, clamp=0.75, gain=1.3) for act in activation_funcs),
    _sample("no_scale", (2, 3, 5, 7), "lrelu", scale=None, noise=(2, 1, 5, 7)),
    _sample("no_scale_swish", (2, 3, 5, 7), "swish", scale=None, noise=(2, 1, 5, 7)),
    _sample("nothing", (2, 3, 4, 5), scale=None, bias=False),
    _sample("nothing_gain", (2, 3, 4, 5), scale=None, bias=False, gain=-1.5),
    _sample("relu_negative_gain", (2, 3, 4, 5), "relu", gain=-1.5),
    _sample("lrelu_negative_alpha", (2, 3, 4, 5), "lrelu", alpha=-0.3, clamp=0.75, noise=(1, 1, 4, 5)),
    _sample("noise_for_all", (3, 4, 5, 6), "softplus", noise=(5, 6)),
    _sample("noise_a_column", (2, 3, 4, 8), noise=(2, 1, 1, 8), bias=False),
    _sample("past_a_vector", (1, 67, 3, 45), "lrelu", noise=(1, 1, 3, 45)),
    _sample("swish_past_a_vector", (2, 37, 5, 5), "swish", noise=(1, 1, 5, 5)),
    _sample("one_channel", (3, 1, 9, 17), "swish", noise=(3, 1, 9, 17)),
    _sample("one_pixel", (3, 19, 1, 1), "lrelu", noise=(3, 1, 1, 1)),
    _sample("single_element", (1, 1, 1, 1), "lrelu", noise=(1, 1, 1, 1)),
    _sample("empty_batch", (0, 3, 4, 5), "lrelu", noise=(1, 1, 4, 5)),
    _sample("no_channels", (2, 0, 4, 5), "lrelu", noise=(2, 1, 4, 5)),
    _sample("only_scale_trained", (2, 3, 5, 7), "lrelu", noise=(5, 7), differentiable=("scale",)),
    _sample("only_scale_trained_swish", (2, 3, 5, 7), "swish", noise=(5, 7), differentiable=("scale",)),
    _sample("only_noise_trained", (2, 3, 5, 7), "lrelu", noise=(2, 1, 5, 7), differentiable=("noise",)),
    _sample("only_bias_trained", (2, 3, 5, 7), "tanh", noise=(2, 1, 5, 7), differentiable=("b",)),
    _sample("several_chunks", (2, 3, 40, 64), "lrelu", noise=(2, 1, 40, 64)),
    _sample("several_chunks_of_channels", (1, 80, 13, 17), "swish", noise=(1, 1, 13, 17)),
]

BENCH = [
    _sample("stylegan2_512x32", (4, 512, 32, 32), "lrelu", noise=(4, 1, 32, 32), clamp=256.0, tags=_FULL,
            description="scale + noise + bias + leaky ReLU + clamp: StyleGAN2 layer, 512 ch 32^2"),
    _sample("stylegan2_64x256", (2, 64, 256, 256), "lrelu", noise=(2, 1, 256, 256), clamp=256.0, tags=_QUICK,
            description="scale + noise + bias + leaky ReLU + clamp: StyleGAN2 layer, 64 ch 256^2"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
