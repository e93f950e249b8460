"""Named inputs of upfirdn2d: contract cases first, then the shapes of real networks for ``gankern check`` and benchmarks."""

from __future__ import annotations

import math
from typing import Any

import torch

from gankern._samples import Sample, randn
from gankern.ops.upfirdn2d.arguments import factors, paddings


def _sample(
    name: str,
    shape: tuple[int, int, int, int],
    taps: tuple[int, ...] | None,
    up: int | list[int] = 1,
    down: int | list[int] = 1,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    *,
    kind: str = "random",
    tags: frozenset[str] = frozenset({"contract"}),
    differentiable: tuple[str, ...] = ("x",),
    description: str = "",
) -> Sample:
    """One case; kind 'random' draws the taps, 'binomial' is [1, 3, 3, 1] or the like, normalised (separable in 2-D too)."""
    n, c, h, w = shape
    up2, down2, pad = factors("sample", "up", up), factors("sample", "down", down), paddings("sample", padding)
    kw, kh = (1, 1) if taps is None else (taps[-1], taps[0])
    out_w = (w * up2[0] + pad[0] + pad[1] - kw) // down2[0] + 1
    out_h = (h * up2[1] + pad[2] + pad[3] - kh) // down2[1] + 1
    outputs = n * c * out_h * out_w

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        x = randn(shape, dtype, device, generator)
        f = None
        if taps is not None:
            f_dtype = torch.float64 if dtype == torch.float64 else torch.float32
            if kind == "binomial":
                row = torch.tensor([math.comb(taps[0] - 1, k) for k in range(taps[0])], dtype=torch.float64)
                f = row / row.sum() if len(taps) == 1 else row[:, None] * row[None, :] / row.sum() ** 2
                f = f.to(f_dtype).to(device)
            else:
                f = randn(taps, f_dtype, device, generator)
        return {"x": x, "f": f, "up": up, "down": down, "padding": padding, "flip_filter": flip_filter, "gain": gain}

    return Sample(
        name=name,
        make=make,
        differentiable=differentiable,
        tags=tags,
        # Useful multiply-adds: every tap that meets a pixel; a separable filter counts its two passes.
        macs=outputs * (math.ceil(kw / up2[0]) + math.ceil(kh / up2[1]))
        if taps is not None and (len(taps) == 1 or kind == "binomial")
        else outputs * math.ceil(kw / up2[0]) * math.ceil(kh / up2[1]),
        bytes=lambda itemsize: (n * c * h * w + outputs) * itemsize,
        description=description,
    )


_CHECK = frozenset({"contract", "check"})

