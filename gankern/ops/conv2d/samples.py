"""Named inputs of conv2d and conv_transpose2d: contract cases first, then layers of real networks."""

from __future__ import annotations

from typing import Any

import torch

from gankern._samples import LAYOUTS, Sample, randn
from gankern.ops.conv2d import arguments, backends

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})
_CUDA = frozenset({"quick_cuda", "full_cuda"})


def _sample(
    name: str,
    x: tuple[int, int, int, int],
    w: tuple[int, int, int, int],
    *,
    transposed: bool = False,
    bias: bool = True,
    tags: frozenset[str] = _CONTRACT,
    differentiable: tuple[str, ...] | None = None,
    layouts: tuple[str, ...] = LAYOUTS,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case. Weights are scaled to outputs of variance 1, as initialisations do."""
    groups = settings.get("groups", 1)
    out_channels = w[1] * groups if transposed else w[0]
    fan_in = w[2] * w[3] * (w[0] // groups if transposed else w[1])

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"input": randn(x, dtype, device, generator)}
        kwargs["weight"] = randn(w, torch.float64, device, generator).mul(fan_in**-0.5).to(dtype)
        if bias:
            kwargs["bias"] = randn((out_channels,), dtype, device, generator)
        return {**kwargs, **settings}

    meta = torch.empty(x, device="meta"), torch.empty(w, device="meta")
    if transposed:
        y = backends.conv_transpose2d_output(*arguments.prepare_conv_transpose2d(*meta, **settings))
    else:
        y = backends.conv2d_output(*arguments.prepare_conv2d(*meta, **settings))
    pixels = x[0] * x[2] * x[3] if transposed else y.shape[0] * y.shape[2] * y.shape[3]
    elements = x[0] * x[1] * x[2] * x[3] + w[0] * w[1] * w[2] * w[3] + y.numel()
    return Sample(
        name=name,
        make=make,
        differentiable=differentiable or (("input", "weight", "bias") if bias else ("input", "weight")),
        tags=tags,
        macs=pixels * w[0] * w[1] * w[2] * w[3],
        bytes=lambda itemsize: elements * itemsize,
        layouts=layouts,
        description=description,
    )


CONV2D_SAMPLES = [
    _sample("3x3_pad_1", (2, 3, 7, 9), (4, 3, 3, 3), padding=1, tags=_CHECK),
    _sample("1x1", (2, 5, 4, 6), (3, 5, 1, 1)),
    _sample("stride_2", (2, 3, 8, 9), (4, 3, 3, 3), stride=2, padding=1),
    _sample("stride_3_leaves_pixels", (1, 2, 9, 11), (3, 2, 2, 2), stride=3),
    _sample("stride_2_1_pad_0_2", (2, 3, 7, 6), (4, 3, 3, 5), stride=[2, 1], padding=(0, 2)),
    _sample("dilation_2", (1, 3, 9, 8), (2, 3, 3, 3), padding=2, dilation=2),
    _sample("dilation_2_3_stride_2", (1, 2, 11, 13), (3, 2, 3, 3), stride=2, dilation=[2, 3]),
    _sample("same_odd", (2, 3, 6, 7), (4, 3, 3, 5), padding="same"),
    _sample("same_even", (2, 3, 6, 7), (4, 3, 4, 2), padding="same"),
    _sample("valid", (2, 3, 6, 7), (4, 3, 3, 3), padding="valid"),
    _sample("groups_2", (2, 4, 6, 7), (6, 2, 3, 3), padding=1, groups=2, tags=_CHECK),
    _sample("depthwise", (2, 5, 6, 7), (5, 1, 3, 3), padding=1, groups=5),
    _sample("depthwise_multiplier", (2, 3, 6, 7), (6, 1, 3, 3), padding=1, stride=2, groups=3),
    _sample("without_bias", (2, 3, 5, 5), (4, 3, 3, 3), bias=False, tags=_CHECK),
    _sample("whole_image", (3, 4, 4, 4), (5, 4, 4, 4)),
    _sample("one_pixel", (2, 3, 1, 1), (4, 3, 3, 3), padding=1),
    _sample("one_channel", (2, 1, 6, 5), (1, 1, 3, 3), padding=1),
    _sample("empty_batch", (0, 3, 5, 6), (4, 3, 3, 3), padding=1),
    _sample("only_weight_trained", (2, 3, 5, 6), (4, 3, 3, 3), padding=1, differentiable=("weight",)),
    _sample("only_bias_trained", (2, 3, 5, 6), (4, 3, 3, 3), padding=1, differentiable=("bias",)),
    _sample("only_input", (2, 3, 5, 6), (4, 3, 3, 3), padding=1, differentiable=("input",)),
    # Layers of real networks. "x N" stands for the batch.
    _sample("stylegan2_d256_64x128", (1, 64, 128, 128), (64, 64, 3, 3), padding=1, tags=_QUICK,
            description="3x3 conv, StyleGAN2 D at 256: 64 ch 128^2 x 1"),
    _sample("r3gan_grouped_384x32", (4, 384, 32, 32), (384, 16, 3, 3), padding=1, groups=24, bias=False, tags=_QUICK,
            description="grouped 3x3 conv, R3GAN: 384 ch in groups of 16, 32^2 x 4"),
    _sample("stylegan2_d1024_32x256", (1, 32, 256, 256), (32, 32, 3, 3), padding=1, tags=_FULL,
            description="3x3 conv, StyleGAN2 D at 1024: 32 ch, a quarter of the image, 256^2 x 1"),
    _sample("stylegan2_d256_512x16", (4, 512, 16, 16), (512, 512, 3, 3), padding=1, tags=_FULL,
            description="3x3 conv, StyleGAN2 D at 256: 512 ch 16^2 x 4"),
    _sample("r3gan_grouped_768x16", (4, 768, 16, 16), (768, 16, 3, 3), padding=1, groups=48, bias=False, tags=_FULL,
            description="grouped 3x3 conv, R3GAN: 768 ch in groups of 16, 16^2 x 4"),
    _sample("stylegan2_d1024_32x1024", (1, 32, 1024, 1024), (32, 32, 3, 3), padding=1, tags=_CUDA,
            description="3x3 conv, StyleGAN2 D at 1024: 32 ch 1024^2 x 1"),
]  # fmt: skip

CONV_TRANSPOSE2D_SAMPLES = [
    _sample("stride_2", (2, 3, 5, 6), (3, 4, 3, 3), transposed=True, stride=2, tags=_CHECK),
    _sample("stride_2_pad_1_more_1", (2, 3, 5, 6), (3, 4, 4, 4), transposed=True, stride=2, padding=1, output_padding=1),
    _sample("stride_1_pad_1", (2, 3, 5, 6), (3, 4, 3, 3), transposed=True, padding=1, tags=_CHECK),
    _sample("stride_3_2_more_1_0", (1, 2, 4, 5), (2, 3, 3, 2), transposed=True, stride=[3, 2], output_padding=[1, 0]),
    _sample("dilation_3_more_2", (1, 2, 4, 5), (2, 3, 2, 2), transposed=True, dilation=3, output_padding=2, padding=1),
    _sample("groups_2", (2, 4, 5, 4), (4, 3, 3, 3), transposed=True, stride=2, padding=1, output_padding=1, groups=2),
    _sample("depthwise", (2, 5, 5, 4), (5, 1, 4, 4), transposed=True, stride=2, padding=1, groups=5),
    _sample("without_bias", (2, 3, 4, 4), (3, 2, 3, 3), transposed=True, bias=False, tags=_CHECK),
    # One pixel has no layout of its own: PyTorch then goes by the weight's.
    _sample("one_pixel", (2, 3, 1, 1), (3, 4, 4, 4), transposed=True, layouts=("nchw",)),
    _sample("empty_batch", (0, 3, 4, 4), (3, 4, 3, 3), transposed=True, stride=2),
    _sample("only_weight_trained", (2, 3, 4, 4), (3, 4, 3, 3), transposed=True, stride=2, differentiable=("weight",)),
    _sample("stylegan2_up_128x64", (2, 128, 64, 64), (128, 64, 3, 3), transposed=True, stride=2, bias=False, tags=_QUICK,
            description="3x3 transposed conv, stride 2, StyleGAN2 G: 128 ch 64^2 to 64 ch x 2"),
]  # fmt: skip
