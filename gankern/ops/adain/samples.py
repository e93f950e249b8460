"""Named inputs of adain: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

from __future__ import annotations

from typing import Any

import torch

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
    factors: tuple[int, ...] | str | None = "planes",
    noise: tuple[int, ...] | None = None,
    bias: bool = False,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] | None = None,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case; ``factors`` is the shape of scale and shift: "planes" [N, C], "pixels" [N, C, H, W]."""
    n, c, h, w = shape
    elements = n * c * h * w
    size = {"planes": (n, c), "pixels": shape}.get(factors, factors) if isinstance(factors, str) else factors
    sizes: dict[str, Any] = {"scale": size, "shift": size, "pre_noise": noise, "pre_bias": (c,) if bias else None}
    absent: dict[str, Any] = {name: None for name in ("scale", "shift") if sizes[name] is None}
    sizes = {name: size for name, size in sizes.items() if size is not None}

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn(shape, dtype, device, generator), **absent, "act": act, **settings}
        return kwargs | {name: randn(size, dtype, device, generator) for name, size in sizes.items()}

    return Sample(
        name=name,
        make=make,
        differentiable=("x", *sizes) if differentiable is None else differentiable,
        tags=tags,
        macs=elements,
        bytes=lambda itemsize: (4 if factors == "pixels" else 2) * elements * itemsize,
        description=description,
    )


CONTRACT = [
    _sample("adain", (2, 3, 5, 7), tags=_CHECK),
    _sample("stylegan_order", (2, 5, 6, 9), noise=(2, 1, 6, 9), bias=True, pre_act="lrelu", tags=_CHECK),
    _sample("spade_lrelu", (2, 3, 5, 6), "lrelu", factors="pixels"),
    _sample(
        "everything_curved", (2, 4, 5, 6), "swish", noise=(1, 1, 5, 6), bias=True, pre_act="softplus", gain=1.3, tags=_CHECK
    ),
    _sample("spade_curved", (2, 3, 4, 5), "tanh", factors="pixels", noise=(2, 1, 4, 5), pre_act="elu"),
    _sample("affine_relu", (3, 4, 5, 5), "relu", factors=(1, 4)),
    _sample("no_factors", (2, 3, 4, 5), "lrelu", factors=None, alpha=-0.3, gain=-1.5),
    _sample("past_a_vector", (1, 37, 3, 11), "sigmoid", noise=(1, 1, 3, 11)),
    _sample("two_pixels", (2, 19, 2, 1), eps=0.1),
    _sample("empty_batch", (0, 3, 4, 5), "lrelu", noise=(1, 1, 4, 5), bias=True),
    _sample("only_factors_trained", (2, 3, 5, 7), "selu", differentiable=("scale", "shift")),
    _sample("only_noise_trained", (2, 3, 5, 7), noise=(5, 7), pre_act="lrelu", differentiable=("pre_noise",)),
]

_ORDER: dict[str, Any] = {"bias": True, "pre_act": "lrelu"}
BENCH = [
    _sample("adain_512x32", (4, 512, 32, 32), tags=_FULL, description="AdaIN: StyleGAN layer, 512 ch 32^2"),
    _sample("stylegan_512x32", (4, 512, 32, 32), noise=(4, 1, 32, 32), **_ORDER, tags=_FULL,
            description="noise + bias + leaky ReLU + AdaIN: StyleGAN layer, 512 ch 32^2"),
    _sample("stylegan_128x256", (2, 128, 256, 256), noise=(2, 1, 256, 256), **_ORDER, tags=_QUICK,
            description="noise + bias + leaky ReLU + AdaIN: StyleGAN layer, 128 ch 256^2"),
    _sample("stylegan_32x512", (1, 32, 512, 512), noise=(1, 1, 512, 512), **_ORDER, tags=_FULL,
            description="noise + bias + leaky ReLU + AdaIN: StyleGAN layer, 32 ch 512^2"),
    _sample("cyclegan_256x64", (1, 256, 64, 64), "relu", factors=None, gain=1.0, tags=_QUICK,
            description="instance norm + ReLU: CycleGAN residual block, 256 ch 64^2"),
    _sample("cyclegan_64x256", (1, 64, 256, 256), "relu", factors=None, gain=1.0, tags=_FULL,
            description="instance norm + ReLU: CycleGAN first layer, 64 ch 256^2"),
    _sample("pix2pix_128x64", (1, 128, 64, 64), "lrelu", factors=(1, 128), gain=1.0, tags=_FULL,
            description="instance norm with weight and bias + leaky ReLU: pix2pix encoder, 128 ch 64^2"),
    _sample("spade_256x64", (1, 256, 64, 64), "lrelu", factors="pixels", gain=1.0, tags=_FULL,
            description="SPADE + leaky ReLU: 256 ch 64^2"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