CONTRACT = [
    _sample("same_4x4", (2, 3, 9, 11), (4, 4), padding=[1, 2, 2, 1], tags=_CHECK),
    _sample("same_separable_6", (2, 5, 8, 7), (6,), padding=3, flip_filter=True, gain=1.7),
    _sample("up2_4x4", (2, 3, 7, 6), (4, 4), up=2, padding=[2, 1, 2, 1], gain=4.0, kind="binomial", tags=_CHECK),
    _sample("down2_4x4", (2, 3, 8, 10), (4, 4), down=2, padding=1, kind="binomial", tags=_CHECK),
    _sample("up2_separable_12", (1, 4, 9, 9), (12,), up=2, padding=[6, 5, 6, 5], gain=4.0, tags=_CHECK),
    _sample("down2_separable_8", (1, 3, 10, 9), (8,), down=2, padding=3, tags=_CHECK),
    _sample("up3_down2_5x3", (1, 2, 7, 6), (5, 3), up=3, down=2, padding=[2, 1, 0, 3]),
    _sample("up2x1_down1x3", (1, 2, 6, 9), (3, 4), up=[2, 1], down=[1, 3], padding=[0, 2, 1, 3], gain=-0.5),
    _sample("up4_down3_separable", (2, 2, 5, 5), (7,), up=4, down=3, padding=[3, 3, 4, 2], flip_filter=True),
    _sample("crop", (1, 3, 12, 13), (3, 3), up=2, padding=[-3, -2, -1, -4]),
    _sample("crop_all_of_one_side", (1, 2, 4, 4), (2, 2), padding=[-5, 9, 3, 0]),
    _sample("no_filter", (2, 3, 5, 6), None, up=2, down=3, padding=[1, 2, 0, 1], gain=2.0),
    _sample("identity", (2, 3, 4, 5), None),
    _sample("wide_filter", (1, 2, 5, 33), (1, 17), padding=[8, 8, 0, 0]),
    _sample("tall_filter", (1, 2, 33, 5), (17, 1), padding=[0, 0, 8, 8]),
    _sample("filter_larger_than_image", (1, 1, 3, 2), (9, 9), up=2, padding=6),
    _sample("single_pixel", (1, 1, 1, 1), (2, 2), padding=1),
    _sample("one_channel", (3, 1, 10, 40), (4, 4), down=2, padding=1),
    _sample("many_channels", (2, 19, 6, 5), (4, 4), up=2, padding=[2, 1, 2, 1]),
    _sample("rows_past_a_vector", (1, 2, 5, 131), (4, 4), up=2, padding=[2, 1, 2, 1], kind="binomial"),
    _sample("rows_past_a_vector_down", (1, 2, 8, 135), (4, 4), down=2, padding=[1, 1, 1, 1], kind="binomial"),
    _sample("empty_batch", (0, 3, 5, 5), (3, 3), padding=1),
    _sample("no_channels", (2, 0, 5, 5), (3, 3), padding=1),
    _sample("trained_filter", (1, 2, 6, 7), (3, 4), up=2, down=3, padding=2, differentiable=("x", "f"), gain=1.5),
    _sample("trained_separable_filter", (1, 2, 7, 6), (4,), up=2, padding=2, differentiable=("x", "f")),
]

_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})

# StyleGAN2's resampling at the resolutions where it moves most bytes (batch 4, fp32 output 32-128 MiB), and StyleGAN3's taps.
BENCH = [
    _sample("blur_4x4_256", (4, 64, 256, 256), (4, 4), padding=[2, 1, 2, 1], kind="binomial", tags=_QUICK,
            description="same rate, 4 taps: StyleGAN2 discriminator blur, 64 ch 256^2"),
    _sample("up2_4x4_128", (4, 64, 128, 128), (4, 4), up=2, padding=[2, 1, 2, 1], gain=4.0, kind="binomial", tags=_QUICK,
            description="up 2, 4 taps: StyleGAN2 skip, 64 ch 128^2 to 256^2"),
    _sample("down2_4x4_256", (4, 64, 256, 256), (4, 4), down=2, padding=1, kind="binomial", tags=_QUICK,
            description="down 2, 4 taps: StyleGAN2 discriminator, 64 ch 256^2 to 128^2"),
    _sample("blur_4x4_64", (4, 256, 64, 64), (4, 4), padding=[2, 1, 2, 1], kind="binomial", tags=_FULL,
            description="same rate, 4 taps, 256 ch 64^2"),
    _sample("up2_rgb_512", (4, 3, 512, 512), (4, 4), up=2, padding=[2, 1, 2, 1], gain=4.0, kind="binomial", tags=_FULL,
            description="up 2, 4 taps: StyleGAN2 RGB skip to 1024^2"),
    _sample("up2_separable_12_128", (2, 64, 128, 128), (12,), up=2, padding=[6, 5, 6, 5], gain=4.0, tags=_FULL,
            description="up 2, 12 taps separable: StyleGAN3"),
    _sample("down2_separable_12_256", (2, 64, 256, 256), (12,), down=2, padding=5, tags=_FULL,
            description="down 2, 12 taps separable: StyleGAN3"),
    _sample("down2_random_4x4_256", (4, 64, 256, 256), (4, 4), down=2, padding=1, tags=_FULL,
            description="down 2, 4x4 taps that are not separable"),
]  # fmt: skip

SAMPLES = CONTRACT + BENCH
