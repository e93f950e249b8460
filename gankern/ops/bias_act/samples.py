"""Named inputs of bias_act: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

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
    shape: tuple[int, ...],
    act: str = "linear",
    *,
    bias: bool = True,
    dim: int = 1,
    noise: tuple[int, ...] | None = None,
    strength: bool = True,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] | None = None,
    description: str = "",
    **settings: float | None,
) -> Sample:
    """One case; every tensor argument is differentiable unless said otherwise."""
    elements = 1
    for size in shape:
        elements *= size

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn(shape, dtype, device, generator), "act": act, "dim": dim, **settings}
        if bias:
            kwargs["b"] = randn((shape[dim],), dtype, device, generator)
        if noise is not None:
            kwargs["noise"] = randn(noise, dtype, device, generator)
            if strength:
                kwargs["noise_strength"] = randn((), dtype, device, generator)
        return kwargs

    if differentiable is None:
        differentiable = ("x",) + (("b",) if bias else ())
        if noise is not None:
            differentiable += ("noise", "noise_strength") if strength else ("noise",)
    return Sample(
        name=name,
        make=make,
        differentiable=differentiable,
        tags=tags,
        macs=elements,
        bytes=lambda itemsize: 2 * elements * itemsize,
        layouts=("nchw", "channels_last") if len(shape) == 4 else ("nchw",),
        description=description,
    )


CONTRACT = [
    *(_sample(f"{act}_bias", (2, 3, 5, 7), act, tags=_CHECK if act in ("lrelu", "swish", "tanh") else _CONTRACT)
      for act in activation_funcs),
    *(_sample(f"{act}_clamp", (2, 3, 5, 7), act, clamp=0.5, gain=1.3) for act in activation_funcs),
    _sample("lrelu_noise_clamp", (2, 5, 6, 9), "lrelu", noise=(2, 1, 6, 9), clamp=1.5, tags=_CHECK),
    _sample("swish_noise", (2, 4, 5, 6), "swish", noise=(2, 1, 5, 6)),
    _sample("softplus_noise_for_all", (3, 4, 5, 6), "softplus", noise=(5, 6)),
    _sample("tanh_noise_without_bias", (3, 4, 5, 6), "tanh", bias=False, noise=(1, 1, 5, 6), strength=False),
    _sample("linear_noise_a_column", (2, 3, 4, 8), "linear", noise=(2, 1, 1, 8), gain=0.7),
    _sample("linear_without_anything", (2, 3, 4, 5), bias=False),
    _sample("linear_gain", (2, 3, 4, 5), gain=-1.5),
    _sample("relu_without_bias", (2, 3, 4, 5), "relu", bias=False),
    _sample("lrelu_negative_alpha", (2, 3, 4, 5), "lrelu", alpha=-0.3),
    _sample("lrelu_negative_alpha_clamp", (2, 3, 4, 5), "lrelu", alpha=-0.3, clamp=0.75),
    _sample("lrelu_negative_gain", (2, 3, 4, 5), "lrelu", gain=-2.0),
    _sample("lrelu_alpha_zero", (2, 3, 4, 5), "lrelu", alpha=0.0),
    _sample("sigmoid_negative_gain", (2, 3, 4, 5), "sigmoid", gain=-2.0),
    _sample("elu_gain_zero", (2, 3, 4, 5), "elu", gain=0.0),
    _sample("lrelu_2d", (6, 37), "lrelu"),
    _sample("selu_2d_bias_on_dim_0", (6, 37), "selu", dim=0),
    _sample("swish_1d", (23,), "swish", dim=0),
    _sample("elu_3d_last_dim", (2, 5, 19), "elu", dim=-1),
    _sample("lrelu_5d", (2, 3, 4, 3, 5), "lrelu", dim=1),
    _sample("lrelu_bias_on_dim_2", (2, 3, 4, 5), "lrelu", dim=2),
    _sample("softplus_bias_on_dim_3", (2, 3, 4, 5), "softplus", dim=3),
    _sample("tanh_bias_on_dim_0", (4, 3, 4, 5), "tanh", dim=0),
    _sample("lrelu_past_a_vector", (1, 67, 3, 45), "lrelu", noise=(1, 1, 3, 45)),
    _sample("swish_one_channel", (3, 1, 9, 17), "swish", noise=(3, 1, 9, 17)),
    _sample("sigmoid_single_element", (1, 1, 1, 1), "sigmoid"),
    _sample("lrelu_empty_batch", (0, 3, 4, 5), "lrelu", noise=(1, 1, 4, 5)),
    _sample("linear_no_channels", (2, 0, 4, 5), "linear"),
    _sample("lrelu_only_bias_trained", (2, 3, 5, 7), "lrelu", differentiable=("b",)),
    _sample("swish_only_strength_trained", (2, 3, 5, 7), "swish", noise=(2, 1, 5, 7), differentiable=("noise_strength",)),
    _sample("lrelu_several_chunks", (2, 3, 40, 64), "lrelu", noise=(2, 1, 40, 64)),
]  # fmt: skip

BENCH = [
    _sample("lrelu_64x256", (4, 64, 256, 256), "lrelu", tags=_QUICK, description="bias + leaky ReLU, 64 ch 256^2"),
    _sample("lrelu_noise_clamp_512x32", (4, 512, 32, 32), "lrelu", noise=(4, 1, 32, 32), clamp=256.0, tags=_QUICK,
            description="noise + bias + leaky ReLU + clamp: StyleGAN2 layer, 512 ch 32^2"),
    _sample("lrelu_mapping_512", (4096, 512), "lrelu", tags=_FULL, description="bias + leaky ReLU: fully connected, 512"),
    _sample("linear_clamp_rgb", (4, 3, 256, 256), "linear", clamp=256.0, tags=_FULL, description="bias + clamp: ToRGB 256^2"),
    _sample("swish_64x128", (4, 64, 128, 128), "swish", tags=_FULL, description="bias + swish, 64 ch 128^2"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
